//! Process services that every command uses: clock, shutdown, secrets, hardening.

pub mod clock;
pub mod hardening;
pub(crate) mod http_client;
pub(crate) mod platform;
pub mod secret;

pub mod shutdown;
pub(crate) mod signals;
pub mod termination_log;

//! The entry point: hardens the process, runs the command, prints its outcome, and exits.

use std::alloc::System;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::panic::PanicHookInfo;
use std::process::ExitCode;

use alloc_metrics::MetricAlloc;
use token_service::{Env, hardening, run, termination_log};

/// Counts what each thread allocates: the scripts of a service have a limit each.
#[global_allocator]
static ALLOCATOR: MetricAlloc<System> = MetricAlloc::new(System);

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    let hardened = hardening::harden();
    let args: Vec<OsString> = std::env::args_os().collect();
    let env = Env::from_process();
    let mut outcome = run(&args, &env);
    if let Err(error) = hardened {
        outcome.warn(format!("core dumps cannot be switched off: {error}"));
    }
    outcome.print(&env);
    if let Some(headline) = outcome.headline() {
        termination_log::write(&headline);
    }
    ExitCode::from(outcome.exit_code())
}

/// Reports where a panic happened, and nothing else: its message may hold a token.
fn report_panic(info: &PanicHookInfo) {
    let message = panic_message(info);
    let _ = writeln!(io::stderr(), "{message}");
    termination_log::write(&message);
}

fn panic_message(info: &PanicHookInfo) -> String {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    format!("error: token_service crashed at {location}; this is a bug")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn panic_message_shows_only_the_location() {
        let message = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&message);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            *kept.lock().unwrap() = panic_message(info);
        }));
        let panicked = std::panic::catch_unwind(|| panic!("a token: {}", "s3cret"));
        std::panic::set_hook(hook);
        assert!(panicked.is_err());
        let message = message.lock().unwrap().clone();
        let start = "error: token_service crashed at src/main.rs:";
        assert!(message.starts_with(start), "{message}");
        assert!(!message.contains("s3cret"));
    }
}

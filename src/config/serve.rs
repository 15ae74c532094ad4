//! The settings of `serve`: those of its runs, the addresses, and who may start runs.

use std::net::{Ipv4Addr, SocketAddr};

use secrecy::ExposeSecret as _;

use crate::cli::ServeArgs;
use crate::cli::env::Env;
use crate::cli::options::{ADMIN_LISTEN, DATA, LISTEN, MAX_RUNS, NO_AUTH, QUEUE};
use crate::cli::value::ParseResult;
use crate::config::keys::{CPU_ALWAYS, MAX_TOKENS, SERVE_MASK};
use crate::config::layers::Layers;
use crate::config::{Purpose, SERVE_TOKEN, ServeSettings};
use crate::error::{Error, usage};
use crate::runtime::secret::Secret;

/// The variable of Cloud Run for the port of a service.
const PORT: &str = "PORT";
/// The variable that Cloud Run sets in a service.
const CLOUD_RUN_SERVICE: &str = "K_SERVICE";

/// Returns the settings of `serve`, or all errors of the configuration.
pub fn load_for_serve(args: &ServeArgs, env: &Env) -> Result<ServeSettings, Vec<Error>> {
    let layers = Layers::of(&args.0, env);
    let mut run = layers.run_settings(Purpose::Serve, &[]);
    run.mask = layers.get(&SERVE_MASK).unwrap_or(run.mask);
    let listen = layers.listen_address();
    let admin_listen = layers.get(&ADMIN_LISTEN);
    if admin_listen == Some(listen) && listen.port() != 0 {
        let error = usage(format!("--listen and --admin-listen are both {listen}"));
        layers.fail(error.hint("give --admin-listen a port of its own"));
    }
    let token = layers.collect(layers.serve_token());
    let no_auth = layers.value(&NO_AUTH);
    if no_auth && token.is_some() {
        let error = usage(format!("--no-auth and {SERVE_TOKEN} are both set"));
        layers.fail(error.hint("remove one of them: with --no-auth no token is checked"));
    }
    if !listen.ip().is_loopback() && token.is_none() && !no_auth && layers.count_errors() == 0 {
        let error = usage(format!(
            "other hosts can reach {listen}, and no client would have to authenticate"
        ));
        layers.fail(error.hint(format!(
            "set {SERVE_TOKEN} or {SERVE_TOKEN}_FILE; or --no-auth, if something in front of the service \
             authenticates its clients"
        )));
    }
    let settings = ServeSettings {
        run,
        max_tokens: layers.get(&MAX_TOKENS),
        listen,
        admin_listen,
        max_runs: layers.value(&MAX_RUNS),
        queue: usize::try_from(layers.value(&QUEUE)).unwrap_or(usize::MAX),
        data: layers.get(&DATA),
        token,
        no_auth,
        may_run_after_answer: !env.has(CLOUD_RUN_SERVICE) || layers.value(&CPU_ALWAYS),
    };
    layers.finish(settings)
}

impl Layers<'_> {
    /// Returns the address for requests: the port of the platform, unless an address is set.
    fn listen_address(&self) -> SocketAddr {
        let of_platform = || {
            let port = self.collect(self.env.parse(PORT, port));
            port.map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        };
        let address = self.get(&LISTEN).or_else(of_platform);
        address.unwrap_or_else(|| LISTEN.default())
    }

    fn serve_token(&self) -> Result<Option<Secret>, Error> {
        let Some(token) = self.env.secret(SERVE_TOKEN)? else {
            return Ok(None);
        };
        let is_valid = token
            .initial()
            .expose_secret()
            .bytes()
            .all(|byte| byte.is_ascii_graphic());
        if is_valid {
            return Ok(Some(token));
        }
        let name = self.env.secret_name(SERVE_TOKEN).unwrap_or_default();
        let error = usage(format!("{name} must consist of visible ASCII characters"));
        Err(error.hint("clients send it as `Authorization: Bearer …`, so it cannot contain spaces"))
    }
}

fn port(text: &str) -> ParseResult<u16> {
    let rule = || String::from("must be a port, from 1 to 65535");
    text.parse().ok().filter(|port| *port > 0).ok_or_else(rule)
}

//! What OpenTelemetry's own variables say of a collector. They may be set for all programs of a machine
//! or a cluster at once: one that makes no sense here is complained of and left out, and ends no run.
//! Source: OpenTelemetry's specification of the SDK's environment variables and of the OTLP exporter.

use std::collections::HashMap;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::Url;

use crate::cli::value;
use crate::config::Env;
use crate::observe::otel::{OtelSettings, OtlpEndpoint};

/// `OTEL_EXPORTER_OTLP_TIMEOUT` where it is not set.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What a collector takes.
#[derive(Clone, Copy)]
struct SignalVariables {
    /// Its part in the variables' names.
    name: &'static str,
    /// Where it goes beneath the endpoint for all.
    path: &'static str,
}

const TRACES: SignalVariables = SignalVariables {
    name: "TRACES",
    path: "v1/traces",
};
const METRICS: SignalVariables = SignalVariables {
    name: "METRICS",
    path: "v1/metrics",
};

/// What `env` says of a collector; `None` where it names none, or switches it off.
pub(super) fn settings(env: &Env) -> Option<OtelSettings> {
    let mut reading = OtelReader {
        env,
        warnings: Vec::new(),
    };
    if reading
        .get("OTEL_SDK_DISABLED")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    {
        return None;
    }
    let traces = reading.target(TRACES);
    let metrics = reading.target(METRICS);
    let temporality = reading.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE");
    let attributes = reading.get("OTEL_RESOURCE_ATTRIBUTES");
    let service = match reading.get("OTEL_SERVICE_NAME") {
        Some(name) => Some(name),
        None if attributes.is_some_and(|attributes| names_the_service(&attributes)) => None,
        None => Some("token_service".to_owned()),
    };
    let parent = [("TRACEPARENT", "traceparent"), ("TRACESTATE", "tracestate")];
    let parent: HashMap<String, String> = parent
        .into_iter()
        .filter_map(|(variable, header)| Some((header.to_owned(), reading.get(variable)?)))
        .collect();
    if traces.is_none() && metrics.is_none() && reading.warnings.is_empty() {
        return None;
    }
    Some(OtelSettings {
        traces,
        metrics,
        service,
        // `lowmemory` means delta for all that is told here.
        is_delta: temporality.is_some_and(|value| {
            value.eq_ignore_ascii_case("delta") || value.eq_ignore_ascii_case("lowmemory")
        }),
        parent,
        proxy: env.names_a_proxy(),
        warnings: reading.warnings,
    })
}

fn names_the_service(attributes: &str) -> bool {
    attributes
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .any(|(key, value)| key.trim() == "service.name" && !value.trim().is_empty())
}

struct OtelReader<'a> {
    env: &'a Env,
    warnings: Vec<String>,
}

impl OtelReader<'_> {
    fn get(&mut self, name: &str) -> Option<String> {
        match self.env.get(name) {
            Ok(value) => value.map(str::to_owned),
            Err(problem) => {
                self.complain(problem.message.clone());
                None
            }
        }
    }

    fn complain(&mut self, what: String) {
        if !self.warnings.contains(&what) {
            self.warnings.push(what);
        }
    }

    /// The variable for this signal, else the one for all, and its name.
    fn of(&mut self, signal: SignalVariables, what: &str) -> Option<(String, String)> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.name);
        let common = format!("OTEL_EXPORTER_OTLP_{what}");
        [own, common]
            .into_iter()
            .find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    fn target(&mut self, signal: SignalVariables) -> Option<OtlpEndpoint> {
        let url = self.url(signal)?;
        self.is_wanted(signal).then(|| OtlpEndpoint {
            url,
            headers: self.headers(signal),
            timeout: self.timeout(signal),
        })
    }

    fn url(&mut self, signal: SignalVariables) -> Option<Url> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name);
        let (name, text, path) = if let Some(text) = self.get(&own) {
            (own, text, None)
        } else {
            let name = "OTEL_EXPORTER_OTLP_ENDPOINT";
            (name.to_owned(), self.get(name)?, Some(signal.path))
        };
        // The address is left out of the message: it may hold a key in its query.
        let parsed = Url::parse(text.trim()).ok();
        let is_fit = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        let Some(mut url) = parsed.filter(is_fit) else {
            self.complain(format!(
                "{name} must be a URL such as http://localhost:4318; nothing is sent there"
            ));
            return None;
        };
        if let Some(path) = path {
            let base = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{base}/{path}"));
        }
        Some(url)
    }

    /// True where this signal is to be sent, in the one form that is spoken here.
    fn is_wanted(&mut self, signal: SignalVariables) -> bool {
        let exporter = format!("OTEL_{}_EXPORTER", signal.name);
        if let Some(value) = self.get(&exporter) {
            let mut named = value.split(',').map(str::trim);
            if !named.any(|name| name == "otlp") {
                if value.trim() != "none" {
                    self.complain(format!(
                        "{exporter} names no `otlp`; nothing else is known here"
                    ));
                }
                return false;
            }
        }
        match self.of(signal, "PROTOCOL") {
            Some((name, value)) if value.trim() != "http/protobuf" => {
                self.complain(format!(
                    "{name} must be http/protobuf, which collectors take at port 4318; nothing is sent"
                ));
                false
            }
            _ => true,
        }
    }

    /// `key=value` pairs with a comma between them, percent-encoded.
    fn headers(&mut self, signal: SignalVariables) -> Vec<(String, SecretString)> {
        let Some((name, text)) = self.of(signal, "HEADERS") else {
            return Vec::new();
        };
        let header = |pair: &str| {
            let (key, value) = pair.split_once('=')?;
            let key = key.trim().to_ascii_lowercase();
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
            let is_fit = value::header_name(&key).is_ok() && value::is_header_value(&value);
            is_fit.then(|| (key, SecretString::from(&*value)))
        };
        let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
        let headers: Option<Vec<_>> = pairs.map(header).collect();
        headers.unwrap_or_else(|| {
            self.complain(format!(
                "{name} must be key=value,key=value; no header is sent"
            ));
            Vec::new()
        })
    }

    fn timeout(&mut self, signal: SignalVariables) -> Duration {
        let Some((name, text)) = self.of(signal, "TIMEOUT") else {
            return TIMEOUT;
        };
        match text.trim().parse() {
            Ok(milliseconds) if milliseconds > 0 => Duration::from_millis(milliseconds),
            _ => {
                self.complain(format!(
                    "{name} must be a number of milliseconds; 10000 is taken"
                ));
                TIMEOUT
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<OtelSettings> {
        settings(&variables.into_iter().collect())
    }

    fn url(target: Option<&OtlpEndpoint>) -> &str {
        target.map_or("nowhere", |target| target.url.as_str())
    }

    #[test]
    fn without_an_endpoint_there_is_nothing() {
        assert!(of([]).is_none());
        assert!(of([("OTEL_SERVICE_NAME", "me"), ("TRACEPARENT", "x")]).is_none());
    }

    #[test]
    fn the_common_endpoint_gets_a_path_and_that_of_one_signal_none() {
        for common in ["http://c:4318", "http://c:4318/"] {
            let settings = of([("OTEL_EXPORTER_OTLP_ENDPOINT", common)]).unwrap();
            assert_eq!(url(settings.traces.as_ref()), "http://c:4318/v1/traces");
            assert_eq!(url(settings.metrics.as_ref()), "http://c:4318/v1/metrics");
        }
        let below = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/otlp/")];
        let settings = of(below).unwrap();
        assert_eq!(url(settings.traces.as_ref()), "https://c/otlp/v1/traces");
        let own = [("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:4318")];
        let settings = of(own).unwrap();
        assert_eq!(url(settings.metrics.as_ref()), "http://c:4318/");
        assert!(settings.traces.is_none());
    }

    #[test]
    fn headers_and_timeouts_of_one_signal_beat_the_common_ones() {
        let settings = of([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1, B = two%20words ,"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "c=3"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
        ])
        .unwrap();
        let headers = |target: &Option<OtlpEndpoint>| {
            let target = target.as_ref().unwrap();
            let headers = target.headers.iter();
            headers
                .map(|(name, value)| format!("{name}: {}", value.expose_secret()))
                .collect::<Vec<_>>()
        };
        assert_eq!(headers(&settings.metrics), ["a: 1", "b: two words"]);
        assert_eq!(headers(&settings.traces), ["c: 3"]);
        assert_eq!(settings.traces.unwrap().timeout, Duration::from_millis(250));
        assert_eq!(settings.metrics.unwrap().timeout, TIMEOUT);
        assert!(settings.warnings.is_empty());
    }

    #[test]
    fn the_service_has_the_name_that_the_environment_gives_it() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        let service = |variable| of([endpoint, variable]).unwrap().service;
        let default = Some("token_service".to_owned());
        assert_eq!(service(("OTEL_RESOURCE_ATTRIBUTES", "team=a")), default);
        assert_eq!(
            service(("OTEL_RESOURCE_ATTRIBUTES", "service.name=a")),
            None
        );
        assert_eq!(service(("OTEL_SERVICE_NAME", "b")).as_deref(), Some("b"));
    }

    #[test]
    fn a_mistake_is_said_and_its_value_is_not() {
        let settings = of([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "s3cret:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "s3cret"),
        ])
        .unwrap();
        insta::assert_snapshot!(settings.warnings.join("\n"), @r"
        OTEL_EXPORTER_OTLP_HEADERS must be key=value,key=value; no header is sent
        OTEL_EXPORTER_OTLP_TIMEOUT must be a number of milliseconds; 10000 is taken
        OTEL_EXPORTER_OTLP_ENDPOINT must be a URL such as http://localhost:4318; nothing is sent there
        ");
        let settings = of([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ])
        .unwrap();
        assert!(settings.traces.is_none() && settings.metrics.is_none());
        insta::assert_snapshot!(settings.warnings.join("\n"), @"OTEL_TRACES_EXPORTER names no `otlp`; nothing else is known here");
    }

    #[test]
    fn no_secret_shows_in_its_debug_form() {
        let settings = of([
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "http://u:s3cret@c:4318?key=s3cret",
            ),
            ("OTEL_EXPORTER_OTLP_HEADERS", "key=s3cret"),
        ]);
        let shown = format!("{settings:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

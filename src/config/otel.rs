//! Reads OpenTelemetry's standard environment variables.
//!
//! They may be set for all programs of a host or cluster, so an invalid one is a warning, not an error.
//! Source: OpenTelemetry's specification of the SDK's environment variables and of the OTLP exporter.

use std::collections::HashMap;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::Url;

use crate::cli::env::Env;
use crate::cli::value;
use crate::observe::otel::{OtelSettings, OtlpEndpoint};

/// The default of `OTEL_EXPORTER_OTLP_TIMEOUT`.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A signal, in OpenTelemetry's sense: traces or metrics.
#[derive(Clone, Copy)]
struct SignalVariables {
    /// Its part in the names of variables.
    name: &'static str,
    /// Its path below the common endpoint.
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

/// Returns the settings, or `None` if no collector is configured or the SDK is disabled.
pub(super) fn settings(env: &Env) -> Option<OtelSettings> {
    let mut reader = OtelReader {
        env,
        warnings: Vec::new(),
    };
    if reader
        .get("OTEL_SDK_DISABLED")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    {
        return None;
    }
    let traces = reader.endpoint(TRACES);
    let metrics = reader.endpoint(METRICS);
    let temporality = reader.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE");
    let attributes = reader.get("OTEL_RESOURCE_ATTRIBUTES");
    let service = match reader.get("OTEL_SERVICE_NAME") {
        Some(name) => Some(name),
        None if attributes.is_some_and(|attributes| has_service_name(&attributes)) => None,
        None => Some("token_service".to_owned()),
    };
    let parent = [("TRACEPARENT", "traceparent"), ("TRACESTATE", "tracestate")];
    let parent: HashMap<String, String> = parent
        .into_iter()
        .filter_map(|(variable, header)| Some((header.to_owned(), reader.get(variable)?)))
        .collect();
    let proxies = env.proxies();
    for endpoint in [&traces, &metrics].into_iter().flatten() {
        if let Err(rule) = proxies.proxy_of(&endpoint.url) {
            reader.warn(rule);
        }
    }
    if traces.is_none() && metrics.is_none() && reader.warnings.is_empty() {
        return None;
    }
    Some(OtelSettings {
        traces,
        metrics,
        service,
        // `lowmemory` means delta for all metrics of this program.
        is_delta: temporality.is_some_and(|value| {
            value.eq_ignore_ascii_case("delta") || value.eq_ignore_ascii_case("lowmemory")
        }),
        parent,
        proxies,
        warnings: reader.warnings,
    })
}

fn has_service_name(attributes: &str) -> bool {
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
            Err(error) => {
                self.warn(error.message.clone());
                None
            }
        }
    }

    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Returns the name and value of the signal's variable, else of the common one.
    fn signal_or_common(
        &mut self,
        signal: SignalVariables,
        suffix: &str,
    ) -> Option<(String, String)> {
        let specific = format!("OTEL_EXPORTER_OTLP_{}_{suffix}", signal.name);
        let common = format!("OTEL_EXPORTER_OTLP_{suffix}");
        [specific, common]
            .into_iter()
            .find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    fn endpoint(&mut self, signal: SignalVariables) -> Option<OtlpEndpoint> {
        let url = self.url(signal)?;
        self.is_enabled(signal).then(|| OtlpEndpoint {
            url,
            headers: self.headers(signal),
            timeout: self.timeout(signal),
        })
    }

    fn url(&mut self, signal: SignalVariables) -> Option<Url> {
        let specific = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name);
        let (name, text, path) = if let Some(text) = self.get(&specific) {
            (specific, text, None)
        } else {
            let name = "OTEL_EXPORTER_OTLP_ENDPOINT";
            (name.to_owned(), self.get(name)?, Some(signal.path))
        };
        // The warning leaves out the URL, which may have a key in its query.
        let parsed = Url::parse(text.trim()).ok();
        let is_fit = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        let Some(mut url) = parsed.filter(is_fit) else {
            self.warn(format!(
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

    /// Returns true if the signal is enabled and its protocol is supported.
    fn is_enabled(&mut self, signal: SignalVariables) -> bool {
        let exporter = format!("OTEL_{}_EXPORTER", signal.name);
        if let Some(value) = self.get(&exporter) {
            let mut named = value.split(',').map(str::trim);
            if !named.any(|name| name == "otlp") {
                if value.trim() != "none" {
                    self.warn(format!(
                        "{exporter} must include `otlp`, the only supported exporter; nothing is sent"
                    ));
                }
                return false;
            }
        }
        match self.signal_or_common(signal, "PROTOCOL") {
            Some((name, value)) if value.trim() != "http/protobuf" => {
                self.warn(format!(
                    "{name} must be http/protobuf, which collectors accept on port 4318; nothing is sent"
                ));
                false
            }
            _ => true,
        }
    }

    /// Returns the headers of comma-separated, percent-encoded `key=value` pairs.
    fn headers(&mut self, signal: SignalVariables) -> Vec<(String, SecretString)> {
        let Some((name, text)) = self.signal_or_common(signal, "HEADERS") else {
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
            self.warn(format!(
                "{name} must be key=value,key=value; no header is sent"
            ));
            Vec::new()
        })
    }

    fn timeout(&mut self, signal: SignalVariables) -> Duration {
        let Some((name, text)) = self.signal_or_common(signal, "TIMEOUT") else {
            return TIMEOUT;
        };
        match text.trim().parse() {
            Ok(milliseconds) if milliseconds > 0 => Duration::from_millis(milliseconds),
            _ => {
                self.warn(format!(
                    "{name} must be a number of milliseconds; 10000 is used"
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

    fn settings_of<'a>(
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Option<OtelSettings> {
        settings(&variables.into_iter().collect())
    }

    fn url(target: Option<&OtlpEndpoint>) -> &str {
        target.map_or("none", |target| target.url.as_str())
    }

    #[test]
    fn settings_are_none_without_endpoint() {
        assert!(settings_of([]).is_none());
        assert!(settings_of([("OTEL_SERVICE_NAME", "me"), ("TRACEPARENT", "x")]).is_none());
    }

    #[test]
    fn common_endpoint_gets_a_path_and_specific_endpoint_does_not() {
        for common in ["http://c:4318", "http://c:4318/"] {
            let settings = settings_of([("OTEL_EXPORTER_OTLP_ENDPOINT", common)]).unwrap();
            assert_eq!(url(settings.traces.as_ref()), "http://c:4318/v1/traces");
            assert_eq!(url(settings.metrics.as_ref()), "http://c:4318/v1/metrics");
        }
        let below = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/otlp/")];
        let settings = settings_of(below).unwrap();
        assert_eq!(url(settings.traces.as_ref()), "https://c/otlp/v1/traces");
        let specific = [("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:4318")];
        let settings = settings_of(specific).unwrap();
        assert_eq!(url(settings.metrics.as_ref()), "http://c:4318/");
        assert!(settings.traces.is_none());
    }

    #[test]
    fn specific_headers_and_timeouts_override_common_ones() {
        let settings = settings_of([
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
    fn service_name_comes_from_environment() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        let service = |variable| settings_of([endpoint, variable]).unwrap().service;
        let default = Some("token_service".to_owned());
        assert_eq!(service(("OTEL_RESOURCE_ATTRIBUTES", "team=a")), default);
        assert_eq!(
            service(("OTEL_RESOURCE_ATTRIBUTES", "service.name=a")),
            None
        );
        assert_eq!(service(("OTEL_SERVICE_NAME", "b")).as_deref(), Some("b"));
    }

    #[test]
    fn warnings_do_not_show_values() {
        let settings = settings_of([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "s3cret:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "s3cret"),
        ])
        .unwrap();
        insta::assert_snapshot!(settings.warnings.join("\n"), @r"
        OTEL_EXPORTER_OTLP_HEADERS must be key=value,key=value; no header is sent
        OTEL_EXPORTER_OTLP_TIMEOUT must be a number of milliseconds; 10000 is used
        OTEL_EXPORTER_OTLP_ENDPOINT must be a URL such as http://localhost:4318; nothing is sent there
        ");
        let settings = settings_of([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ])
        .unwrap();
        assert!(settings.traces.is_none() && settings.metrics.is_none());
        insta::assert_snapshot!(settings.warnings.join("\n"), @"OTEL_TRACES_EXPORTER must include `otlp`, the only supported exporter; nothing is sent");
    }

    #[test]
    fn debug_form_shows_no_secret() {
        let settings = settings_of([
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

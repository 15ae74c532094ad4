//! Parses Prometheus text files with an independent parser, and checks them by the rules of
//! `promtool check metrics`.

use std::collections::{BTreeMap, HashSet};

use prometheus_parse::{Scrape, Value};

/// The samples of a file by name and labels, such as `token_service_tokens{status="stored"}`.
pub struct Metrics {
    samples: BTreeMap<String, f64>,
    /// The names of all families, in order of declaration.
    pub families: Vec<String>,
}

impl Metrics {
    /// Parses a file and checks its form.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let families = check_rules(text);
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let scrape = Scrape::parse(lines).expect("a scrape");
        let mut samples = BTreeMap::new();
        for sample in scrape.samples {
            let mut labels: Vec<String> = sample
                .labels
                .iter()
                .map(|(name, value)| format!("{name}={value:?}"))
                .collect();
            labels.sort();
            let name = sample.metric;
            let labels = labels.join(",");
            match sample.value {
                Value::Gauge(value) | Value::Counter(value) | Value::Untyped(value) => {
                    let name = if labels.is_empty() {
                        name
                    } else {
                        format!("{name}{{{labels}}}")
                    };
                    assert_eq!(samples.insert(name, value), None, "a sample occurs twice");
                }
                Value::Summary(quantiles) => {
                    for one in quantiles {
                        let name = format!("{name}{{quantile=\"{}\"}}", one.quantile);
                        samples.insert(name, one.count);
                    }
                }
                Value::Histogram(buckets) => {
                    for bucket in buckets {
                        let name = format!("{name}_bucket{{le=\"{}\"}}", bucket.less_than);
                        samples.insert(name, bucket.count);
                    }
                }
            }
        }
        Self { samples, families }
    }

    /// The sample with this name and these labels.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.samples.get(name).copied()
    }

    /// A sample whose value is a whole number.
    #[track_caller]
    pub fn count(&self, name: &str) -> u64 {
        let value = self.get(name).unwrap_or_else(|| panic!("no {name}"));
        let whole = format!("{value}").parse();
        whole.unwrap_or_else(|_| panic!("{name} is {value}"))
    }

    /// The names of all samples.
    pub fn names(&self) -> Vec<&str> {
        self.samples.keys().map(String::as_str).collect()
    }
}

/// Checks the rules of `promtool check metrics`, and returns the families.
#[track_caller]
fn check_rules(text: &str) -> Vec<String> {
    assert!(text.ends_with('\n'), "the last line ends with a newline");
    let mut families = Vec::new();
    let mut kinds = BTreeMap::new();
    let mut open = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(!help.is_empty(), "{line}");
            assert!(
                !families.contains(&name.to_owned()),
                "{name} is declared twice"
            );
            families.push(name.to_owned());
            name.clone_into(&mut open);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, open, "TYPE follows HELP");
            kinds.insert(name.to_owned(), kind.to_owned());
            let counts = ["_total", "_count", "_sum", "_bucket"];
            let is_counter = counts.iter().any(|end| name.ends_with(end));
            assert_eq!(kind == "counter", is_counter, "{name} is a {kind}");
            let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.chars().all(is_plain), "{name}");
            let abbreviated = ["_ms", "_s", "_sec", "_millis", "_milliseconds"];
            assert!(!abbreviated.iter().any(|end| name.ends_with(end)), "{name}");
        } else {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let kind = kinds.get(&open).expect("a sample after its TYPE");
            let ends: &[&str] = match kind.as_str() {
                "summary" => &["", "_sum", "_count"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            let belongs = ends.iter().any(|end| name == format!("{open}{end}"));
            assert!(belongs, "{line} is listed under {open}");
        }
    }
    let typed: HashSet<_> = kinds.into_keys().collect();
    assert_eq!(typed, families.iter().cloned().collect(), "each has a type");
    families
}

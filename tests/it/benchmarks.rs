//! Tests of parts of the benchmark harness, and of the figures that documents repeat from its results.

use std::collections::BTreeSet;
use std::fs;

use self::rate_limiter::RateLimiter;
use crate::support::root;

#[path = "../../benches/compare/rate_limiter.rs"]
mod rate_limiter;

/// The page with the results.
const PAGE: &str = "docs/performance.md";
/// The documents that repeat figures in a generated region.
const DOCUMENTS: [&str; 3] = ["README.md", "docs/deploying.md", "docs/scale.md"];
const SECOND: u64 = 1_000_000_000;

fn text(document: &str) -> String {
    fs::read_to_string(root().join(document)).expect(document)
}

/// Returns the text between the markers of a generated region.
fn region<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("<!-- {name} -->"))?;
    Some(rest.split_once(&format!("<!-- /{name} -->"))?.0)
}

/// Returns the numbers of a text as they are written, such as `27,890` and `19.7`.
fn numbers(text: &str) -> BTreeSet<&str> {
    let parts = text.split(|c: char| !c.is_ascii_digit() && !",.".contains(c));
    let numbers = parts.map(|part| part.trim_matches([',', '.']));
    numbers.filter(|number| !number.is_empty()).collect()
}

#[test]
fn figures_of_documents_are_those_of_the_performance_page() {
    let page = text(PAGE);
    let goals = region(&page, "benchmarks").expect("the goals");
    let measurements = region(&page, "measurements").expect("the measurements");
    let measured = &numbers(goals) | &numbers(measurements);
    for document in DOCUMENTS {
        let content = text(document);
        let figures = region(&content, "figures").expect(document);
        let figures = numbers(figures);
        assert!(
            figures.len() > 3,
            "{document}: too few figures: {figures:?}"
        );
        let unknown = &figures - &measured;
        assert!(unknown.is_empty(), "{document}: not in {PAGE}: {unknown:?}");
    }
}

#[test]
fn rate_limiter_accepts_requests_of_one_second_at_once() {
    let mut limiter = RateLimiter::new(10);
    let accepted = (0..30).filter(|_| limiter.try_acquire(SECOND));
    assert_eq!(accepted.count(), 10);
}

#[test]
fn rate_limiter_accepts_its_rate_when_requests_are_too_frequent() {
    let mut limiter = RateLimiter::new(10);
    let hundredths = (100..1100).map(|hundredth| hundredth * SECOND / 100);
    let accepted = hundredths.filter(|now| limiter.try_acquire(*now));
    // Those of ten seconds, and one second's at once.
    assert_eq!(accepted.count(), 109);
}

#[test]
fn rate_limiter_saves_at_most_one_second_when_requests_pause() {
    let mut limiter = RateLimiter::new(10);
    assert!(limiter.try_acquire(0));
    let accepted = (0..30).filter(|_| limiter.try_acquire(3600 * SECOND));
    assert_eq!(accepted.count(), 10);
}

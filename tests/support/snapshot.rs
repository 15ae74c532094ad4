//! Filters for snapshots: they replace what differs between runs, such as times, ports and folders.

/// Patterns and their replacements; earlier ones are applied first.
const FILTERS: [(&str, &str); 17] = [
    (
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "[uuid]",
    ),
    (
        r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?",
        "[time]",
    ),
    (
        r"in [\d.,]+ s \([\d.,]+ tokens/s\)",
        "in [seconds] s ([rate] tokens/s)",
    ),
    (r"(?m) in [\d.,]+ s$", " in [seconds] s"),
    (r"\bwait=[\d.]+[a-zµ]+", "wait=[wait]"),
    (
        r#"(\b(?:ms|duration_ms|p50|p95|p99|max)"?: ?)[\d.]+"#,
        "${1}[ms]",
    ),
    (
        r"\b(127\.0\.0\.1|localhost|\[::1\]):\d{2,5}\b",
        "${1}:[port]",
    ),
    (r"(/[\w.-]+)+/\.tmp\w{6}", "[dir]"),
    (
        r"\btoken_service(/| |-)v?\d+\.\d+\.\d+[\w.+-]*",
        "token_service${1}[version]",
    ),
    (r"\bPostgreSQL \d+\.\d+[^\n,;)]*", "PostgreSQL [version]"),
    (r"\bSQLite \d+\.\d+[\d.]*", "SQLite [version]"),
    (r"connected in \d+ ms", "connected in [ms] ms"),
    (
        r"\bup to \d+ connections of \d+ free\b",
        "up to [count] connections of [count] free",
    ),
    (r"\bof \d+ free\b", "of [count] free"),
    (
        r"\b\d{2,} free, and (.*) --connections \d+",
        "[count] free, and ${1} --connections [count]",
    ),
    (r"\bt_\d+_role_\d+\b", "[database]_role"),
    (r"\bt_\d+(_owner)?\b", "[database]${1}"),
];

/// Settings with all filters: `snapshot::settings().bind(|| insta::assert_snapshot!(…))`.
pub fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    for (pattern, shown) in FILTERS {
        settings.add_filter(pattern, shown);
    }
    settings
}

/// Asserts an inline snapshot of what a user sees, with all filters.
macro_rules! shows {
    ($text:expr, @$snapshot:literal) => {
        $crate::support::snapshot::settings().bind(|| {
            insta::assert_snapshot!($text, @$snapshot);
        })
    };
}
pub(crate) use shows;

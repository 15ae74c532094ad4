//! The standard library: Rhai modules that every script can import as `lib/NAME`.
//!
//! A file of the same name in the script's folder takes precedence.

/// The name and the text of each module.
const MODULES: [(&str, &str); 6] = [
    (
        "arguments",
        include_str!("../../scripts/lib/arguments.rhai"),
    ),
    ("backoff", include_str!("../../scripts/lib/backoff.rhai")),
    ("batches", include_str!("../../scripts/lib/batches.rhai")),
    ("breaker", include_str!("../../scripts/lib/breaker.rhai")),
    ("cells", include_str!("../../scripts/lib/cells.rhai")),
    ("stats", include_str!("../../scripts/lib/stats.rhai")),
];

/// Returns the text of the library module at an import path.
pub fn text(path: &str) -> Option<&'static str> {
    let name = path.strip_prefix("lib/")?;
    let name = name.strip_suffix(".rhai").unwrap_or(name);
    let module = MODULES.iter().find(|(module, _)| *module == name)?;
    Some(module.1)
}

/// Returns the name of a library module in errors.
pub fn name(path: &str) -> String {
    format!(
        "scripts/{}.rhai",
        path.strip_suffix(".rhai").unwrap_or(path)
    )
}

/// Returns the name and the text of every module.
pub fn modules() -> impl Iterator<Item = (&'static str, &'static str)> {
    MODULES.into_iter()
}

//! The standard library: modules in Rhai that every script can import as `lib/NAME`, whether its
//! folder holds them or not. A file of the same name in the script's folder comes first.

/// The modules, by name.
const MODULES: [(&str, &str); 5] = [
    ("backoff", include_str!("../../scripts/lib/backoff.rhai")),
    ("batches", include_str!("../../scripts/lib/batches.rhai")),
    ("breaker", include_str!("../../scripts/lib/breaker.rhai")),
    ("cells", include_str!("../../scripts/lib/cells.rhai")),
    ("stats", include_str!("../../scripts/lib/stats.rhai")),
];

/// The text of the module that an import names, if it is one of the library's.
pub fn text(path: &str) -> Option<&'static str> {
    let name = path.strip_prefix("lib/")?;
    let name = name.strip_suffix(".rhai").unwrap_or(name);
    let module = MODULES.iter().find(|(module, _)| *module == name)?;
    Some(module.1)
}

/// What errors call the module that an import names.
pub fn name(path: &str) -> String {
    format!(
        "scripts/{}.rhai",
        path.strip_suffix(".rhai").unwrap_or(path)
    )
}

/// All modules: name and text.
pub fn modules() -> impl Iterator<Item = (&'static str, &'static str)> {
    MODULES.into_iter()
}

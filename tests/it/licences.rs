//! deny.toml says which licences are allowed, and about.toml which of them a release lists.

use std::collections::BTreeSet;

use crate::support::root;

/// Returns the strings of the list `name`, one per line.
fn list(file: &str, name: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(file)).unwrap();
    let (_, rest) = text.split_once(&format!("\n{name} = [\n")).unwrap();
    let (list, _) = rest.split_once("\n]").unwrap();
    let items = list.lines().map(str::trim);
    let items = items.filter(|line| line.starts_with('"'));
    items
        .map(|item| item.trim_end_matches(',').to_owned())
        .collect()
}

#[test]
fn release_lists_the_allowed_licences() {
    let allowed = list("deny.toml", "allow");
    assert!(allowed.len() > 5, "{allowed:?}");
    assert_eq!(allowed, list("about.toml", "accepted"));
}

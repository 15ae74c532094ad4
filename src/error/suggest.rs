//! Finds the known name that is nearest to a misspelt one.

/// Returns the known option or key nearest to `name`, if one is near enough.
pub fn nearest_option<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len() / 3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Returns the known identifier nearest to `name`, if one is near enough.
pub fn nearest_name<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .filter(|known| {
            known
                .chars()
                .all(|char| char.is_alphanumeric() || char == '_')
        })
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= (known.len().min(name.len()) / 3).clamp(1, 3))
        .filter(|(distance, known)| *distance < name.len().min(known.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Suggests the known name that is nearest to `name`; otherwise lists them after `list`.
///
/// The suggestion is empty if no name is near and `list` is empty, or if no name is known.
pub fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str>, list: &str) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest_name(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if list.is_empty() || known.is_empty() => String::new(),
        None => format!("{list} {}", known.join(", ")),
    }
}

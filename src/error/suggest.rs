//! Finds the known name that is nearest to a misspelt one.

/// Returns the known name nearest to `name`, if one is near enough.
pub fn nearest<'a, T: AsRef<str> + ?Sized + 'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a T>,
) -> Option<&'a str> {
    known
        .into_iter()
        .map(AsRef::as_ref)
        // The engine's own names of getters and closures.
        .filter(|known| !known.contains('$'))
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| {
            let shorter = name.len().min(known.len());
            *distance < shorter && *distance <= (shorter / 3).clamp(1, 3)
        })
        .min()
        .map(|(_, known)| known)
}

/// Suggests the known name that is nearest to `name`; otherwise lists them after `list`.
///
/// The suggestion is empty if no name is near and `list` is empty, or if no name is known.
pub fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str>, list: &str) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if list.is_empty() || known.is_empty() => String::new(),
        None => format!("{list} {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name_differs_in_a_third_of_its_letters_at_most() {
        let known = ["port", "password", "statement_timeout"];
        assert_eq!(nearest("prot", known), Some("port"));
        assert_eq!(nearest("pasword", known), Some("password"));
        assert_eq!(nearest("statment_timout", known), Some("statement_timeout"));
        assert_eq!(nearest("post_it", known), None);
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(nearest("get_it", ["get$it"]), None);
    }
}

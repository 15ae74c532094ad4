//! Formats numbers for tables and progress lines.

use token_service::parts::grouped;

/// Formats a number with a comma as thousands separator.
pub fn format_number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let (integer, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, digits) = match integer.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", integer),
    };
    match digits.parse::<u64>() {
        Ok(whole) => format!("{sign}{}{fraction}", grouped(whole)),
        Err(_) => text,
    }
}

/// Formats a whole number with a comma as thousands separator.
pub fn format_count(value: u64) -> String {
    format_number(value as f64, 0)
}

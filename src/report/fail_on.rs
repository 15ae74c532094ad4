//! The conditions of `--fail-on`, under which a completed run exits with 1, such as `rejected>0` or
//! `stored<0.9*requested`.
//!
//! A condition compares two numbers of the summary, or one with a constant. A number of the summary may
//! have a factor. The comparison is exact, without rounding.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::error::suggest::nearest;
use crate::pipeline::numbers::{NUMBERS, Numbers};

/// The operators; of two with a common prefix, the longer comes first.
const OPERATORS: [(&str, Operator); 6] = [
    ("<=", Operator::AtMost),
    (">=", Operator::AtLeast),
    ("==", Operator::Equal),
    ("!=", Operator::Unequal),
    ("<", Operator::Less),
    (">", Operator::Greater),
];
/// Maximum number of digits of a number; prevents overflow.
const MAX_DIGITS: usize = 9;

/// A parsed condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    text: String,
    left: Operand,
    operator: Operator,
    right: Operand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    AtMost,
    AtLeast,
    Equal,
    Unequal,
    Less,
    Greater,
}

impl Operator {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::AtMost => order.is_le(),
            Self::AtLeast => order.is_ge(),
            Self::Equal => order.is_eq(),
            Self::Unequal => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::Greater => order.is_gt(),
        }
    }
}

/// `digits` / 10^`decimals`, times the number of the summary called `name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Operand {
    digits: u128,
    decimals: u32,
    name: Option<&'static str>,
}

impl Operand {
    /// Returns the value times 10^`decimals`.
    fn numerator(self, numbers: &Numbers) -> u128 {
        let value = self.name.map_or(1, |name| numbers.named(name));
        self.digits * u128::from(value)
    }
}

impl Condition {
    /// Returns true if the condition holds.
    pub fn holds(&self, numbers: &Numbers) -> bool {
        let scaled =
            |one: Operand, other: Operand| one.numerator(numbers) * 10_u128.pow(other.decimals);
        let (left, right) = (self.left, self.right);
        let order = scaled(left, right).cmp(&scaled(right, left));
        self.operator.holds(order)
    }

    /// Returns the named numbers with their values: `stored is 7, requested is 10`.
    pub fn values(&self, numbers: &Numbers) -> String {
        let names = [self.left.name, self.right.name];
        let values = names.into_iter().flatten();
        let shown = values.map(|name| format!("{name} is {}", numbers.named(name)));
        shown.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Condition {
    type Err = String;

    /// # Errors
    /// A rule that continues a sentence about the condition.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            String::from(
                "must compare two numbers of the summary, such as rejected>0 or stored<0.9*requested",
            )
        };
        let found = OPERATORS
            .iter()
            .filter_map(|(sign, operator)| Some((text.find(sign)?, *sign, *operator)))
            .min_by_key(|(at, sign, _)| (*at, usize::MAX - sign.len()));
        let (at, sign, operator) = found.ok_or_else(form)?;
        let (left, right) = (&text[..at], &text[at + sign.len()..]);
        if left.trim().is_empty() || right.trim().is_empty() {
            return Err(form());
        }
        let (left, right) = (operand(left)?, operand(right)?);
        if left.name.is_none() && right.name.is_none() {
            return Err(form());
        }
        Ok(Self {
            text: text.chars().filter(|c| !c.is_whitespace()).collect(),
            left,
            operator,
            right,
        })
    }
}

/// Parses `NUMBER`, `NAME`, `NUMBER*NAME` or `NAME*NUMBER`.
fn operand(text: &str) -> Result<Operand, String> {
    let text = text.trim();
    let without_factor = |name| Operand {
        digits: 1,
        decimals: 0,
        name: Some(name),
    };
    match text.split_once('*') {
        Some((one, other)) => {
            let (one, other) = (one.trim(), other.trim());
            let (factor, named) = if is_number(one) {
                (one, other)
            } else {
                (other, one)
            };
            Ok(Operand {
                name: Some(name(named)?),
                ..number(factor)?
            })
        }
        None if is_number(text) => number(text),
        None => name(text).map(without_factor),
    }
}

fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == '-' || c == '+')
}

fn number(text: &str) -> Result<Operand, String> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = [whole, part].concat();
    let is_plain = !whole.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_plain || text.ends_with('.') || digits.len() > MAX_DIGITS {
        return Err(format!(
            "must have plain numbers of at most {MAX_DIGITS} digits, such as 0 or 0.9"
        ));
    }
    Ok(Operand {
        digits: digits
            .parse()
            .map_err(|_| format!("has the number `{text}`"))?,
        decimals: u32::try_from(part.len()).unwrap_or(0),
        name: None,
    })
}

fn name(text: &str) -> Result<&'static str, String> {
    let names = NUMBERS.iter().filter(|row| row.is_named);
    let names: Vec<_> = names.map(|row| row.name).collect();
    let known = names.iter().find(|name| **name == text);
    known.copied().ok_or_else(|| {
        let known = names.join(", ");
        match nearest(text, &names) {
            Some(nearest) => {
                format!("must name one of {known}, not `{text}` (did you mean `{nearest}`?)")
            }
            None => format!("must name one of {known}, not `{text}`"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    fn numbers() -> Numbers {
        Numbers {
            requested: 100,
            received: 99,
            requests: 3,
            stored: 57,
            rejected: 42,
            ..Numbers::default()
        }
    }

    #[test]
    fn conditions_are_compared_exactly() {
        let holds = |text: &str| text.parse::<Condition>().unwrap().holds(&numbers());
        for text in [
            "rejected>0",
            "stored<requested",
            "stored < 0.9 * requested",
            "0.571*requested>stored",
            "stored==57",
            "stored!=56",
            "stored<=0.57*requested",
            "stored>=requested*0.57",
            "2*rejected>stored",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in [
            "failed>0",
            // As a product of floating-point numbers, 0.57 × 100 is less than 57.
            "stored>0.57*requested",
            "stored<0.57*requested",
            "unknown!=0",
            "requests>3",
        ] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn large_numbers_do_not_overflow() {
        let mut numbers = numbers();
        numbers.requested = u64::MAX;
        let condition: Condition = "999999999*requested>0.99999999*stored".parse().unwrap();
        assert!(condition.holds(&numbers));
    }

    #[test]
    fn invalid_conditions_are_explained() {
        let error = |text: &str| text.parse::<Condition>().unwrap_err();
        let all = [
            "",
            "rejected",
            "rejected>",
            ">0",
            "1>0",
            "rejected=>0",
            "rejected=0",
            "stord<1",
            "stored<-1",
            "stored<1e3",
            "stored<.9*requested",
            "stored<90%",
            "stored<1*2",
            "stored<9999999999",
            "stored<rejected<1",
        ];
        let all = all.map(|text| format!("{text:?} {}", error(text)));
        insta::assert_snapshot!(all.join("\n"), @r#"
        "" must compare two numbers of the summary, such as rejected>0 or stored<0.9*requested
        "rejected" must compare two numbers of the summary, such as rejected>0 or stored<0.9*requested
        "rejected>" must compare two numbers of the summary, such as rejected>0 or stored<0.9*requested
        ">0" must compare two numbers of the summary, such as rejected>0 or stored<0.9*requested
        "1>0" must compare two numbers of the summary, such as rejected>0 or stored<0.9*requested
        "rejected=>0" must name one of requested, received, requests, surplus, stored, rejected, failed, unknown, not_attempted, retries, not `rejected=` (did you mean `rejected`?)
        "rejected=0" must compare two numbers of the summary, such as rejected>0 or stored<0.9*requested
        "stord<1" must name one of requested, received, requests, surplus, stored, rejected, failed, unknown, not_attempted, retries, not `stord` (did you mean `stored`?)
        "stored<-1" must have plain numbers of at most 9 digits, such as 0 or 0.9
        "stored<1e3" must have plain numbers of at most 9 digits, such as 0 or 0.9
        "stored<.9*requested" must have plain numbers of at most 9 digits, such as 0 or 0.9
        "stored<90%" must have plain numbers of at most 9 digits, such as 0 or 0.9
        "stored<1*2" must name one of requested, received, requests, surplus, stored, rejected, failed, unknown, not_attempted, retries, not `2`
        "stored<9999999999" must have plain numbers of at most 9 digits, such as 0 or 0.9
        "stored<rejected<1" must name one of requested, received, requests, surplus, stored, rejected, failed, unknown, not_attempted, retries, not `rejected<1` (did you mean `rejected`?)
        "#);
    }
}

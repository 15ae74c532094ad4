//! Compares the report of a run on a random schema with every row of the table. A row is traced to its
//! token by the text, or by the key if the table changes the text. So the comparison needs no trigger or
//! log, which would change the table under test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::schema_grammar::{DrawnToken, ExpectedOutcome, RandomSchema, key_of};
use crate::support::report::Report;

/// A row: its text, and whether the relation does not show it.
pub type Row = (String, bool);

/// How a report is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MisreportKind {
    StoredButAbsent,
    /// The row holds another text, because the column's type truncated it.
    StoredButTruncated,
    RejectedButPresent,
    /// `failed` or `not_attempted`.
    UnsettledButPresent,
    /// More rows than tokens.
    Twice,
    /// `rejected` although the token is not at fault.
    RejectedWithoutFault,
    MissingFromReport,
    /// A token or a row that was never issued, or an older row that is gone.
    Invented,
    /// Without faults, a plain table has an exact outcome for each token.
    NotExact,
}

impl fmt::Display for MisreportKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::StoredButAbsent => "stored but absent",
            Self::StoredButTruncated => "stored but truncated",
            Self::RejectedButPresent => "rejected but present",
            Self::UnsettledButPresent => "failed or not_attempted but present",
            Self::Twice => "twice in the table",
            Self::RejectedWithoutFault => "rejected without fault",
            Self::MissingFromReport => "missing from the report",
            Self::Invented => "never issued, or an older row is gone",
            Self::NotExact => "not exact on a plain table without faults",
        })
    }
}

/// A token that is reported wrongly.
#[derive(Clone, Debug)]
pub struct Misreport {
    pub kind: MisreportKind,
    pub token: String,
    /// The numbers behind it.
    pub evidence: String,
}

/// The counts of the tokens and rows that have one identity.
#[derive(Clone, Debug, Default)]
struct Tally {
    issued: u64,
    stored: u64,
    rejected: u64,
    redirected: u64,
    unsettled: u64,
    unknown: u64,
    before: u64,
    after: Vec<String>,
    objects: Vec<String>,
    texts: BTreeSet<String>,
}

/// Compares a report with the tokens and the rows.
///
/// `issued` holds the tokens that the run received, `before` and `after` all rows before and after the run.
/// `is_exact` means that no fault was injected.
pub fn compare(
    schema: &RandomSchema,
    issued: &[DrawnToken],
    report: &Report,
    before: &[Row],
    after: &[Row],
    is_exact: bool,
) -> Vec<Misreport> {
    let mut wrong = Vec::new();
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let identity = |text: &str| {
        if schema.is_changed || schema.is_truncated {
            key_of(text).unwrap_or(text).to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut expected = BTreeMap::new();
    for token in issued {
        let tally = tallies.entry(identity(&token.text)).or_default();
        tally.issued += 1;
        tally.texts.insert(token.text.clone());
        expected.insert(token.text.as_str(), token.expected);
    }
    let mut reported: BTreeMap<&str, i64> = BTreeMap::new();
    for object in &report.tokens {
        let text = object["token"].as_str().expect("a token");
        *reported.entry(text).or_default() += 1;
        let Some(tally) = tallies.get_mut(&identity(text)) else {
            continue;
        };
        tally.objects.push(object.to_string());
        let is_redirected = expected.get(text) == Some(&ExpectedOutcome::Redirected);
        match object["status"].as_str().expect("a status") {
            "stored" => tally.stored += 1,
            "rejected" if is_redirected => tally.redirected += 1,
            "rejected" => tally.rejected += 1,
            "unknown" => tally.unknown += 1,
            _ => tally.unsettled += 1,
        }
    }
    for token in issued {
        *reported.entry(&token.text).or_default() -= 1;
    }
    for (text, difference) in reported {
        let kind = match difference {
            0 => continue,
            1.. => MisreportKind::Invented,
            _ => MisreportKind::MissingFromReport,
        };
        wrong.push(Misreport {
            kind,
            token: text.to_owned(),
            evidence: format!("{difference:+} in the report"),
        });
    }
    // Rows of other tokens existed before, and must still exist.
    let mut others: BTreeMap<&str, i64> = BTreeMap::new();
    for (rows, step) in [(before, -1), (after, 1)] {
        for (text, _) in rows {
            match tallies.get_mut(&identity(text)) {
                Some(tally) if step < 0 => tally.before += 1,
                Some(tally) => tally.after.push(text.clone()),
                None => *others.entry(text).or_default() += step,
            }
        }
    }
    for (text, difference) in others {
        if difference != 0 {
            wrong.push(Misreport {
                kind: MisreportKind::Invented,
                token: text.to_owned(),
                evidence: format!("{difference:+} rows"),
            });
        }
    }
    for tally in tallies.values() {
        let evidence = format!(
            "{} issued; {} rows ({} before): {:?}; the report says {}",
            tally.issued,
            tally.after.len(),
            tally.before,
            tally.after,
            tally.objects.join(" ")
        );
        let token = tally.texts.first().cloned().unwrap_or_default();
        let found = presence(schema, tally).or_else(|| is_truncated(schema, tally));
        wrong.extend(found.map(|kind| Misreport {
            kind,
            token,
            evidence,
        }));
    }
    let mut outcomes = wrong_rejections(schema, &expected, report, after);
    if is_exact && schema.is_plain {
        outcomes.extend(inexact_outcomes(schema, &expected, report));
    }
    // A token is counted once, by its worst misreport.
    let found: BTreeSet<String> = wrong.iter().map(|it| identity(&it.token)).collect();
    outcomes.retain(|it| !found.contains(&identity(&it.token)));
    wrong.extend(outcomes);
    wrong
}

/// Compares the number of rows with the outcomes.
fn presence(schema: &RandomSchema, tally: &Tally) -> Option<MisreportKind> {
    let after = tally.after.len() as u64;
    let Some(rows) = after.checked_sub(tally.before) else {
        return Some(MisreportKind::Invented);
    };
    let least = tally.stored * schema.copies;
    let most = (tally.stored + tally.unknown + tally.redirected) * schema.copies;
    if rows < least {
        Some(MisreportKind::StoredButAbsent)
    } else if rows > tally.issued * schema.copies {
        Some(MisreportKind::Twice)
    } else if rows <= most {
        None
    } else if tally.unsettled > 0 {
        Some(MisreportKind::UnsettledButPresent)
    } else {
        Some(MisreportKind::RejectedButPresent)
    }
}

/// `stored` means that the row holds the whole token, unless a trigger changes it.
fn is_truncated(schema: &RandomSchema, tally: &Tally) -> Option<MisreportKind> {
    let is_single = tally.texts.len() == 1 && tally.stored > 0;
    let is_whole = |text: &String| tally.texts.contains(text);
    let is_truncated = schema.is_truncated && !schema.is_changed && is_single;
    (is_truncated && !tally.after.iter().all(is_whole)).then_some(MisreportKind::StoredButTruncated)
}

/// Finds rejected tokens that are not at fault, and that no equal row excludes.
fn wrong_rejections(
    schema: &RandomSchema,
    expected: &BTreeMap<&str, ExpectedOutcome>,
    report: &Report,
    after: &[Row],
) -> Vec<Misreport> {
    let mut wrong = Vec::new();
    let occupied: BTreeSet<String> = after
        .iter()
        .map(|(text, _)| schema.unique_group(text))
        .collect();
    for object in &report.tokens {
        let text = object["token"].as_str().expect("a token");
        if object["status"] != "rejected"
            || expected.get(text) != Some(&ExpectedOutcome::Acceptable)
            || (schema.is_unique && occupied.contains(&schema.unique_group(text)))
        {
            continue;
        }
        wrong.push(Misreport {
            kind: MisreportKind::RejectedWithoutFault,
            token: text.to_owned(),
            evidence: object.to_string(),
        });
    }
    wrong
}

/// Finds acceptable tokens that are not stored, and tokens at fault that are not rejected.
fn inexact_outcomes(
    schema: &RandomSchema,
    expected: &BTreeMap<&str, ExpectedOutcome>,
    report: &Report,
) -> Vec<Misreport> {
    let mut wrong = Vec::new();
    for object in &report.tokens {
        let text = object["token"].as_str().expect("a token");
        let fits = match expected.get(text) {
            Some(ExpectedOutcome::AtFault) => object["status"] == "rejected",
            Some(ExpectedOutcome::Acceptable) => {
                object["status"] == "stored" || (schema.is_unique && object["status"] == "rejected")
            }
            _ => true,
        };
        if !fits {
            wrong.push(Misreport {
                kind: MisreportKind::NotExact,
                token: text.to_owned(),
                evidence: object.to_string(),
            });
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::super::schema_grammar::Rights;
    use super::*;

    fn schema() -> RandomSchema {
        RandomSchema {
            seed: 0,
            features: Vec::new(),
            admin_ddl: String::new(),
            ddl: String::new(),
            older_rows: String::new(),
            rows: "",
            tokens: Vec::new(),
            rights: Rights::Owner,
            copies: 1,
            is_changed: false,
            is_truncated: false,
            is_unique: false,
            ignores_case: false,
            is_plain: true,
            can_attach: false,
            patience: "1s",
        }
    }

    /// Compares one token of that status with the rows.
    fn compared(
        schema: &RandomSchema,
        expected: ExpectedOutcome,
        status: &str,
        rows: &[&str],
    ) -> Vec<MisreportKind> {
        let token = DrawnToken {
            text: "0001a".to_owned(),
            expected,
        };
        let report = Report {
            tokens: vec![serde_json::json!({"token": "0001a", "status": status})],
            summary: serde_json::Value::Null,
        };
        let rows: Vec<Row> = rows.iter().map(|row| ((*row).to_owned(), false)).collect();
        let found = compare(schema, &[token], &report, &[], &rows, false);
        found.iter().map(|misreport| misreport.kind).collect()
    }

    #[test]
    fn wrong_statuses_and_rows_are_found() {
        let acceptable = ExpectedOutcome::Acceptable;
        for (status, rows, wrong) in [
            ("stored", &["0001a"][..], None),
            ("unknown", &["0001a"], None),
            ("unknown", &[], None),
            ("failed", &[], None),
            ("stored", &[], Some(MisreportKind::StoredButAbsent)),
            (
                "failed",
                &["0001a"],
                Some(MisreportKind::UnsettledButPresent),
            ),
            (
                "not_attempted",
                &["0001a"],
                Some(MisreportKind::UnsettledButPresent),
            ),
            ("stored", &["0001a", "0001a"], Some(MisreportKind::Twice)),
            ("unknown", &["0001a", "0001a"], Some(MisreportKind::Twice)),
            ("stored", &["0001a", "0002a"], Some(MisreportKind::Invented)),
            ("rejected", &[], Some(MisreportKind::RejectedWithoutFault)),
        ] {
            let found = compared(&schema(), acceptable, status, rows);
            assert_eq!(found.first().copied(), wrong, "{status} {rows:?}");
        }
        let at_fault = ExpectedOutcome::AtFault;
        assert_eq!(compared(&schema(), at_fault, "rejected", &[]), []);
        assert_eq!(
            compared(&schema(), at_fault, "rejected", &["0001a"]),
            [MisreportKind::RejectedButPresent]
        );
    }

    #[test]
    fn rows_that_a_trigger_changes_are_traced_by_their_key() {
        let schema = RandomSchema {
            is_changed: true,
            ..schema()
        };
        let acceptable = ExpectedOutcome::Acceptable;
        assert_eq!(compared(&schema, acceptable, "stored", &["0001a!"]), []);
        assert_eq!(
            compared(&schema, acceptable, "stored", &["0001a!", "0001a"]),
            [MisreportKind::Twice]
        );
    }

    #[test]
    fn value_that_the_type_truncates_is_not_stored() {
        let schema = RandomSchema {
            is_truncated: true,
            ..schema()
        };
        let acceptable = ExpectedOutcome::Acceptable;
        assert_eq!(
            compared(&schema, acceptable, "stored", &["0001"]),
            [MisreportKind::StoredButTruncated]
        );
    }

    #[test]
    fn rejection_is_correct_when_an_equal_token_is_stored() {
        let schema = RandomSchema {
            is_unique: true,
            ..schema()
        };
        let tokens = ["0001a", "0001a"].map(|text| DrawnToken {
            text: text.to_owned(),
            expected: ExpectedOutcome::Acceptable,
        });
        let report = Report {
            tokens: vec![
                serde_json::json!({"token": "0001a", "status": "stored"}),
                serde_json::json!({"token": "0001a", "status": "rejected"}),
            ],
            summary: serde_json::Value::Null,
        };
        let rows = [("0001a".to_owned(), false)];
        assert!(compare(&schema, &tokens, &report, &[], &rows, true).is_empty());
        let found = compare(&schema, &tokens, &report, &[], &[], true);
        assert_eq!(
            found.iter().map(|it| it.kind).collect::<Vec<_>>(),
            [MisreportKind::StoredButAbsent]
        );
    }
}

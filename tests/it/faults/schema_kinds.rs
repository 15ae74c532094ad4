//! The features of a random schema, and how each is drawn.

use super::schema_grammar::ServerFeatures;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColumnType {
    Text,
    Varchar40,
    Varchar16,
    Char24,
    DomainOverText,
    DomainOverVarchar16,
    DomainOverName,
    Citext,
    NonDeterministic,
}

impl ColumnType {
    pub(super) fn draw(rng: &mut fastrand::Rng, server: ServerFeatures) -> Self {
        let drawn = match rng.u8(..16) {
            0..=5 => Self::Text,
            6 => Self::Varchar40,
            7 | 8 => Self::Varchar16,
            9 => Self::Char24,
            10 => Self::DomainOverText,
            11 => Self::DomainOverVarchar16,
            12 => Self::DomainOverName,
            13 => Self::Citext,
            _ => Self::NonDeterministic,
        };
        match drawn {
            Self::Citext if !server.citext => Self::Text,
            Self::NonDeterministic if !server.icu => Self::Text,
            drawn => drawn,
        }
    }

    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Varchar40 => "varchar(40)",
            Self::Varchar16 => "varchar(16)",
            Self::Char24 => "char(24)",
            Self::DomainOverText | Self::DomainOverVarchar16 | Self::DomainOverName => "token",
            Self::Citext => "citext",
            Self::NonDeterministic => "text COLLATE any_case",
        }
    }

    /// The DDL that creates the type.
    pub(super) fn ddl(self) -> &'static str {
        match self {
            Self::DomainOverText => {
                r#"CREATE DOMAIN token AS text CHECK (VALUE::text COLLATE "C" NOT LIKE '%-%')"#
            }
            Self::DomainOverVarchar16 => {
                r#"CREATE DOMAIN token AS varchar(16) CHECK (VALUE::text COLLATE "C" NOT LIKE '%-%')"#
            }
            Self::DomainOverName => "CREATE DOMAIN token AS name",
            Self::NonDeterministic => {
                "CREATE COLLATION any_case
                     (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
            }
            _ => "",
        }
    }

    pub(super) fn ignores_case(self) -> bool {
        matches!(self, Self::Citext | Self::NonDeterministic)
    }

    /// Whether it may truncate a value, or drop trailing blanks, without an error.
    pub(super) fn truncates(self) -> bool {
        matches!(
            self,
            Self::Varchar16 | Self::Char24 | Self::DomainOverVarchar16 | Self::DomainOverName
        )
    }

    /// Whether it refuses a token of 73 characters.
    pub(super) fn refuses_long(self) -> bool {
        self.truncates() || self == Self::Varchar40
    }
}

/// A constraint that names the token's column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenConstraint {
    None,
    Check,
    Unique,
    DeferredUnique,
    UniqueLower,
    Exclude,
    ForeignKey,
}

impl TokenConstraint {
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Self {
        match rng.u8(..12) {
            0 | 1 => Self::None,
            2..=6 => Self::Check,
            7 => Self::Unique,
            8 => Self::DeferredUnique,
            9 => Self::UniqueLower,
            10 => Self::Exclude,
            _ => Self::ForeignKey,
        }
    }

    pub(super) fn is_unique(self) -> bool {
        matches!(
            self,
            Self::Unique | Self::DeferredUnique | Self::UniqueLower | Self::Exclude
        )
    }
}

/// A reason to refuse an insert although the token is not at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OtherObstacle {
    None,
    /// A column with a default, which refuses nothing.
    Harmless,
    UniqueTenant,
    TenantWithoutDefault,
    TenantFilledByTrigger,
    TenantWithoutRow,
    AuditTable,
    SequenceBehind,
    SequenceExhausted,
    DefaultRaises,
    DefaultOverflows,
}

impl OtherObstacle {
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Self {
        match rng.u8(..24) {
            0..=9 => Self::None,
            10..=12 => Self::Harmless,
            13 => Self::UniqueTenant,
            14 => Self::TenantWithoutDefault,
            15 | 16 => Self::TenantFilledByTrigger,
            17 => Self::TenantWithoutRow,
            18 | 19 => Self::AuditTable,
            20 => Self::SequenceBehind,
            21 => Self::SequenceExhausted,
            22 => Self::DefaultRaises,
            _ => Self::DefaultOverflows,
        }
    }

    /// Whether at most the first insert can succeed, so that waiting is useless.
    pub(super) fn is_lasting(self) -> bool {
        matches!(
            self,
            Self::UniqueTenant
                | Self::TenantWithoutDefault
                | Self::TenantWithoutRow
                | Self::SequenceExhausted
                | Self::DefaultOverflows
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartitionKey {
    Id,
    Token,
    CreatedAt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    List,
    Range,
    Hash,
}

/// The kind of the last partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastPartition {
    Ordinary,
    Default,
    Missing,
}

/// The kind of a partition that differs from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    Ordinary,
    Foreign,
    Changes,
    Skips,
    Raises,
}

/// What a trigger does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TriggerKind {
    ChangesAll,
    ChangesSome,
    Skips,
    Raises(&'static str),
    RaisesAtCommit(&'static str),
    Doubles,
    EndsItsBackend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RuleKind {
    AlsoLogs,
    RedirectsAll,
    RedirectsSome,
    NothingForSome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ViewKind {
    Renamed,
    CheckOption,
    HidesSome,
    OverUnlogged,
    InsteadOf,
    InsteadOfReturnsNull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableKind {
    Plain,
    Partitioned(PartitionKey, Method, LastPartition, Leaf),
    Inheritance,
    View(ViewKind),
    Rule(RuleKind),
    RowSecurity,
    Trigger(TriggerKind),
    Unlogged,
}

/// Codes that a trigger raises because it refuses the token.
pub(super) const REFUSALS: [&str; 20] = [
    "P0001", "23514", "23505", "22012", "UE001", "50001", "38000", "21000", "0A000", "42501",
    "42P01", "28000", "3D000", "08000", "40003", "25006", "26000", "54000", "XX000", "02000",
];
/// Codes that a trigger raises because of a conflict, not because of the token.
pub(super) const CONFLICTS: [&str; 8] = [
    "40001", "40P01", "55P03", "53300", "53100", "57014", "57P01", "55006",
];

pub(super) fn pick<T: Copy>(rng: &mut fastrand::Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}

impl TableKind {
    pub(super) fn draw(rng: &mut fastrand::Rng, server: ServerFeatures) -> Self {
        match rng.u8(..32) {
            0..=4 => Self::Plain,
            5..=13 => Self::draw_partitioned(rng, server),
            14 | 15 => Self::Inheritance,
            16..=19 => Self::View(pick(
                rng,
                &[
                    ViewKind::Renamed,
                    ViewKind::CheckOption,
                    ViewKind::HidesSome,
                    ViewKind::OverUnlogged,
                    ViewKind::InsteadOf,
                    ViewKind::InsteadOfReturnsNull,
                ],
            )),
            20..=22 => Self::Rule(pick(
                rng,
                &[
                    RuleKind::AlsoLogs,
                    RuleKind::RedirectsAll,
                    RuleKind::RedirectsSome,
                    RuleKind::NothingForSome,
                ],
            )),
            23 => Self::RowSecurity,
            24..=30 => {
                let (refusal, conflict) = (pick(rng, &REFUSALS), pick(rng, &CONFLICTS));
                Self::Trigger(match rng.u8(..14) {
                    0 => TriggerKind::ChangesAll,
                    1 | 2 => TriggerKind::ChangesSome,
                    3 | 4 => TriggerKind::Skips,
                    5..=7 => TriggerKind::Raises(refusal),
                    8 | 9 => TriggerKind::Raises(conflict),
                    10 => TriggerKind::RaisesAtCommit(refusal),
                    11 => TriggerKind::RaisesAtCommit(conflict),
                    12 => TriggerKind::Doubles,
                    _ => TriggerKind::EndsItsBackend,
                })
            }
            _ => Self::Unlogged,
        }
    }

    pub(super) fn draw_partitioned(rng: &mut fastrand::Rng, server: ServerFeatures) -> Self {
        let key = pick(
            rng,
            &[
                PartitionKey::Id,
                PartitionKey::Token,
                PartitionKey::CreatedAt,
            ],
        );
        let method = pick(rng, &[Method::List, Method::Range, Method::Hash]);
        let last = match rng.u8(..4) {
            0 => LastPartition::Missing,
            1 => LastPartition::Default,
            _ => LastPartition::Ordinary,
        };
        let leaf = pick(
            rng,
            &[
                Leaf::Ordinary,
                Leaf::Ordinary,
                Leaf::Foreign,
                Leaf::Changes,
                Leaf::Changes,
                Leaf::Skips,
                Leaf::Raises,
            ],
        );
        let last = match (method, last) {
            (Method::Hash, LastPartition::Default) => LastPartition::Ordinary,
            (_, last) => last,
        };
        let leaf = match leaf {
            Leaf::Foreign if !server.postgres_fdw => Leaf::Ordinary,
            // The changed value may belong to another partition.
            Leaf::Changes if (key, method) == (PartitionKey::Token, Method::Hash) => Leaf::Skips,
            leaf => leaf,
        };
        Self::Partitioned(key, method, last, leaf)
    }
}

//! A grammar of tables: a seed draws the DDL, the tokens, and what the report may say of each token.
//!
//! A token is a key of four digits, a letter for its class, and eight hexadecimal digits. The tables
//! treat a token by its class. No table changes the key, so each row can be traced to its token.

use postgres::Client;

use super::schema_kinds::{
    ColumnType, LastPartition, Leaf, Method, OtherObstacle, PartitionKey, REFUSALS, RuleKind,
    TableKind, TokenConstraint, TriggerKind, ViewKind, pick,
};
use crate::support::database::Login;

/// The characters of a key.
pub(super) const KEY: usize = 4;
/// The features of the server that a schema may use.
///
/// If a feature is missing, the same seed gives the nearest column type or partition instead.
#[derive(Clone, Copy, Debug)]
pub struct ServerFeatures {
    pub citext: bool,
    pub icu: bool,
    pub postgres_fdw: bool,
}

impl ServerFeatures {
    /// Queries the server for its features.
    pub fn of(client: &mut Client) -> Self {
        let sql = "SELECT
            EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext'),
            EXISTS (SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw')";
        let row = client.query_one(sql, &[]).expect("the catalog");
        // A server without ICU may still list a collation that names ICU.
        let collation = format!("BEGIN; {}; ROLLBACK", ColumnType::NonDeterministic.ddl());
        let icu = client.batch_execute(&collation).is_ok();
        let _ = client.batch_execute("ROLLBACK");
        Self {
            citext: row.get(0),
            icu,
            postgres_fdw: row.get(1),
        }
    }

    /// The names of the missing features.
    pub fn missing(self) -> Vec<&'static str> {
        let all = [
            (self.citext, "citext"),
            (self.icu, "ICU collations"),
            (self.postgres_fdw, "postgres_fdw"),
        ];
        let missing = all.into_iter().filter(|(there, _)| !there);
        missing.map(|(_, name)| name).collect()
    }
}

/// What a correct report may state about a token, besides `failed`, `unknown` and `not_attempted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedOutcome {
    /// The token is not at fault: `rejected` is wrong, unless an equal token excludes it.
    Acceptable,
    /// The table refuses or skips the token: `rejected` is right.
    AtFault,
    /// A rule moves the row to a table that the relation does not show: `rejected` is right although
    /// the row exists.
    Redirected,
}

/// A token and its expected outcome.
#[derive(Clone, Debug)]
pub struct DrawnToken {
    pub text: String,
    pub expected: ExpectedOutcome,
}

/// The rights of the role that the run connects as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    Owner,
    /// A role with these rights on the table.
    Role(&'static str),
}

/// A table, its tokens, and the query for its rows.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct RandomSchema {
    pub seed: u64,
    /// The words that describe it, such as `list by id`.
    pub features: Vec<String>,
    /// Statements for the superuser; `{name}`, `{port}`, `{user}` and `{password}` are filled in.
    pub admin_ddl: String,
    /// Statements for the owner.
    pub ddl: String,
    /// Inserts the rows that are older than the run.
    pub older_rows: String,
    /// Selects the text of each row, and whether the relation does not show it.
    pub rows: &'static str,
    pub tokens: Vec<DrawnToken>,
    pub rights: Rights,
    /// How many rows a stored token has.
    pub copies: u64,
    /// A trigger may change the value, but never the key.
    pub is_changed: bool,
    /// The column's type may truncate the value or drop its trailing blanks.
    pub is_truncated: bool,
    /// Two tokens that are equal, or equal but for their case, exclude each other.
    pub is_unique: bool,
    /// The comparison of the unique constraint ignores the case.
    pub ignores_case: bool,
    /// A plain table: without a fault every outcome must be exact.
    pub is_plain: bool,
    /// A partition for further ids can be attached during the run.
    pub can_attach: bool,
    /// `--patience` for a run.
    pub patience: &'static str,
}

/// The key of a value, if it has one.
pub fn key_of(value: &str) -> Option<&str> {
    let key = value.get(..KEY)?;
    key.bytes().all(|byte| byte.is_ascii_digit()).then_some(key)
}

/// A schema that is being drawn.
pub(super) struct Draft {
    pub(super) kind: TableKind,
    pub(super) column: ColumnType,
    pub(super) constraint: TokenConstraint,
    pub(super) obstacle: OtherObstacle,
    pub(super) ddl: String,
    pub(super) admin_ddl: String,
}

impl RandomSchema {
    /// Draws a schema; the same seed and the same features of the server give the same schema.
    pub fn draw(seed: u64, server: ServerFeatures) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut draft = Draft {
            kind: TableKind::draw(&mut rng, server),
            column: ColumnType::draw(&mut rng, server),
            constraint: TokenConstraint::draw(&mut rng),
            obstacle: OtherObstacle::draw(&mut rng),
            ddl: String::new(),
            admin_ddl: String::new(),
        };
        draft.fit();
        let tokens = draft.tokens(&mut rng);
        let has_older_rows = rng.u8(..4) == 0;
        let rights = match rng.u8(..10) {
            0 => Rights::Role("INSERT"),
            1 | 2 => Rights::Role("INSERT, SELECT"),
            3 => Rights::Role("INSERT (data), SELECT (data)"),
            _ => Rights::Owner,
        };
        draft.write(&tokens);
        let older_rows = draft.older_rows(&tokens, has_older_rows);
        let lasting = draft.obstacle.is_lasting() || draft.never_routes();
        Self {
            seed,
            features: draft.features(rights),
            rows: draft.rows(),
            rights,
            copies: match draft.kind {
                TableKind::Trigger(TriggerKind::Doubles) => 2,
                _ => 1,
            },
            is_changed: draft.is_changed(),
            is_truncated: draft.column.truncates(),
            is_unique: draft.constraint.is_unique(),
            ignores_case: draft.ignores_case(),
            is_plain: draft.is_plain() && rights == Rights::Owner,
            can_attach: draft.can_attach(),
            patience: if lasting { "2s" } else { "4s" },
            tokens,
            admin_ddl: draft.admin_ddl,
            ddl: draft.ddl,
            older_rows,
        }
    }

    /// The text that the unique constraint compares: tokens with the same text exclude each other.
    pub fn unique_group(&self, text: &str) -> String {
        if self.ignores_case {
            text.to_lowercase()
        } else {
            text.to_owned()
        }
    }
}

impl Draft {
    /// Replaces combinations that PostgreSQL does not allow.
    fn fit(&mut self) {
        use TokenConstraint as Constraint;
        let is_base_table = matches!(
            self.kind,
            TableKind::Plain
                | TableKind::Rule(_)
                | TableKind::RowSecurity
                | TableKind::Trigger(_)
                | TableKind::Unlogged
        );
        let is_keyed_by_token = matches!(
            self.kind,
            TableKind::Partitioned(
                PartitionKey::Token,
                Method::Range | Method::Hash,
                _,
                Leaf::Ordinary
            )
        );
        let fits = match self.constraint {
            Constraint::None | Constraint::Check => true,
            // A value that is changed or written twice needs other expectations.
            _ if self.is_changed() => false,
            _ if matches!(self.kind, TableKind::Trigger(TriggerKind::Doubles)) => false,
            _ if matches!(
                self.kind,
                TableKind::Rule(RuleKind::RedirectsAll | RuleKind::RedirectsSome)
            ) =>
            {
                false
            }
            Constraint::Unique | Constraint::DeferredUnique => is_base_table || is_keyed_by_token,
            Constraint::UniqueLower | Constraint::Exclude => is_base_table,
            Constraint::ForeignKey => is_base_table && !self.column.truncates(),
        };
        if !fits {
            self.constraint = Constraint::Check;
        }
        let allows_obstacle = match self.obstacle {
            OtherObstacle::None | OtherObstacle::Harmless => true,
            OtherObstacle::UniqueTenant
            | OtherObstacle::SequenceBehind
            | OtherObstacle::TenantWithoutRow
            | OtherObstacle::AuditTable
            | OtherObstacle::TenantFilledByTrigger => {
                is_base_table
                    && !matches!(
                        self.kind,
                        TableKind::Trigger(TriggerKind::Doubles)
                            | TableKind::Rule(RuleKind::RedirectsAll)
                    )
            }
            OtherObstacle::TenantWithoutDefault
            | OtherObstacle::SequenceExhausted
            | OtherObstacle::DefaultRaises
            | OtherObstacle::DefaultOverflows => !matches!(self.kind, TableKind::View(_)),
        };
        if !allows_obstacle {
            self.obstacle = OtherObstacle::Harmless;
        }
    }

    fn is_changed(&self) -> bool {
        matches!(
            self.kind,
            TableKind::Trigger(TriggerKind::ChangesAll | TriggerKind::ChangesSome)
                | TableKind::Partitioned(.., Leaf::Changes)
        )
    }

    fn ignores_case(&self) -> bool {
        self.column.ignores_case() || self.constraint == TokenConstraint::UniqueLower
    }

    fn is_plain(&self) -> bool {
        self.kind == TableKind::Plain
            && self.column == ColumnType::Text
            && matches!(self.obstacle, OtherObstacle::None | OtherObstacle::Harmless)
    }

    fn can_attach(&self) -> bool {
        matches!(
            self.kind,
            TableKind::Partitioned(
                PartitionKey::Id,
                Method::Range,
                LastPartition::Default | LastPartition::Missing,
                _
            )
        )
    }

    /// Whether no row has a partition.
    fn never_routes(&self) -> bool {
        matches!(
            self.kind,
            TableKind::Partitioned(
                PartitionKey::CreatedAt,
                Method::List | Method::Range,
                LastPartition::Missing,
                _
            )
        )
    }

    fn features(&self, rights: Rights) -> Vec<String> {
        vec![
            format!("{:?}", self.kind),
            format!("{:?}", self.column),
            format!("constraint {:?}", self.constraint),
            format!("obstacle {:?}", self.obstacle),
            format!("{rights:?}"),
        ]
    }

    /// The classes of tokens that the table treats in a special way.
    fn classes(&self) -> Vec<char> {
        let mut classes = vec!['b', 'u'];
        if self.column.refuses_long() || self.column == ColumnType::Text {
            classes.push('l');
        }
        if self.refuses_hyphens() {
            classes.push('h');
        }
        if self.constraint == TokenConstraint::ForeignKey {
            classes = vec!['u', 'f'];
        }
        if self.constraint.is_unique() || self.column.ignores_case() {
            classes.push('v');
        }
        if self.obstacle == OtherObstacle::TenantFilledByTrigger {
            classes.push('n');
        }
        match self.kind {
            TableKind::Trigger(TriggerKind::Skips)
            | TableKind::Partitioned(.., Leaf::Skips)
            | TableKind::Rule(RuleKind::NothingForSome) => classes.push('s'),
            TableKind::Trigger(TriggerKind::ChangesSome)
            | TableKind::Partitioned(.., Leaf::Changes) => classes.push('c'),
            TableKind::Trigger(
                TriggerKind::Raises(_)
                | TriggerKind::RaisesAtCommit(_)
                | TriggerKind::EndsItsBackend,
            )
            | TableKind::Partitioned(.., Leaf::Raises) => classes.push('x'),
            TableKind::Rule(RuleKind::RedirectsSome) => classes.push('o'),
            TableKind::RowSecurity | TableKind::View(ViewKind::CheckOption) => classes.push('w'),
            _ => {}
        }
        classes
    }

    fn refuses_hyphens(&self) -> bool {
        self.constraint == TokenConstraint::Check
            || matches!(
                self.column,
                ColumnType::DomainOverText | ColumnType::DomainOverVarchar16
            )
    }

    fn tokens(&self, rng: &mut fastrand::Rng) -> Vec<DrawnToken> {
        let count = rng.usize(60..260);
        let classes = self.classes();
        // Few of them: each one is retried with pauses.
        let mut conflicts_left = 2;
        let mut texts: Vec<String> = Vec::new();
        for key in 0..count {
            let hex = rng.u32(..);
            let mut class = match rng.u8(..5) {
                0 => pick(rng, &classes),
                _ => 'a',
            };
            if class == 'x' {
                if conflicts_left == 0 && !self.x_is_refused() {
                    class = 'a';
                }
                conflicts_left -= i32::from(conflicts_left > 0);
            }
            let text = format!("{key:04}{class}{hex:08x}");
            let text = match class {
                'h' => format!("{}-{}", &text[..9], &text[10..]),
                'l' => text + "z".repeat(60).as_str(),
                'b' => text + "     ",
                'u' => {
                    texts.push(text.clone());
                    text
                }
                'v' => {
                    texts.push(text.clone());
                    let (start, rest) = text.split_at(KEY + 1);
                    format!("{start}{}", rest.to_uppercase())
                }
                _ => text,
            };
            texts.push(text);
        }
        rng.shuffle(&mut texts);
        let drawn = texts.into_iter().map(|text| DrawnToken {
            expected: self.expected(&text),
            text,
        });
        drawn.collect()
    }

    fn x_is_refused(&self) -> bool {
        match self.kind {
            TableKind::Trigger(TriggerKind::Raises(code) | TriggerKind::RaisesAtCommit(code)) => {
                REFUSALS.contains(&code)
            }
            TableKind::Trigger(TriggerKind::EndsItsBackend) => false,
            _ => true,
        }
    }

    fn expected(&self, text: &str) -> ExpectedOutcome {
        let class = text.as_bytes()[KEY];
        let refused = match class {
            b'h' => self.refuses_hyphens(),
            b'l' => self.column.refuses_long(),
            b'b' => self.column.truncates(),
            b'f' => self.constraint == TokenConstraint::ForeignKey,
            b's' | b'w' => true,
            b'x' => self.x_is_refused(),
            _ => false,
        };
        if refused || self.may_lack_partition(text) {
            return ExpectedOutcome::AtFault;
        }
        match self.kind {
            TableKind::Rule(RuleKind::RedirectsAll) => ExpectedOutcome::Redirected,
            TableKind::Rule(RuleKind::RedirectsSome) if class == b'o' => {
                ExpectedOutcome::Redirected
            }
            _ => ExpectedOutcome::Acceptable,
        }
    }

    /// Whether the partition of this value is or may be missing; only the server knows the hash.
    fn may_lack_partition(&self, text: &str) -> bool {
        let TableKind::Partitioned(PartitionKey::Token, method, LastPartition::Missing, _) =
            self.kind
        else {
            return false;
        };
        match method {
            Method::List => matches!(text.as_bytes()[KEY + 1], b'c'..=b'f' | b'C'..=b'F'),
            Method::Range => text >= "0080",
            Method::Hash => true,
        }
    }

    /// The query for every row.
    fn rows(&self) -> &'static str {
        match self.kind {
            TableKind::View(_) => "SELECT secret::text, false FROM base",
            TableKind::Rule(RuleKind::RedirectsAll | RuleKind::RedirectsSome) => {
                "SELECT data::text, false FROM secret_tokens
                 UNION ALL SELECT data::text, true FROM elsewhere"
            }
            _ => "SELECT data::text, false FROM secret_tokens",
        }
    }
}

impl RandomSchema {
    /// The superuser's statements for this database.
    pub fn admin_ddl_for(&self, owner: &Login) -> String {
        self.admin_ddl
            .replace("{port}", &owner.port.to_string())
            .replace("{name}", &owner.name)
            .replace("{user}", &owner.user)
            .replace("{password}", &owner.password)
    }
}

//! A grammar of tables: a seed draws the DDL, the tokens, and what the report may say of each token.
//!
//! A token is a key of four digits, a letter for its class, and eight hexadecimal digits. The tables
//! treat a token by its class. No table changes the key, so each row can be traced to its token.

use std::fmt::Write as _;

use postgres::Client;

use crate::support::database::Login;

/// The characters of a key.
const KEY: usize = 4;
/// The rows that some tables hold before the run.
const OLDER_ROWS: usize = 20;

/// What the server offers to a schema. A schema without a feature is drawn from the same seed with the
/// nearest column type or partition instead.
#[derive(Clone, Copy, Debug)]
pub struct ServerFeatures {
    pub citext: bool,
    pub icu: bool,
    pub postgres_fdw: bool,
}

impl ServerFeatures {
    /// Reads them from the catalog.
    pub fn of(client: &mut Client) -> Self {
        let sql = "SELECT
            EXISTS (SELECT FROM pg_available_extensions WHERE name = 'citext'),
            EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i'),
            EXISTS (SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw')";
        let row = client.query_one(sql, &[]).expect("the catalog");
        Self {
            citext: row.get(0),
            icu: row.get(1),
            postgres_fdw: row.get(2),
        }
    }

    /// Names what is missing.
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

/// What a true report may say of a token, besides `failed`, `unknown` and `not_attempted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedVerdict {
    /// The token is not at fault: `rejected` is wrong, unless an equal token occupies its place.
    Acceptable,
    /// The table refuses or skips the token: `rejected` is right.
    AtFault,
    /// A rule moves the row to a table that the relation does not show: `rejected` is right although
    /// the row exists.
    Redirected,
}

/// A token, and what may be reported of it.
#[derive(Clone, Debug)]
pub struct DrawnToken {
    pub text: String,
    pub expected: ExpectedVerdict,
}

/// The rights of the role that the run connects as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    Owner,
    /// A role with these rights on the table.
    Role(&'static str),
}

/// A table, its tokens, and how to read every row of it.
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
    /// The column's type may cut the value or drop its trailing blanks.
    pub is_cut: bool,
    /// Two tokens that are equal, or equal but for their case, exclude each other.
    pub is_unique: bool,
    /// The comparison of the unique constraint ignores the case.
    pub ignores_case: bool,
    /// A plain table: without a fault every verdict must be exact.
    pub is_plain: bool,
    /// A partition for further numbers can be attached during the run.
    pub can_attach: bool,
    /// `--patience` for a run.
    pub patience: &'static str,
}

/// The key of a value, if it has one.
pub fn key_of(value: &str) -> Option<&str> {
    let key = value.get(..KEY)?;
    key.bytes().all(|byte| byte.is_ascii_digit()).then_some(key)
}

/// SQL for the class of a value.
fn class_of(value: &str) -> String {
    format!("substr({value}::text COLLATE \"C\", {}, 1)", KEY + 1)
}

/// SQL for the first hexadecimal digit of a value.
fn digit_of(value: &str) -> String {
    format!("substr({value}::text COLLATE \"C\", {}, 1)", KEY + 2)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ColumnType {
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
    fn draw(rng: &mut fastrand::Rng, server: ServerFeatures) -> Self {
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

    fn sql(self) -> &'static str {
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

    /// What creates the type.
    fn ddl(self) -> &'static str {
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

    fn ignores_case(self) -> bool {
        matches!(self, Self::Citext | Self::NonDeterministic)
    }

    /// It may cut a value, or drop its trailing blanks, without an error.
    fn cuts(self) -> bool {
        matches!(
            self,
            Self::Varchar16 | Self::Char24 | Self::DomainOverVarchar16 | Self::DomainOverName
        )
    }

    /// A token of 73 characters does not fit.
    fn refuses_long(self) -> bool {
        self.cuts() || self == Self::Varchar40
    }
}

/// A constraint that names the token's column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenConstraint {
    None,
    Check,
    Unique,
    DeferredUnique,
    UniqueLower,
    Exclude,
    ForeignKey,
}

impl TokenConstraint {
    fn draw(rng: &mut fastrand::Rng) -> Self {
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

    fn is_unique(self) -> bool {
        matches!(
            self,
            Self::Unique | Self::DeferredUnique | Self::UniqueLower | Self::Exclude
        )
    }
}

/// What refuses an insert although the token is not at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OtherObstacle {
    None,
    /// A generated column and a time stamp: no obstacle at all.
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
    fn draw(rng: &mut fastrand::Rng) -> Self {
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

    /// No insert, or only the first one, can succeed: waiting is of no use.
    fn is_lasting(self) -> bool {
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
enum PartitionKey {
    Id,
    Token,
    CreatedAt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    List,
    Range,
    Hash,
}

/// What becomes of the rows of the last partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastPartition {
    Ordinary,
    Default,
    Missing,
}

/// What is special about the second partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    Ordinary,
    Foreign,
    Changes,
    Skips,
    Raises,
}

/// What a trigger does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TriggerKind {
    ChangesAll,
    ChangesSome,
    Skips,
    Raises(&'static str),
    RaisesAtCommit(&'static str),
    Doubles,
    EndsItsBackend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RuleKind {
    AlsoLogs,
    RedirectsAll,
    RedirectsSome,
    NothingForSome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ViewKind {
    Renamed,
    CheckOption,
    HidesSome,
    OverUnlogged,
    InsteadOf,
    InsteadOfReturnsNull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TableKind {
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
const REFUSALS: [&str; 20] = [
    "P0001", "23514", "23505", "22012", "UE001", "50001", "38000", "21000", "0A000", "42501",
    "42P01", "28000", "3D000", "08000", "40003", "25006", "26000", "54000", "XX000", "02000",
];
/// Codes that a trigger raises because of what happens beside the token.
const CONFLICTS: [&str; 8] = [
    "40001", "40P01", "55P03", "53300", "53100", "57014", "57P01", "55006",
];

fn pick<T: Copy>(rng: &mut fastrand::Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}

impl TableKind {
    fn draw(rng: &mut fastrand::Rng, server: ServerFeatures) -> Self {
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

    fn draw_partitioned(rng: &mut fastrand::Rng, server: ServerFeatures) -> Self {
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

/// A schema in the making.
struct Draft {
    kind: TableKind,
    column: ColumnType,
    constraint: TokenConstraint,
    obstacle: OtherObstacle,
    ddl: String,
    admin_ddl: String,
}

impl RandomSchema {
    /// Draws a schema: the same seed and the same server features give the same one again.
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
            is_cut: draft.column.cuts(),
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

    /// The number of tokens of the same text or, if the constraint ignores the case, of the same text
    /// in any case.
    pub fn unique_group(&self, text: &str) -> String {
        if self.ignores_case {
            text.to_lowercase()
        } else {
            text.to_owned()
        }
    }
}

impl Draft {
    /// Replaces what PostgreSQL does not allow together.
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
            Constraint::ForeignKey => is_base_table && !self.column.cuts(),
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

    /// No row has a partition.
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

    /// The classes that the table treats in a way of its own.
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
        // Each of them is sent several times, with pauses.
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
        let judged = texts.into_iter().map(|text| DrawnToken {
            expected: self.expected(&text),
            text,
        });
        judged.collect()
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

    fn expected(&self, text: &str) -> ExpectedVerdict {
        let class = text.as_bytes()[KEY];
        let refused = match class {
            b'h' => self.refuses_hyphens(),
            b'l' => self.column.refuses_long(),
            b'b' => self.column.cuts(),
            b'f' => self.constraint == TokenConstraint::ForeignKey,
            b's' | b'w' => true,
            b'x' => self.x_is_refused(),
            _ => false,
        };
        if refused || self.may_lack_partition(text) {
            return ExpectedVerdict::AtFault;
        }
        match self.kind {
            TableKind::Rule(RuleKind::RedirectsAll) => ExpectedVerdict::Redirected,
            TableKind::Rule(RuleKind::RedirectsSome) if class == b'o' => {
                ExpectedVerdict::Redirected
            }
            _ => ExpectedVerdict::Acceptable,
        }
    }

    /// The partition of this value is missing, or may be: the hash is the server's.
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

    /// Selects every row.
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

    fn add(&mut self, statement: &str) {
        if !statement.is_empty() {
            self.ddl.push_str(statement);
            self.ddl.push_str(";\n");
        }
    }

    fn write(&mut self, tokens: &[DrawnToken]) {
        if self.column == ColumnType::Citext {
            self.admin_ddl.push_str("CREATE EXTENSION citext;\n");
        }
        self.add(self.column.ddl());
        if self.constraint == TokenConstraint::ForeignKey {
            let column = self.column.sql();
            self.add(&format!("CREATE TABLE allowed (data {column} UNIQUE)"));
            let listed: Vec<String> = tokens
                .iter()
                .filter(|token| token.text.as_bytes()[KEY] != b'f')
                .map(|token| format!("('{}')", token.text))
                .collect();
            let listed = listed.join(", ");
            self.add(&format!(
                "INSERT INTO allowed VALUES {listed} ON CONFLICT DO NOTHING"
            ));
        }
        match self.kind {
            TableKind::Partitioned(key, method, last, leaf) => {
                self.write_partitioned(key, method, last, leaf);
            }
            TableKind::View(kind) => self.write_view(kind),
            TableKind::Inheritance => self.write_inheritance(),
            kind => {
                let unlogged = if kind == TableKind::Unlogged {
                    "UNLOGGED "
                } else {
                    ""
                };
                let columns = self.columns("PRIMARY KEY");
                self.add(&format!("CREATE {unlogged}TABLE secret_tokens ({columns})"));
            }
        }
        self.write_constraint();
        self.write_obstacle();
        match self.kind {
            TableKind::Rule(kind) => self.write_rule(kind),
            TableKind::Trigger(kind) => self.write_trigger("secret_tokens", kind),
            TableKind::RowSecurity => {
                let class = class_of("data");
                self.add("ALTER TABLE secret_tokens ENABLE ROW LEVEL SECURITY");
                self.add("ALTER TABLE secret_tokens FORCE ROW LEVEL SECURITY");
                self.add(&format!(
                    "CREATE POLICY writing ON secret_tokens FOR INSERT WITH CHECK ({class} <> 'w')"
                ));
                self.add(&format!(
                    "CREATE POLICY reading ON secret_tokens FOR SELECT USING ({class} <> 'b')"
                ));
            }
            _ => {}
        }
    }

    /// The columns of the table; `key` makes its number a key.
    fn columns(&mut self, key: &str) -> String {
        let (data, obstacle) = (self.column.sql(), self.obstacle);
        let mut columns = format!("\n    id serial {key},\n    data {data} NOT NULL");
        if self.constraint == TokenConstraint::Check {
            columns.push_str(r#" CHECK (data::text COLLATE "C" NOT LIKE '%-%')"#);
        }
        columns.push_str(",\n    created_at timestamptz NOT NULL DEFAULT now()");
        columns.push_str(",\n    day date NOT NULL DEFAULT current_date");
        match obstacle {
            OtherObstacle::Harmless => {
                // A partition that is foreign does not generate a value.
                columns.push_str(",\n    origin text NOT NULL DEFAULT 'token_service'");
            }
            OtherObstacle::UniqueTenant => {
                columns.push_str(",\n    tenant int NOT NULL DEFAULT 1 UNIQUE");
            }
            OtherObstacle::TenantWithoutDefault | OtherObstacle::TenantFilledByTrigger => {
                columns.push_str(",\n    tenant int NOT NULL");
            }
            OtherObstacle::TenantWithoutRow => {
                self.add("CREATE TABLE tenants (id int PRIMARY KEY)");
                columns.push_str(",\n    tenant int DEFAULT 7 REFERENCES tenants");
            }
            OtherObstacle::DefaultRaises => {
                self.add("CREATE SEQUENCE defaults");
                self.add(
                    "CREATE FUNCTION origin() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
                         IF nextval('defaults') % 11 = 0 THEN RAISE EXCEPTION 'no origin'; END IF;
                         RETURN 'known'; END $$",
                );
                columns.push_str(",\n    origin text DEFAULT origin()");
            }
            OtherObstacle::DefaultOverflows => {
                self.add("CREATE SEQUENCE numbers START 32747");
                columns.push_str(",\n    number smallint DEFAULT nextval('numbers')");
            }
            _ => {}
        }
        columns
    }

    fn write_constraint(&mut self) {
        self.add(match self.constraint {
            TokenConstraint::None | TokenConstraint::Check => "",
            TokenConstraint::Unique => "ALTER TABLE secret_tokens ADD UNIQUE (data)",
            TokenConstraint::DeferredUnique => {
                "ALTER TABLE secret_tokens ADD UNIQUE (data) DEFERRABLE INITIALLY DEFERRED"
            }
            TokenConstraint::UniqueLower => {
                "CREATE UNIQUE INDEX ON secret_tokens (lower(data::text))"
            }
            TokenConstraint::Exclude => {
                "ALTER TABLE secret_tokens ADD EXCLUDE USING btree (data WITH =)"
            }
            TokenConstraint::ForeignKey => {
                "ALTER TABLE secret_tokens ADD FOREIGN KEY (data) REFERENCES allowed (data)"
            }
        });
    }

    fn write_obstacle(&mut self) {
        match self.obstacle {
            OtherObstacle::TenantFilledByTrigger => {
                let class = class_of("NEW.data");
                self.function(
                    "fill",
                    &format!("IF {class} <> 'n' THEN NEW.tenant := 1; END IF; RETURN NEW;"),
                );
                self.trigger("fill", "BEFORE INSERT", "secret_tokens");
            }
            OtherObstacle::AuditTable => {
                self.add(
                    "CREATE TABLE audit (number serial CHECK (number % 9 <> 0), token_id int)",
                );
                self.add("GRANT INSERT ON audit TO PUBLIC");
                self.function(
                    "audit",
                    "INSERT INTO audit (token_id) VALUES (NEW.id); RETURN NULL;",
                );
                self.trigger("audit", "AFTER INSERT", "secret_tokens");
            }
            OtherObstacle::SequenceExhausted => {
                self.add("ALTER SEQUENCE secret_tokens_id_seq RESTART 2147483637");
            }
            _ => {}
        }
    }

    fn older_rows(&self, tokens: &[DrawnToken], has_equal_rows: bool) -> String {
        if self.obstacle == OtherObstacle::SequenceBehind {
            return format!(
                "INSERT INTO secret_tokens (id, data)
                     SELECT i, 'old' || i FROM generate_series(1, {OLDER_ROWS}) i"
            );
        }
        let fits = matches!(
            self.kind,
            TableKind::Plain
                | TableKind::Partitioned(
                    _,
                    _,
                    LastPartition::Ordinary | LastPartition::Default,
                    Leaf::Ordinary | Leaf::Foreign
                )
        );
        if !has_equal_rows || !fits || self.obstacle != OtherObstacle::None {
            return String::new();
        }
        let ordinary = tokens.iter().filter(|it| it.text.as_bytes()[KEY] == b'a');
        let values: Vec<String> = ordinary
            .take(3)
            .map(|token| format!("('{}')", token.text))
            .collect();
        let values = values.join(", ");
        format!("INSERT INTO secret_tokens (data) VALUES {values}")
    }

    fn function(&mut self, name: &str, body: &str) {
        self.add(&format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 {body} END $$"
        ));
    }

    fn trigger(&mut self, name: &str, event: &str, table: &str) {
        self.add(&format!(
            "CREATE TRIGGER {name} {event} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
        ));
    }

    fn write_trigger(&mut self, table: &str, kind: TriggerKind) {
        let class = class_of("NEW.data");
        match kind {
            TriggerKind::ChangesAll => {
                self.function("change", "NEW.data := NEW.data || '!'; RETURN NEW;");
                self.trigger("change", "BEFORE INSERT", table);
            }
            TriggerKind::ChangesSome => {
                self.function(
                    "change",
                    &format!(
                        "IF {class} = 'c' THEN NEW.data := NEW.data || '!'; END IF; RETURN NEW;"
                    ),
                );
                self.trigger("change", "BEFORE INSERT", table);
            }
            TriggerKind::Skips => {
                self.function(
                    "skip",
                    &format!("IF {class} = 's' THEN RETURN NULL; END IF; RETURN NEW;"),
                );
                self.trigger("skip", "BEFORE INSERT", table);
            }
            TriggerKind::Raises(code) => {
                self.raising(code);
                self.trigger("refuse", "BEFORE INSERT", table);
            }
            TriggerKind::RaisesAtCommit(code) => {
                self.raising(code);
                self.add(&format!(
                    "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON {table}
                         DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
                ));
            }
            TriggerKind::Doubles => {
                self.function(
                    "double",
                    &format!(
                        "IF pg_trigger_depth() = 1 THEN
                             INSERT INTO {table} (data) VALUES (NEW.data); END IF; RETURN NULL;"
                    ),
                );
                self.trigger("double", "AFTER INSERT", table);
            }
            TriggerKind::EndsItsBackend => {
                self.function(
                    "die",
                    &format!(
                        "IF {class} = 'x' THEN PERFORM pg_terminate_backend(pg_backend_pid());
                             PERFORM pg_sleep(1); END IF; RETURN NEW;"
                    ),
                );
                self.trigger("die", "BEFORE INSERT", table);
            }
        }
    }

    fn raising(&mut self, code: &str) {
        let class = class_of("NEW.data");
        self.function(
            "refuse",
            &format!(
                "IF {class} = 'x' THEN
                     RAISE EXCEPTION 'refused' USING ERRCODE = '{code}'; END IF; RETURN NEW;"
            ),
        );
    }

    fn write_rule(&mut self, kind: RuleKind) {
        let class = class_of("NEW.data");
        let column = self.column.sql();
        self.add(&format!("CREATE TABLE elsewhere (data {column})"));
        self.add("GRANT SELECT, INSERT ON elsewhere TO PUBLIC");
        let into = "INSERT INTO elsewhere (data) VALUES (NEW.data)";
        let action = match kind {
            RuleKind::AlsoLogs => format!("DO ALSO {into}"),
            RuleKind::RedirectsAll => format!("DO INSTEAD {into}"),
            RuleKind::RedirectsSome => format!("WHERE {class} = 'o' DO INSTEAD {into}"),
            RuleKind::NothingForSome => format!("WHERE {class} = 's' DO INSTEAD NOTHING"),
        };
        self.add(&format!(
            "CREATE RULE routing AS ON INSERT TO secret_tokens {action}"
        ));
    }

    fn write_inheritance(&mut self) {
        let columns = self.columns("");
        self.add(&format!("CREATE TABLE secret_tokens ({columns})"));
        for child in ["even", "odd"] {
            self.add(&format!("CREATE TABLE {child} () INHERITS (secret_tokens)"));
            self.add(&format!("GRANT SELECT, INSERT ON {child} TO PUBLIC"));
        }
        self.function(
            "route",
            "IF NEW.id % 2 = 0 THEN INSERT INTO even VALUES (NEW.*);
                 ELSE INSERT INTO odd VALUES (NEW.*); END IF; RETURN NULL;",
        );
        self.trigger("route", "BEFORE INSERT", "secret_tokens");
    }

    fn write_view(&mut self, kind: ViewKind) {
        let column = self.column.sql();
        let unlogged = if kind == ViewKind::OverUnlogged {
            "UNLOGGED "
        } else {
            ""
        };
        let check = if self.constraint == TokenConstraint::Check {
            r#" CHECK (secret::text COLLATE "C" NOT LIKE '%-%')"#
        } else {
            ""
        };
        self.add(&format!(
            "CREATE {unlogged}TABLE base (id serial PRIMARY KEY, secret {column} NOT NULL{check})"
        ));
        self.add("GRANT SELECT, INSERT ON base TO PUBLIC");
        let class = class_of("secret");
        let rest = match kind {
            ViewKind::CheckOption => format!(" WHERE {class} <> 'w' WITH CHECK OPTION"),
            ViewKind::HidesSome => format!(" WHERE {class} <> 'b'"),
            _ => String::new(),
        };
        self.add(&format!(
            "CREATE VIEW secret_tokens AS SELECT id, secret AS data FROM base{rest}"
        ));
        let result = match kind {
            ViewKind::InsteadOf => "NEW",
            ViewKind::InsteadOfReturnsNull => "NULL",
            _ => return,
        };
        self.function(
            "store",
            &format!("INSERT INTO base (secret) VALUES (NEW.data); RETURN {result};"),
        );
        self.trigger("store", "INSTEAD OF INSERT", "secret_tokens");
    }

    fn write_partitioned(
        &mut self,
        key: PartitionKey,
        method: Method,
        last: LastPartition,
        leaf: Leaf,
    ) {
        let columns = self.columns("");
        let digit = digit_of("data");
        let (by, bounds) = match (method, key) {
            (Method::List, PartitionKey::Id) => (
                "LIST ((id % 3))".to_owned(),
                ["IN (0)", "IN (1)", "IN (2)"].map(String::from),
            ),
            (Method::List, PartitionKey::Token) => (
                format!("LIST (({digit}))"),
                ["01234567", "89abAB", "cdefCDEF"].map(|digits| {
                    let digits: Vec<String> = digits.chars().map(|d| format!("'{d}'")).collect();
                    format!("IN ({})", digits.join(", "))
                }),
            ),
            (Method::List, PartitionKey::CreatedAt) => (
                "LIST (day)".to_owned(),
                [
                    "IN ('2001-01-01')".to_owned(),
                    "IN ('2001-01-02')".to_owned(),
                    // Today is not known when the schema is drawn, nor tomorrow.
                    "IN (TODAY)".to_owned(),
                ],
            ),
            (Method::Range, PartitionKey::Id) => (
                "RANGE (id)".to_owned(),
                [
                    "FROM (MINVALUE) TO (40)",
                    "FROM (40) TO (80)",
                    "FROM (80) TO (MAXVALUE)",
                ]
                .map(String::from),
            ),
            (Method::Range, PartitionKey::Token) => (
                "RANGE (data)".to_owned(),
                [
                    "FROM (MINVALUE) TO ('0040')",
                    "FROM ('0040') TO ('0080')",
                    "FROM ('0080') TO (MAXVALUE)",
                ]
                .map(String::from),
            ),
            (Method::Range, PartitionKey::CreatedAt) => (
                "RANGE (created_at)".to_owned(),
                [
                    "FROM ('2000-01-01') TO ('2001-01-01')",
                    "FROM ('2001-01-01') TO ('2002-01-01')",
                    "FROM ('2002-01-01') TO (MAXVALUE)",
                ]
                .map(String::from),
            ),
            (Method::Hash, key) => {
                let column = match key {
                    PartitionKey::Id => "id",
                    PartitionKey::Token => "data",
                    PartitionKey::CreatedAt => "created_at",
                };
                (
                    format!("HASH ({column})"),
                    [0, 1, 2].map(|rest| format!("WITH (MODULUS 3, REMAINDER {rest})")),
                )
            }
        };
        self.add(&format!(
            "CREATE TABLE secret_tokens ({columns}) PARTITION BY {by}"
        ));
        let [first, second, third] = bounds;
        self.partition(
            "first",
            &first,
            leaf == Leaf::Foreign && method != Method::Hash,
        );
        // By date every row is in the last partition, if there is one.
        let all_in_last = key == PartitionKey::CreatedAt && method != Method::Hash;
        self.partition("second", &second, leaf == Leaf::Foreign && !all_in_last);
        match last {
            LastPartition::Missing => {}
            LastPartition::Default => {
                self.add("CREATE TABLE last PARTITION OF secret_tokens DEFAULT");
            }
            LastPartition::Ordinary => {
                self.partition("last", &third, leaf == Leaf::Foreign && all_in_last);
            }
        }
        let special = if all_in_last && last != LastPartition::Missing {
            "last"
        } else {
            "second"
        };
        match leaf {
            Leaf::Ordinary | Leaf::Foreign => {}
            Leaf::Changes => self.write_trigger(special, TriggerKind::ChangesAll),
            Leaf::Skips => self.write_trigger(special, TriggerKind::Skips),
            Leaf::Raises => self.write_trigger(special, TriggerKind::Raises("P0001")),
        }
    }

    fn partition(&mut self, name: &str, bound: &str, is_foreign: bool) {
        if is_foreign {
            if !self.admin_ddl.contains("postgres_fdw") {
                self.admin_ddl.push_str(
                    "CREATE EXTENSION postgres_fdw;
CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host '127.0.0.1', port '{port}', dbname '{name}');
GRANT USAGE ON FOREIGN SERVER loopback TO PUBLIC;
CREATE USER MAPPING FOR PUBLIC SERVER loopback OPTIONS (user '{user}', password '{password}');\n",
                );
            }
            self.add(&format!("CREATE TABLE {name}_remote (LIKE secret_tokens)"));
        }
        let (kind, server) = if is_foreign {
            let options = format!(" SERVER loopback OPTIONS (table_name '{name}_remote')");
            ("FOREIGN TABLE", options)
        } else {
            ("TABLE", String::new())
        };
        let partition =
            format!("CREATE {kind} {name} PARTITION OF secret_tokens FOR VALUES {bound}{server}");
        if bound.contains("TODAY") {
            // A test that runs at midnight finds tomorrow's rows here as well.
            let days = "quote_literal(current_date) || ', ' || quote_literal(current_date + 1)";
            let partition = partition
                .replace('\'', "''")
                .replace("TODAY", &format!("' || {days} || '"));
            let mut block = String::new();
            let _ = write!(block, "DO $do$ BEGIN EXECUTE '{partition}'; END $do$");
            self.add(&block);
        } else {
            self.add(&partition);
        }
    }
}

impl RandomSchema {
    /// The superuser's statements for that database.
    pub fn admin_ddl_for(&self, owner: &Login) -> String {
        self.admin_ddl
            .replace("{port}", &owner.port.to_string())
            .replace("{name}", &owner.name)
            .replace("{user}", &owner.user)
            .replace("{password}", &owner.password)
    }
}

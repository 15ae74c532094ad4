//! What PostgreSQL's catalogs say about the table, read once when a run starts: enough to tell whose
//! fault a failed INSERT is, whether one can succeed, and what a look-up proves.

use std::collections::HashMap;

use serde::Deserialize;

use super::super::name::TableName;

/// Reads all of it in one round trip; `$1` is the relation as SQL, `$2` the column's name.
pub(super) const SQL: &str = include_str!("catalog.sql");

/// The table that tokens are inserted into, and every relation that such an INSERT can write to.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::store) struct Catalog {
    /// Whether the role may INSERT into the column; `None` if there is no such column.
    pub(super) may_insert: Option<bool>,
    may_select: Option<bool>,
    may_select_xmin: Option<bool>,
    /// The age of the oldest transaction number in the cluster.
    pub(super) age: Option<i64>,
    /// True if `synchronous_standby_names` is set.
    pub(super) has_standbys: bool,
    /// The relation's object identifier.
    target: i64,
    /// The column's type, below any domains.
    kind: Option<Kind>,
    /// True if equal values of the column are equal byte for byte, as far as its collation says.
    is_exact: bool,
    domains: Vec<Domain>,
    /// The keys by which the tables are partitioned that the target is a partition of.
    ancestors: Vec<PartitionKey>,
    relations: Vec<Relation>,
    #[serde(skip)]
    is_assumed: bool,
    /// The column that receives the token, by relation.
    #[serde(skip)]
    token_columns: HashMap<i64, String>,
}

/// A type below any domains.
#[derive(Clone, Debug, Deserialize)]
struct Kind {
    name: String,
    /// As SQL writes it.
    title: String,
    is_builtin: bool,
    typmod: i32,
}

/// A domain of the token's column.
#[derive(Clone, Debug, Deserialize)]
struct Domain {
    name: String,
    functions: Vec<String>,
}

/// A relation that an INSERT can write to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Relation {
    oid: i64,
    schema: String,
    pub(super) name: String,
    /// `pg_class.relkind`.
    kind: String,
    is_logged: bool,
    is_partition: bool,
    parent: Option<i64>,
    takes_inserts: bool,
    may_select: bool,
    has_row_security: bool,
    /// The events of its rules, SELECT excepted.
    rules: Vec<String>,
    view: Option<View>,
    key: Option<PartitionKey>,
    /// Empty for partitions that are not the target: an INSERT uses the defaults of their root.
    columns: Vec<Column>,
    constraints: Vec<Constraint>,
    indexes: Vec<Index>,
    triggers: Vec<Trigger>,
    policies: Vec<Option<String>>,
}

#[derive(Clone, Debug, Deserialize)]
struct View {
    definition: String,
    reads: Vec<i64>,
}

#[derive(Clone, Debug, Deserialize)]
struct PartitionKey {
    columns: Vec<String>,
    expression: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Column {
    name: String,
    is_required: bool,
    identity: Option<String>,
    is_generated: bool,
    /// Its default, or the expression that generates it.
    value: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    is_domain: bool,
    functions: Vec<String>,
    sequence: Option<Sequence>,
}

#[derive(Clone, Debug, Deserialize)]
struct Sequence {
    name: String,
    may_use: bool,
    is_exhausted: Option<bool>,
}

/// A CHECK or a foreign key.
#[derive(Clone, Debug, Deserialize)]
struct Constraint {
    name: String,
    columns: Vec<String>,
    functions: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Index {
    name: String,
    /// What its uniqueness is about.
    keys: Vec<String>,
    /// The same and the columns that it includes.
    columns: Vec<String>,
    expression: Option<String>,
    predicate: Option<String>,
    functions: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Trigger {
    name: String,
    is_before: bool,
    is_instead: bool,
    is_row: bool,
    /// With its arguments, as a CONTEXT shows it.
    function: String,
    /// The C function, for a trigger that is written in C.
    symbol: Option<String>,
    sets_durability: bool,
}

/// What can go wrong with the values of the other columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Risk {
    /// Constants and clocks: nothing.
    None,
    /// A sequence: its end, or a number too large for the column.
    Sequence,
    /// An expression that may raise anything.
    Anything,
}

/// What a function that an error's CONTEXT names belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A trigger of the table.
    Trigger,
    /// Something that depends on the token: a constraint, an index, a generated column, a domain.
    Token,
    /// A default, or something else that does not depend on the token.
    Other,
}

/// What a constraint or an index depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The token's column, perhaps among others.
    Token,
    /// Other columns, one of which a sequence fills.
    Sequence,
    /// Other columns.
    Other,
    /// The catalog knows none of that name.
    Unknown,
}

/// Why no INSERT into the table can succeed, or none can be relied upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The relation, or this partition of it, takes no inserts; what it is.
    Unwritable(Option<String>, &'static str),
    /// There is no such column.
    NoColumn,
    /// The column is generated, or a system column.
    Generated,
    /// The role may not insert.
    MayNotInsert,
    /// The role may not use this sequence.
    MayNotUse(String),
    /// This relation does not survive a crash.
    Unlogged(String),
    /// The column's type does not keep tokens whole.
    Lossy(String),
    /// This column of this relation needs a value and has no default.
    Required(String, String),
    /// A partitioned table has no partition.
    NoPartition(String),
    /// This sequence has no number left.
    Exhausted(String),
    /// Row security is enabled for this relation, and no policy lets the role insert.
    NoPolicy(String),
    /// The cluster accepts no more transactions until it is vacuumed.
    Wraparound,
}

/// The limit of the column's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Room {
    /// Any text is kept as it is.
    Any,
    /// `varchar(n)`: blanks beyond `n` characters are cut.
    Varchar(usize),
    /// `char(n)` or `bpchar` (no limit): trailing blanks carry no meaning.
    Char(Option<usize>),
}

impl Room {
    /// Why a token would not be kept whole although the server accepts it.
    pub(in crate::store) fn loss(self, token: &str) -> Option<&'static str> {
        match self {
            Self::Any => None,
            Self::Varchar(most) => {
                let excess = token.char_indices().nth(most);
                let excess = excess.map_or("", |(at, _)| &token[at..]);
                (!excess.is_empty() && excess.bytes().all(|byte| byte == b' '))
                    .then_some("the column would cut its trailing blanks")
            }
            Self::Char(_) => token
                .ends_with(' ')
                .then_some("the column does not keep trailing blanks"),
        }
    }

    /// True if the column's type refuses the token for its length.
    pub(super) fn is_exceeded(self, token: &str) -> bool {
        match self {
            Self::Any | Self::Char(None) => false,
            Self::Varchar(most) | Self::Char(Some(most)) => token.chars().count() > most,
        }
    }
}

impl Catalog {
    /// Reads the answer to [`SQL`] about `column`.
    ///
    /// # Errors
    /// If the answer is not what PostgreSQL gives.
    pub(super) fn parse(json: &str, column: &str) -> Result<Self, serde_json::Error> {
        let mut catalog: Self = serde_json::from_str(json)?;
        catalog.name_token_columns(column);
        Ok(catalog)
    }

    /// The catalog of a pipeline test: nothing is known of its table but the names, so that an error of
    /// class 22 or 23 with nothing else is the token's fault.
    pub(in crate::store) fn assumed(table: &TableName, column: &str) -> Self {
        let mut catalog = Self {
            is_assumed: true,
            relations: vec![Relation {
                schema: table.schema.clone().unwrap_or_default(),
                name: table.table.clone(),
                kind: "r".to_owned(),
                ..Relation::default()
            }],
            ..Self::default()
        };
        catalog.name_token_columns(column);
        catalog
    }

    /// True if it is that of a pipeline test.
    pub(super) fn is_assumed(&self) -> bool {
        self.is_assumed
    }

    /// Follows the column through views to their tables, and to the partitions.
    fn name_token_columns(&mut self, column: &str) {
        let mut columns = HashMap::from([(self.target, column.to_owned())]);
        let mut open = vec![self.target];
        while let Some(oid) = open.pop() {
            let Some(name) = columns.get(&oid).cloned() else {
                continue;
            };
            let mut found = Vec::new();
            if let Some(view) = self.relation(oid).and_then(|known| known.view.as_ref())
                && let Some(base) = view_column(&view.definition, &name)
            {
                found.extend(view.reads.iter().map(|read| (*read, base.clone())));
            }
            let partitions = self.relations.iter().filter(|it| it.parent == Some(oid));
            found.extend(partitions.map(|it| (it.oid, name.clone())));
            for (oid, name) in found {
                columns.entry(oid).or_insert_with(|| {
                    open.push(oid);
                    name
                });
            }
        }
        self.token_columns = columns;
    }

    fn relation(&self, oid: i64) -> Option<&Relation> {
        self.relations.iter().find(|known| known.oid == oid)
    }

    pub(super) fn target(&self) -> Option<&Relation> {
        self.relation(self.target)
    }

    /// The relation that an error names.
    pub(super) fn named(&self, schema: Option<&str>, table: &str) -> Option<&Relation> {
        self.relations
            .iter()
            .find(|known| known.name == table && schema.is_none_or(|schema| known.schema == schema))
    }

    fn token_column(&self, relation: &Relation) -> Option<&str> {
        self.token_columns.get(&relation.oid).map(String::as_str)
    }

    fn is_token(&self, relation: &Relation, column: &str) -> bool {
        self.token_column(relation) == Some(column)
    }

    /// True if the expression mentions the token's column, or the whole row.
    fn mentions_token(&self, relation: &Relation, expression: &str) -> bool {
        let column = self.token_column(relation);
        mentions(expression, |name| {
            Some(name) == column || name == relation.name
        })
    }

    /// True if the column holds the token or is generated from it.
    pub(super) fn depends_on_token(&self, relation: &Relation, column: &str) -> bool {
        let generated = || {
            // Partitions list no columns; their generated columns are those of their root.
            let columns = self.relations.iter().flat_map(|known| &known.columns);
            let mut columns = columns.filter(|known| known.name == column && known.is_generated);
            columns.any(|known| {
                let value = known.value.as_deref().unwrap_or_default();
                self.mentions_token(relation, value)
            })
        };
        self.is_token(relation, column) || generated()
    }

    /// What the CHECK, foreign key, unique or exclusion constraint or unique index of that name is about.
    pub(super) fn scope(&self, relation: &Relation, name: &str) -> Scope {
        if let Some(index) = relation.indexes.iter().find(|known| known.name == name) {
            let keys = &index.keys;
            return if keys.iter().any(|key| self.depends_on_token(relation, key))
                || self.mentions_token(relation, index.expression())
            {
                Scope::Token
            } else if keys.iter().any(|key| self.is_from_sequence(key)) {
                Scope::Sequence
            } else {
                Scope::Other
            };
        }
        match relation.constraints.iter().find(|known| known.name == name) {
            Some(known) if self.has_token(relation, &known.columns) => Scope::Token,
            Some(_) => Scope::Other,
            None => Scope::Unknown,
        }
    }

    fn has_token(&self, relation: &Relation, columns: &[String]) -> bool {
        columns
            .iter()
            .any(|column| self.depends_on_token(relation, column))
    }

    /// True if an index that refuses the length of its entry holds the token.
    pub(super) fn is_indexed(&self, relation: &Relation, name: &str) -> bool {
        relation.indexes.iter().any(|known| {
            known.name == name
                && (self.has_token(relation, &known.columns)
                    || self.mentions_token(relation, known.expression()))
        })
    }

    fn is_from_sequence(&self, column: &str) -> bool {
        let columns = self.relations.iter().flat_map(|known| &known.columns);
        columns
            .filter(|known| known.name == column)
            .any(|known| known.sequence.is_some())
    }

    /// True if the key by which `relation` is partitioned, or by which its parents are, includes the
    /// token.
    pub(super) fn is_routed_by_token(&self, relation: &Relation) -> bool {
        let has_token = |relation: &Relation, key: &PartitionKey| {
            let expression = key.expression.as_deref().unwrap_or_default();
            self.has_token(relation, &key.columns) || self.mentions_token(relation, expression)
        };
        let mut next = Some(relation);
        while let Some(relation) = next {
            let keys = relation.key.iter();
            let above = if relation.oid == self.target {
                self.ancestors.as_slice()
            } else {
                &[]
            };
            if keys.chain(above).any(|key| has_token(relation, key)) {
                return true;
            }
            next = relation.parent.and_then(|parent| self.relation(parent));
        }
        false
    }

    /// True if a stale route led to this relation: it is a partition below the target.
    pub(super) fn is_below_target(&self, relation: &Relation) -> bool {
        relation.is_partition && relation.oid != self.target
    }

    /// True if the domain is the token column's, and no other column could have violated it.
    pub(super) fn is_only_token_domain(&self, name: &str) -> bool {
        let own = self.domains.iter().any(|domain| domain.name == name);
        let mut others = self.other_columns();
        own && !others.any(|(relation, column)| {
            column.is_domain
                && column.kind == name
                && column.value.as_deref().is_some_and(|value| {
                    !(column.is_generated && self.mentions_token(relation, value))
                })
        })
    }

    /// The columns that do not receive the token.
    fn other_columns(&self) -> impl Iterator<Item = (&Relation, &Column)> {
        self.relations.iter().flat_map(move |relation| {
            let columns = relation.columns.iter();
            let others = columns.filter(move |column| !self.is_token(relation, &column.name));
            others.map(move |column| (relation, column))
        })
    }

    /// What the values of the other columns may raise; those generated from the token are its own.
    fn risk(&self) -> Risk {
        let risks = self.other_columns().map(|(relation, column)| {
            let Some(value) = column.value.as_deref() else {
                return match column.sequence {
                    Some(_) => Risk::Sequence,
                    None => Risk::None,
                };
            };
            if column.is_generated && self.mentions_token(relation, value) {
                Risk::None
            } else {
                risk_of(value)
            }
        });
        risks.max().unwrap_or(Risk::None)
    }

    /// True if an error of class 22 without a CONTEXT can only come from the token: no other value of
    /// the row raises one.
    pub(super) fn is_only_token_raising(&self, code: &str, routine: &str) -> bool {
        const TOO_LARGE_FOR_COLUMN: [&str; 2] = ["int84", "int82"];
        match self.risk() {
            Risk::None => true,
            Risk::Sequence => !(code == "22003" && TOO_LARGE_FOR_COLUMN.contains(&routine)),
            Risk::Anything => false,
        }
    }

    /// What the function that a line of a CONTEXT names belongs to; `None` if the line names none that
    /// the catalog knows.
    pub(super) fn owner(&self, line: &str) -> Option<Owner> {
        let triggers = self.relations.iter().flat_map(|known| &known.triggers);
        if triggers.into_iter().any(|it| names(line, &it.function)) {
            return Some(Owner::Trigger);
        }
        let any = |functions: &[String]| functions.iter().any(|function| names(line, function));
        let mut owner = None;
        let mut add = |functions: &[String], is_token: bool| {
            if any(functions) {
                // One function in two places: in doubt it is not the token.
                owner = match owner {
                    _ if !is_token => Some(Owner::Other),
                    None => Some(Owner::Token),
                    some => some,
                };
            }
        };
        for domain in &self.domains {
            add(&domain.functions, true);
        }
        for relation in &self.relations {
            for it in &relation.constraints {
                add(&it.functions, self.has_token(relation, &it.columns));
            }
            for it in &relation.indexes {
                let is_token = self.has_token(relation, &it.columns)
                    || self.mentions_token(relation, it.expression())
                    || self.mentions_token(relation, it.predicate.as_deref().unwrap_or_default());
                add(&it.functions, is_token);
            }
            for it in &relation.columns {
                let is_token = it.is_generated && self.depends_on_token(relation, &it.name);
                add(&it.functions, is_token);
            }
        }
        owner
    }

    /// True if the C function is a trigger's of the table.
    pub(super) fn is_trigger_symbol(&self, routine: &str) -> bool {
        let mut triggers = self.relations.iter().flat_map(|known| &known.triggers);
        triggers.any(|it| it.symbol.as_deref() == Some(routine))
    }

    /// True if a policy of row level security looks at the token.
    pub(super) fn is_policy_about_token(&self) -> bool {
        self.relations.iter().any(|relation| {
            let mut policies = relation.policies.iter().flatten();
            policies.any(|policy| self.mentions_token(relation, policy))
        })
    }

    /// True if the condition of a view, which its CHECK OPTION holds, looks at the token.
    pub(super) fn is_view_about_token(&self) -> bool {
        let bases: Vec<&Relation> = self.relations.iter().collect();
        self.relations.iter().any(|relation| {
            let definition = relation.view.as_ref().map(|view| &view.definition);
            let condition = definition.and_then(|text| text.rsplit_once(" WHERE "));
            condition.is_some_and(|(_, condition)| {
                bases
                    .iter()
                    .any(|base| self.mentions_token(base, condition))
            })
        })
    }

    /// True if a row can go to another server.
    pub(super) fn has_foreign(&self) -> bool {
        self.relations.iter().any(|relation| relation.kind == "f")
    }

    /// How long a token the column keeps.
    pub(in crate::store) fn room(&self) -> Room {
        const HEADER: i32 = 4;
        let Some(kind) = &self.kind else {
            return Room::Any;
        };
        let most = usize::try_from(kind.typmod - HEADER).ok();
        match (kind.name.as_str(), most) {
            ("varchar", Some(most)) => Room::Varchar(most),
            ("bpchar", most) => Room::Char(most),
            _ => Room::Any,
        }
    }

    /// True if the role may ask which rows hold a value and which transaction wrote them.
    pub(in crate::store) fn may_look(&self) -> bool {
        match self.shown_through() {
            Some((base, _)) => base.may_select,
            None => self.may_select == Some(true) && self.may_select_xmin == Some(true),
        }
    }

    /// The table as SQL, and the column's name, in which the rows of a view can be looked for: a view
    /// does not show which transaction wrote them.
    pub(super) fn base(&self) -> Option<(String, String)> {
        let (base, column) = self.shown_through()?;
        let table = TableName {
            schema: Some(base.schema.clone()),
            table: base.name.clone(),
        };
        Some((table.to_sql(), column.to_owned()))
    }

    fn shown_through(&self) -> Option<(&Relation, &str)> {
        if self.target()?.kind != "v" {
            return None;
        }
        let is_table = |it: &&Relation| matches!(it.kind.as_str(), "r" | "p") && !it.is_partition;
        let mut tables = self.relations.iter().filter(is_table);
        let table = tables.next()?;
        // Of several it is not known which one holds the token.
        match tables.next() {
            None => Some((table, self.token_column(table)?)),
            Some(_) => None,
        }
    }

    /// True if a look-up that misses a value proves that no row was stored: nothing may change, hide,
    /// move or remove a row, and equality is exact.
    pub(in crate::store) fn proves_absence(&self) -> bool {
        let is_plain = |relation: &Relation| {
            matches!(relation.kind.as_str(), "r" | "p")
                && relation.is_logged
                && relation.rules.is_empty()
                && !relation.has_row_security
                && !relation.triggers.iter().any(|trigger| trigger.is_row)
        };
        let kind = self.kind.as_ref();
        self.is_exact
            && kind.is_some_and(|kind| {
                kind.is_builtin && ["text", "varchar", "bpchar"].contains(&kind.name.as_str())
            })
            && !self.relations.is_empty()
            && self.relations.iter().all(is_plain)
    }

    /// Why a look-up by value proves nothing, as a clause; `None` on a table on which it does.
    pub(in crate::store) fn obscured_by(&self) -> Option<&'static str> {
        let any = |is: &dyn Fn(&Relation) -> bool| self.relations.iter().any(is);
        if any(&|it| it.kind == "f") {
            Some("rows of a foreign table do not show who wrote them")
        } else if any(&|it| it.kind == "v") {
            Some("a view may hide or change rows")
        } else if any(&|it| it.has_row_security) {
            Some("row security may hide rows")
        } else if any(&|it| !it.rules.is_empty()) {
            Some("rules may change or redirect rows")
        } else if any(&|it| it.triggers.iter().any(|trigger| trigger.is_row)) {
            Some("row triggers may change or remove rows")
        } else if !self.is_exact {
            Some("the column's collation makes different values equal")
        } else if !self.proves_absence() {
            Some("the column's type makes different values equal")
        } else {
            None
        }
    }

    /// What an operator of a run should know of the table.
    pub(super) fn warnings(&self) -> Vec<String> {
        let changes = |it: &Relation| {
            !it.rules.is_empty() || it.triggers.iter().any(|trigger| trigger.is_row)
        };
        let may_change = self.relations.iter().any(changes).then(|| {
            "triggers or rules of the table may change or remove rows: tokens that a lost connection \
             leaves in doubt stay unknown"
                .to_owned()
        });
        self.durability_warning()
            .into_iter()
            .chain(may_change)
            .collect()
    }

    /// Why a commit may be worth less than the session asks for.
    pub(super) fn durability_warning(&self) -> Option<String> {
        let triggers = self.durability_triggers();
        (!triggers.is_empty()).then(|| {
            format!(
                "a trigger mentions synchronous_commit ({}): a commit that is not waited for can be lost \
                 after it was reported as stored",
                triggers.join(", ")
            )
        })
    }

    /// The triggers whose functions set `synchronous_commit`.
    fn durability_triggers(&self) -> Vec<&str> {
        let triggers = self.relations.iter().flat_map(|known| &known.triggers);
        let mut names: Vec<&str> = triggers
            .filter(|it| it.sets_durability)
            .map(|it| it.name.as_str())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Why no INSERT can succeed, or none can be relied upon.
    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        // PostgreSQL stops 3 million transactions before the numbers wrap around (13: one million).
        const STOP: i64 = (1 << 31) - 1_000_000 - 1;
        let target = self.target()?;
        let what = match target.kind.as_str() {
            "m" => Some("a materialized view"),
            "S" => Some("a sequence"),
            "i" | "I" => Some("an index"),
            "c" => Some("a composite type"),
            "t" => Some("a TOAST table"),
            "v" if !self.is_writable(target) => Some("a view that takes no inserts"),
            "f" if !target.takes_inserts => Some("a foreign table that takes no inserts"),
            _ => None,
        };
        if let Some(what) = what {
            return Some(Obstacle::Unwritable(None, what));
        }
        if let Some(partition) = self.unwritable_partition() {
            let what = "a foreign table that takes no inserts";
            return Some(Obstacle::Unwritable(Some(partition.name.clone()), what));
        }
        match self.may_insert {
            None => return Some(Obstacle::NoColumn),
            Some(false) => return Some(Obstacle::MayNotInsert),
            Some(true) => {}
        }
        let own = |column: &&Column| self.is_token(target, &column.name);
        match target.columns.iter().find(own) {
            None => return Some(Obstacle::Generated),
            Some(column) if column.is_generated || column.identity.as_deref() == Some("a") => {
                return Some(Obstacle::Generated);
            }
            Some(_) => {}
        }
        if let Some(kind) = &self.kind
            && !kind.keeps_tokens()
        {
            return Some(Obstacle::Lossy(kind.title.clone()));
        }
        if let Some(relation) = self
            .relations
            .iter()
            .find(|it| !it.is_logged && matches!(it.kind.as_str(), "r" | "p" | "m"))
        {
            return Some(Obstacle::Unlogged(relation.name.clone()));
        }
        let sequences = || {
            let columns = self.other_columns();
            columns.filter_map(|(_, column)| column.sequence.as_ref())
        };
        if let Some(sequence) = sequences().find(|sequence| !sequence.may_use) {
            return Some(Obstacle::MayNotUse(sequence.name.clone()));
        }
        let is_closed =
            |it: &&Relation| it.has_row_security && it.policies.is_empty() && !it.is_partition;
        if let Some(relation) = self.relations.iter().find(is_closed) {
            return Some(Obstacle::NoPolicy(relation.name.clone()));
        }
        if self.age.is_some_and(|age| age >= STOP) {
            return Some(Obstacle::Wraparound);
        }
        let is_rerouted = self.relations.iter().any(|relation| {
            relation.rules.iter().any(|event| event == "insert")
                || relation
                    .triggers
                    .iter()
                    .any(|it| it.is_row && (it.is_before || it.is_instead))
        });
        if is_rerouted {
            // What it does with the row cannot be foreseen.
            return None;
        }
        if let Some(sequence) = sequences().find(|it| it.is_exhausted == Some(true)) {
            return Some(Obstacle::Exhausted(sequence.name.clone()));
        }
        let required = self.other_columns().find(|(relation, column)| {
            // The columns of a view are those of its table.
            relation.kind != "v"
                && column.is_required
                && column.value.is_none()
                && column.identity.is_none()
                && !column.is_generated
                && !self.has_view_default(&column.name)
        });
        if let Some((relation, column)) = required {
            return Some(Obstacle::Required(
                relation.name.clone(),
                column.name.clone(),
            ));
        }
        let is_leaf = |relation: &Relation| relation.kind != "p" && relation.is_partition;
        if let Some(root) = self.relations.iter().find(|relation| relation.kind == "p")
            && !self.relations.iter().any(is_leaf)
        {
            return Some(Obstacle::NoPartition(root.name.clone()));
        }
        None
    }

    /// True if a view gives the column of its table a default.
    fn has_view_default(&self, column: &str) -> bool {
        self.relations.iter().any(|relation| {
            relation.view.as_ref().is_some_and(|view| {
                relation.columns.iter().any(|known| {
                    known.value.is_some()
                        && view_column(&view.definition, &known.name).as_deref() == Some(column)
                })
            })
        })
    }

    /// A foreign partition that takes no inserts, if all partitions are of that kind.
    fn unwritable_partition(&self) -> Option<&Relation> {
        let is_leaf = |relation: &&Relation| relation.is_partition && relation.kind != "p";
        let mut leaves = self.relations.iter().filter(is_leaf);
        let is_unwritable = |it: &Relation| it.kind == "f" && !it.takes_inserts;
        let first = leaves.next()?;
        (is_unwritable(first) && leaves.all(is_unwritable)).then_some(first)
    }

    fn is_writable(&self, view: &Relation) -> bool {
        view.takes_inserts
            && view.view.as_ref().is_none_or(|it| {
                let bases = it.reads.iter().filter_map(|oid| self.relation(*oid));
                // A view that passes its rows on needs a base that takes them.
                view.rules.iter().any(|event| event == "insert")
                    || view.triggers.iter().any(|trigger| trigger.is_instead)
                    || bases.into_iter().any(|base| base.takes_inserts)
            })
    }
}

impl Index {
    fn expression(&self) -> &str {
        self.expression.as_deref().unwrap_or_default()
    }
}

impl Kind {
    /// True if the type keeps whole the text that it accepts, or the loss can be told before.
    fn keeps_tokens(&self) -> bool {
        const EXTENSION: &str = "citext";
        if self.is_builtin {
            ["text", "varchar", "bpchar"].contains(&self.name.as_str())
        } else {
            self.name == EXTENSION
        }
    }
}

/// What a default may raise, by its text.
fn risk_of(value: &str) -> Risk {
    const CLOCKS: [&str; 14] = [
        "now()",
        "CURRENT_TIMESTAMP",
        "CURRENT_DATE",
        "CURRENT_TIME",
        "LOCALTIMESTAMP",
        "LOCALTIME",
        "CURRENT_USER",
        "SESSION_USER",
        "clock_timestamp()",
        "statement_timestamp()",
        "transaction_timestamp()",
        "gen_random_uuid()",
        "uuid_generate_v4()",
        "uuidv7()",
    ];
    let value = value.trim();
    let is_number = || {
        let digits = value.trim_start_matches(['(', '-']).trim_end_matches(')');
        !digits.is_empty()
            && digits
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    if CLOCKS.contains(&value) || ["true", "false", "NULL"].contains(&value) || is_number() {
        return Risk::None;
    }
    if value.starts_with("nextval(") && value.ends_with("::regclass)") {
        return Risk::Sequence;
    }
    match literal(value) {
        // The length of a literal is looked at when it is inserted.
        Some(kind) if kind.starts_with("character") || kind.starts_with("bit") => Risk::Anything,
        Some(_) => Risk::None,
        None => Risk::Anything,
    }
}

/// The type of a value that is a single literal with its type.
fn literal(value: &str) -> Option<&str> {
    let rest = value.strip_prefix('\'')?;
    let mut end = 0;
    let bytes = rest.as_bytes();
    while end < bytes.len() {
        if bytes[end] == b'\'' {
            if bytes.get(end + 1) != Some(&b'\'') {
                break;
            }
            end += 1;
        }
        end += 1;
    }
    let kind = rest.get(end + 1..)?.strip_prefix("::")?;
    let is_name = |char: char| char.is_alphanumeric() || " _.\"[]()".contains(char);
    kind.chars().all(is_name).then_some(kind)
}

/// True if a line of a CONTEXT names the function: `f()` as PL/pgSQL writes it, `"f"` as other
/// languages do, whatever language the server speaks.
fn names(line: &str, function: &str) -> bool {
    const QUOTES: [(char, char); 4] = [('"', '"'), ('«', '»'), ('„', '“'), ('“', '”')];
    let is_name = |char: char| char.is_alphanumeric() || char == '_' || char == '.';
    let mut signatures = line.match_indices(function);
    if signatures.any(|(at, _)| !line[..at].ends_with(is_name)) {
        return true;
    }
    let name = function.split('(').next().unwrap_or_default();
    let name = name
        .rsplit('.')
        .next()
        .unwrap_or_default()
        .trim_matches('"');
    let mut quotes = QUOTES.into_iter();
    is_frame(line) && quotes.any(|(open, close)| line.contains(&format!("{open}{name}{close}")))
}

/// True if the line of a CONTEXT is that of a function, and not of a statement or a portal.
pub(super) fn is_frame(line: &str) -> bool {
    line.contains("PL/") || line.starts_with("SQL function")
}

/// True if an identifier of the expression, outside of its literals, is one that `is` knows.
fn mentions(expression: &str, is: impl Fn(&str) -> bool) -> bool {
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        match first {
            '\'' | '"' => {
                let (text, after) = quoted(&rest[1..], first);
                if first == '"' && !after.starts_with(['(', '.']) && is(&text) {
                    return true;
                }
                rest = after;
            }
            _ if first.is_alphabetic() || first == '_' => {
                let is_part = |char: char| char.is_alphanumeric() || char == '_' || char == '$';
                let end = rest.find(|char| !is_part(char)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                // Neither a function of that name nor the table before a column's.
                if !after.starts_with(['(', '.']) && is(word) {
                    return true;
                }
                rest = after;
            }
            _ => rest = &rest[first.len_utf8()..],
        }
    }
    false
}

/// The text up to the closing quote, with doubled ones undone, and what follows it.
fn quoted(text: &str, quote: char) -> (String, &str) {
    let mut inner = String::new();
    let mut rest = text;
    loop {
        let Some(end) = rest.find(quote) else {
            return (inner + rest, "");
        };
        inner += &rest[..end];
        rest = &rest[end + 1..];
        if !rest.starts_with(quote) {
            return (inner, rest);
        }
        inner.push(quote);
        rest = &rest[1..];
    }
}

/// The column of its table that a view shows as `column`; `None` if it shows an expression.
fn view_column(definition: &str, column: &str) -> Option<String> {
    let list = definition.trim_start().strip_prefix("SELECT ")?;
    let list = &list[..list.find("\n   FROM ")?];
    list.split(",\n").find_map(|item| {
        let (expression, alias) = match item.rsplit_once(" AS ") {
            Some((expression, alias)) => (expression, Some(alias)),
            None => (item, None),
        };
        let (source, rest) = path_end(expression.trim())?;
        let shown = alias.map_or_else(
            || Some(source.clone()),
            |alias| Some(path_end(alias.trim())?.0),
        )?;
        (shown == column && rest.is_empty()).then_some(source)
    })
}

/// The last part of `a.b."c"`, unquoted, and what follows the path.
fn path_end(text: &str) -> Option<(String, &str)> {
    let mut rest = text;
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(inner) => quoted(inner, '"'),
            None => {
                let is_part = |char: char| char.is_alphanumeric() || char == '_' || char == '$';
                let end = rest.find(|char| !is_part(char)).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        if part.is_empty() {
            return None;
        }
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None => return Some((part, after)),
        }
    }
}

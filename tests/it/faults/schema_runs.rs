//! Runs on random schemas, with faults: `schema_grammar` draws the table, and `schema_verifier` compares
//! the report with the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::schedule::{FaultEvent, PartitionEnd, gap, pause, scope};
use super::schedule_runner::{ATTACH_PARTITION, FaultRun};
use super::schema_grammar::{DrawnToken, RandomSchema, Rights, ServerFeatures};
use super::schema_verifier::{Misreport, MisreportKind, Row, compare};
use super::through;
use crate::support::cluster::{Cluster, crashable, wait, wait_until_disconnected};
use crate::support::command::{Command, Run};
use crate::support::database::{Database, Login};
use crate::support::journal::Journal;
use crate::support::proxy::{Fault, Point, Proxy};
use crate::support::report::Report;
use crate::support::source::Source;

/// The faults of a run.
#[derive(Clone, Debug)]
enum FaultPlan {
    None,
    Events(Vec<FaultEvent>),
    /// After this many transactions the run is killed with SIGKILL, and its journal is replayed. The
    /// second number kills the first replay as well.
    KillAndReplay(u64, Option<u64>),
}

impl FaultPlan {
    fn draw(rng: &mut fastrand::Rng, schema: &RandomSchema) -> Self {
        match rng.u8(..20) {
            0..=2 => Self::None,
            3..=9 => {
                let again = (rng.u8(..3) == 0).then(|| gap(rng));
                Self::KillAndReplay(rng.u64(1..150), again)
            }
            _ => {
                let count = rng.usize(1..=4);
                let mut events: Vec<FaultEvent> = (0..count).map(|_| event(rng)).collect();
                if schema.can_attach {
                    events.insert(0, FaultEvent::AttachPartition(gap(rng)));
                }
                Self::Events(events)
            }
        }
    }
}

fn event(rng: &mut fastrand::Rng) -> FaultEvent {
    match rng.u8(..20) {
        0 => FaultEvent::KillBackend(gap(rng)),
        1 => FaultEvent::Crash(gap(rng)),
        2 => FaultEvent::Restart(gap(rng)),
        3 | 4 => FaultEvent::TerminateBackend(gap(rng)),
        5 => FaultEvent::CancelStatement(gap(rng)),
        6 => FaultEvent::RefuseConnections(gap(rng), pause(rng, 400)),
        7..=11 => {
            let ends = [
                PartitionEnd::Heal,
                PartitionEnd::DisconnectThenHeal,
                PartitionEnd::HealAfterRun,
            ];
            FaultEvent::Partition(gap(rng), ends[rng.usize(..3)], pause(rng, 150))
        }
        number => {
            let point = if number == 12 {
                Point::Byte(rng.u64(1..6000))
            } else {
                Point::Ready(gap(rng))
            };
            let faults = [
                Fault::Disconnect,
                Fault::DropReplies,
                Fault::DisconnectClient,
            ];
            FaultEvent::Proxy(point, faults[rng.usize(..3)], scope(rng))
        }
    }
}

/// The result of a run.
struct SchemaRun {
    /// The program refused the table before a token was requested.
    is_refused: bool,
    is_faultless: bool,
    /// How many tokens have each status.
    statuses: BTreeMap<String, u64>,
    /// Why tokens stayed unknown.
    reasons: BTreeMap<String, u64>,
    misreports: Vec<Misreport>,
    twice: u64,
    /// Seed, DDL, faults and misreported tokens, if there are any.
    failure: Option<String>,
}

/// Draws the schema of this seed, and runs it with faults.
fn run_schema(cluster: &Cluster, seed: u64, with_receipts: bool) -> SchemaRun {
    if cluster.postmaster().is_none() {
        cluster.start();
    }
    let mut database = Database::on(cluster);
    if with_receipts {
        database = database.with_receipts();
    }
    let features = ServerFeatures::of(&mut database.admin());
    let schema = RandomSchema::draw(seed, features);
    let mut rng = fastrand::Rng::with_seed(!seed);
    let faults = FaultPlan::draw(&mut rng, &schema);
    let mut log = String::new();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let options = SchemaOptions {
            schema: &schema,
            faults: &faults,
            with_receipts,
        };
        attempt(cluster, options, &mut rng, database, &mut log)
    }));
    let (mut run, panic) = match result {
        Ok(run) => (run, None),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            let run = SchemaRun {
                is_refused: false,
                is_faultless: false,
                statuses: BTreeMap::new(),
                reasons: BTreeMap::new(),
                misreports: Vec::new(),
                twice: 0,
                failure: None,
            };
            (run, Some(text))
        }
    };
    run.is_faultless = matches!(faults, FaultPlan::None);
    if panic.is_some() || !run.misreports.is_empty() {
        run.failure = Some(describe(&schema, &faults, &run.misreports, panic, &log));
    }
    run
}

/// The text of a failure.
fn describe(
    schema: &RandomSchema,
    faults: &FaultPlan,
    misreports: &[Misreport],
    panic: Option<String>,
    log: &str,
) -> String {
    const SHOWN: usize = 5;
    let mut text = format!(
        "TOKEN_SERVICE_FAULT_SEED={} repeats this: {}\nfaults: {faults:?}\n{}{}{}\n",
        schema.seed,
        schema.features.join(", "),
        schema.admin_ddl,
        schema.ddl,
        schema.older_rows,
    );
    let mut kinds: BTreeMap<MisreportKind, Vec<&Misreport>> = BTreeMap::new();
    for misreport in misreports {
        kinds.entry(misreport.kind).or_default().push(misreport);
    }
    for (kind, all) in kinds {
        let _ = writeln!(text, "{} tokens {kind}:", all.len());
        for misreport in all.iter().take(SHOWN) {
            let _ = writeln!(text, "  {:?}: {}", misreport.token, misreport.evidence);
        }
    }
    if let Some(panic) = panic {
        let _ = writeln!(text, "the test panicked: {panic}");
    }
    let _ = writeln!(text, "standard error ends with:");
    let lines: Vec<&str> = log.lines().collect();
    for line in &lines[lines.len().saturating_sub(SHOWN)..] {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// Creates the table; returns the role that the run connects as.
fn create(schema: &RandomSchema, database: &Database) -> Login {
    let mut admin = database.admin();
    admin
        .batch_execute(&schema.admin_ddl_for(database))
        .expect("the superuser's DDL");
    drop(admin);
    // Two batches, because a row of a foreign partition needs a committed table.
    for ddl in [&schema.ddl, &schema.older_rows] {
        database
            .client()
            .batch_execute(ddl)
            .expect("the owner's DDL");
    }
    match schema.rights {
        Rights::Owner => (**database).clone(),
        Rights::Role(rights) => database.role_with(rights),
    }
}

/// What a run is made of.
#[derive(Clone, Copy)]
struct SchemaOptions<'a> {
    schema: &'a RandomSchema,
    faults: &'a FaultPlan,
    with_receipts: bool,
}

fn attempt(
    cluster: &Cluster,
    options: SchemaOptions<'_>,
    rng: &mut fastrand::Rng,
    database: Database,
    log: &mut String,
) -> SchemaRun {
    let SchemaOptions {
        schema,
        faults,
        with_receipts,
    } = options;
    let login = create(schema, &database);
    if with_receipts && login.user != database.user {
        let grant = format!("GRANT INSERT, SELECT ON token_receipts TO {}", login.user);
        database.client().batch_execute(&grant).expect("the grant");
    }
    let before = rows(schema, database.superuser());
    let proxy = Proxy::to(cluster.port);
    proxy.delay(pause(rng, 3));
    let texts: Vec<String> = schema.tokens.iter().map(|it| it.text.clone()).collect();
    let size = texts.len();
    let source = Source::generating_with(move |_| texts.clone());
    let journal = tempfile::tempdir().expect("a folder");
    let journal = journal.path().join("journal");
    let options = [
        ("--connections", rng.u32(1..=5).to_string()),
        ("--pipeline", (1 << rng.u32(0..=6)).to_string()),
        ("--patience", schema.patience.to_owned()),
    ];
    // The report is the same whether the source or a file holds the tokens.
    let from_file = !matches!(faults, FaultPlan::Events(_)) && rng.u8(..3) == 0;
    let mut command = Command::new().database(&through(&login, &proxy));
    command = if from_file {
        let text: Vec<&str> = schema.tokens.iter().map(|it| it.text.as_str()).collect();
        command
            .file("tokens.txt", text.join("\n") + "\n")
            .args(["--input", "tokens.txt"])
    } else {
        command.source(&source).arg(size.to_string())
    };
    command = command.args(["--report", "ndjson"]);
    for (name, value) in &options {
        command = command.args([name, &value.as_str()]);
    }
    if with_receipts {
        command = command.args(["--receipts", "token_receipts"]);
    }
    if matches!(faults, FaultPlan::KillAndReplay(..)) {
        command = command.arg("--journal").arg(&journal);
    }
    let mut fault_run = FaultRun {
        running: command.spawn(),
        proxy,
        database,
        cluster,
        crashes: 0,
        partitions: 0,
        signalled: None,
        counts_ready_messages: true,
    };
    let mut issued = schema.tokens.clone();
    let run = match faults {
        FaultPlan::None => fault_run.running.wait(),
        FaultPlan::Events(events) => {
            // An earlier fault would only end the run before a token is requested.
            if fault_run.wait_until(|| !source.requests().is_empty()) {
                for event in events {
                    if !fault_run.inject(*event) {
                        break;
                    }
                }
            }
            fault_run.running.wait()
        }
        FaultPlan::KillAndReplay(gap, again) => {
            if from_file || fault_run.wait_until(|| !source.requests().is_empty()) {
                fault_run.wait_for_transactions(*gap);
            }
            fault_run.running.signal("KILL");
            let killed = fault_run.running.wait();
            if journal.exists() {
                issued = tokens_in_journal(schema, &journal);
                replay(schema, &login, &journal, *again)
            } else {
                killed
            }
        }
    };
    log.clone_from(&run.stderr);
    let FaultRun {
        proxy, database, ..
    } = fault_run;
    let superuser = database.superuser();
    wait(|| superuser.try_client().is_ok(), "the server");
    proxy.heal();
    wait(|| proxy.is_drained(), "the held messages");
    drop(proxy);
    wait_until_disconnected(superuser);
    let after = rows(schema, superuser);
    evaluate(schema, &issued, &run, &before, &after, faults)
}

/// Replays a journal; `killed` kills a first replay after this many milliseconds.
fn replay(schema: &RandomSchema, login: &Login, journal: &Path, killed: Option<u64>) -> Run {
    let command = || {
        let command = Command::new().database(login).arg("replay").arg(journal);
        command.args(["--report", "ndjson", "--patience", schema.patience])
    };
    if let Some(milliseconds) = killed {
        let running = command().spawn();
        thread::park_timeout(Duration::from_millis(milliseconds));
        running.signal("KILL");
        running.wait();
    }
    command().run()
}

/// The tokens that reached the journal.
fn tokens_in_journal(schema: &RandomSchema, journal: &Path) -> Vec<DrawnToken> {
    let received = Journal::read(journal).received;
    let drawn = |text: &String| {
        let found = schema.tokens.iter().find(|token| token.text == *text);
        found.cloned().expect("a token that was issued")
    };
    received.iter().map(drawn).collect()
}

/// Every row of the schema, over a new connection.
fn rows(schema: &RandomSchema, superuser: &Login) -> Vec<Row> {
    let found = superuser.client().query(schema.rows, &[]);
    let found = found.expect("the rows");
    found.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn evaluate(
    schema: &RandomSchema,
    issued: &[DrawnToken],
    run: &Run,
    before: &[Row],
    after: &[Row],
    faults: &FaultPlan,
) -> SchemaRun {
    let is_replay = matches!(faults, FaultPlan::KillAndReplay(..));
    let report = if !run.stdout.is_empty() {
        Report::of_run(run)
    } else if is_replay && run.code == Some(5) && after.len() != before.len() {
        // A replay that cannot connect claims nothing about the tokens in its journal.
        let claims_nothing = |token: &DrawnToken| json!({"token": token.text, "status": "unknown"});
        Report {
            tokens: issued.iter().map(claims_nothing).collect(),
            summary: Value::Null,
        }
    } else {
        Report {
            tokens: Vec::new(),
            summary: Value::Null,
        }
    };
    // The run was refused, or killed before the first token: there must be no new row.
    let is_refused = report.tokens.is_empty() && after.len() == before.len();
    let issued = if is_refused { &[] } else { issued };
    let is_exact = matches!(faults, FaultPlan::None);
    let misreports = compare(schema, issued, &report, before, after, is_exact);
    let (mut statuses, mut reasons) = (BTreeMap::new(), BTreeMap::new());
    for token in &report.tokens {
        let status = token["status"].as_str().expect("a status").to_owned();
        if status == "unknown" {
            let reason = token["reason"].as_str().unwrap_or("none").to_owned();
            *reasons.entry(reason).or_default() += 1;
        }
        *statuses.entry(status).or_default() += 1;
    }
    let twice = misreports
        .iter()
        .filter(|it| it.kind == MisreportKind::Twice);
    SchemaRun {
        is_refused: is_refused && run.code == Some(5),
        is_faultless: false,
        statuses,
        reasons,
        twice: twice.count() as u64,
        misreports,
        failure: None,
    }
}

/// The sum of many runs.
#[derive(Default)]
pub struct SchemaTotals {
    pub runs: u64,
    pub refused: u64,
    pub faultless: u64,
    pub statuses: BTreeMap<String, u64>,
    pub reasons: BTreeMap<String, u64>,
    pub kinds: BTreeMap<MisreportKind, u64>,
    pub misreported: u64,
    pub twice: u64,
    /// Runs in which the test panicked before it could compare.
    pub stopped: u64,
    pub failures: Vec<String>,
}

impl SchemaTotals {
    fn add(&mut self, run: SchemaRun) {
        self.runs += 1;
        self.refused += u64::from(run.is_refused);
        self.faultless += u64::from(run.is_faultless);
        for (status, count) in run.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (reason, count) in run.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        for misreport in &run.misreports {
            *self.kinds.entry(misreport.kind).or_default() += 1;
        }
        self.misreported += run.misreports.len() as u64;
        self.twice += run.twice;
        self.stopped += u64::from(run.misreports.is_empty() && run.failure.is_some());
        self.failures.extend(run.failure);
    }

    /// Prints the details of the figures.
    pub fn print_details(&self) {
        let all: u64 = self.statuses.values().sum();
        let statuses = self.statuses.iter().map(|(status, count)| {
            let hundredths = count * 1000 / all.max(1);
            format!("{}.{} % {status}", hundredths / 10, hundredths % 10)
        });
        println!(
            "  {} without faults, {} refused before a token was requested; {all} tokens: {}",
            self.faultless,
            self.refused,
            statuses.collect::<Vec<_>>().join(", ")
        );
        for (kind, count) in &self.kinds {
            println!("  {count} tokens {kind}");
        }
        for (reason, count) in &self.reasons {
            println!("  {count} unknown: {reason}");
        }
    }

    /// Fails unless every report was true and most schemas were used.
    ///
    /// # Panics
    /// If a report was wrong, or half of the schemas or more were refused.
    pub fn check(&self) {
        assert!(
            self.failures.is_empty(),
            "{} random schemas were misreported",
            self.failures.len()
        );
        assert!(self.refused * 2 <= self.runs, "{} refused", self.refused);
    }
}

/// Runs this many schemas with successive seeds, and prints each failure.
///
/// A server is replaced after 100 schemas, so that its folder stays small.
pub fn run_schemas(seed: u64, count: u64, with_receipts: bool) -> SchemaTotals {
    let mut totals = SchemaTotals::default();
    let mut cluster = Cluster::new();
    let missing = ServerFeatures::of(&mut Database::on(&cluster).admin()).missing();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        println!("the server lacks {missing}: no schema has them");
    }
    for number in 0..count {
        if number % 100 == 99 {
            cluster = Cluster::new();
        }
        let run = run_schema(&cluster, seed.wrapping_add(number), with_receipts);
        if let Some(failure) = &run.failure {
            eprintln!("{failure}");
        }
        totals.add(run);
        if totals.runs.is_multiple_of(25) {
            eprintln!("… {} random schemas", totals.runs);
        }
    }
    totals
}

/// The seeds of the short form.
///
/// The first ones draw plain tables, a partitioned table, a view, and triggers that skip, change or refuse
/// rows. The others once caused wrong reports: inheritance, an INSTEAD OF trigger, truncating types, a
/// rule, a tenant, a trigger on one partition, a sequence behind its rows, a DEFAULT that raises, an audit
/// table, a collation, and a foreign partition.
const SEEDS: [u64; 19] = [
    3, 14, 20, 31, 34, 39, 43, 47, 7, 35, 36, 1009, 1025, 1051, 1094, 1107, 1147, 1175, 1241,
];

#[test]
fn reports_are_true_on_random_schemas() {
    let cluster = crashable();
    let mut totals = SchemaTotals::default();
    for seed in SEEDS {
        totals.add(run_schema(&cluster, seed, false));
    }
    assert!(totals.failures.is_empty(), "{}", totals.failures.join("\n"));
    totals.check();
}

#[test]
fn reports_are_true_on_random_schemas_with_receipts() {
    let cluster = crashable();
    let mut totals = SchemaTotals::default();
    for seed in SEEDS {
        totals.add(run_schema(&cluster, seed, true));
    }
    assert!(totals.failures.is_empty(), "{}", totals.failures.join("\n"));
    totals.check();
}

#[test]
#[ignore = "creates 600 databases; for changes to the grammar"]
fn every_schema_is_valid_sql() {
    let cluster = crashable();
    for seed in 0..600 {
        let database = Database::on(&cluster);
        let features = ServerFeatures::of(&mut database.admin());
        let schema = RandomSchema::draw(seed, features);
        let admin_ddl = schema.admin_ddl_for(&database);
        let result = database.admin().batch_execute(&admin_ddl).and_then(|()| {
            database.client().batch_execute(&schema.ddl)?;
            database.client().batch_execute(&schema.older_rows)?;
            if schema.can_attach {
                database.client().batch_execute(ATTACH_PARTITION)?;
            }
            database.admin().query(schema.rows, &[]).map(drop)
        });
        if let Err(error) = result {
            let RandomSchema {
                ddl, older_rows, ..
            } = schema;
            panic!("seed {seed}: {error:?}\n{admin_ddl}{ddl}{older_rows}");
        }
    }
}

//! Fault schedules, which are drawn from a seed: the same seed gives the same schedule.

use std::time::Duration;

use crate::support::database::{HOSTILE_TABLE, STANDARD_TABLE};
use crate::support::proxy::{Fault, Point, Scope};
use crate::support::source::token;

/// The hostile table without the trigger that drops tokens: another one sets a column.
const TRIGGER_TABLE: &str = "CREATE TABLE secret_tokens (
    id SERIAL PRIMARY KEY,
    origin text NOT NULL DEFAULT 'unknown',
    data text NOT NULL CHECK (data NOT LIKE '%-%'));
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN NEW.origin = 'a trigger'; RETURN NEW; END $$;
CREATE TRIGGER note BEFORE INSERT ON secret_tokens FOR EACH ROW EXECUTE FUNCTION note()";

/// How a partition ends.
#[derive(Clone, Copy, Debug)]
pub enum PartitionEnd {
    /// The messages that were held back arrive.
    Heal,
    /// The client's side closes first; then the messages arrive.
    DisconnectThenHeal,
    /// The client's side closes; the messages arrive after the run.
    HealAfterRun,
}

/// An event of a schedule.
#[derive(Clone, Copy, Debug)]
pub enum FaultEvent {
    /// The proxy injects this fault at this point.
    Proxy(Point, Fault, Scope),
    /// At the n-th commit all connections are partitioned, for this long.
    Partition(u64, PartitionEnd, Duration),
    /// After n commits a backend of the run is killed with SIGKILL.
    KillBackend(u64),
    /// After n commits a backend of the run is ended with `pg_terminate_backend`.
    TerminateBackend(u64),
    /// After n commits the statement of a backend of the run is cancelled with `pg_cancel_backend`.
    CancelStatement(u64),
    /// After n commits another session attaches a partition for the next ids.
    AttachPartition(u64),
    /// After n commits the server stops as in a crash and restarts.
    Crash(u64),
    /// After n commits the server restarts cleanly.
    Restart(u64),
    /// After n commits every connection is closed and new ones are refused, for this long.
    RefuseConnections(u64, Duration),
    /// After n commits and this pause the run gets a signal; twice if the flag is set.
    Signal(u64, Duration, &'static str, bool),
}

/// A run and its events.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub seed: u64,
    pub ddl: &'static str,
    pub tokens: Vec<String>,
    pub connections: u32,
    pub pipeline: u32,
    /// The role only has the INSERT right.
    pub insert_only: bool,
    /// Each token has a receipt.
    pub with_receipts: bool,
    /// A PgBouncer in transaction mode is between the proxy and the server.
    pub is_pooled: bool,
    pub patience: &'static str,
    /// The delay of each direction.
    pub delay: Duration,
    pub events: Vec<FaultEvent>,
}

impl Schedule {
    fn new(rng: &mut fastrand::Rng, seed: u64, size: usize) -> Self {
        // Some runs have values that repeat.
        let few = rng.u8(..4) == 0;
        fastrand::seed(seed);
        let tokens = (0..size).map(|_| {
            if few && rng.u8(..8) == 0 {
                format!("v{}", rng.u8(..5))
            } else {
                token()
            }
        });
        Self {
            seed,
            tokens: tokens.collect(),
            ddl: if rng.u8(..4) == 0 {
                HOSTILE_TABLE
            } else {
                STANDARD_TABLE
            },
            connections: rng.u32(1..=6),
            pipeline: 1 << rng.u32(0..=6),
            insert_only: false,
            with_receipts: false,
            is_pooled: false,
            patience: "30s",
            delay: pause(rng, 2),
            events: Vec::new(),
        }
    }

    /// Draws events of any kind.
    pub fn random(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let size = rng.usize(200..1500);
        let mut schedule = Self::new(&mut rng, seed, size);
        schedule.insert_only = rng.u8(..10) == 0;
        schedule.patience = if rng.u8(..10) == 0 { "200ms" } else { "30s" };
        for _ in 0..rng.usize(1..=4) {
            let event = match rng.u8(..16) {
                0 => FaultEvent::KillBackend(gap(&mut rng)),
                1 => FaultEvent::Crash(gap(&mut rng)),
                2 => FaultEvent::Restart(gap(&mut rng)),
                3 | 4 => FaultEvent::TerminateBackend(gap(&mut rng)),
                5 => FaultEvent::RefuseConnections(gap(&mut rng), pause(&mut rng, 400)),
                6..=8 => partition(&mut rng),
                _ => proxy_fault(&mut rng),
            };
            schedule.events.push(event);
        }
        if rng.u8(..6) == 0 {
            schedule.events.push(signal(&mut rng));
        }
        schedule
    }

    /// Draws crashes.
    pub fn crashes(seed: u64, count: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut schedule = Self::new(&mut rng, seed, 150 * count);
        // The delay keeps the run from finishing before the first crash.
        schedule.delay = Duration::from_millis(4);
        schedule.connections = rng.u32(2..=6);
        let crash = |_| match rng.u8(..4) {
            0 => FaultEvent::Crash(gap(&mut rng)),
            _ => FaultEvent::KillBackend(gap(&mut rng)),
        };
        schedule.events = (0..count).map(crash).collect();
        schedule
    }

    /// Draws partitions, and disconnects that the server does not notice.
    pub fn partitions(seed: u64, count: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut schedule = Self::new(&mut rng, seed, 150 * count);
        let split = |_| match rng.u8(..3) {
            0 => FaultEvent::Proxy(point(&mut rng), Fault::DisconnectClient, scope(&mut rng)),
            _ => partition(&mut rng),
        };
        schedule.events = (0..count).map(split).collect();
        schedule
    }

    /// Draws faults that leave many tokens in doubt, for a run with receipts. A trigger on some of the tables
    /// defeats each look-up by value.
    pub fn with_receipts(seed: u64, insert_only: bool, is_pooled: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut schedule = Self::new(&mut rng, seed, 1500);
        if schedule.ddl == HOSTILE_TABLE {
            schedule.ddl = TRIGGER_TABLE;
        }
        schedule.with_receipts = true;
        (schedule.insert_only, schedule.is_pooled) = (insert_only, is_pooled);
        schedule.connections = rng.u32(3..=6);
        schedule.pipeline = 1 << rng.u32(3..=6);
        let event = |_| match rng.u8(..20) {
            0 => FaultEvent::KillBackend(gap(&mut rng)),
            1 => FaultEvent::Crash(gap(&mut rng)),
            2 => FaultEvent::TerminateBackend(gap(&mut rng)),
            3..=8 => partition(&mut rng),
            _ => FaultEvent::Proxy(
                Point::Commit(gap(&mut rng)),
                [Fault::DropReplies, Fault::DisconnectClient][rng.usize(..2)],
                Scope::All,
            ),
        };
        schedule.events = (0..8).map(event).collect();
        schedule
    }

    /// Draws a signal, sometimes with another fault.
    pub fn signals(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut schedule = Self::new(&mut rng, seed, 1000);
        match rng.u8(..4) {
            0 => schedule.events.push(proxy_fault(&mut rng)),
            1 => schedule.events.push(partition(&mut rng)),
            _ => {}
        }
        schedule.events.push(signal(&mut rng));
        schedule
    }
}

pub fn gap(rng: &mut fastrand::Rng) -> u64 {
    rng.u64(1..100)
}

pub fn pause(rng: &mut fastrand::Rng, most: u64) -> Duration {
    Duration::from_millis(rng.u64(..most))
}

pub fn scope(rng: &mut fastrand::Rng) -> Scope {
    if rng.bool() { Scope::One } else { Scope::All }
}

fn point(rng: &mut fastrand::Rng) -> Point {
    match rng.u8(..4) {
        0 => Point::Byte(rng.u64(1..6000)),
        1 => Point::Ready(gap(rng)),
        _ => Point::Commit(gap(rng)),
    }
}

fn proxy_fault(rng: &mut fastrand::Rng) -> FaultEvent {
    let faults = [
        Fault::Disconnect,
        Fault::DropReplies,
        Fault::DisconnectClient,
    ];
    FaultEvent::Proxy(point(rng), faults[rng.usize(..3)], scope(rng))
}

fn partition(rng: &mut fastrand::Rng) -> FaultEvent {
    let ends = [
        PartitionEnd::Heal,
        PartitionEnd::DisconnectThenHeal,
        PartitionEnd::HealAfterRun,
    ];
    FaultEvent::Partition(gap(rng), ends[rng.usize(..3)], pause(rng, 80))
}

fn signal(rng: &mut fastrand::Rng) -> FaultEvent {
    let name = if rng.bool() { "TERM" } else { "INT" };
    FaultEvent::Signal(rng.u64(..200), pause(rng, 60), name, rng.u8(..3) == 0)
}

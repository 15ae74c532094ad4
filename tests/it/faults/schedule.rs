//! Schedules of faults, drawn from a seed: the same seed gives the same schedule again.

use std::time::Duration;

use crate::support::database::{HOSTILE_TABLE, STANDARD_TABLE};
use crate::support::proxy::{Fault, Point, Scope};
use crate::support::source::token;

/// How a partition ends.
#[derive(Clone, Copy, Debug)]
pub enum Heal {
    /// What was held back arrives.
    Late,
    /// The client has given up before, and then it arrives.
    AfterGivingUp,
    /// The client has given up, and it arrives after the end of the run.
    AtTheEnd,
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// At that point the proxy does this.
    Net(Point, Fault, Scope),
    /// At the n-th commit all connections fall silent, for that long.
    Partition(u64, Heal, Duration),
    /// After n commits a backend of the run is killed with SIGKILL.
    Kill(u64),
    /// After n commits a backend of the run is ended with `pg_terminate_backend`.
    Terminate(u64),
    /// After n commits the statement of a backend of the run is cancelled with `pg_cancel_backend`.
    Cancel(u64),
    /// After n commits another session attaches a partition for the numbers that come soon.
    AttachPartition(u64),
    /// After n commits the server stops as in a crash and starts again.
    Immediate(u64),
    /// After n commits the server is restarted in good order.
    Restart(u64),
    /// After n commits every connection is cut and none is let in, for that long.
    Away(u64, Duration),
    /// After n commits and that long the run is signalled; twice where the flag is set.
    Signal(u64, Duration, &'static str, bool),
}

/// A run and what happens to it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub ddl: &'static str,
    pub tokens: Vec<String>,
    pub connections: u32,
    pub pipeline: u32,
    /// The role has the INSERT right alone.
    pub insert_only: bool,
    pub patience: &'static str,
    /// So long is each way.
    pub delay: Duration,
    pub events: Vec<What>,
}

impl Plan {
    fn new(rng: &mut fastrand::Rng, seed: u64, size: usize) -> Self {
        // Some runs have values that occur again and again.
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
            patience: "30s",
            delay: pause(rng, 2),
            events: Vec::new(),
        }
    }

    /// Anything.
    pub fn random(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let size = rng.usize(200..1500);
        let mut plan = Self::new(&mut rng, seed, size);
        plan.insert_only = rng.u8(..10) == 0;
        plan.patience = if rng.u8(..10) == 0 { "200ms" } else { "30s" };
        for _ in 0..rng.usize(1..=4) {
            let event = match rng.u8(..16) {
                0 => What::Kill(gap(&mut rng)),
                1 => What::Immediate(gap(&mut rng)),
                2 => What::Restart(gap(&mut rng)),
                3 | 4 => What::Terminate(gap(&mut rng)),
                5 => What::Away(gap(&mut rng), pause(&mut rng, 400)),
                6..=8 => partition(&mut rng),
                _ => net(&mut rng),
            };
            plan.events.push(event);
        }
        if rng.u8(..6) == 0 {
            plan.events.push(signal(&mut rng));
        }
        plan
    }

    /// Crash upon crash.
    pub fn crashes(seed: u64, count: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut plan = Self::new(&mut rng, seed, 150 * count);
        // Nobody is through before the first crash.
        plan.delay = Duration::from_millis(2);
        plan.connections = rng.u32(2..=6);
        let crash = |_| match rng.u8(..4) {
            0 => What::Immediate(gap(&mut rng)),
            _ => What::Kill(gap(&mut rng)),
        };
        plan.events = (0..count).map(crash).collect();
        plan
    }

    /// Partitions of every kind, and servers that are left behind.
    pub fn partitions(seed: u64, count: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut plan = Self::new(&mut rng, seed, 150 * count);
        let split = |_| match rng.u8(..3) {
            0 => What::Net(point(&mut rng), Fault::DisconnectClient, scope(&mut rng)),
            _ => partition(&mut rng),
        };
        plan.events = (0..count).map(split).collect();
        plan
    }

    /// A signal, sometimes while something else goes wrong.
    pub fn signals(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut plan = Self::new(&mut rng, seed, 1000);
        match rng.u8(..4) {
            0 => plan.events.push(net(&mut rng)),
            1 => plan.events.push(partition(&mut rng)),
            _ => {}
        }
        plan.events.push(signal(&mut rng));
        plan
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

fn net(rng: &mut fastrand::Rng) -> What {
    let faults = [
        Fault::Disconnect,
        Fault::DropReplies,
        Fault::DisconnectClient,
    ];
    What::Net(point(rng), faults[rng.usize(..3)], scope(rng))
}

fn partition(rng: &mut fastrand::Rng) -> What {
    let heals = [Heal::Late, Heal::AfterGivingUp, Heal::AtTheEnd];
    What::Partition(gap(rng), heals[rng.usize(..3)], pause(rng, 80))
}

fn signal(rng: &mut fastrand::Rng) -> What {
    let name = if rng.bool() { "TERM" } else { "INT" };
    What::Signal(rng.u64(..200), pause(rng, 60), name, rng.u8(..3) == 0)
}

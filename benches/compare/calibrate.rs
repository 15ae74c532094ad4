//! Rivals at their best: how many sessions suit the server, and how many clients pgbench, is found out
//! in the same run, before anything is compared with them.

use anyhow::{Context as _, Result};

use super::contender::Contender;
use super::findings::Table;
use super::rounds::alternate;
use super::stage::Stage;

/// Numbers of sessions that run the server's own loop.
const SESSIONS: [u32; 4] = [8, 16, 32, 64];
/// Numbers of pgbench's clients and of its threads.
const CLIENTS: [u32; 4] = [8, 16, 32, 64];
const THREADS: [u32; 2] = [1, 2];

/// The rivals at their best.
#[derive(Clone, Debug)]
pub struct Best {
    /// The server without a client.
    pub limit: Contender,
    /// pgbench.
    pub pgbench: Contender,
    /// What was tried.
    pub table: Table,
}

/// Looks for them, once in a run.
pub fn best(stage: &mut Stage) -> Result<Best> {
    if let Some(best) = &stage.best {
        return Ok(best.clone());
    }
    let port = stage.login().port;
    let limits = SESSIONS.map(|sessions| Contender::Limit { sessions });
    let pgbenches = CLIENTS.into_iter().flat_map(|clients| {
        THREADS.map(|threads| Contender::Pgbench {
            clients,
            threads,
            port,
        })
    });
    let mut table = Table::new(
        "Settings of the contenders",
        "Each setting ran once before the comparisons. The fastest of each kind takes part in them.",
        &["contender", "tokens/s"],
    );
    let limit = fastest(stage, limits.into(), &mut table)?;
    let pgbench = fastest(stage, pgbenches.collect(), &mut table)?;
    let best = Best {
        limit,
        pgbench,
        table,
    };
    stage.best = Some(best.clone());
    Ok(best)
}

fn fastest(stage: &mut Stage, tried: Vec<Contender>, table: &mut Table) -> Result<Contender> {
    let trial = stage.scale.trial;
    let tried: Vec<_> = tried
        .into_iter()
        .map(|contender| (contender, trial))
        .collect();
    let found = alternate(stage, "settings", 1, &tried)?;
    for series in &found {
        table.row([series.name.clone(), series.rate().to_string()]);
    }
    let rated = found.iter().map(|series| series.rate().median);
    let best = rated.zip(tried).max_by(|(a, _), (b, _)| a.total_cmp(b));
    let (_, (contender, _)) = best.context("nothing was tried")?;
    Ok(contender)
}

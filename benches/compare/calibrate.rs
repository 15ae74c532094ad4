//! Finds the best settings of the alternatives: the number of sessions of the server, and the numbers
//! of clients and threads of pgbench.

use anyhow::{Context as _, Result};

use crate::contender::Contender;
use crate::environment::BenchEnvironment;
use crate::rounds::run_rounds;
use crate::table::Table;

/// The tried numbers of sessions that run the procedure of the server.
const SESSIONS: [u32; 4] = [8, 16, 32, 64];
/// The tried numbers of pgbench clients.
const CLIENTS: [u32; 4] = [8, 16, 32, 64];
/// The tried numbers of pgbench threads.
const THREADS: [u32; 2] = [1, 2];

/// The alternatives with their best settings.
#[derive(Clone, Debug)]
pub struct BestSettings {
    /// The server without a client.
    pub server_limit: Contender,
    /// pgbench.
    pub pgbench: Contender,
    /// The throughput of all tried settings.
    pub table: Table,
    /// The throughput of the server by number of sessions, as a list.
    pub server_limits: String,
}

/// Runs each setting once and returns the fastest of each kind.
///
/// # Errors
/// If a run fails.
pub fn find_best_settings(env: &mut BenchEnvironment) -> Result<BestSettings> {
    let port = env.login().port;
    let server_limits = SESSIONS.map(|sessions| Contender::ServerLimit { sessions });
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
    let server_limit = find_fastest(env, server_limits.into(), &mut table)?;
    let rows = SESSIONS.iter().zip(&table.rows);
    let limits = rows.map(|(sessions, row)| format!("{sessions} sessions {}", row[1]));
    let server_limits = limits.collect::<Vec<_>>().join(", ");
    let pgbench = find_fastest(env, pgbenches.collect(), &mut table)?;
    Ok(BestSettings {
        server_limit,
        pgbench,
        table,
        server_limits,
    })
}

fn find_fastest(
    env: &mut BenchEnvironment,
    contenders: Vec<Contender>,
    table: &mut Table,
) -> Result<Contender> {
    let tokens = env.scale.calibration;
    let contenders: Vec<_> = contenders
        .into_iter()
        .map(|contender| (contender, tokens))
        .collect();
    let results = run_rounds(env, "settings", 1, &contenders)?;
    for result in &results {
        table.add_row([result.name.clone(), result.throughput().to_string()]);
    }
    let throughputs = results.iter().map(|result| result.throughput().median);
    let fastest = throughputs
        .zip(contenders)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let (_, (contender, _)) = fastest.context("no settings were tried")?;
    Ok(contender)
}

//! The `local` section: many tokens on the local server, compared with the limit of the server and
//! with pgbench. It also measures rejected tokens and CPU time.

use anyhow::Result;

use super::comparison::{comparison_table, format_throughput};
use crate::calibrate::find_best_settings;
use crate::contender::Contender;
use crate::contender::token_service::TokenService;
use crate::documents::{Figure, Figures};
use crate::environment::BenchEnvironment;
use crate::format::{format_count, format_number};
use crate::results::{BenchResults, Goal, RatioLimit};
use crate::rounds::run_rounds;
use crate::statistics::{ContenderSamples, Sample};
use crate::table::Table;

/// Measures the section.
pub fn measure(env: &mut BenchEnvironment) -> Result<BenchResults> {
    let tokens = env.scale.local;
    let best = find_best_settings(env)?;
    let some_rejected = TokenService {
        some_rejected: true,
        ..TokenService::default()
    };
    let with_receipts = TokenService {
        has_receipts: true,
        ..TokenService::default()
    };
    let contenders = [
        best.server_limit,
        best.pgbench,
        Contender::TokenService(TokenService::default()),
        Contender::TokenService(some_rejected),
        Contender::TokenService(with_receipts),
    ]
    .map(|contender| (contender, tokens));
    let results = run_rounds(env, "local", env.scale.rounds, &contenders)?;
    let comparison = comparison_table(
        format!("{} tokens, local server", format_count(tokens)),
        "The server's own limit is a procedure that inserts and commits in a loop, without a client. \
         pgbench sends the same INSERT as a prepared statement. Both generate their tokens in the \
         server.",
        &results,
        2,
    );
    Ok(BenchResults {
        goals: goals(&results, tokens),
        tables: vec![best.table, comparison, cpu_table(&results)?],
        figures: figures(&results, best.server_limits),
    })
}

fn figures(results: &[ContenderSamples], server_limits: String) -> Figures {
    let [server_limit, pgbench, token_service, ..] = results else {
        unreachable!("there is one result per contender")
    };
    let format_cpu =
        |figure: fn(&Sample) -> f64| format_number(token_service.median_range(figure).median, 1);
    let client_cpu = format_cpu(Sample::client_cpu_micros_per_token);
    Figures::from([
        (Figure::ServerLimits, server_limits),
        (Figure::ServerLimit, server_limit.format_rate()),
        (Figure::Pgbench, pgbench.format_rate()),
        (Figure::Local, token_service.format_rate()),
        (
            Figure::ServerCpu,
            format_cpu(Sample::server_cpu_micros_per_token),
        ),
        (Figure::ClientCpu, client_cpu),
    ])
}

fn goals(results: &[ContenderSamples], tokens: u64) -> Vec<Goal> {
    let [
        server_limit,
        pgbench,
        token_service,
        some_rejected,
        with_receipts,
    ] = results
    else {
        unreachable!("there is one result per contender")
    };
    let work = format!("{} tokens, local server, all stored", format_count(tokens));
    // Scaled, because pgbench stores a multiple of its number of clients.
    let client_cpu = |sample: &Sample| sample.client_cpu / sample.tokens as f64 * tokens as f64;
    let format_cpu =
        |samples: &ContenderSamples| format!("{} s", samples.median_range(client_cpu).format(2));
    vec![
        Goal::ratio(
            work.clone(),
            RatioLimit::AtLeast(1.15, "pgbench at its best"),
            [format_throughput(token_service), format_throughput(pgbench)],
            token_service.ratio(pgbench, Sample::tokens_per_second),
        ),
        Goal::ratio(
            work,
            RatioLimit::AtLeast(0.93, "the server's own limit"),
            [
                format_throughput(token_service),
                format_throughput(server_limit),
            ],
            token_service.ratio(server_limit, Sample::tokens_per_second),
        ),
        Goal::ratio(
            format!("{} tokens, 28 % rejected", format_count(tokens)),
            RatioLimit::AtLeast(0.9, "all stored"),
            [
                format_throughput(some_rejected),
                format_throughput(token_service),
            ],
            some_rejected.ratio(token_service, Sample::tokens_per_second),
        ),
        Goal::ratio(
            format!("{} tokens, with receipts", format_count(tokens)),
            RatioLimit::AtLeast(0.85, "without receipts"),
            [
                format_throughput(with_receipts),
                format_throughput(token_service),
            ],
            with_receipts.ratio(token_service, Sample::tokens_per_second),
        ),
        Goal::ratio(
            format!("client CPU for {} tokens", format_count(tokens)),
            RatioLimit::AtMost(0.8, "pgbench"),
            [format_cpu(token_service), format_cpu(pgbench)],
            token_service.ratio(pgbench, client_cpu),
        ),
    ]
}

/// Creates the table of the CPU time per token and the share of the processors that was busy.
fn cpu_table(results: &[ContenderSamples]) -> Result<Table> {
    let cores = std::thread::available_parallelism()?.get() as f64;
    let mut table = Table::new(
        "Processor time per token",
        "If all processors are busy, processor time per token bounds the rate. The server's own limit \
         reads no message, plans no statement twice and sends no reply. The last column is the rate \
         of a server that is never idle, with a client that takes no processor time.",
        &[
            "contender",
            "server, µs per token",
            "client, µs per token",
            "processors busy",
            "upper bound, tokens/s",
        ],
    );
    for result in results {
        let server = result.median_range(Sample::server_cpu_micros_per_token);
        let client = result.median_range(Sample::client_cpu_micros_per_token);
        let busy_percent = result.median_range(|sample| {
            (sample.server_cpu + sample.client_cpu) / sample.seconds / cores * 100.0
        });
        table.add_row([
            result.name.clone(),
            server.format(1),
            client.format(1),
            format!("{} %", format_number(busy_percent.median, 0)),
            format_number(cores * 1e6 / server.median, 0),
        ]);
    }
    Ok(table)
}

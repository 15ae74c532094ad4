//! Many tokens on the local server: against what the server can do at all, against pgbench at its
//! best, with and without tokens that the table refuses, and what it costs the client in CPU time.

use anyhow::Result;

use super::super::calibrate::best;
use super::super::contender::Contender;
use super::super::findings::{Bound, Findings, Goal, Table};
use super::super::product::TokenService;
use super::super::rounds::alternate;
use super::super::series::{Sample, Series, count, number};
use super::super::stage::Stage;
use super::{comparison, rate};

/// Measures it.
pub fn measure(stage: &mut Stage) -> Result<Findings> {
    let tokens = stage.scale.local;
    let rivals = best(stage)?;
    let mixed = TokenService {
        mixed: true,
        ..TokenService::default()
    };
    let contenders = [
        rivals.limit,
        rivals.pgbench,
        Contender::TokenService(TokenService::default()),
        Contender::TokenService(mixed),
    ]
    .map(|contender| (contender, tokens));
    let all = alternate(stage, "local", stage.scale.rounds, &contenders)?;
    let [limit, pgbench, own, rejected] = &all[..] else {
        unreachable!("as many series as contenders")
    };

    let work = format!("{} tokens, local server, all stored", count(tokens));
    let cpu = |sample: &Sample| sample.cpu / sample.tokens as f64 * tokens as f64;
    let seconds = |series: &Series| format!("{} s", series.spread(cpu).show(2));
    let goals = vec![
        Goal::ratio(
            work.clone(),
            Bound::AtLeast(1.0, "pgbench at its best"),
            [rate(own), rate(pgbench)],
            own.ratio(pgbench, Sample::rate),
        ),
        Goal::ratio(
            work,
            Bound::AtLeast(0.8, "the server's own limit"),
            [rate(own), rate(limit)],
            own.ratio(limit, Sample::rate),
        ),
        Goal::ratio(
            format!("{} tokens, 28 % rejected", count(tokens)),
            Bound::AtLeast(0.9, "all stored"),
            [rate(rejected), rate(own)],
            rejected.ratio(own, Sample::rate),
        ),
        Goal::ratio(
            format!("client CPU for {} tokens", count(tokens)),
            Bound::AtMost(1.0, "pgbench"),
            [seconds(own), seconds(pgbench)],
            own.ratio(pgbench, cpu),
        ),
    ];
    let table = comparison(
        format!("{} tokens, local server", count(tokens)),
        "The server's own limit is a procedure that inserts and commits in a loop, without a client. \
         pgbench sends the same INSERT as a prepared statement. Both generate their tokens in the \
         server.",
        &all,
        2,
    );
    Ok(Findings {
        goals,
        tables: vec![rivals.table, table, bounds(&all)?],
        ..Findings::default()
    })
}

/// What holds the rates: the processor time that server and client need for a token, and how much of
/// the machine's they had.
fn bounds(all: &[Series]) -> Result<Table> {
    let cores = std::thread::available_parallelism()?.get() as f64;
    let mut table = Table::new(
        "Processor time per token",
        "If all processors are busy, processor time per token bounds the rate. The server's own limit \
         reads no message, plans no statement twice and sends no answer. The last column is the rate \
         of a server that is never idle, with a client that takes no processor time.",
        &[
            "contender",
            "server, µs per token",
            "client, µs per token",
            "processors busy",
            "upper bound, tokens/s",
        ],
    );
    for series in all {
        let each = |figure: fn(&Sample) -> f64| {
            series.spread(|sample| figure(sample) / sample.tokens as f64 * 1e6)
        };
        let server = each(|sample| sample.server);
        let in_use =
            series.spread(|sample| (sample.server + sample.cpu) / sample.seconds / cores * 100.0);
        table.row([
            series.name.clone(),
            server.show(1),
            each(|sample| sample.cpu).show(1),
            format!("{} %", number(in_use.median, 0)),
            number(cores * 1e6 / server.median, 0),
        ]);
    }
    Ok(table)
}

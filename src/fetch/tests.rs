//! Property tests of fetching with several requests under way: drawn sources deliver too little, are slow,
//! refuse, break off or run dry, on a virtual clock. The sums of a run always hold.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::StatusCode;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio::runtime::Builder;

use crate::command::test::virtual_clock::VirtualClock;
use crate::error::{Error, ErrorKind};
use crate::fetch::lines::LineParser;
use crate::fetch::{
    AnswerFuture, FetchLimits, FetchPlan, Fetcher, RequestSettings, SourceAnswer, SourceRequest,
    TokenSource, error,
};
use crate::pipeline::concurrency::{Concurrency, MAX_CONCURRENCY};
use crate::runtime::clock::Clock;
use crate::runtime::shutdown::Shutdown;

const ADDRESS: &str = "http://source.test/tokens";
const TIMEOUT: Duration = Duration::from_secs(10);

/// How the source answers a request.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// With this share of the requested tokens, in percent.
    Tokens(u64),
    /// With a refusal.
    Refused(u16, Option<u64>),
    /// With 500: it issued the tokens and did not send them.
    Failed,
    /// With this share of the requested tokens; then the connection is lost.
    Cut(u64),
    /// The same, but the time limit expires.
    TimedOut(u64),
    /// Not at all.
    Unreachable,
}

/// Whether requests have idempotency keys, and the source honours them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    None,
    Honoured,
    Ignored,
}

/// A run to try.
#[derive(Clone, Debug)]
struct Plan {
    size: u64,
    page_size: u64,
    concurrency: Concurrency,
    in_order: bool,
    top_up: bool,
    max_requests: Option<u64>,
    retries: Option<u32>,
    repeat_served: bool,
    keys: Keys,
    /// The answers with their latencies in milliseconds; the last one is repeated.
    answers: Vec<(Answer, u64)>,
    /// How long the consumer works on each page, in milliseconds.
    work: u64,
    /// The number of pages after which the consumer stops.
    stop_after: Option<usize>,
}

fn answers() -> impl Strategy<Value = (Answer, u64)> {
    let answer = prop_oneof![
        8 => Just(Answer::Tokens(100)),
        4 => (0..100_u64).prop_map(Answer::Tokens),
        1 => Just(Answer::Tokens(0)),
        2 => (prop_oneof![Just(429_u16), Just(503)], proptest::option::of(0..4_u64))
            .prop_map(|(status, wait)| Answer::Refused(status, wait)),
        1 => Just(Answer::Failed),
        1 => (0..100_u64).prop_map(Answer::Cut),
        1 => (0..100_u64).prop_map(Answer::TimedOut),
        1 => Just(Answer::Unreachable),
    ];
    (answer, prop_oneof![0..20_u64, 100..400_u64])
}

fn plans() -> impl Strategy<Value = Plan> {
    let concurrency = prop_oneof![
        Just(Concurrency::Auto),
        (1..=MAX_CONCURRENCY).prop_map(Concurrency::Fixed)
    ];
    let first = (1..400_u64, 1..60_u64, concurrency, any::<bool>());
    let second = (
        proptest::bool::weighted(0.8),
        proptest::option::of(1..30_u64),
        proptest::option::of(0..4_u32),
        any::<bool>(),
        prop_oneof![Just(Keys::None), Just(Keys::Honoured), Just(Keys::Ignored)],
    );
    let third = (
        vec(answers(), 1..12),
        prop_oneof![Just(0), 0..500_u64],
        proptest::option::weighted(0.2, 1..5_usize),
    );
    (first, second, third).prop_map(|(first, second, third)| Plan {
        size: first.0,
        page_size: first.1,
        concurrency: first.2,
        in_order: first.3,
        top_up: second.0,
        max_requests: second.1,
        retries: second.2,
        repeat_served: second.3,
        keys: second.4,
        answers: third.0,
        work: third.1,
        stop_after: third.2,
    })
}

/// The requests with one idempotency key.
#[derive(Default)]
struct IssuedKey {
    size: u64,
    /// The tokens, if the source has issued them.
    tokens: Option<Vec<String>>,
    /// The number of tokens that have arrived of those that the client can take for issued.
    seen: u64,
    may_be_issued: bool,
    is_complete: bool,
}

impl IssuedKey {
    fn unseen(&self) -> u64 {
        if self.may_be_issued && !self.is_complete {
            self.size - self.seen
        } else {
            0
        }
    }
}

/// What the source and the consumer have seen.
#[derive(Default)]
struct Seen {
    requests: u64,
    /// The tokens of the requests under way.
    asked: u64,
    /// What was issued, by idempotency key.
    keys: HashMap<String, IssuedKey>,
    /// The number of tokens issued so far.
    issued: usize,
    under_way: usize,
    /// The tokens that were sent in answers, in order.
    sent: Vec<String>,
    /// The tokens that may have been issued and were not sent.
    unseen: u64,
    /// The number of answers with tokens, and of those that the consumer has taken.
    answered: usize,
    taken: usize,
    /// The number of the last answers that held no token.
    empty: u32,
    /// What must never happen.
    problems: Vec<String>,
}

#[derive(Clone)]
struct DrawnSource {
    plan: Plan,
    clock: VirtualClock,
    seen: Arc<Mutex<Seen>>,
}

impl DrawnSource {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Records the arrival of a request; returns its answer and the number of tokens that it adds.
    fn begin(&self, request: SourceRequest) -> (Answer, u64, u64) {
        let (plan, count) = (&self.plan, request.count);
        let mut seen = self.seen();
        let index = usize::try_from(seen.requests).unwrap();
        seen.requests += 1;
        seen.under_way += 1;
        let mut checks = vec![("the size of a page", count, plan.page_size)];
        let mut arrived = 0;
        if let Some(key) = request.key {
            let key = seen.keys.entry(key.to_owned()).or_default();
            if key.size > 0 {
                checks.push(("the size of a key", count.abs_diff(key.size), 0));
            }
            key.size = count;
            arrived = key.seen;
        }
        let is_wrong = match plan.keys {
            Keys::None => request.key.is_some(),
            Keys::Honoured => request.key.is_none(),
            // The client gives the key up.
            Keys::Ignored => false,
        };
        checks.push(("keys", u64::from(is_wrong), 0));
        let added = count - arrived;
        seen.asked += added;
        let limit = match plan.concurrency {
            Concurrency::Auto => MAX_CONCURRENCY,
            Concurrency::Fixed(count) => count,
        };
        checks.push(("requests under way", seen.under_way as u64, limit as u64));
        let most = plan.max_requests.unwrap_or(u64::MAX);
        checks.push(("requests", seen.requests, most));
        // The tokens of a repeated request form one page.
        if !plan.repeat_served && plan.keys == Keys::None {
            let ahead = seen.under_way + seen.answered - seen.taken;
            checks.push(("pages ahead", ahead as u64, limit.max(2) as u64));
        }
        if plan.top_up && plan.keys != Keys::Ignored {
            let covered = seen.asked + seen.sent.len() as u64;
            checks.push(("tokens received and under way", covered, plan.size));
        }
        for (what, is, most) in checks {
            if is > most {
                seen.problems.push(format!("{what}: {is} of {most}"));
            }
        }
        let (answer, latency) = plan.answers[index.min(plan.answers.len() - 1)];
        (answer, latency, added)
    }

    /// Returns the tokens of an answer, with this share of what is issued, in percent.
    fn end(&self, request: SourceRequest, answer: Answer, added: u64) -> Vec<String> {
        let (percent, is_served, is_complete) = match answer {
            Answer::Tokens(percent) => (percent, true, true),
            Answer::Cut(percent) | Answer::TimedOut(percent) => (percent, true, false),
            Answer::Failed => (0, true, false),
            Answer::Refused(..) | Answer::Unreachable => (0, false, false),
        };
        let mut seen = self.seen();
        seen.under_way -= 1;
        seen.asked -= added;
        let share = |count: u64| {
            // An honest short answer has a token at least, unless it is empty.
            let parts = count * percent;
            let share = if is_complete {
                parts.div_ceil(100)
            } else {
                parts / 100
            };
            usize::try_from(share).unwrap()
        };
        let honours = self.plan.keys == Keys::Honoured;
        let earlier = request
            .key
            .filter(|_| honours)
            .and_then(|key| seen.keys[key].tokens.clone());
        let mut tokens = earlier.clone().unwrap_or_else(|| {
            let first = seen.issued;
            // An incomplete answer does not show how many tokens were issued.
            let count = if is_complete {
                share(request.count)
            } else {
                usize::try_from(request.count).unwrap()
            };
            (first..first + count).map(|n| format!("t{n}")).collect()
        });
        if is_served {
            seen.issued += if earlier.is_some() { 0 } else { tokens.len() };
        }
        let issued = tokens.clone();
        if !is_complete {
            tokens.truncate(share(request.count));
        }
        let sent = tokens.len() as u64;
        seen.empty = if sent == 0 { seen.empty + 1 } else { 0 };
        let mut new = tokens.clone();
        match request.key {
            None if is_served && !is_complete => seen.unseen += request.count - sent,
            None => {}
            Some(name) => {
                let mut key = seen.keys.remove(name).unwrap();
                if honours {
                    new = tokens
                        .iter()
                        .skip(usize::try_from(key.seen).unwrap())
                        .cloned()
                        .collect();
                    key.seen = key.seen.max(sent);
                    if is_served {
                        key.tokens = Some(issued);
                    }
                } else if sent > 0 && key.seen > 0 {
                    // The client sees that the first tokens do not come again.
                    seen.unseen += key.size - key.seen;
                    key.size = key.seen;
                    seen.unseen += if is_complete { 0 } else { request.count - sent };
                } else {
                    key.seen += sent;
                }
                key.may_be_issued |= is_served && !is_complete;
                key.is_complete |= is_complete;
                seen.keys.insert(name.to_owned(), key);
            }
        }
        seen.answered += usize::from(sent > 0);
        seen.sent.extend(new);
        tokens
    }

    async fn answer(&self, request: SourceRequest<'_>) -> SourceAnswer {
        let (answer, latency, added) = self.begin(request);
        let latency = match answer {
            Answer::TimedOut(_) => TIMEOUT,
            _ => Duration::from_millis(latency),
        };
        self.clock.sleep_until(self.clock.now() + latency).await;
        let tokens = self.end(request, answer, added);
        let status = |status, wait| {
            let status = StatusCode::from_u16(status).unwrap();
            error::status(ADDRESS, status, wait)
        };
        let error = match answer {
            Answer::Tokens(_) => None,
            Answer::Refused(code, wait) => Some(status(code, wait.map(Duration::from_secs))),
            Answer::Failed => Some(status(500, None)),
            Answer::Cut(_) => Some(error::truncated(ADDRESS)),
            Answer::TimedOut(_) => Some(error::timed_out(ADDRESS, TIMEOUT)),
            Answer::Unreachable => Some(error::unreachable(ADDRESS)),
        };
        let mut parser = LineParser::new(request.count, 64);
        for token in tokens {
            parser.feed(format!("{token}\n").as_bytes());
        }
        SourceAnswer::from_lines(parser, error, ADDRESS)
    }
}

impl TokenSource for DrawnSource {
    fn request<'a>(&'a self, request: SourceRequest<'a>) -> AnswerFuture<'a> {
        Box::pin(self.answer(request))
    }

    fn sends_keys(&self) -> bool {
        self.plan.keys != Keys::None
    }
}

/// The result of a run.
struct Fetched {
    tokens: Vec<String>,
    error: Option<Error>,
    fetcher: Arc<Fetcher>,
    seen: Arc<Mutex<Seen>>,
    /// The virtual time that it took.
    took: Duration,
}

/// Fetches as planned.
fn fetch(plan: &Plan) -> Fetched {
    let clock = VirtualClock::new(Duration::from_mins(1));
    let seen = Arc::new(Mutex::new(Seen::default()));
    let source = DrawnSource {
        plan: plan.clone(),
        clock: clock.clone(),
        seen: Arc::clone(&seen),
    };
    let limits = FetchLimits {
        timeout: TIMEOUT,
        connect_timeout: TIMEOUT,
        page_size: plan.page_size,
        retries: plan.retries,
        patience: Duration::from_secs(30),
        max_body: u64::MAX,
        max_token: 64,
        max_requests: plan.max_requests,
        top_up: plan.top_up,
        repeat_served: plan.repeat_served,
    };
    let fetch_plan = FetchPlan {
        page_size: plan.page_size,
        retries: plan.retries,
        top_up: plan.top_up,
    };
    let shutdown = Shutdown::new();
    clock.stop_with(shutdown.clone());
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let mut fetcher = Fetcher::new(Box::new(source), limits, shutdown, shared, None);
    fetcher.set_requests(&RequestSettings {
        concurrency: plan.concurrency,
        ..RequestSettings::default()
    });
    if plan.in_order {
        fetcher.deliver_in_order();
    }
    let fetcher = Arc::new(fetcher);
    let begin = clock.now();
    let idle = clock.clone();
    let runtime = Builder::new_current_thread()
        .on_thread_park(move || idle.idle())
        .build()
        .unwrap();
    let run = async {
        let mut pages = fetcher.stream(plan.size, fetch_plan);
        let (mut tokens, mut error, mut taken) = (Vec::new(), None, 0);
        while let Some(page) = pages.next().await {
            match page {
                Ok(page) => {
                    tokens.extend(page.iter().map(|token| token.as_str().to_owned()));
                    taken += 1;
                    seen.lock().unwrap().taken += 1;
                    clock.sleep(Duration::from_millis(plan.work)).await;
                }
                Err(end) => error = Some(end),
            }
            if plan.stop_after == Some(taken) {
                pages.stop();
            }
        }
        (tokens, error)
    };
    let ended = runtime.block_on(clock.drive(run));
    assert_eq!(clock.overrun(), None, "the fetch did not end");
    let (tokens, error) = ended.unwrap();
    Fetched {
        tokens,
        error,
        fetcher,
        seen,
        took: clock.now() - begin,
    }
}

fn check(plan: &Plan) -> Result<(), String> {
    let fetched = fetch(plan);
    let (seen, numbers) = (fetched.seen.lock().unwrap(), fetched.fetcher.numbers());
    let expect = |is: bool, what: &str| {
        if is {
            return Ok(());
        }
        let error = fetched.error.as_ref().map(|error| error.render(false));
        Err(format!("{what}: {numbers:?}, {error:?}"))
    };
    expect(seen.problems.is_empty(), &format!("{:?}", seen.problems))?;
    let mut delivered = fetched.tokens.clone();
    delivered.sort_unstable();
    let mut sent = seen.sent.clone();
    sent.sort_unstable();
    expect(delivered == sent, "each received token is delivered once")?;
    let received = delivered.len() as u64;
    expect(numbers.received == received, "received")?;
    let honours = plan.keys != Keys::Ignored;
    expect(received <= plan.size || !honours, "no more than SIZE")?;
    expect(numbers.surplus == 0, "surplus")?;
    expect(numbers.requests == seen.requests, "requests")?;
    let unseen = seen.unseen + seen.keys.values().map(IssuedKey::unseen).sum::<u64>();
    expect(
        numbers.issued_unseen == unseen,
        &format!("{unseen} issued unseen"),
    )?;
    expect(
        fetched
            .fetcher
            .lock_throttle()
            .admit(std::time::Instant::now())
            != crate::fetch::throttle::Admission::Full,
        "every slot is given back",
    )?;
    let is_short = received < plan.size;
    let kind = fetched.error.as_ref().and_then(|error| error.kind.clone());
    match kind {
        None => {
            let may_be_short = plan.stop_after.is_some() || !plan.top_up;
            expect(!is_short || may_be_short, "no error although short")?;
        }
        Some(ErrorKind::ShortSupply {
            requested,
            received: known,
        }) => {
            expect(requested == plan.size && known == received, "totals")?;
            let is_dry = seen.empty >= 3 || plan.concurrency != Concurrency::Fixed(1);
            let is_limited = plan.max_requests == Some(seen.requests);
            expect(is_dry || is_limited, "short supply without a reason")?;
        }
        Some(_) => {
            let may_be_complete = plan.repeat_served || !honours;
            expect(is_short || may_be_complete, "error although complete")?;
        }
    }
    let falls_short = is_short && plan.stop_after.is_none() || kind_is_set(&fetched);
    expect(
        !falls_short || fetched.fetcher.fell_short(),
        "a short fetch is recorded",
    )
}

fn kind_is_set(fetched: &Fetched) -> bool {
    fetched.error.is_some()
}

#[test]
fn sums_hold_for_every_source() {
    let config = Config {
        cases: 2000,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let tested =
        TestRunner::new(config).run(&plans(), |plan| check(&plan).map_err(TestCaseError::fail));
    if let Err(error) = tested {
        panic!("{error}");
    }
}

/// Fetches from a source that takes 200 ms and delivers this share, in percent.
fn fetch_slowly(size: u64, percent: u64, concurrency: Concurrency) -> Fetched {
    fetch(&Plan {
        size,
        page_size: 2000,
        concurrency,
        in_order: false,
        top_up: true,
        max_requests: None,
        retries: None,
        repeat_served: false,
        keys: Keys::None,
        answers: vec![(Answer::Tokens(percent), 200)],
        work: 0,
        stop_after: None,
    })
}

#[test]
fn one_run_is_faster_than_four_shards_when_the_source_is_slow() {
    for percent in [100, 90, 70, 30] {
        let run = fetch_slowly(100_000, percent, Concurrency::Auto);
        let shard = fetch_slowly(25_000, percent, Concurrency::Fixed(1));
        assert_eq!((run.tokens.len(), shard.tokens.len()), (100_000, 25_000));
        let (run_took, shard_took) = (run.took, shard.took);
        assert!(
            run_took < shard_took,
            "{percent} %: {run_took:?}, {shard_took:?}"
        );
        // Small top-ups are requested together: few more requests than the shards send.
        let (requests, of_shard) = (
            run.seen.lock().unwrap().requests,
            shard.seen.lock().unwrap().requests,
        );
        assert!(
            requests <= 4 * of_shard,
            "{percent} %: {requests}, {of_shard}"
        );
    }
}

//! Chooses how many connections a run uses, by the rate at which tokens are settled. Without I/O.
//!
//! A server commits several transactions with one sync of its log, so more connections store more
//! tokens, up to a number that depends on the server and on who else uses it. The number is tried
//! out, from 16 or 32: once the rate of the first number is steady, it doubles as long as the rate clearly rises. Later a
//! smaller and a larger number are tried from time to time. Opening a connection takes processor time from
//! the INSERTs, so a number is tried only if the rest of the run can gain more than the trial costs.

use std::time::Duration;

use crate::store::rate_window::EndedWindow;

/// The connections that a run starts with, if it has enough tokens.
const FIRST: usize = 16;
/// A run with so many tokens starts with half of the most connections, at most [`FIRST_OF_LARGE`]: it lasts long
/// enough to repay them, but a short one would end before a search has found more than [`FIRST`].
const LARGE: u64 = 20_000;
/// The most connections that a large run starts with.
const FIRST_OF_LARGE: usize = 32;
/// The most connections that are chosen; an operator may set more.
pub(super) const MOST: usize = 64;
/// The most connections that are chosen behind a pooler, which shares few backends among them.
const MOST_BEHIND_POOLER: usize = 32;
/// The most connections that are opened while the number of free ones is not known.
const MOST_UNKNOWN: usize = 8;
/// The least connections that are tried.
const LEAST: usize = 4;
/// A larger number must settle this share of the best one's rate, and a smaller one that share.
const GAIN: f64 = 1.03;
const LOSS: f64 = 0.99;
/// While the number doubles, this share is clear after one window.
const CLEAR_GAIN: f64 = 1.2;
/// The windows of a trial: one window is noisy.
const TRIAL_WINDOWS: usize = 4;
/// The first number is not steady while a trial's windows settle more than this share of those before: caches
/// fill, which would look like the gain of a larger number.
const STEADY: f64 = 1.03;
/// The most windows of the first number before it doubles.
const MAX_FIRST_WINDOWS: usize = 5 * TRIAL_WINDOWS;
/// The weight of the last window in the rate of the best number.
const WEIGHT: f64 = 0.3;
/// The share of a connection's former rate below which other clients take the server's time.
const CONTENDED: f64 = 0.5;
/// The number of such windows in a row after which a run backs off.
const CONTENDED_WINDOWS: u32 = 5;
/// The number of windows before the next trial: at first, and at most.
const PAUSE: (u32, u32) = (8, 160);
/// What opening a connection costs until it is measured, as time of the whole store.
const OPENING_COST: Duration = Duration::from_millis(3);
/// The weight of the last opening in the measured cost.
const OPENING_WEIGHT: f64 = 0.5;

/// What is known about the server when a run starts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FreeConnections {
    /// The connections that the role can use, those of this run included; `None` if unknown.
    pub(super) free: Option<u32>,
    /// True if a pooler shares the server's connections.
    pub(super) is_pooled: bool,
}

impl FreeConnections {
    /// Returns the most connections for one of `processes` that share the server: together they take
    /// at most half of the free ones.
    pub(super) fn share(self, processes: u64) -> usize {
        let processes = usize::try_from(processes).unwrap_or(usize::MAX).max(1);
        let most = match self.free {
            _ if self.is_pooled => MOST_BEHIND_POOLER,
            Some(free) => usize::try_from(free / 2).unwrap_or(MOST),
            None => MOST_UNKNOWN,
        };
        (most / processes).clamp(1, MOST)
    }
}

/// The number of connections to use.
#[derive(Debug)]
pub(super) struct ConnectionCount {
    most: usize,
    wanted: usize,
    /// `None` for a number that was set.
    search: Option<Search>,
}

/// The search for the best number.
#[derive(Debug)]
struct Search {
    /// The best number so far.
    best: usize,
    /// Tokens per second with `best` connections, over the last windows; 0 if not measured yet.
    rate: f64,
    /// The rate of one connection when `best` was chosen.
    rate_per_connection: f64,
    /// True until the number was doubled in vain.
    is_doubling: bool,
    /// True if the next trial is a larger number.
    is_upwards: bool,
    /// The rates of the current trial's windows.
    trial: Vec<f64>,
    /// The rates of the first number's windows, until they are steady.
    first: Vec<f64>,
    /// The number of windows until the next trial, and after it.
    pause: u32,
    next_pause: u32,
    contended_windows: u32,
    /// The tokens that are still to be settled.
    rest: u64,
    /// The connections that are being opened for a trial.
    opening: Option<Opening>,
    /// What opening a connection costs, in seconds of the whole store.
    opening_cost: f64,
}

/// Connections that are being opened.
#[derive(Debug)]
struct Opening {
    opened: usize,
    /// The time that the INSERTs lost meanwhile, in seconds.
    lost: f64,
}

/// Returns how many tokens are to be settled when `settled` of the `expected` ones are.
///
/// A replay and a script may store more than was expected; the rest is then unknown and may be large.
pub(super) fn rest_of(expected: u64, settled: u64) -> u64 {
    let rest = expected.saturating_sub(settled);
    if rest == 0 { u64::MAX } else { rest }
}

impl ConnectionCount {
    /// Uses this number.
    pub(super) fn fixed(count: usize) -> Self {
        Self {
            most: count.max(1),
            wanted: count.max(1),
            search: None,
        }
    }

    /// Searches for the best number, at most `most`, for so many `expected` tokens.
    pub(super) fn auto(most: usize, expected: u64) -> Self {
        let most = most.max(1);
        let first = if expected >= LARGE {
            (most / 2).clamp(FIRST, FIRST_OF_LARGE)
        } else {
            FIRST
        };
        let first = first.min(most);
        Self {
            most,
            wanted: first,
            search: (most > 1).then(|| Search::from(first)),
        }
    }

    /// Returns the number of connections to use now.
    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Returns true if the rates of windows decide.
    pub(super) fn is_searching(&self) -> bool {
        self.search.is_some()
    }

    /// Takes a window, after which `rest` tokens are to be settled.
    pub(super) fn record(&mut self, window: EndedWindow, rest: u64) {
        let (most, wanted) = (self.most, self.wanted);
        if let (Some(search), Some(rate)) = (&mut self.search, window.rate()) {
            if window.counts {
                search.rest = rest;
                self.wanted = search.record(rate, wanted, most);
                let opened = self.wanted.saturating_sub(wanted);
                if opened > 0 {
                    search.opening = Some(Opening { opened, lost: 0.0 });
                }
            } else if let Some(opening) = &mut search.opening
                && window.tokens_wait
            {
                opening.lost += window.seconds * (1.0 - rate / search.rate).max(0.0);
            }
        }
    }

    /// Continues with the `open` connections after the server refused one more.
    pub(super) fn refuse(&mut self, open: usize) {
        let open = open.max(1);
        if let Some(search) = &mut self.search
            && open < self.wanted
        {
            self.wanted = open;
            search.is_doubling = false;
            search.is_upwards = true;
            search.choose(open, 0.0);
        }
    }
}

impl Search {
    fn from(best: usize) -> Self {
        Self {
            best,
            rate: 0.0,
            rate_per_connection: 0.0,
            is_doubling: true,
            is_upwards: true,
            trial: Vec::new(),
            first: Vec::new(),
            pause: 0,
            next_pause: PAUSE.0,
            contended_windows: 0,
            rest: u64::MAX,
            opening: None,
            opening_cost: OPENING_COST.as_secs_f64(),
        }
    }

    /// Returns the number for the next window after one with `wanted` connections.
    fn record(&mut self, rate: f64, wanted: usize, most: usize) -> usize {
        if let Some(Opening { opened, lost }) = self.opening.take() {
            self.opening_cost += (lost / as_f64(opened) - self.opening_cost) * OPENING_WEIGHT;
        }
        if wanted == self.best {
            return self.record_best(rate, most);
        }
        self.trial.push(rate);
        let mean = self.trial.iter().sum::<f64>() / as_f64(self.trial.len());
        let gain = mean / self.rate;
        if self.is_doubling {
            let is_decided = self.trial.len() == TRIAL_WINDOWS || gain >= CLEAR_GAIN;
            return match is_decided {
                true if gain >= GAIN => {
                    self.choose(wanted, mean);
                    self.is_doubling = wanted < most;
                    self.is_upwards = false;
                    self.next(most)
                }
                true => self.reject(),
                false => wanted,
            };
        }
        if self.trial.len() < TRIAL_WINDOWS {
            return wanted;
        }
        let least = if wanted > self.best { GAIN } else { LOSS };
        if gain < least {
            return self.reject();
        }
        self.next_pause = PAUSE.0;
        self.choose(wanted, mean);
        wanted
    }

    /// Takes a window with the best number.
    fn record_best(&mut self, rate: f64, most: usize) -> usize {
        if self.rate == 0.0 {
            self.choose(self.best, rate);
        }
        self.rate += (rate - self.rate) * WEIGHT;
        if self.is_doubling && !self.is_steady() {
            self.first.push(rate);
        }
        if self.rate >= self.rate_per_connection * as_f64(self.best) * CONTENDED {
            self.contended_windows = 0;
            return self.next(most);
        }
        self.contended_windows += 1;
        if self.contended_windows < CONTENDED_WINDOWS || self.best <= FIRST {
            return self.best;
        }
        let fewer = (self.best * 3 / 4).max(FIRST.min(self.best));
        self.is_doubling = false;
        self.is_upwards = true;
        self.choose(fewer, 0.0);
        fewer
    }

    /// Takes this number as the best one.
    fn choose(&mut self, count: usize, rate: f64) {
        self.best = count;
        self.rate = rate;
        self.rate_per_connection = rate / as_f64(count);
        self.contended_windows = 0;
        self.trial.clear();
        self.pause = self.next_pause;
    }

    /// Returns to the best number; the next trial is in the other direction, and later.
    fn reject(&mut self) -> usize {
        self.is_doubling = false;
        self.is_upwards = !self.is_upwards;
        self.trial.clear();
        self.pause = self.next_pause;
        self.next_pause = (self.next_pause * 2).min(PAUSE.1);
        self.best
    }

    /// Returns true if the rate of the first number does not rise any more, or rises for too long.
    fn is_steady(&self) -> bool {
        let sum = |rates: &[f64]| rates.iter().sum::<f64>();
        let Some(start) = self.first.len().checked_sub(2 * TRIAL_WINDOWS) else {
            return false;
        };
        let (before, last) = self.first[start..].split_at(TRIAL_WINDOWS);
        self.first.len() == MAX_FIRST_WINDOWS || sum(last) <= sum(before) * STEADY
    }

    /// Returns `count` if the rest of the run can gain more by it than a failed trial costs, else the best
    /// number. A trial of fewer connections costs the ones to open after it.
    fn worthwhile(&self, count: usize) -> usize {
        #[allow(clippy::cast_precision_loss, reason = "a count of tokens")]
        let seconds = self.rest as f64 / self.rate;
        let cost = as_f64(count.abs_diff(self.best)) * self.opening_cost;
        if cost <= seconds * (GAIN - 1.0) {
            count
        } else {
            self.best
        }
    }

    /// Returns the best number, or the one to try.
    fn next(&mut self, most: usize) -> usize {
        if self.is_doubling {
            return if self.is_steady() {
                self.worthwhile((self.best * 2).min(most))
            } else {
                self.best
            };
        }
        if self.pause > 0 {
            self.pause -= 1;
            return self.best;
        }
        let (more, fewer) = ((self.best * 3 / 2).min(most), self.best * 3 / 4);
        self.is_upwards &= more > self.best;
        self.worthwhile(if self.is_upwards {
            more
        } else {
            fewer.max(LEAST.min(self.best))
        })
    }
}

#[allow(clippy::cast_precision_loss, reason = "a small number")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that `others` connections use too, without I/O.
    struct Server {
        /// The tokens per second of one connection alone.
        each: f64,
        /// The most tokens per second of all connections.
        all: f64,
        others: usize,
        /// How much the rate of a window may deviate, as a share.
        noise: f64,
        random: fastrand::Rng,
    }

    impl Server {
        fn new(each: f64, all: f64) -> Self {
            Self {
                each,
                all,
                others: 0,
                noise: 0.0,
                random: fastrand::Rng::with_seed(7),
            }
        }

        /// Returns the tokens per second of `count` connections, which approach the most.
        fn expected(&self, count: usize) -> f64 {
            let clients = as_f64(count + self.others);
            let demand = self.each * clients;
            demand / (1.0 + demand / self.all) * as_f64(count) / clients
        }

        fn rate(&mut self, count: usize) -> f64 {
            let deviation = (self.random.f64() * 2.0 - 1.0) * self.noise;
            self.expected(count) * (1.0 + deviation)
        }

        fn run(&mut self, count: &mut ConnectionCount, windows: usize) {
            for _ in 0..windows {
                record(count, self.rate(count.wanted()), u64::MAX);
            }
        }
    }

    /// A window that counts, of this many seconds and tokens.
    fn window(seconds: f64, settled: f64) -> EndedWindow {
        EndedWindow {
            seconds,
            settled,
            counts: true,
            tokens_wait: true,
        }
    }

    /// Records a window that counts.
    fn record(count: &mut ConnectionCount, rate: f64, rest: u64) {
        count.record(window(0.1, rate / 10.0), rest);
    }

    fn known(free: u32) -> FreeConnections {
        FreeConnections {
            free: Some(free),
            is_pooled: false,
        }
    }

    #[test]
    fn processes_together_take_at_most_half_of_the_free_connections() {
        for free in [1, 2, 7, 97, 100, 1000] {
            for processes in [0, 1, 2, 3, 4, 64, u64::MAX] {
                let most = known(free).share(processes);
                let all = u64::try_from(most)
                    .unwrap()
                    .saturating_mul(processes.max(1));
                assert!(
                    most == 1 || most <= MOST && all <= u64::from(free / 2),
                    "{most} of {free} for {processes}"
                );
            }
        }
        assert_eq!(known(97).share(1), 48);
        assert_eq!(FreeConnections::default().share(1), MOST_UNKNOWN);
        let pooled = FreeConnections {
            is_pooled: true,
            ..known(1000)
        };
        assert_eq!(pooled.share(2), MOST_BEHIND_POOLER / 2);
    }

    #[test]
    fn number_doubles_while_the_rate_rises() {
        let mut server = Server::new(3_000.0, 40_000.0);
        let mut count = ConnectionCount::auto(48, 0);
        assert_eq!(count.wanted(), FIRST);
        server.run(&mut count, 2 * TRIAL_WINDOWS);
        assert_eq!(count.wanted(), 32);
        server.run(&mut count, 1);
        assert_eq!(count.wanted(), 48, "the gain was clear");
        server.run(&mut count, 6);
        assert_eq!(count.wanted(), 48, "a larger number was not refused");
    }

    #[test]
    fn number_shrinks_when_more_connections_gain_nothing() {
        let mut server = Server::new(1e9, 30_000.0);
        let mut count = ConnectionCount::auto(64, 0);
        server.run(&mut count, 1000);
        assert!(count.wanted() < FIRST, "{}", count.wanted());
    }

    #[test]
    fn found_number_is_near_the_best_on_noisy_servers() {
        for (each, all) in [(500.0, 30_000.0), (2_000.0, 30_000.0), (20_000.0, 30_000.0)] {
            for seed in 0..50 {
                let mut server = Server {
                    noise: 0.05,
                    random: fastrand::Rng::with_seed(seed),
                    ..Server::new(each, all)
                };
                let mut count = ConnectionCount::auto(MOST, 0);
                server.run(&mut count, 100);
                let mut found = 0.0;
                for _ in 0..200 {
                    server.run(&mut count, 1);
                    found += server.expected(count.wanted()) / 200.0;
                }
                let best = server.expected(MOST);
                assert!(
                    found >= 0.93 * best,
                    "{each} each with seed {seed}: {found} of {best}"
                );
            }
        }
    }

    #[test]
    fn run_backs_off_when_other_clients_take_the_server() {
        let mut server = Server::new(3_000.0, 40_000.0);
        let mut count = ConnectionCount::auto(48, 0);
        server.run(&mut count, 8);
        let alone = count.wanted();
        server.others = 400;
        server.run(&mut count, 12);
        assert!(count.wanted() < alone, "{}", count.wanted());
    }

    #[test]
    fn refused_connection_ends_the_search_for_more_until_later() {
        let mut count = ConnectionCount::auto(48, 0);
        for _ in 0..2 * TRIAL_WINDOWS {
            record(&mut count, 10_000.0, u64::MAX);
        }
        count.refuse(20);
        assert_eq!(count.wanted(), 20);
        record(&mut count, 12_000.0, u64::MAX);
        assert_eq!(count.wanted(), 20);
        count.refuse(25);
        assert_eq!(count.wanted(), 20, "more are open than needed");
        let mut fixed = ConnectionCount::fixed(30);
        fixed.refuse(3);
        record(&mut fixed, 1.0, u64::MAX);
        assert_eq!(fixed.wanted(), 30, "a number that was set stays");
    }

    #[test]
    fn large_run_starts_with_more_connections() {
        let first = |most, expected| ConnectionCount::auto(most, expected).wanted();
        assert_eq!((first(64, LARGE - 1), first(64, LARGE)), (16, 32));
        assert_eq!((first(48, LARGE), first(20, LARGE)), (24, 16));
        assert_eq!((first(8, LARGE), first(1, LARGE)), (8, 1));
    }

    #[test]
    fn number_does_not_double_because_the_server_warms_up() {
        let mut count = ConnectionCount::auto(64, 0);
        for window in 0..30 {
            // The rate rises for a second, whatever the number of connections.
            let rate = f64::from(window + 5).min(15.0) * 1_000.0;
            record(&mut count, rate, 1_000_000);
            assert!(window > 12 || count.wanted() == FIRST, "window {window}");
        }
        let mut most = 0;
        for _ in 0..20 {
            record(&mut count, 15_000.0, 1_000_000);
            most = most.max(count.wanted());
        }
        assert!(most < 2 * FIRST, "{most}");
        assert!(count.wanted() <= FIRST);
    }

    #[test]
    fn number_doubles_at_last_when_the_rate_of_the_source_never_settles() {
        let mut count = ConnectionCount::auto(64, 0);
        for window in 0..MAX_FIRST_WINDOWS {
            assert_eq!(count.wanted(), FIRST, "window {window}");
            let rate = 1_000.0 * 1.1_f64.powi(i32::try_from(window).unwrap());
            record(&mut count, rate, u64::MAX);
        }
        assert_eq!(count.wanted(), 2 * FIRST);
    }

    #[test]
    fn rest_is_unknown_when_more_is_stored_than_was_expected() {
        assert_eq!(rest_of(100, 40), 60);
        assert_eq!(rest_of(100, 100), u64::MAX);
        assert_eq!(rest_of(5, 1_000), u64::MAX);
    }

    #[test]
    fn number_stays_when_the_rest_of_the_run_cannot_repay_a_trial() {
        let after = |rest| {
            let mut count = ConnectionCount::auto(64, 0);
            for _ in 0..2 * TRIAL_WINDOWS {
                record(&mut count, 10_000.0, rest);
            }
            count.wanted()
        };
        // 16 connections cost 48 ms, which 3 % of 1.6 s repay.
        assert_eq!(after(15_000), FIRST);
        assert_eq!(after(17_000), 2 * FIRST);
    }

    #[test]
    fn costly_connections_are_opened_only_in_longer_runs() {
        let opening = EndedWindow {
            counts: false,
            ..window(1.0, 2_000.0)
        };
        let after = |opening: EndedWindow, rest| {
            let mut count = ConnectionCount::auto(64, 0);
            for _ in 0..2 * TRIAL_WINDOWS {
                record(&mut count, 10_000.0, 100_000);
            }
            count.record(opening, 100_000);
            record(&mut count, 13_000.0, rest);
            count.wanted()
        };
        // 0.8 s of 16 connections: half of it is taken as their cost, 26.5 ms each.
        assert_eq!(after(opening, 300_000), 32);
        assert_eq!(after(opening, 400_000), 64);
        let starved = EndedWindow {
            tokens_wait: false,
            ..opening
        };
        assert_eq!(
            after(starved, 100_000),
            64,
            "the source was slow, not the server"
        );
    }
}

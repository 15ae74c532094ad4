//! Outcomes on their way out of the store: each wake-up of their reader costs as much as a token, so
//! they travel in company.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::pipeline::token::Outcome;
use crate::store::queue::Job;

/// How long outcomes wait for company. The first after a pause goes at once.
const MOMENT: Duration = Duration::from_millis(1);

/// Outcomes on their way out, gathered for a wake-up and sent together.
#[derive(Default)]
pub(super) struct Batch {
    job: Option<Arc<Job>>,
    outcomes: Vec<Outcome>,
}

impl Batch {
    /// Adds an outcome of `job`.
    pub(super) fn push(&mut self, job: &Arc<Job>, outcome: Outcome) {
        if !self.job.as_ref().is_some_and(|own| Arc::ptr_eq(own, job)) {
            self.flush();
            self.job = Some(Arc::clone(job));
        }
        self.outcomes.push(outcome);
    }

    /// Sends what was gathered at once, and lets go of the job so that its stream can end.
    pub(super) fn flush(&mut self) {
        if let Some(job) = self.job.take() {
            job.send(std::mem::take(&mut self.outcomes));
        }
    }

    /// The same within a moment, together with what other connections gather meanwhile.
    pub(super) fn flush_soon(&mut self) {
        if let Some(job) = self.job.take() {
            job.send_soon(std::mem::take(&mut self.outcomes));
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.flush();
    }
}

/// What all connections gather for one reader.
#[derive(Default)]
pub(super) struct Gathered(Mutex<Company>);

#[derive(Default)]
struct Company {
    outcomes: Vec<Outcome>,
    /// When the last ones left.
    left: Option<Instant>,
    /// True where somebody will come for them.
    is_awaited: bool,
}

/// What is to be done with outcomes that were added.
pub(super) enum Gathering {
    /// These are to be sent now.
    Due(Vec<Outcome>),
    /// What was gathered is to be taken then.
    Begun(Instant),
    /// It will be.
    UnderWay,
}

impl Gathered {
    /// Adds outcomes.
    pub(super) fn add(&self, outcomes: Vec<Outcome>, now: Instant) -> Gathering {
        let mut company = self.company();
        let due = company.left.map_or(now, |left| left + MOMENT);
        if now < due {
            company.outcomes.extend(outcomes);
            return if std::mem::replace(&mut company.is_awaited, true) {
                Gathering::UnderWay
            } else {
                Gathering::Begun(due)
            };
        }
        company.left = Some(now);
        if company.outcomes.is_empty() {
            return Gathering::Due(outcomes);
        }
        company.outcomes.extend(outcomes);
        Gathering::Due(std::mem::take(&mut company.outcomes))
    }

    /// What there is.
    pub(super) fn take(&self, now: Instant) -> Vec<Outcome> {
        let mut company = self.company();
        company.is_awaited = false;
        if !company.outcomes.is_empty() {
            company.left = Some(now);
        }
        std::mem::take(&mut company.outcomes)
    }

    fn company(&self) -> MutexGuard<'_, Company> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::channel;
    use crate::pipeline::token::{Page, Status};
    use crate::runtime::shutdown::Halt;
    use crate::store::queue::{CREDIT, Queue};

    fn outcome(text: &str) -> Vec<Outcome> {
        let page = Page::from_texts([(text, None)]);
        let outcome = |token| Outcome::unsent(token, Status::Rejected, None);
        page.iter().map(outcome).collect()
    }

    fn texts(outcomes: &[Outcome]) -> Vec<&str> {
        outcomes.iter().map(|o| o.token.as_str()).collect()
    }

    #[test]
    fn the_first_goes_at_once_and_the_next_wait_for_company() {
        let (gathered, start) = (Gathered::default(), Instant::now());
        let at = |micros| start + Duration::from_micros(micros);
        let first = gathered.add(outcome("aa"), at(0));
        assert!(matches!(first, Gathering::Due(all) if texts(&all) == ["aa"]));
        let second = gathered.add(outcome("bb"), at(100));
        assert!(matches!(second, Gathering::Begun(due) if due == start + MOMENT));
        let third = gathered.add(outcome("cc"), at(200));
        assert!(matches!(third, Gathering::UnderWay));
        // Whoever comes when the moment is over takes all along, and leaves nothing to be taken.
        let fourth = gathered.add(outcome("dd"), at(1000));
        assert!(matches!(fourth, Gathering::Due(all) if texts(&all) == ["bb", "cc", "dd"]));
        assert!(gathered.take(at(1100)).is_empty());
        let fifth = gathered.add(outcome("ee"), at(1200));
        assert!(matches!(fifth, Gathering::Begun(due) if due == at(1000) + MOMENT));
        assert_eq!(texts(&gathered.take(at(2000))), ["ee"]);
    }

    #[tokio::test]
    async fn what_waits_for_company_arrives_even_where_its_job_is_let_go() {
        let queue = Queue::new(1, Halt::new(), Arc::new(crate::runtime::clock::Real));
        let (sender, mut stream, _stop) = channel::outcomes(CREDIT);
        let job = queue.job(sender, None);
        job.send_soon(outcome("aa"));
        job.send_soon(outcome("bb"));
        drop(job);
        let mut all = Vec::new();
        while let Some(Ok(batch)) = stream.next().await {
            all.extend(batch);
        }
        assert_eq!(texts(&all), ["aa", "bb"]);
    }
}

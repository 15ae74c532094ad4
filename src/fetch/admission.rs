//! Waits until the run's throttle admits a request. The slot of an admitted request is given back when
//! it ends.

use std::pin::pin;
use std::time::Instant;

use crate::fetch::Fetcher;
use crate::fetch::throttle::{Admission, Reply};

/// The right to have one request under way. Dropping it gives it back.
pub(super) struct Slot<'a> {
    /// `None` for a local source, and after the end.
    fetcher: Option<&'a Fetcher>,
    admitted: Instant,
}

impl Fetcher {
    /// Waits until a request may be sent. A source that is local admits every request. Cancel safe.
    pub(super) async fn admission(&self) -> Slot<'_> {
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let now = self.clock.now();
            let (fetcher, admission) = if self.is_remote() {
                (Some(self), self.lock_throttle().admit(now))
            } else {
                (None, Admission::Granted)
            };
            match admission {
                Admission::Granted => {
                    let admitted = now;
                    return Slot { fetcher, admitted };
                }
                Admission::Full => changed.await,
                Admission::At(instant) => tokio::select! {
                    () = self.clock.sleep_until(instant) => {}
                    () = changed => {}
                },
            }
        }
    }
}

impl Slot<'_> {
    /// Gives the slot back after a request.
    pub(super) fn end(mut self, reply: Reply) {
        if let Some(fetcher) = self.fetcher.take() {
            let (now, max_wait) = (fetcher.clock.now(), fetcher.max_wait());
            let mut throttle = fetcher.lock_throttle();
            throttle.end(self.admitted, now, reply, max_wait);
            drop(throttle);
            fetcher.changed.notify_waiters();
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(fetcher) = self.fetcher.take() {
            fetcher.lock_throttle().withdraw();
            fetcher.changed.notify_waiters();
        }
    }
}

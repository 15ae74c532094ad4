//! What of a fetch is still to be requested. Requests that are under way together reserve their tokens
//! from one remainder, so that together they never ask for more than is missing. Without I/O.

/// The tokens of a fetch: requested, under way and received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remainder {
    size: u64,
    page_size: u64,
    /// True to request again what a short delivery omitted.
    top_up: bool,
    /// The number of tokens requested, those of top-ups included.
    requested: u64,
    received: u64,
    /// The number of tokens whose requests are under way.
    under_way: u64,
}

/// A part of the remainder for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reservation {
    /// The number of tokens, at least 1.
    pub count: u64,
    /// True if all tokens were requested before.
    pub is_top_up: bool,
}

impl Remainder {
    /// Creates the remainder of a fetch of `size` tokens in requests for at most `page_size`.
    pub(super) fn new(size: u64, page_size: u64, top_up: bool) -> Self {
        Self {
            size,
            page_size: page_size.max(1),
            top_up,
            requested: 0,
            received: 0,
            under_way: 0,
        }
    }

    /// Returns the next request, if one may be sent now.
    ///
    /// A top-up of less than a page waits for the requests under way: if they deliver less too, one
    /// request asks for all that is missing.
    pub(super) fn next(&self) -> Option<Reservation> {
        let covered = if self.top_up {
            self.received.saturating_add(self.under_way)
        } else {
            self.requested
        };
        let open = self.size.saturating_sub(covered);
        let next = Reservation {
            count: open.min(self.page_size),
            is_top_up: self.requested >= self.size,
        };
        let waits = next.is_top_up && next.count < self.page_size && self.under_way > 0;
        (open > 0 && !waits).then_some(next)
    }

    /// Records that a request is under way.
    pub(super) fn reserve(&mut self, reservation: Reservation) {
        self.requested = self.requested.saturating_add(reservation.count);
        self.under_way += reservation.count;
    }

    /// Records the answer to a request.
    pub(super) fn settle(&mut self, reservation: Reservation, received: u64) {
        self.under_way = self.under_way.saturating_sub(reservation.count);
        self.received = self.received.saturating_add(received);
    }

    /// Returns the number of tokens that the fetch is to deliver.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the number of tokens received so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reserves as many requests as possible; returns their sizes.
    fn reserve_all(remainder: &mut Remainder) -> Vec<Reservation> {
        let mut reserved = Vec::new();
        while let Some(next) = remainder.next() {
            remainder.reserve(next);
            reserved.push(next);
            assert!(reserved.len() < 100, "the remainder has no end");
        }
        reserved
    }

    fn counts(reserved: &[Reservation]) -> Vec<u64> {
        reserved.iter().map(|it| it.count).collect()
    }

    #[test]
    fn first_requests_cover_the_size_exactly() {
        let mut remainder = Remainder::new(25, 10, true);
        let reserved = reserve_all(&mut remainder);
        assert_eq!(counts(&reserved), [10, 10, 5]);
        for one in reserved {
            assert!(!one.is_top_up);
            remainder.settle(one, one.count);
        }
        assert_eq!((remainder.next(), remainder.received()), (None, 25));
    }

    #[test]
    fn small_top_up_waits_for_the_requests_under_way() {
        let mut remainder = Remainder::new(30, 10, true);
        let reserved = reserve_all(&mut remainder);
        remainder.settle(reserved[0], 7);
        assert_eq!(remainder.next(), None, "3 are missing");
        remainder.settle(reserved[1], 4);
        assert_eq!(remainder.next(), None, "9 are missing");
        remainder.settle(reserved[2], 6);
        // 13 are missing.
        let reserved = reserve_all(&mut remainder);
        assert_eq!(counts(&reserved), [10]);
        assert!(reserved[0].is_top_up);
        remainder.settle(reserved[0], 10);
        assert_eq!(counts(&reserve_all(&mut remainder)), [3]);
    }

    #[test]
    fn full_page_of_missing_tokens_is_requested_at_once() {
        let mut remainder = Remainder::new(30, 10, true);
        let reserved = reserve_all(&mut remainder);
        remainder.settle(reserved[0], 0);
        assert_eq!(counts(&reserve_all(&mut remainder)), [10]);
    }

    #[test]
    fn nothing_is_requested_twice_without_top_up() {
        let mut remainder = Remainder::new(25, 10, false);
        let reserved = reserve_all(&mut remainder);
        assert_eq!(counts(&reserved), [10, 10, 5]);
        for one in reserved {
            remainder.settle(one, 0);
        }
        assert_eq!((remainder.next(), remainder.received()), (None, 0));
    }

    #[test]
    fn more_tokens_than_requested_leave_nothing_to_request() {
        let mut remainder = Remainder::new(10, 10, true);
        let reserved = reserve_all(&mut remainder);
        remainder.settle(reserved[0], 15);
        assert_eq!((remainder.next(), remainder.received()), (None, 15));
    }
}

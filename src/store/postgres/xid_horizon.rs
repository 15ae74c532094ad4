//! The lowest transaction number (XID) that a look-up must consider.
//!
//! A row proves something about a token only if no older transaction can have written it. So each
//! connection regularly queries the next XID: its horizon.

use crate::pipeline::token::Token;
use crate::store::in_flight_log::SnapshotInterval;

/// The number of tokens between two queries of the horizon.
const REFRESH_INTERVAL: u32 = 512;
/// The same if nothing is in flight, since the connection waits anyway.
const IDLE_REFRESH_INTERVAL: u32 = 64;

/// The transactions that a look-up considers.
#[derive(Clone, Copy)]
pub(super) struct LookUpScope {
    /// No transaction of the tokens has a lower XID.
    pub(super) xid: i64,
    /// When that XID was queried.
    pub(super) snapshot: SnapshotInterval,
}

/// What a look-up needs to know about the transactions of a connection.
pub(super) struct XidHorizon {
    scope: LookUpScope,
    /// The tokens acknowledged since: a look-up that misses one of them proves nothing.
    pub(super) acknowledged: Vec<Token>,
    sent_since: u32,
    in_flight: u32,
}

impl XidHorizon {
    /// Creates the horizon of a new connection.
    pub(super) fn new(xid: i64, snapshot: SnapshotInterval) -> Self {
        Self {
            scope: LookUpScope { xid, snapshot },
            acknowledged: Vec::new(),
            sent_since: 0,
            in_flight: 0,
        }
    }

    /// Returns the transactions that can have stored a token that has no reply yet.
    pub(super) fn scope(&self) -> LookUpScope {
        self.scope
    }

    /// Counts a token that is about to be sent; returns true if the horizon should be queried
    /// first.
    pub(super) fn begin_insert(&mut self) -> bool {
        let interval = if self.in_flight == 0 {
            IDLE_REFRESH_INTERVAL
        } else {
            REFRESH_INTERVAL
        };
        let is_due = self.sent_since >= interval;
        self.sent_since = if is_due { 1 } else { self.sent_since + 1 };
        self.in_flight += 1;
        is_due
    }

    /// Counts a token whose reply has arrived.
    pub(super) fn end_insert(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Records a token that the server acknowledged.
    pub(super) fn acknowledge(&mut self, token: &Token) {
        self.acknowledged.push(token.clone());
    }

    /// Advances to a newer XID; every later reply belongs to a request sent after its query.
    pub(super) fn advance(&mut self, xid: i64, snapshot: SnapshotInterval) {
        self.scope = LookUpScope { xid, snapshot };
        self.acknowledged.clear();
    }
}

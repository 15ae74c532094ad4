//! The lowest transaction number (XID) that a look-up must consider.
//!
//! A row proves something about a token only if no older transaction can have written it. So each
//! connection regularly queries the next XID: its horizon.

use crate::pipeline::token::Token;
use crate::store::postgres::connection::{Backend, Connection};
use crate::store::postgres::inflight::SnapshotInterval;

/// The number of tokens between two queries of the horizon.
const REFRESH_INTERVAL: u32 = 512;
/// The same if nothing is in flight, since the connection waits anyway.
const IDLE_REFRESH_INTERVAL: u32 = 64;

/// What a look-up needs to know about a lost connection.
#[derive(Clone)]
pub(in crate::store) struct XidHorizon {
    /// The backend; `None` if a pooler hides it.
    pub(in crate::store) backend: Option<Backend>,
    /// No transaction in flight has a lower XID.
    pub(in crate::store) xid: i64,
    /// When the XID was queried.
    pub(in crate::store) snapshot: SnapshotInterval,
    /// The tokens acknowledged since: a look-up that misses one of them proves nothing.
    pub(in crate::store) acknowledged: Vec<Token>,
    sent_since: u32,
}

impl XidHorizon {
    /// Creates the horizon of a new connection.
    pub(super) fn new(connection: &Connection, snapshot: SnapshotInterval) -> Self {
        Self {
            backend: connection.backend().cloned(),
            xid: connection.horizon(),
            snapshot,
            acknowledged: Vec::new(),
            sent_since: 0,
        }
    }

    /// Counts a token that is about to be sent; returns true if the horizon should be queried
    /// first.
    pub(super) fn is_due(&mut self, idle: bool) -> bool {
        let interval = if idle {
            IDLE_REFRESH_INTERVAL
        } else {
            REFRESH_INTERVAL
        };
        let due = self.backend.is_some() && self.sent_since >= interval;
        self.sent_since = if due { 1 } else { self.sent_since + 1 };
        due
    }

    /// Records a token that the server acknowledged.
    pub(super) fn acknowledge(&mut self, token: &Token) {
        // Behind a pooler there are no look-ups.
        if self.backend.is_some() {
            self.acknowledged.push(token.clone());
        }
    }

    /// Advances to a newer XID; every later reply belongs to a request sent after its query.
    pub(super) fn advance(&mut self, xid: i64, snapshot: SnapshotInterval) {
        self.xid = xid;
        self.snapshot = snapshot;
        self.acknowledged.clear();
    }
}

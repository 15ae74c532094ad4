//! How far back a look-up would have to go if a connection were lost now.
//!
//! A row proves something about a token only where no older transaction can have written it. So each
//! connection asks, now and then, for the number that the next transaction will have: its horizon.

use crate::pipeline::token::Token;
use crate::store::postgres::connection::{Backend, Connection};
use crate::store::postgres::inflight::SnapshotInterval;

/// So many tokens are sent before the horizon moves on.
const EVERY: u32 = 512;
/// So many are enough where the connection has to wait anyway.
const EVERY_WHEN_IDLE: u32 = 64;

/// What a look-up will need to know of a connection.
#[derive(Clone)]
pub(in crate::store) struct XidHorizon {
    /// The backend; `None` where a pooler hides it.
    pub(in crate::store) backend: Option<Backend>,
    /// No transaction of what is in flight has an older number.
    pub(in crate::store) number: i64,
    /// When the number was asked for and when the answer came.
    pub(in crate::store) asked: SnapshotInterval,
    /// The tokens that were acknowledged since: a look-up that misses one of them proves nothing.
    pub(in crate::store) acknowledged: Vec<Token>,
    sent: u32,
}

impl XidHorizon {
    /// The horizon of a new connection.
    pub(super) fn new(connection: &Connection, asked: SnapshotInterval) -> Self {
        Self {
            backend: connection.backend().cloned(),
            number: connection.horizon(),
            asked,
            acknowledged: Vec::new(),
            sent: 0,
        }
    }

    /// To be called before each token; true where the horizon is worth asking for first.
    pub(super) fn is_due(&mut self, idle: bool) -> bool {
        let often = if idle { EVERY_WHEN_IDLE } else { EVERY };
        let due = self.backend.is_some() && self.sent >= often;
        self.sent = if due { 1 } else { self.sent + 1 };
        due
    }

    /// A token of this connection was acknowledged.
    pub(super) fn acknowledge(&mut self, token: &Token) {
        // Behind a pooler nothing is looked up.
        if self.backend.is_some() {
            self.acknowledged.push(token.clone());
        }
    }

    /// Moves on; what is answered from now on was sent after the number was asked for.
    pub(super) fn move_to(&mut self, number: i64, asked: SnapshotInterval) {
        self.number = number;
        self.asked = asked;
        self.acknowledged.clear();
    }
}

//! Splits a PostgreSQL connection into messages, so that faults are injected at exact messages.

/// The codes of `SSLRequest` and `GSSENCRequest`, which come before the startup message.
const REQUESTS: [u32; 2] = [80_877_103, 80_877_104];

/// Splits one direction of an unencrypted connection into messages.
pub struct Framer {
    buffer: Vec<u8>,
    /// No message was returned yet: the server's first one may be a single byte.
    fresh: bool,
    /// Messages begin with their type byte; the first messages of a client do not.
    typed: bool,
    from_server: bool,
}

impl Framer {
    /// Creates a framer for messages of the client.
    pub fn of_client() -> Self {
        Self::new(false)
    }

    /// Creates a framer for messages of the server.
    pub fn of_server() -> Self {
        Self::new(true)
    }

    fn new(from_server: bool) -> Self {
        Self {
            buffer: Vec::new(),
            fresh: true,
            typed: from_server,
            from_server,
        }
    }

    /// Returns true until the startup message, after which every message begins with its type.
    pub fn is_untyped(&self) -> bool {
        !self.typed
    }

    /// Adds received bytes, and returns the messages that are now complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.buffer.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some(length) = self.next_length() {
            let rest = self.buffer.split_off(length);
            let message = std::mem::replace(&mut self.buffer, rest);
            if !self.typed {
                let code = message.get(4..8).map(number);
                self.typed = !code.is_some_and(|code| REQUESTS.contains(&code));
            }
            self.fresh = false;
            messages.push(message);
        }
        messages
    }

    fn next_length(&self) -> Option<usize> {
        let first = *self.buffer.first()?;
        // The reply to an SSLRequest is a single byte without a length.
        if self.from_server && self.fresh && matches!(first, b'N' | b'S') {
            return Some(1);
        }
        let start = usize::from(self.typed);
        let length = number(self.buffer.get(start..start + 4)?) as usize + start;
        (self.buffer.len() >= length).then_some(length)
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, byte| (number << 8) | u32::from(*byte))
}

/// Whether the message reports one inserted row, which is not committed yet.
pub fn is_inserted(message: &[u8]) -> bool {
    message.first() == Some(&b'C') && message.get(5..) == Some(b"INSERT 0 1\0")
}

/// Whether the message is `ReadyForQuery`, which ends a transaction.
pub fn is_ready(message: &[u8]) -> bool {
    message.first() == Some(&b'Z')
}

/// Whether the server answers this message of the client with `ReadyForQuery`.
pub fn wants_ready(message: &[u8]) -> bool {
    matches!(message.first(), Some(b'S' | b'Q'))
}

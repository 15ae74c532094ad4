//! Where PostgreSQL's messages begin and end, so that a fault strikes at a message and not at a
//! moment.

/// The code of a request for TLS, and of one for GSSAPI: the client's start comes after them.
const REQUESTS: [u32; 2] = [80_877_103, 80_877_104];

/// Cuts one direction of a connection without TLS into messages.
pub struct Framer {
    held: Vec<u8>,
    /// Nothing was cut off yet: the server's first byte may stand alone.
    fresh: bool,
    /// Messages begin with their type; a client's first ones do not.
    typed: bool,
    from_server: bool,
}

impl Framer {
    /// What the client sends.
    pub fn of_client() -> Self {
        Self::new(false)
    }

    /// What the server sends.
    pub fn of_server() -> Self {
        Self::new(true)
    }

    fn new(from_server: bool) -> Self {
        Self {
            held: Vec::new(),
            fresh: true,
            typed: from_server,
            from_server,
        }
    }

    /// Takes bytes as they came; gives the messages that are now complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.held.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some(length) = self.next_length() {
            let rest = self.held.split_off(length);
            let message = std::mem::replace(&mut self.held, rest);
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
        let first = *self.held.first()?;
        // The answer to a request for TLS is a byte without a length.
        if self.from_server && self.fresh && matches!(first, b'N' | b'S') {
            return Some(1);
        }
        let start = usize::from(self.typed);
        let length = number(self.held.get(start..start + 4)?) as usize + start;
        (self.held.len() >= length).then_some(length)
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, byte| (number << 8) | u32::from(*byte))
}

/// True for the message that says that an INSERT stored a row; it is no commit yet.
pub fn is_inserted(message: &[u8]) -> bool {
    message.first() == Some(&b'C') && message.get(5..) == Some(b"INSERT 0 1\0")
}

/// True for the message with which a transaction is over.
pub fn is_ready(message: &[u8]) -> bool {
    message.first() == Some(&b'Z')
}

/// True for a message of the client that is answered by one that says ready.
pub fn wants_ready(message: &[u8]) -> bool {
    matches!(message.first(), Some(b'S' | b'Q'))
}

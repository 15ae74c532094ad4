//! Sends single requests to a server on loopback, for tests that need no HTTP client.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The time in which a server must start.
const START: Duration = Duration::from_secs(30);

/// Sends a request without a body, such as `GET /healthz`, and returns the answer with its head.
///
/// The request has HTTP/1.0, so that the body of the answer comes without chunks. `headers` are whole
/// lines.
///
/// # Panics
/// If nothing listens on the port, or the answer is not UTF-8.
pub fn answer(port: u16, request: &str, headers: &str) -> String {
    try_answer(port, request, headers).unwrap_or_else(|error| panic!("{request}: {error}"))
}

fn try_answer(port: u16, request: &str, headers: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let head = format!(
        "{request} HTTP/1.0\r\nhost: 127.0.0.1:{port}\r\n{headers}content-length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Returns the status of an answer.
pub fn status(answer: &str) -> u16 {
    let word = answer.split(' ').nth(1);
    word.and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no status: {answer}"))
}

/// Waits until a request is answered with 200.
///
/// # Panics
/// If this takes too long.
pub fn wait_until_ok(port: u16, request: &str, headers: &str) {
    let limit = Instant::now() + START;
    loop {
        // Nothing listens yet, or a proxy closes the connection.
        let answer = try_answer(port, request, headers).unwrap_or_default();
        if answer.split(' ').nth(1) == Some("200") {
            return;
        }
        assert!(Instant::now() < limit, "{request}: {answer}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

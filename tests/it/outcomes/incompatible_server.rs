//! A server that speaks PostgreSQL's protocol and refuses every statement.

use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::support::database::Login;

const SSL_REQUEST: [u8; 4] = 80_877_103_i32.to_be_bytes();
const GSS_REQUEST: [u8; 4] = 80_877_104_i32.to_be_bytes();

/// A running server, which serves until the test process ends.
pub struct IncompatibleServer {
    port: u16,
}

impl IncompatibleServer {
    /// Starts a server that reports this version.
    pub fn with_version(version: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback socket");
        let port = listener.local_addr().expect("its address").port();
        let version = version.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let version = version.clone();
                // This ends with an error when the client disconnects.
                std::thread::spawn(move || drop(serve(stream, &version)));
            }
        });
        Self { port }
    }

    /// Returns a login for the server.
    pub fn login(&self) -> Login {
        Login {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            user: "tokens".to_owned(),
            password: "canary".to_owned(),
            name: "tokens".to_owned(),
        }
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message");
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

fn serve(mut stream: TcpStream, version: &str) -> std::io::Result<()> {
    loop {
        let (_, body) = read(&mut stream, false)?;
        if !body.starts_with(&SSL_REQUEST) && !body.starts_with(&GSS_REQUEST) {
            break;
        }
        stream.write_all(b"N")?;
    }
    let parameter =
        |name: &str, value: &str| message(b'S', format!("{name}\0{value}\0").as_bytes());
    let ready = message(b'Z', b"I");
    let start = [
        message(b'R', &[0; 4]),
        parameter("server_version", version),
        parameter("server_encoding", "UTF8"),
        parameter("client_encoding", "UTF8"),
        parameter("standard_conforming_strings", "on"),
        message(b'K', &[0, 0, 0, 7, 0, 0, 0, 7]),
        ready.clone(),
    ];
    stream.write_all(&start.concat())?;
    let error = message(
        b'E',
        b"SERROR\0VERROR\0C42883\0MUnknown function 'set_config'\0\0",
    );
    loop {
        match read(&mut stream, true)?.0 {
            b'Q' | b'S' => stream.write_all(&[error.clone(), ready.clone()].concat())?,
            b'X' => return Ok(()),
            _ => {}
        }
    }
}

/// Reads a message of the client: its tag, if it has one, and its body.
fn read(stream: &mut TcpStream, has_tag: bool) -> std::io::Result<(u8, Vec<u8>)> {
    let mut tag = [0];
    if has_tag {
        stream.read_exact(&mut tag)?;
    }
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length).saturating_sub(4);
    let mut body = vec![0; usize::try_from(length).unwrap_or(0)];
    stream.read_exact(&mut body)?;
    Ok((tag[0], body))
}

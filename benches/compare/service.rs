//! A running `token_service serve`, and a client that keeps one connection to it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::environment::BenchEnvironment;
use crate::token_source::TokenSource;

/// A service on a free port of loopback. Dropping it kills it.
pub struct Service {
    process: Child,
    address: String,
}

impl Service {
    /// Starts the service on the database of the environment and this source.
    ///
    /// # Errors
    /// If it does not listen.
    pub fn start(env: &BenchEnvironment, source: &TokenSource, options: &[&str]) -> Result<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_token_service"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(options)
            .env("TOKEN_HOST", source.url())
            .env("DATABASE_URL", env.login().url())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let stdout = process.stdout.take().context("the service has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on http://");
        let address = address
            .with_context(|| format!("the service does not listen: {line}"))?
            .to_owned();
        Ok(Self { process, address })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// If the service does not accept it.
    pub fn connect(&self) -> Result<ServiceClient> {
        let socket = TcpStream::connect(&self.address)?;
        socket.set_nodelay(true)?;
        Ok(ServiceClient(BufReader::with_capacity(256 << 10, socket)))
    }

    /// Returns the memory of the process, in MiB.
    ///
    /// # Errors
    /// If the kernel does not tell it.
    pub fn memory_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next());
        let kibibytes: f64 = kibibytes.context("no VmRSS")?.parse()?;
        Ok(kibibytes / 1024.0)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection to the service.
pub struct ServiceClient(BufReader<TcpStream>);

impl ServiceClient {
    /// Runs `size` tokens and reads the whole report; returns its number of lines.
    ///
    /// # Errors
    /// If the answer is not 200, or is cut off.
    pub fn run(&mut self, size: u64) -> Result<u64> {
        self.send("POST", &format!("/v1/runs?size={size}"), "")?;
        self.read_head(200)?;
        self.read_chunks()
    }

    /// Starts a run without waiting for it; returns its id.
    ///
    /// # Errors
    /// If the answer is not 202.
    pub fn start_run(&mut self, size: u64) -> Result<String> {
        let path = format!("/v1/runs?size={size}");
        self.send("POST", &path, "prefer: respond-async\r\n")?;
        let headers = self.read_head(202)?;
        let value = |name: &str| {
            let mut lines = headers.lines();
            lines
                .find_map(|line| line.strip_prefix(name))
                .map(ToOwned::to_owned)
        };
        let length: usize = value("content-length: ").context("no length")?.parse()?;
        self.0.read_exact(&mut vec![0; length])?;
        value("run-id: ").context("no id of the run")
    }

    /// Begins to read the events of a run, up to the first one.
    ///
    /// # Errors
    /// If the answer is not 200.
    pub fn follow(&mut self, id: &str) -> Result<()> {
        self.send("GET", &format!("/v1/runs/{id}/events"), "")?;
        self.read_head(200)?;
        let mut line = String::new();
        while !line.starts_with("data:") {
            line.clear();
            ensure!(self.0.read_line(&mut line)? > 0, "the events have ended");
        }
        Ok(())
    }

    fn send(&mut self, method: &str, path: &str, headers: &str) -> Result<()> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n{headers}\r\n"
        );
        Ok(self.0.get_mut().write_all(request.as_bytes())?)
    }

    /// Reads the head of an answer.
    fn read_head(&mut self, status: u16) -> Result<String> {
        let mut head = String::new();
        loop {
            let before = head.len();
            ensure!(
                self.0.read_line(&mut head)? > 0,
                "the connection was closed"
            );
            if head[before..].trim().is_empty() {
                break;
            }
        }
        let expected = format!("HTTP/1.1 {status} ");
        ensure!(head.starts_with(&expected), "unexpected answer: {head}");
        Ok(head)
    }

    /// Reads a chunked body; returns its number of lines.
    fn read_chunks(&mut self) -> Result<u64> {
        let (mut lines, mut chunk) = (0, Vec::new());
        loop {
            let mut size = String::new();
            self.0.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16);
            let size = size.map_err(|_| anyhow!("the answer was cut off"))?;
            chunk.resize(size + 2, 0);
            self.0.read_exact(&mut chunk)?;
            let parts = chunk[..size].split(|byte| *byte == b'\n');
            lines += parts.count() as u64 - 1;
            if size == 0 {
                return Ok(lines);
            }
        }
    }
}

//! A pseudo-terminal, for processes that write to a terminal.

use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A pseudo-terminal, whose output the test reads.
pub struct Terminal {
    writing_end: File,
    output: String,
    chunks: Receiver<Vec<u8>>,
}

impl Terminal {
    /// Opens a pseudo-terminal with this number of columns.
    pub fn with_columns(columns: u16) -> Self {
        let terminal = Self::new();
        let size = Winsize {
            ws_row: 24,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal.writing_end, size).expect("a size");
        terminal
    }

    /// Opens a pseudo-terminal.
    pub fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).expect("access to the pseudo-terminal");
        unlockpt(&master).expect("an unlocked pseudo-terminal");
        let name = ptsname(&master, Vec::new()).expect("its path");
        let path = name.to_str().expect("a path").to_owned();
        let writing_end = File::options().read(true).write(true).open(path);
        let mut master = File::from(master);
        let (sender, chunks) = mpsc::channel();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            // Reading fails when the last process has closed the terminal.
            while let Ok(length @ 1..) = master.read(&mut chunk) {
                if sender.send(chunk[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            writing_end: writing_end.expect("the end to write to"),
            output: String::new(),
            chunks,
        }
    }

    /// The end that a process writes to.
    pub fn stdio(&self) -> Stdio {
        self.writing_end.try_clone().expect("a descriptor").into()
    }

    /// Waits until the output satisfies the predicate.
    pub fn wait_for(&mut self, predicate: impl Fn(&str) -> bool) {
        while !predicate(&self.output) {
            let limit = std::time::Duration::from_mins(1);
            match self.chunks.recv_timeout(limit) {
                Ok(chunk) => self.output.push_str(&String::from_utf8_lossy(&chunk)),
                Err(error) => panic!("{error}; output: {:?}", self.output),
            }
        }
    }

    /// The whole output, once every process that wrote to the terminal has exited.
    pub fn finish(mut self) -> String {
        drop(self.writing_end);
        while let Ok(chunk) = self.chunks.recv() {
            self.output.push_str(&String::from_utf8_lossy(&chunk));
        }
        self.output
    }
}

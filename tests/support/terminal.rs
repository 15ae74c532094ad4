//! A pseudo-terminal, for what a process writes where a person watches.

use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// The end at which a person sits.
pub struct Terminal {
    other: File,
    shown: String,
    chunks: Receiver<Vec<u8>>,
}

impl Terminal {
    /// A new one.
    pub fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).expect("the right to it");
        unlockpt(&master).expect("it is unlocked");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let path = name.to_str().expect("a path").to_owned();
        let other = File::options().read(true).write(true).open(path);
        let mut master = File::from(master);
        let (tell, chunks) = mpsc::channel();
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            // An error is how the last process that had it open says good-bye.
            while let Ok(length @ 1..) = master.read(&mut chunk) {
                if tell.send(chunk[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            other: other.expect("its other end"),
            shown: String::new(),
            chunks,
        }
    }

    /// The end at which a process writes.
    pub fn stdio(&self) -> Stdio {
        self.other.try_clone().expect("a descriptor").into()
    }

    /// Waits until what was shown satisfies the test.
    pub fn wait_for(&mut self, what: impl Fn(&str) -> bool) {
        while !what(&self.shown) {
            let limit = std::time::Duration::from_mins(1);
            match self.chunks.recv_timeout(limit) {
                Ok(chunk) => self.shown.push_str(&String::from_utf8_lossy(&chunk)),
                Err(error) => panic!("{error}; shown was {:?}", self.shown),
            }
        }
    }

    /// All that was shown, after every process that wrote there has ended.
    pub fn finish(mut self) -> String {
        drop(self.other);
        while let Ok(chunk) = self.chunks.recv() {
            self.shown.push_str(&String::from_utf8_lossy(&chunk));
        }
        self.shown
    }
}

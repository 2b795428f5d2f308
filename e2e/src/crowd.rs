//! Many clients at once, read by one thread.

use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::client::{Client, Response};
use crate::pause;

/// Clients that wait for their answers.
#[derive(Debug, Default)]
pub struct Crowd {
    waiting: Vec<(usize, Client, Vec<u8>)>,
    /// By number, in the order in which they joined.
    responses: Vec<Option<Response>>,
}

impl Crowd {
    /// One more.
    pub fn join(&mut self, client: Client) {
        self.waiting.push((self.responses.len(), client, Vec::new()));
        self.responses.push(None);
    }

    /// How many have joined.
    #[must_use]
    pub fn joined(&self) -> usize {
        self.responses.len()
    }

    /// Whether anybody has a whole stream who joined when so many had joined before.
    #[must_use]
    pub fn has_completed_since(&self, joined: usize) -> bool {
        self.responses.iter().skip(joined).flatten().any(Response::is_complete)
    }

    /// How many have no whole answer yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Everything that came to those who still wait, each in one text.
    #[must_use]
    pub fn heard(&self) -> Vec<String> {
        self.waiting.iter().map(|(_, _, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    /// The answers that are whole, or whose connections have ended.
    #[must_use]
    pub fn ended(&self) -> Vec<&Response> {
        self.responses.iter().flatten().collect()
    }

    /// Reads what comes, for so long.
    pub fn listen(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if self.waiting.is_empty() && remaining > Duration::ZERO {
                pause();
                continue;
            }
            self.read(remaining);
            if remaining == Duration::ZERO {
                return;
            }
        }
    }

    /// Reads until all have their answers; in the order in which they joined.
    ///
    /// # Panics
    /// When somebody waits for longer than this.
    #[must_use]
    #[track_caller]
    pub fn responses(mut self, patience: Duration) -> Vec<Response> {
        let deadline = Instant::now() + patience;
        while !self.waiting.is_empty() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            assert!(
                remaining > Duration::ZERO,
                "{} clients wait still; they heard: {:?}",
                self.waiting(),
                self.heard()
            );
            self.read(remaining);
        }
        self.responses.into_iter().flatten().collect()
    }

    /// One look at everybody, after waiting for anything to happen.
    fn read(&mut self, patience: Duration) {
        let mut fds: Vec<PollFd<'_>> = self
            .waiting
            .iter()
            .map(|(_, client, _)| PollFd::new(client.as_fd(), PollFlags::POLLIN))
            .collect();
        let timeout =
            PollTimeout::try_from(patience.min(Duration::from_secs(1))).unwrap_or(PollTimeout::ZERO);
        poll(&mut fds, timeout).expect("poll");
        let ready: Vec<bool> =
            fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect();
        let mut buffer = [0; 65536];
        let mut ready = ready.into_iter();
        let responses = &mut self.responses;
        self.waiting.retain_mut(|(number, client, bytes)| {
            if !ready.next().unwrap_or(false) {
                return true;
            }
            let broken = match client.read(&mut buffer) {
                Ok(0) => None,
                Ok(read) => {
                    bytes.extend_from_slice(&buffer[..read]);
                    return true;
                }
                Err(error) => Some(error.kind()),
            };
            responses[*number] = Some(Response::parse(bytes, broken));
            false
        });
    }
}

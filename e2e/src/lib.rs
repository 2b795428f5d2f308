//! Real binaries, real sockets: a private handoffd for each test, an Apache to hand over, and clients.
//!
//! Never: links supervisor or worker, sleeps for luck. A failing test prints the daemon's log.

#![forbid(unsafe_code)]

pub mod apache;
pub mod asker;
pub mod browser;
pub mod chaos;
pub mod client;
pub mod container;
pub mod crowd;
pub mod daemon;
pub mod example;
pub mod exposition;
pub mod front;
pub mod httpd;
mod launch;
pub mod load;
pub mod manager;
pub mod operator;
pub mod process;
pub mod promql;
pub mod upstream;

pub use apache::{Door, Sent};
pub use asker::Asker;
pub use client::{Client, Response};
pub use container::{Container, Image, Package};
pub use crowd::Crowd;
pub use daemon::{Daemon, Options};
pub use example::Example;
pub use exposition::Exposition;
pub use httpd::Httpd;
pub use manager::Manager;
pub use upstream::{Answer, Upstream};

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Long enough for a slow machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A loopback address of this process alone: every 127.x.y.z is this machine, and whoever connects or wants any port has
/// 127.0.0.1.
#[must_use]
pub fn own_address() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 1 + high % 200, middle, low)
}

/// An address and port for a server that must be told where to listen: no other test has it, before or after.
#[must_use]
pub fn own_port() -> SocketAddrV4 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Below those that the kernel gives to who wants any (net.ipv4.ip_local_port_range).
    SocketAddrV4::new(own_address(), 9090 + NEXT.fetch_add(1, Ordering::Relaxed) % 20_000)
}

/// Waits until the question has an answer.
///
/// # Panics
/// When there is none in time.
#[track_caller]
pub fn eventually<T>(what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        pause();
    }
}

/// Asks again and again, for so long: the question panics when what must stay true does not.
pub fn throughout(duration: Duration, mut question: impl FnMut()) {
    let deadline = Instant::now() + duration;
    while Instant::now() < deadline {
        question();
        pause();
    }
}

/// Between two looks at a fact.
#[expect(clippy::disallowed_methods, reason = "the one pause of all polling, always under a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

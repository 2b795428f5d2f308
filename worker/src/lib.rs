//! `handoffd-worker`: one client after the other, many at a time. In: leases from the supervisor. Out: streams
//! to clients, reports to the supervisor.
//!
//! Never: opens a listening socket, keeps state that another worker needs, writes to a client before the
//! supervisor knows that it will.
//!
//! `sandbox` confines the process before it begins; `inbox` receives; `session` is one client from start to end, with
//! `request`, `files`, `upstream`, `format` and `client` as its rooms; `report` tells the supervisor, and `progress` an operator;
//! `runner` runs them, and `poller` watches the clients' sockets and the clock (`timers`, and `alarm` within a session);
//! `drain` knows when it is enough, and `cut` carries it to the sessions.

#![forbid(unsafe_code)]

mod alarm;
mod client;
mod cut;
mod drain;
pub mod event;
pub mod failure;
pub mod files;
pub mod format;
pub mod head;
mod holdings;
mod inbox;
mod json;
mod moment;
pub mod opened;
mod poller;
mod progress;
mod report;
pub mod request;
mod runner;
pub mod sandbox;
mod session;
pub mod sse;
mod timers;
pub mod upstream;

pub use inbox::{InboxError, work};

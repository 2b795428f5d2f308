//! The scripted server, seen by clients that nobody here wrote: every fault is on the wire what it says.

mod client;
mod connections;
mod http1;
mod http2;
mod proxy;
mod talks;

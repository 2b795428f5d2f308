//! What the supervisor and its workers have in common: ids, limits, messages and the channel between them.
//!
//! Never: decides anything, knows HTTP, knows a payload's meaning. The only unsafe code of the project is in
//! [`fdpass`].

pub mod channel;
pub mod codec;
pub mod control;
#[expect(unsafe_code, reason = "the one file that turns the kernel's integers into owned fds")]
pub mod fdpass;
pub mod ids;
pub mod limits;
pub mod log;
pub mod memfd;
pub mod message;
pub mod metric;
pub mod sandbox;
pub mod status;

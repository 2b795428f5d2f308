//! mod_socket_handoff: Apache's part of handoffd. PHP authenticates a request and sets `X-Socket-Handoff`; this
//! module passes the client's socket to the daemon, and Apache's worker is free.
//!
//! In: httpd 2.4's callbacks. Out: one message with the client's socket, or an error page.
//! Never: writes to a client that was handed over, shows a payload to one, lets a panic through to C.
//!
//! `ffi` declares httpd's interface, `hooks` is what httpd calls, `httpd` makes its structures safe: only these three
//! have unsafe code. The rest decides and is safe: `filter` is the story of one response, `relay` what happens where
//! a socket cannot be passed.

#![deny(unsafe_code)]
#![cfg_attr(test, expect(dead_code, reason = "without httpd around it nobody calls the parts"))]

mod envelope;
mod head;
mod payload;
mod send;
mod settings;
mod target;

// They call httpd's functions, which only httpd has: tests are programs of their own.
#[cfg(not(test))]
#[expect(unsafe_code, unreachable_pub, reason = "declarations of C functions, also of those not called yet")]
mod ffi;
#[cfg(not(test))]
mod filter;
#[cfg(not(test))]
#[expect(unsafe_code, reason = "C calls it, with C's pointers")]
mod hooks;
#[cfg(not(test))]
#[expect(unsafe_code, reason = "reads and writes httpd's structures, and calls its functions")]
mod httpd;
#[cfg(not(test))]
mod relay;

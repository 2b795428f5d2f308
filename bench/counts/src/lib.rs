//! The pure parts of handoffd, each at one thing that it does all day. Out: [`cases`], by name, and the [`baseline`] that
//! says what they may cost.
//!
//! Never: reads a clock, a file or a socket inside an operation, does anything that differs from run to run.
//!
//! Both `counts` (instructions) and `benches/pure.rs` (time) measure these, so that a name means the same in both.

#![forbid(unsafe_code)]
// The fleet brings its tests along, and they run where they belong.
#![cfg(not(test))]

pub mod baseline;
mod codec;
// The supervisor is a program and no library. Its fleet needs nothing of the rest of it, and is compiled here once more.
#[expect(dead_code, unused_imports, reason = "what the event loop asks of it beside what is measured")]
#[path = "../../../supervisor/src/fleet/mod.rs"]
mod fleet;
mod format;
mod lease;
mod payload;
mod token;

/// Done again and again; each time costs the same.
pub type Operation = Box<dyn FnMut()>;

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// `part.what_is_done`; what the baseline calls it.
    pub name: &'static str,
    /// Everything that is made once, and then the operation.
    pub prepare: fn() -> Operation,
}

impl Case {
    const fn new(name: &'static str, prepare: fn() -> Operation) -> Self {
        Self { name, prepare }
    }
}

/// All of them, each name once.
#[must_use]
pub fn cases() -> Vec<Case> {
    [payload::CASES, token::CASES, format::CASES, codec::CASES, lease::CASES].concat()
}

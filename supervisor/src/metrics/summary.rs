//! What `--benchmark` prints at shutdown.

use std::fmt;

/// Totals of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) peak: usize,
    pub(crate) started: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) bytes_sent: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "=== Benchmark Summary ===")?;
        writeln!(f, "Peak concurrent streams: {}", self.peak)?;
        writeln!(f, "Total streams started: {}", self.started)?;
        writeln!(f, "Total streams completed: {}", self.completed)?;
        writeln!(f, "Total streams failed: {}", self.failed)?;
        write!(f, "Total bytes sent: {}", self.bytes_sent)
    }
}

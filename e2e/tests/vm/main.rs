//! The promises that only a machine of its own can show: another kernel, memory that runs out, a clock that is set,
//! under a real systemd. Runs inside a virtual machine; `scripts/vm` builds and boots it.

mod a_clock_that_is_set_ends_no_stream;
mod a_large_worker_is_recycled_before_the_kernel_kills_it;
mod a_supervisor_may_go_while_streams_go_on;
mod guest;
mod memory_that_runs_out_costs_workers_alone;
mod the_sandbox_is_whole_on_this_kernel;

//! Short forms of `make chaos`: a thousand handoffs a second while workers are killed and stopped without end, and
//! supervisors replaced. Everybody gets exactly one answer, the numbers add up, and nothing is left behind.

use std::process::Command;

use handoff_e2e::daemon::binary;

#[test]
fn whatever_happens_to_workers_everybody_is_answered_once() {
    chaos("0");
}

#[test]
fn whatever_happens_to_the_supervisor_too_everybody_is_answered_once() {
    chaos("1");
}

fn chaos(with_supervisor: &str) {
    let output = Command::new(binary("chaos"))
        .env("CHAOS_SUPERVISOR", with_supervisor)
        .env("CHAOS_SECONDS", "6")
        .env("CHAOS_RATE", "1000")
        .output()
        .expect("the chaos suite starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{stdout}{stderr}", output.status);
}

//! A supervisor that does not turn any more is ended by systemd; the next one takes its workers over.

use handoff_e2e::load::all_but;
use handoff_e2e::{Image, throughout};
use std::time::Duration;

const QUICK: &str = "[Service]\nWatchdogSec=2\n";

#[test]
fn a_stuck_supervisor_is_replaced_and_its_workers_go_on() {
    let Some(image) = Image::with_handoffd() else { return };
    image.write("/etc/systemd/system/handoffd.service.d/quick.conf", QUICK);
    let machine = image.boot();
    let supervisor = machine.another_supervisor(None);
    let workers = machine.workers();
    // It is stopped, and then killed, at any moment: also where it has a handoff in its own hands, one at most.
    all_but(
        1,
        |payload| machine.hand_over(payload),
        || {
            machine.done(&["kill", "-STOP", &supervisor]);
            machine.another_supervisor(Some(&supervisor));
        },
    );
    assert_eq!(machine.workers(), workers, "no worker was replaced");
    assert!(machine.journal().contains("Watchdog timeout"), "somebody else has ended it");
}

#[test]
fn a_supervisor_that_turns_is_left_alone() {
    let Some(image) = Image::with_handoffd() else { return };
    image.write("/etc/systemd/system/handoffd.service.d/quick.conf", QUICK);
    let machine = image.boot();
    let supervisor = machine.another_supervisor(None);
    throughout(Duration::from_secs(5), || {});
    assert_eq!(machine.main_pid(), Some(supervisor));
    assert_eq!(machine.show("handoffd.service", "NRestarts"), "0");
}

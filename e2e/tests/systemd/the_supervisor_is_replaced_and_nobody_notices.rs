//! Reload, restart, kill -9, in-place upgrade: 0 streams cut, 0 handoffs lost, no gap between tokens.

use std::time::Duration;

use handoff_e2e::load::{all_but, nobody_notices};
use handoff_e2e::{Container, Image, eventually, throughout};

fn running() -> Option<Container> {
    let machine = Image::with_handoffd()?.boot();
    machine.another_supervisor(None);
    Some(machine)
}

#[test]
fn restarted_again_and_again() {
    let Some(machine) = running() else { return };
    let workers = machine.workers();
    let handed_over = nobody_notices(
        |payload| machine.hand_over(payload),
        || {
            let mut supervisor = machine.main_pid();
            for _ in 0..4 {
                machine.done(&["systemctl", "restart", "handoffd.service"]);
                supervisor = Some(machine.another_supervisor(supervisor.as_deref()));
            }
        },
    );
    assert!(handed_over >= 100, "{handed_over} handoffs are no load");
    assert_eq!(machine.workers(), workers, "no worker was replaced");
}

#[test]
fn killed_again_and_again() {
    let Some(machine) = running() else { return };
    let workers = machine.workers();
    // Five kills at any moment; at most one meets a handoff between two system calls.
    all_but(
        1,
        |payload| machine.hand_over(payload),
        || {
            let mut supervisor = machine.main_pid();
            for _ in 0..5 {
                machine.done(&["systemctl", "kill", "--signal=KILL", "--kill-who=main", "handoffd.service"]);
                supervisor = Some(machine.another_supervisor(supervisor.as_deref()));
                throughout(Duration::from_millis(200), || {});
            }
        },
    );
    assert_eq!(machine.show("handoffd.service", "NRestarts"), "5");
    assert_eq!(machine.workers(), workers, "no worker was replaced");
}

#[test]
fn reloaded_again_and_again() {
    let Some(machine) = running() else { return };
    let (supervisor, workers) = (machine.main_pid(), machine.workers());
    nobody_notices(
        |payload| machine.hand_over(payload),
        || {
            for times in 1..=2 {
                machine.done(&["systemctl", "reload", "handoffd.service"]);
                // It has waited: the new generation serves.
                assert_eq!(machine.status().expect("a status")["generation"], 1 + times);
            }
        },
    );
    assert_eq!(machine.main_pid(), supervisor, "the supervisor stays");
    eventually("the first workers are gone", || {
        workers.iter().all(|pid| !machine.workers().contains(pid)).then_some(())
    });
}

#[test]
fn a_reload_that_is_refused_fails_and_changes_nothing() {
    let Some(machine) = running() else { return };
    let workers = machine.workers();
    let mut client = machine.hand_over(r#"{"prompt":"x","mock":{"length":100,"token_delay_ms":20}}"#);
    client.read_until("\n\n");
    machine.write(handoff_e2e::container::CONFIG, "[workers]\ncount = \"many\"\n");
    let (said, succeeded) = machine.run(&["systemctl", "reload", "handoffd.service"]);
    assert!(!succeeded, "systemctl reload succeeds with a wrong configuration: {said}");
    assert!(machine.journal().contains("workers.count"), "the journal does not say why");
    assert_eq!(machine.show("handoffd.service", "ActiveState"), "active");
    assert_eq!(machine.workers(), workers);
    assert!(client.response().body.ends_with("[DONE]\n\n"));
}

#[test]
fn upgraded_in_place() {
    let Some(machine) = running() else { return };
    let supervisor = machine.main_pid().expect("a supervisor");
    nobody_notices(
        |payload| machine.hand_over(payload),
        || {
            for _ in 0..2 {
                let before = machine.journal().matches("taken over").count();
                machine.done(&["systemctl", "kill", "--signal=USR2", "--kill-who=main", "handoffd.service"]);
                eventually("the new image has taken over", || {
                    (machine.journal().matches("taken over").count() > before).then_some(())
                });
            }
        },
    );
    assert_eq!(machine.main_pid(), Some(supervisor), "the process stays");
    assert_eq!(machine.show("handoffd.service", "NRestarts"), "0");
    // What systemd keeps is still what it takes to survive a kill.
    let workers = machine.workers();
    let before = machine.main_pid();
    machine.done(&["systemctl", "kill", "--signal=KILL", "--kill-who=main", "handoffd.service"]);
    machine.another_supervisor(before.as_deref());
    assert_eq!(machine.workers(), workers, "no worker was replaced");
}

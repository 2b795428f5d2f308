//! What systemd keeps may be too little, old, or nothing that we know: the daemon starts, serves, and leaks nothing.

use handoff_e2e::{Container, Image, eventually};

const ASK: &str = r#"{"prompt":"x","mock":{"length":3}}"#;
const LONG: &str = r#"{"prompt":"x","mock":{"length":150,"token_delay_ms":20}}"#;

/// Kills the supervisor and waits for the next one.
fn replace(machine: &Container) {
    let before = machine.main_pid();
    machine.done(&["systemctl", "kill", "--signal=KILL", "--kill-who=main", "handoffd.service"]);
    machine.another_supervisor(before.as_deref());
}

/// Fds that systemd keeps when all is well: one channel and one pidfd a worker, two for the generation.
fn kept(machine: &Container, fds: &str) {
    eventually("systemd keeps what it should", || {
        (machine.show("handoffd.service", "NFileDescriptorStore") == fds).then_some(())
    });
}

#[test]
fn a_store_that_is_full() {
    let Some(image) = Image::with_handoffd() else { return };
    image.write("/etc/systemd/system/handoffd.service.d/small.conf", "[Service]\nFileDescriptorStoreMax=3\n");
    let machine = image.boot();
    machine.another_supervisor(None);
    assert!(machine.hand_over(ASK).response().is_complete());
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = machine.hand_over(LONG);
            client.read_until("\n\n");
            client
        })
        .collect();
    replace(&machine);
    assert!(machine.hand_over(ASK).response().is_complete());
    // Adopted, or left to drain by themselves: nobody is cut.
    for (number, client) in clients.into_iter().enumerate() {
        let rest = client.response();
        assert!(rest.body.ends_with("[DONE]\n\n"), "stream {number}: {rest:?}");
    }
    eventually("only workers of the new supervisor are left", || {
        (machine.workers().len() == 2).then_some(())
    });
}

#[test]
fn a_worker_that_died_with_the_supervisor() {
    let Some(image) = Image::with_handoffd() else { return };
    let machine = image.boot();
    machine.another_supervisor(None);
    kept(&machine, "6");
    let before = machine.main_pid();
    let workers = machine.workers();
    machine.done(&["kill", "-STOP", before.as_deref().expect("a supervisor")]);
    machine.done(&["kill", "-KILL", &workers[0], before.as_deref().expect("a supervisor")]);
    machine.another_supervisor(before.as_deref());
    eventually("another worker has taken its place", || {
        let now = machine.workers();
        (now.len() == 2 && now.contains(&workers[1]) && !now.contains(&workers[0])).then_some(())
    });
    // The dead one's channel and pidfd are forgotten.
    kept(&machine, "6");
    assert!(machine.hand_over(ASK).response().is_complete());
}

#[test]
fn fds_that_nobody_knows() {
    let Some(image) = Image::with_handoffd() else { return };
    // systemd passes a socket unit's fds in the way in which it gives back what it kept.
    for (name, listen) in [("surprise", "FIFO"), ("worker-old", "Datagram"), ("generation-7", "FIFO")] {
        image.write(
            &format!("/etc/systemd/system/{name}.socket"),
            &format!("[Socket]\nListen{listen}=/run/{name}\nFileDescriptorName={name}\nService=handoffd.service\n[Install]\nWantedBy=sockets.target\n"),
        );
        assert!(image.chroot(&["systemctl", "enable", &format!("{name}.socket")]).status.success());
    }
    let machine = image.boot();
    machine.another_supervisor(None);
    assert!(machine.hand_over(ASK).response().is_complete());
    let log = machine.journal();
    for name in ["surprise", "worker-old", "generation-7"] {
        assert!(log.contains(name), "the journal does not speak of {name}: {log}");
    }
    let fds = |machine: &Container| {
        let pid = machine.main_pid().expect("a supervisor");
        machine.done(&["ls", "-l", &format!("/proc/{pid}/fd")])
    };
    assert!(!fds(&machine).contains("/run/surprise"), "it is still open: {}", fds(&machine));
    replace(&machine);
    kept(&machine, "6");
    assert_eq!(machine.workers().len(), 2);
}

#[test]
fn many_lives_leave_nothing_behind() {
    let Some(image) = Image::with_handoffd() else { return };
    let machine = image.boot();
    machine.another_supervisor(None);
    let fds = || {
        let pid = machine.main_pid().expect("a supervisor");
        machine.done(&["sh", "-c", &format!("ls /proc/{pid}/fd | wc -l")]).trim().to_owned()
    };
    replace(&machine);
    let mut before = String::new();
    eventually("it is at rest", || {
        let now = fds();
        (std::mem::replace(&mut before, now.clone()) == now).then_some(())
    });
    for _ in 0..5 {
        replace(&machine);
    }
    eventually("as many fds as before", || (fds() == before).then_some(()));
    kept(&machine, "6");
    assert_eq!(machine.workers().len(), 2);
}

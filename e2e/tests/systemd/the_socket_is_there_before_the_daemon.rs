//! systemd owns the socket: handoffs may come before the daemon does, and Apache starts after it.

use handoff_e2e::container::SOCKET;
use handoff_e2e::{Door, Image, eventually};

const ASK: &str = r#"{"prompt":"x","mock":{"length":3}}"#;

#[test]
fn apache_starts_when_a_worker_takes_handoffs() {
    let Some(image) = Image::with_handoffd() else { return };
    // Stands for Debian's unit: what it finds when it is started.
    image.write(
        "/etc/systemd/system/apache2.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=sh -c 'systemctl is-active handoffd.service && handoffctl stream \"a prompt\"'\n\
         StandardOutput=truncate:/root/apache\n[Install]\nWantedBy=multi-user.target\n",
    );
    assert!(image.chroot(&["systemctl", "enable", "apache2.service"]).status.success());
    let machine = image.boot();
    assert_eq!(machine.show("apache2.service", "Result"), "success");
    let saw = std::fs::read_to_string(machine.path("/root/apache")).expect("what Apache saw");
    assert!(saw.starts_with("active\n"), "{saw}");
    assert!(saw.contains("a prompt"), "an answer that repeats the prompt: {saw}");
}

#[test]
fn handoffs_sent_before_the_daemon_ever_ran_are_answered() {
    let Some(image) = Image::with_handoffd() else { return };
    assert!(image.chroot(&["systemctl", "disable", "handoffd.service"]).status.success());
    assert!(image.chroot(&["systemctl", "enable", "handoffd.socket"]).status.success());
    // It takes its time, so that all of them come before.
    image.write(
        "/etc/systemd/system/handoffd.service.d/slow.conf",
        "[Service]\nExecStartPre=sh -c 'until [ -e /run/handoffd/go ]; do sleep 0.05; done'\n",
    );
    let machine = image.boot();
    assert_eq!(machine.show("handoffd.service", "ActiveState"), "inactive");
    let clients: Vec<_> = (0..50).map(|_| machine.hand_over(ASK)).collect();
    eventually("the first handoff has activated the service", || {
        (machine.show("handoffd.service", "ActiveState") == "activating").then_some(())
    });
    assert!(machine.workers().is_empty());
    machine.write("/run/handoffd/go", "");
    for (number, client) in clients.into_iter().enumerate() {
        let response = client.response();
        assert!(response.is_complete(), "handoff {number}: {response:?}");
    }
}

#[test]
fn the_socket_admits_apaches_group_and_nobody_else() {
    let Some(image) = Image::with_handoffd() else { return };
    let machine = image.boot();
    assert_eq!(machine.done(&["stat", "--format=%U:%G %a", SOCKET]).trim(), "root:www-data 660");
    assert_eq!(machine.done(&["stat", "--format=%U:%G %a", "/run/handoffd"]).trim(), "handoffd:www-data 750");
    let stream_as = |user: &str| {
        machine.run(&[
            "setpriv",
            "--reuid",
            user,
            "--regid",
            user,
            "--clear-groups",
            "handoffctl",
            "stream",
            "x",
        ])
    };
    let (said, succeeded) = stream_as("www-data");
    assert!(succeeded, "{said}");
    let (said, succeeded) = stream_as("nobody");
    assert!(!succeeded, "{said}");
    let (said, succeeded) = stream_as("handoffd-worker");
    assert!(!succeeded, "a worker hands nobody over: {said}");
}

#[test]
fn older_modules_find_a_stream_socket_where_it_is_enabled() {
    let Some(image) = Image::with_handoffd() else { return };
    let machine = image.boot();
    machine.done(&["systemctl", "enable", "handoffd-stream.socket"]);
    let before = machine.another_supervisor(None);
    // systemd gives a running service no further sockets.
    machine.done(&["systemctl", "stop", "handoffd.service"]);
    machine.done(&["systemctl", "start", "handoffd-stream.socket"]);
    machine.done(&["systemctl", "start", "handoffd.service"]);
    machine.another_supervisor(Some(&before));
    for (socket, door) in [("/run/handoffd/handoffd-stream.sock", Door::Stream), (SOCKET, Door::SeqPacket)] {
        let response = machine.hand_over_by(socket, door, ASK).response();
        assert!(response.is_complete(), "{socket}: {response:?}");
    }
}

#[test]
fn a_handoff_waits_until_a_wrong_configuration_is_right() {
    const CONFIG: &str = "/etc/handoffd/daemon.toml";
    let Some(image) = Image::with_handoffd() else { return };
    let machine = image.boot();
    machine.done(&["systemctl", "stop", "handoffd.service", "handoffd.socket"]);
    let right = std::fs::read_to_string(machine.path(CONFIG)).expect("a configuration");
    machine.write(CONFIG, "[workers]\ncount = \"many\"\n");
    machine.done(&["systemctl", "start", "handoffd.socket"]);
    let client = machine.hand_over(ASK);
    eventually("more starts have failed than systemd allows by default", || {
        (machine.show("handoffd.service", "NRestarts").parse::<u32>().ok()? > 5).then_some(())
    });
    assert_eq!(machine.show("handoffd.socket", "ActiveState"), "active");
    machine.write(CONFIG, &right);
    let response = client.response();
    assert!(response.is_complete(), "{response:?}");
}

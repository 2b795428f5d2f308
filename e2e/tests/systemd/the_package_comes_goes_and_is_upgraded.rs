//! The Debian package: installed it runs, upgraded nobody notices, removed it drains, purged it is gone.

use handoff_e2e::container::{CONFIG, SOCKET};
use handoff_e2e::load::nobody_notices;
use handoff_e2e::{Container, Image, Package, eventually};

const ASK: &str = r#"{"prompt":"x","mock":{"length":3}}"#;

fn install(machine: &Container, package: Package) {
    machine.add_package(package);
    machine.done(&["dpkg", "--install", "--force-confdef", package.inside()]);
}

#[test]
fn installed_it_serves_at_once_and_after_the_next_boot() {
    let Some(image) = Image::bare() else { return };
    let machine = image.boot();
    install(&machine, Package::Current);
    machine.another_supervisor(None);
    let answer = machine.done(&["handoffctl", "stream", "a prompt"]);
    assert!(answer.contains("a prompt"), "{answer}");
    assert_eq!(machine.show("handoffd.service", "UnitFileState"), "enabled");
    assert_eq!(machine.show("handoffd.socket", "UnitFileState"), "enabled");
    assert_eq!(machine.done(&["stat", "--format=%U:%G %a", CONFIG]).trim(), "root:handoffd 640");
    machine.done(&["handoffd", "--check", CONFIG]);
    machine.done(&["man", "--where", "8", "handoffd"]);
    assert_eq!(machine.done(&["dpkg", "--verify", "handoffd"]), "");
}

#[test]
fn upgraded_under_load_nobody_notices_and_the_workers_are_new() {
    let Some(image) = Image::with_handoffd() else { return };
    image.add_package(Package::Newer);
    let machine = image.boot();
    let supervisor = machine.another_supervisor(None);
    let old = machine.workers();
    nobody_notices(
        |payload| machine.hand_over(payload),
        || {
            install(&machine, Package::Newer);
            machine.another_supervisor(Some(&supervisor));
            eventually("the new binary's workers serve", || {
                (machine.status()?["generation"].as_u64()? > 1).then_some(())
            });
        },
    );
    eventually("the old workers are gone", || {
        old.iter().all(|pid| !machine.workers().contains(pid)).then_some(())
    });
    assert_eq!(machine.done(&["dpkg-query", "--show", "--showformat=${Version}", "handoffd"]), "0.1.0-2");
    let config = std::fs::read_to_string(machine.path(CONFIG)).expect("a configuration");
    assert!(config.contains("allow_request_options"), "the operator's configuration is kept: {config}");
}

#[test]
fn an_upgrade_starts_nothing_that_was_stopped() {
    let Some(image) = Image::with_handoffd() else { return };
    let machine = image.boot();
    machine.done(&["systemctl", "disable", "--now", "handoffd.service", "handoffd.socket"]);
    install(&machine, Package::Newer);
    assert_eq!(machine.show("handoffd.service", "ActiveState"), "inactive");
    assert_eq!(machine.show("handoffd.socket", "UnitFileState"), "disabled");
}

#[test]
fn removed_it_drains_and_purged_it_is_gone() {
    let Some(image) = Image::with_handoffd() else { return };
    let machine = image.boot();
    let mut client = machine.hand_over(r#"{"prompt":"x","mock":{"length":100,"token_delay_ms":30}}"#);
    client.read_until("\n\n");
    machine.write("/etc/handoffd/openai_api_key", "sk-secret\n");
    machine.done(&["dpkg", "--remove", "handoffd"]);
    assert!(!machine.path(SOCKET).exists());
    assert_eq!(machine.show("handoffd.service", "ActiveState"), "inactive");
    assert!(machine.path(CONFIG).exists(), "the configuration is kept for another time");
    let rest = client.response();
    assert!(rest.body.ends_with("[DONE]\n\n"), "{rest:?}");
    eventually("the workers are gone", || machine.workers().is_empty().then_some(()));
    // Another time.
    install(&machine, Package::Current);
    machine.another_supervisor(None);
    assert!(machine.hand_over(ASK).response().is_complete());

    machine.done(&["dpkg", "--purge", "handoffd"]);
    let left = machine.done(&[
        "sh",
        "-c",
        "ls -d /etc/handoffd /run/handoffd /usr/bin/handoff* 2>/dev/null || true",
    ]);
    assert_eq!(left, "");
    let (enabled, _) = machine.run(&["find", "/etc/systemd/system", "-name", "handoffd*"]);
    assert_eq!(enabled, "");
}

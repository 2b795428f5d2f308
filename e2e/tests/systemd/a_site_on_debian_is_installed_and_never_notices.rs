//! Debian's own Apache with mod_php, its unit as it comes, and our two packages, or `make install-apache`: questions
//! become whole answers, and whatever is reloaded, restarted, upgraded or removed cuts none.

use std::fs;
use std::io::Write;
use std::process::Command;

use handoff_e2e::container::{SOCKET, target, workspace};
use handoff_e2e::load::nobody_notices;
use handoff_e2e::{Client, Container, Image, Package, eventually};

/// What a site's page may look like; the class is where Debian's PHP looks.
const PAGE: &str = r"<?php
require 'handoffd/handoff.php';
Handoffd\Handoff::stream(json_decode(file_get_contents('php://input'), true));
";
const ASK: &str = r#"{"prompt":"x","mock":{"length":3}}"#;

/// A Debian with Apache, which runs after the boot, and a page.
fn site(image: &Image) {
    image.write("/var/www/html/chat.php", PAGE);
    let enabled = image.chroot(&["systemctl", "enable", "apache2.service"]);
    assert!(enabled.status.success(), "{enabled:?}");
}

fn ask(machine: &Container, payload: &str) -> Client {
    let mut client = machine.connect(80);
    let length = payload.len();
    let head = format!("POST /chat.php HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    client.write_all(format!("{head}{payload}").as_bytes()).expect("a request");
    client
}

fn answered(machine: &Container, payload: &str) {
    let response = ask(machine, payload).response();
    assert!(response.status == 200 && response.is_complete(), "{response:?}");
}

fn install(machine: &Container, package: Package) {
    machine.add_package(package);
    let said = machine.done(&["dpkg", "--install", package.inside()]);
    assert!(!said.contains("rror"), "{said}");
}

fn all_is_well(machine: &Container) {
    let said = machine.done(&["handoffctl", "doctor"]);
    assert!(said.contains("\n0 problems, 0 warnings, ") && said.contains(" 0 not seen"), "{said}");
}

#[test]
fn two_packages_make_a_site() {
    let Some(image) = Image::bare() else { return };
    site(&image);
    let machine = image.boot();
    install(&machine, Package::Current);
    install(&machine, Package::Module);
    machine.another_supervisor(None);
    answered(&machine, r#"{"prompt":"x"}"#);
    // In the body of the response, and in memory of its own.
    answered(&machine, &format!(r#"{{"prompt":"x","system":"{}"}}"#, "x".repeat(3_000_000)));

    let unit = machine.show("apache2.service", "FragmentPath");
    assert!(unit.ends_with("/lib/systemd/system/apache2.service"), "not in /etc: {unit}");
    assert_eq!(machine.show("apache2.service", "DropInPaths"), "");
    assert_eq!(machine.show("apache2.service", "PrivateTmp"), "yes");
    assert_eq!(machine.done(&["stat", "--format=%U:%G %a", SOCKET]).trim(), "root:www-data 660");
    let users = machine.done(&["ps", "--no-headers", "-o", "user", "-C", "apache2"]);
    assert!(users.contains("www-data"), "{users}");
    all_is_well(&machine);
    for package in ["handoffd", "libapache2-mod-socket-handoff"] {
        assert_eq!(machine.done(&["dpkg", "--verify", package]), "");
    }
}

#[test]
fn nobody_notices_a_reload_a_restart_or_an_upgrade() {
    let Some(image) = Image::with_handoffd() else { return };
    image.add_package(Package::Module);
    let module = image.chroot(&["dpkg", "--install", Package::Module.inside()]);
    assert!(module.status.success(), "{module:?}");
    site(&image);
    let machine = image.boot();
    let before = machine.another_supervisor(None);
    answered(&machine, ASK);
    let generation = || machine.status()?["generation"].as_u64();
    let apache = || machine.show("apache2.service", "MainPID");
    let pid = apache();
    nobody_notices(
        |payload| ask(&machine, payload),
        || {
            machine.done(&["systemctl", "reload", "apache2"]);
            let old = generation();
            machine.done(&["systemctl", "reload", "handoffd"]);
            assert!(generation() > old, "reloaded: {old:?}");
            machine.done(&["systemctl", "restart", "handoffd"]);
            machine.another_supervisor(Some(&before));
            machine.done(&["systemctl", "reload", "apache2"]);
        },
    );
    assert_eq!(apache(), pid, "Apache was reloaded, and not started again");
    // To the module's new version Apache is restarted: what it has handed over goes on.
    let mut client = ask(&machine, r#"{"prompt":"x","mock":{"length":60,"token_delay_ms":100}}"#);
    client.read_until("\n\n");
    install(&machine, Package::NewerModule);
    assert_ne!(apache(), pid, "the new module is loaded");
    answered(&machine, ASK);
    let rest = client.response();
    assert!(rest.body.ends_with("[DONE]\n\n"), "{rest:?}");
}

#[test]
fn removed_apache_goes_on_without_and_purged_it_is_gone() {
    const MODULE: &str = "libapache2-mod-socket-handoff";
    let Some(image) = Image::with_handoffd() else { return };
    site(&image);
    let machine = image.boot();
    machine.another_supervisor(None);
    install(&machine, Package::Module);
    answered(&machine, ASK);
    machine.done(&["dpkg", "--remove", MODULE]);
    machine.done(&["apache2ctl", "configtest"]);
    assert_eq!(machine.show("apache2.service", "ActiveState"), "active");
    let response = ask(&machine, ASK).response();
    assert!(response.status == 500 && !response.body.contains("prompt"), "no question in it: {response:?}");
    let (said, well) = machine.run(&["handoffctl", "doctor"]);
    assert!(!well && said.contains("mod_socket_handoff"), "{said}");
    install(&machine, Package::Module);
    answered(&machine, ASK);
    machine.done(&["dpkg", "--purge", MODULE]);
    let left = machine.done(&["find", "/etc/apache2", "/usr/lib/apache2", "-name", "*socket_handoff*"]);
    assert_eq!(left, "");
    assert_eq!(machine.show("apache2.service", "ActiveState"), "active");
}

#[test]
fn the_documented_steps_make_a_site() {
    let Some(image) = Image::with_handoffd() else { return };
    site(&image);
    let run = |what: &str| {
        let output = Command::new("make")
            .args([what, &format!("DESTDIR={}", image.path("/").display())])
            .args(["APACHE_MODULES=/usr/lib/apache2/modules", "APACHE_CONFIG=/etc/apache2/mods-available"])
            .current_dir(workspace())
            .env("CARGO_TARGET_DIR", target().0)
            .env_remove("MAKEFLAGS")
            .output()
            .expect("make");
        assert!(output.status.success(), "make {what}: {output:?}");
    };
    run("install-apache");
    let machine = image.boot();
    machine.another_supervisor(None);
    machine.done(&["a2enmod", "socket_handoff"]);
    let (said, well) = machine.run(&["handoffctl", "doctor"]);
    assert!(!well && said.contains("has not loaded") && said.contains("systemctl reload apache2"), "{said}");
    machine.done(&["sh", "-c", "apache2ctl configtest && systemctl reload apache2"]);
    eventually("the module is loaded", || {
        let response = ask(&machine, ASK).response();
        (response.status == 200 && response.is_complete()).then_some(())
    });
    all_is_well(&machine);

    // A new version: a reload is enough.
    let module = |name: &str| machine.path(&format!("/usr/lib/apache2/modules/{name}"));
    fs::copy(module("mod_socket_handoff.so"), module("new")).expect("a copy");
    fs::rename(module("new"), module("mod_socket_handoff.so")).expect("a new file");
    let (said, _) = machine.run(&["handoffctl", "doctor"]);
    assert!(said.contains("warning ") && said.contains("has another"), "{said}");
    machine.done(&["systemctl", "reload", "apache2"]);
    eventually("the new file is loaded", || {
        machine.run(&["handoffctl", "doctor"]).0.contains("ok        apache.loaded").then_some(())
    });
    answered(&machine, ASK);
    all_is_well(&machine);
}

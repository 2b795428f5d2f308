//! `systemd-analyze` finds nothing wrong with the units; what runs in them is who it should be.

use handoff_e2e::{Image, Package, eventually};

/// 0 is a perfect sandbox, 10 is none.
const EXPOSURE_MAX: f64 = 2.0;

#[test]
fn the_units_are_clean_and_little_exposed() {
    let Some(image) = Image::with_handoffd() else { return };
    let machine = image.boot();
    for unit in ["handoffd.service", "handoffd.socket", "handoffd-stream.socket"] {
        let (said, succeeded) = machine.run(&["systemd-analyze", "verify", unit]);
        assert!(succeeded && said.trim().is_empty(), "{unit}: {said}");
    }
    let said = machine.done(&["systemd-analyze", "security", "--no-pager", "handoffd.service"]);
    let overall = said.lines().find(|line| line.contains("Overall exposure level")).expect("a level");
    let level = overall.split_whitespace().find_map(|word| word.parse::<f64>().ok()).expect("a number");
    assert!(level <= EXPOSURE_MAX, "{overall}\n{said}");
}

#[test]
fn supervisor_and_workers_have_what_they_need_and_no_more() {
    let Some(image) = Image::with_handoffd() else { return };
    let machine = image.boot();
    let supervisor = machine.another_supervisor(None);
    let of = |pid: &str, what: &str| {
        let status = machine.done(&["cat", &format!("/proc/{pid}/status")]);
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{what}:"))).expect("a line");
        line.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let uid = machine.done(&["id", "--user", "handoffd"]).trim().to_owned();
    assert_eq!(of(&supervisor, "Uid"), uid);
    // CAP_KILL, CAP_SETGID, CAP_SETUID (capabilities(7)).
    let capabilities = format!("{:016x}", 1 << 5 | 1 << 6 | 1 << 7);
    for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(of(&supervisor, set), capabilities, "{set}");
    }
    for pid in machine.workers().iter().chain([&supervisor]) {
        assert_eq!(of(pid, "NoNewPrivs"), "1", "{pid}");
        assert_eq!(of(pid, "Seccomp"), "2", "{pid}");
    }
}

#[test]
fn workers_are_confined_by_the_package_as_it_comes() {
    let Some(image) = Image::bare() else { return };
    image.add_package(Package::Current);
    assert!(image.chroot(&["dpkg", "--install", Package::Current.inside()]).status.success());
    let machine = image.boot();
    machine.another_supervisor(None);
    let uid = machine.done(&["id", "--user", "handoffd-worker"]).trim().to_owned();
    for pid in machine.workers() {
        assert_eq!(machine.done(&["stat", "--format=%u", &format!("/proc/{pid}/task")]).trim(), uid);
    }
    let status = eventually("the workers say what confines them", || {
        let status = machine.status()?;
        let workers = status["workers"].as_array()?;
        workers.iter().all(|worker| worker["sandbox"].is_object()).then_some(status)
    });
    for worker in status["workers"].as_array().expect("workers") {
        assert_eq!(worker["sandbox"]["level"], "full", "{worker}");
        assert_eq!(worker["sandbox"]["other_user"], true, "{worker}");
    }
}

#[test]
fn the_key_is_roots_file_and_only_the_service_sees_it() {
    let Some(image) = Image::with_handoffd() else { return };
    // No text, so no key: what the daemon says about it shows that it came.
    std::fs::write(image.path("/etc/handoffd/openai_api_key"), b"sk-very\xff-secret\n").expect("a file");
    assert!(image.chroot(&["chmod", "0600", "/etc/handoffd/openai_api_key"]).status.success());
    let machine = image.boot();
    let log = eventually("the daemon has refused the key", || {
        Some(machine.journal()).filter(|log| log.contains("backend.openai.api_key = <secret>"))
    });
    assert!(!log.contains("sk-very"), "{log}");
    machine.write("/etc/handoffd/openai_api_key", "sk-good\n");
    let before = machine.main_pid();
    machine.done(&["systemctl", "restart", "handoffd.service"]);
    let supervisor = machine.another_supervisor(before.as_deref());
    assert!(machine.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response().is_complete());
    let environment = machine.done(&["cat", &format!("/proc/{supervisor}/environ")]);
    assert!(!environment.contains("sk-good"), "{environment}");
    let read_as = |user: &str| {
        let file = "/run/credentials/handoffd.service/openai_api_key";
        machine.run(&["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "cat", file])
    };
    assert_eq!(read_as("handoffd").0, "sk-good\n");
    assert!(!read_as("handoffd-worker").1, "workers get it from the supervisor, or not at all");
    assert!(!read_as("www-data").1);
}

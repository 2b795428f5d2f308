//! `handoffd-worker --self-test`: a process that is confined as workers are attacks, and every attack is blocked.
//! Each of them gets through where there is no sandbox, so that blocking it means something.

use std::process::{Command, Output};

use handoff_e2e::daemon::binary;
use nix::unistd::geteuid;

/// What root alone may do, sandbox or not.
const ROOTS: [&str; 7] =
    ["read-shadow", "raw-socket", "packet-socket", "setuid", "unshare", "bpf", "user-faults"];

fn self_test(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("handoffd-worker"));
    command.args(arguments).env_clear().output().expect("handoffd-worker runs")
}

fn names() -> Vec<String> {
    let said = self_test(&["--self-test", "--only", "nonsense"]);
    assert_eq!(said.status.code(), Some(78), "{said:?}");
    let said = String::from_utf8(said.stderr).expect("UTF-8");
    let (_, names) = said.trim().split_once("there are: ").expect("the names");
    names.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_attack_is_blocked() {
    let as_nobody = ["--self-test", "--user", "65534", "--group", "65534"];
    let ways = if geteuid().is_root() { vec![&as_nobody[..1], &as_nobody] } else { vec![&as_nobody[..1]] };
    for arguments in ways {
        let said = self_test(arguments);
        let lines = String::from_utf8(said.stdout).expect("UTF-8");
        assert_eq!(said.status.code(), Some(0), "{arguments:?}: {lines}");
        assert!(lines.starts_with("sandbox  full  landlock "), "{lines}");
        for name in names() {
            let line = lines.lines().find(|line| line.ends_with(&format!(" {name}")));
            assert!(line.is_some_and(|line| line.starts_with("blocked ")), "{name}: {lines}");
        }
    }
}

#[test]
fn and_is_a_real_one() {
    let is_root = geteuid().is_root();
    let names = names();
    assert!(ROOTS.iter().all(|root| names.iter().any(|name| name == root)), "{names:?}");
    for name in names.iter().filter(|name| is_root || !ROOTS.contains(&name.as_str())) {
        let said = self_test(&["--self-test=unprotected", "--only", name]);
        let lines = String::from_utf8(said.stdout).expect("UTF-8");
        assert!(lines.starts_with("ALLOWED"), "{name} does nothing: {lines}");
        assert_eq!(said.status.code(), Some(1), "{name}: {lines}");
    }
}

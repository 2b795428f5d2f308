//! On an older kernel, whose Landlock knows files only, workers are as confined as on a new one: seccomp has the rest.

use handoff_e2e::eventually;

use crate::guest::{Guest, run};

#[test]
fn every_attack_is_blocked() {
    let (code, said) = run("cd / && env -i /usr/bin/handoffd-worker --self-test --user 65534 --group 65534");
    eprintln!("{said}");
    let attacks: Vec<&str> = said.lines().filter(|line| !line.starts_with("sandbox ")).collect();
    assert!(attacks.len() > 30 && attacks.iter().all(|line| line.starts_with("blocked ")), "{said}");
    assert_eq!(code, 0, "{said}");
}

#[test]
fn workers_of_the_unit_may_require_it() {
    let guest = Guest::start("sandbox = \"require\"", "");
    let state = eventually("both workers say what confines them", || {
        let status = guest.status();
        let states = status["workers"].as_array()?.iter().map(|worker| worker["sandbox"].clone());
        let states: Vec<_> = states.filter(|state| state["level"] == "full").collect();
        (states.len() == 2).then(|| states[0].clone())
    });
    eprintln!("/status: sandbox {state}");
    assert!(state["landlock_abi"].as_u64().is_some_and(|abi| abi >= 1), "{state}");
    for part in ["unprivileged", "other_user", "seccomp", "undumpable"] {
        assert_eq!(state[part], true, "{part}: {state}");
    }
    assert!(guest.hand_over(r#"{"prompt":"x","mock":{"length":3}}"#).response().is_complete());
}

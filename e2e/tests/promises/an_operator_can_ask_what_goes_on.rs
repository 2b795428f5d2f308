//! `/health`, `/healthz`, `/readyz`, `/status`, and SIGUSR1, which writes the same into the log.

use handoff_e2e::{Daemon, Options, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn by_http() {
    let daemon = Daemon::start("");
    for path in ["/health", "/healthz"] {
        assert_eq!(daemon.get(path), Some((200, "OK\n".to_owned())), "{path}");
    }
    assert_eq!(daemon.get("/readyz"), Some((200, "ready\n".to_owned())));
    assert_eq!(daemon.get("/nothing").map(|(status, _)| status), Some(404));
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":100,"token_delay_ms":20}}"#);
    client.read_until("\n\n");
    eventually("both workers have had a beat", || {
        let workers = daemon.status()["workers"].as_array().cloned().unwrap_or_default();
        (workers.len() == 2 && workers.iter().all(|worker| worker["rss_bytes"].as_u64() > Some(0)))
            .then_some(())
    });
    let status = daemon.status();
    assert_shape(&status);
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(
        (&status["state"], &status["generation"], &status["leases"]),
        (&"ready".into(), &1.into(), &1.into())
    );
    drop(client);
}

#[test]
fn by_signal() {
    let daemon = Daemon::start("");
    daemon.signal(Signal::SIGUSR1);
    let line = eventually("the log has it", || {
        let log = daemon.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.into_iter().find(|line| line["message"] == "fleet")
    });
    let status: Value = serde_json::from_str(line["status"].as_str().expect("text")).expect("JSON");
    assert_shape(&status);
    assert_eq!(daemon.workers("ready").len(), 2, "it does nothing else");
}

#[test]
fn not_at_all_when_it_is_switched_off() {
    let toml = "[metrics]\nenabled = false\n".to_owned();
    let daemon = Daemon::with(&Options { toml, no_wait: true, ..Options::default() });
    eventually("it is ready", || daemon.log().contains("\"message\":\"ready\"").then_some(()));
    assert_eq!(daemon.get("/health"), None);
    assert!(daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response().is_complete());
}

fn assert_shape(status: &Value) {
    let keys = |value: &Value| -> Vec<String> {
        let mut keys: Vec<_> = value.as_object().expect("an object").keys().cloned().collect();
        keys.sort();
        keys
    };
    let of_fleet = [
        "config_error",
        "cooldowns",
        "generation",
        "last_poison",
        "last_reload",
        "last_upgrade",
        "leases",
        "leases_queued",
        "max_connections",
        "pid",
        "reload_pending",
        "roll",
        "state",
        "uptime_secs",
        "version",
        "workers",
    ];
    assert_eq!(keys(status), of_fleet, "{status}");
    let of_worker = [
        "age_secs",
        "beat_age_ms",
        "deadline_ms",
        "generation",
        "leases",
        "leases_total",
        "pid",
        "restarts",
        "rss_bytes",
        "sandbox",
        "slot",
        "state",
    ];
    let workers = status["workers"].as_array().expect("a list");
    assert_eq!(workers.len(), 2, "{status}");
    for (slot, worker) in workers.iter().enumerate() {
        assert_eq!(keys(worker), of_worker, "{worker}");
        assert_eq!(
            (worker["slot"].as_u64(), &worker["state"]),
            (Some(slot as u64), &"ready".into()),
            "{worker}"
        );
    }
}

//! Workers run as the configured user, without any privilege and without a way to get one, and still do all their
//! work: with `sandbox = "require"` every kind of answer is written, and a drain is one.

use std::os::unix::fs::MetadataExt;

use handoff_e2e::apache::Kind;
use handoff_e2e::process::status;
use handoff_e2e::{Daemon, Door, Options, eventually};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

/// An id that needs no entry on this host.
const UID: u32 = 61_234;
const GID: u32 = 61_235;

/// `[workers]` with everything required; as another user where we may.
fn required() -> String {
    let run_as = if geteuid().is_root() { format!("user = {UID}\ngroup = {GID}\n") } else { String::new() };
    format!("[workers]\ncount = 2\nsandbox = \"require\"\ndata_max_mb = 512\n{run_as}")
}

#[test]
fn they_have_no_privilege_left() {
    // As a careless root starts it: with a group that is nobody's business.
    let as_user = geteuid().is_root().then_some([0, 0, 61_238]);
    let daemon = Daemon::with(&Options { toml: required(), as_user, ..Options::default() });
    let workers = daemon.workers("ready");
    assert_eq!(workers.len(), 2);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap_or_default();
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"], "of the supervisor");
    for pid in workers {
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(pid, set), "0000000000000000", "{set}");
        }
        assert_eq!(status(pid, "NoNewPrivs"), "1");
        assert_eq!(status(pid, "Seccomp"), "2");
        if geteuid().is_root() {
            assert_eq!(status(pid, "Uid"), [UID; 4].map(|uid| uid.to_string()).join(" "));
            assert_eq!(status(pid, "Gid"), [GID; 4].map(|gid| gid.to_string()).join(" "));
            assert_eq!(status(pid, "Groups"), "");
        }
        // What is not dumpable belongs to root in /proc (proc(5)).
        assert_eq!(std::fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid(), 0);
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let of = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of("Max core file size"), ["0", "0"]);
        assert_eq!(of("Max data size"), [(512 << 20).to_string(), (512 << 20).to_string()]);
        let fds = of("Max open files");
        assert_eq!(fds[0], fds[1], "soft and hard");
        let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        assert!(score.trim().parse::<i32>().unwrap() >= 500, "{score}");
    }
}

#[test]
fn an_operator_can_see_it() {
    let daemon = Daemon::start(&required());
    eventually("all workers have said so", || {
        (daemon.metric("handoffd_worker_sandbox") == 2.0).then_some(())
    });
    let (_, metrics) = daemon.get("/metrics").unwrap();
    assert!(
        metrics.contains("handoffd_worker_sandbox{slot=\"0\",generation=\"1\",state=\"full\"} 1\n"),
        "{metrics}"
    );
    let sandbox = &daemon.status()["workers"][0]["sandbox"];
    assert_eq!(sandbox["level"], "full");
    assert!(sandbox["landlock_abi"].as_u64().unwrap() > 0, "{sandbox}");
    for fact in ["unprivileged", "seccomp", "undumpable"] {
        assert_eq!(sandbox[fact], true, "{fact}: {sandbox}");
    }
    assert_eq!(sandbox["other_user"], geteuid().is_root(), "{sandbox}");
    let said = || daemon.log().matches("\"message\":\"sandbox\"").count();
    eventually("each worker has said it", || (said() >= 2).then_some(()));
    assert_eq!(said(), 2, "once a worker: {}", daemon.log());
}

#[test]
fn they_write_every_answer_and_drain() {
    let mut daemon = Daemon::start(&required());
    for format in ["content", "text", "openai", "events"] {
        for kind in [Kind::Tcp, Kind::Unix] {
            let payload = format!(r#"{{"prompt":"x","format":"{format}","mock":{{"length":20}}}}"#);
            let response = daemon.hand_over_by(Door::SeqPacket, kind, payload.as_bytes()).response();
            let end =
                if format == "events" { "{\"finish_reason\":\"stop\"}\n\n" } else { "data: [DONE]\n\n" };
            assert!(response.status == 200 && response.body.ends_with(end), "{format}: {response:?}");
        }
    }
    // Too large for a packet: it comes in a memfd.
    let question = "a long question ".repeat(9_000);
    let large = serde_json::json!({ "prompt": question, "mock": { "token_delay_ms": 0 } }).to_string();
    assert!(daemon.hand_over(large).response().text().contains(&question));
    assert_eq!(daemon.hand_over("no JSON").response().status, 400);

    let endless = r#"{"prompt":"x","mock":{"length":1000000,"token_delay_ms":10}}"#;
    daemon.change_config("[server]", "[server]\nshutdown_timeout_secs = 0.5");
    daemon.signal(Signal::SIGHUP);
    eventually("a roll", || daemon.status()["last_reload"].as_str()?.contains("done").then_some(()));
    let mut client = daemon.hand_over(endless);
    client.read_until("\n\n");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(client.response().error_code().as_deref(), Some("shutting_down"));
    assert_eq!(daemon.wait().code(), Some(0));
}

//! The supervisor is killed, and the service restarted, under live streams: the next one takes the workers over.

use std::time::Duration;

use handoff_e2e::{Crowd, eventually};

use crate::guest::{Guest, all_complete, pids, succeed};

#[test]
fn killed_or_restarted() {
    let guest = Guest::start("", "");
    let mut workers = pids("handoffd-worker");
    workers.sort_unstable();
    let mut crowd = Crowd::default();
    for _ in 0..6 {
        crowd.join(guest.hand_over(r#"{"prompt":"x","mock":{"length":60,"token_delay_ms":300}}"#));
    }
    crowd.listen(Duration::from_secs(1));
    for how in ["kill --kill-whom=main --signal=KILL", "restart", "kill --kill-whom=main --signal=KILL"] {
        let before = guest.main_pid();
        succeed(&format!("systemctl {how} handoffd.service"));
        // Nobody waits for it: the socket is systemd's.
        crowd.join(guest.hand_over(r#"{"prompt":"x","mock":{"length":5,"token_delay_ms":10}}"#));
        eventually("another supervisor, with the same workers", || {
            crowd.listen(Duration::from_millis(100));
            let pid = guest.main_pid();
            (pid != 0 && pid != before && guest.workers().len() == 2).then_some(())
        });
        let mut workers_now = pids("handoffd-worker");
        workers_now.sort_unstable();
        assert_eq!(workers_now, workers);
        let adopted = guest.metric("handoffd_adopted_leases_total");
        eprintln!(
            "systemctl {how}: main process {before} -> {}, {adopted} leases taken over",
            guest.main_pid()
        );
        assert!(adopted >= 6.0);
    }
    let responses = crowd.responses(Duration::from_secs(60));
    all_complete(&responses);
    eprintln!("{} streams complete; NRestarts {}", responses.len(), guest.property("NRestarts"));
}

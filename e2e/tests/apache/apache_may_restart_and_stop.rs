//! A stream is the daemon's: Apache may be restarted or stopped meanwhile, gracefully or not.

use handoff_e2e::httpd::{self, World};
use handoff_e2e::{Client, Crowd, Httpd, PATIENCE};

use crate::pages;

/// Twenty streams of some 1.2 s, each of which has begun.
fn streams(httpd: &Httpd) -> Crowd {
    let mut crowd = Crowd::default();
    let mut clients: Vec<Client> = (0..20).map(|_| httpd.ask("/handoff.php?length=40&delay=30")).collect();
    for client in &mut clients {
        client.read_until("\r\n\r\n");
    }
    clients.into_iter().for_each(|client| crowd.join(client));
    crowd
}

#[track_caller]
fn all_complete(what: &str, crowd: Crowd) {
    assert!(crowd.waiting() > 0, "{what}: all streams had ended before");
    for response in crowd.responses(PATIENCE) {
        let (broken, body) = (response.broken, &response.body);
        assert!(broken.is_none() && body.ends_with("event: done\ndata: [DONE]\n\n"), "{what}: {response:?}");
        assert_eq!(response.data().len(), 42, "{what}: 40 words and two ends: {response:?}");
    }
}

#[test]
fn a_graceful_restart_cuts_no_stream_and_refuses_nobody() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let mut httpd = pages::site(world, &daemon);
        for round in 0..3 {
            let before = httpd.children();
            let mut crowd = streams(&httpd);
            httpd.graceful();
            for _ in 0..5 {
                assert_eq!(httpd.get("/plain.php").body, "plain", "{world:?}");
            }
            let response = httpd.get("/handoff.php?prompt=afterwards");
            assert!(response.text().contains("You asked: afterwards"), "{world:?}: {response:?}");
            crowd.listen(std::time::Duration::ZERO);
            all_complete(&format!("{world:?}, restart {round}"), crowd);
            handoff_e2e::eventually("the old processes are gone", || {
                let now = httpd.children();
                before.iter().all(|pid| !now.contains(pid)).then_some(())
            });
        }
    }
}

#[test]
fn a_stop_cuts_no_stream() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        for graceful in [true, false] {
            let mut httpd = pages::site(world, &daemon);
            let mut crowd = streams(&httpd);
            let status = if graceful { httpd.graceful_stop() } else { httpd.stop() };
            assert!(status.success(), "{world:?}: {status}");
            drop(httpd);
            crowd.listen(std::time::Duration::ZERO);
            all_complete(&format!("{world:?}, graceful: {graceful}"), crowd);
        }
    }
}

//! Each directive that bounds something bounds it, and each switch switches.

use std::fs;
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use handoff_e2e::httpd::{self, Httpd, Setup, Taker, World};
use handoff_e2e::{Door, PATIENCE};

use crate::pages;

#[test]
fn a_body_is_a_payload_only_where_the_site_wants_that() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let mut setup = pages::setup(world, &daemon).directives("SocketHandoffBody Off");
        setup.vhosts =
            "<VirtualHost ${ADDRESS}:${PORT}>\nServerName on.test\nSocketHandoffBody On\n</VirtualHost>"
                .to_owned();
        let httpd = setup.start();
        let response = httpd.get("/handoff.php?body&prompt=secret");
        assert_eq!(response.status, 500, "{world:?}: {response:?}");
        assert!(!format!("{response:?}").contains("secret"), "{world:?}: {response:?}");
        assert!(httpd.accessed("secret").contains(" refused "), "{world:?}: {:?}", httpd.access_log());
        httpd.complained("SocketHandoffBody is Off");
        assert!(httpd.get("/handoff.php").is_complete(), "{world:?}: a header is one still");
        let response = pages::get_from(&httpd, "on.test", "/handoff.php?body");
        assert!(response.is_complete(), "{world:?}: {response:?}");
    }
}

/// Of 10, 20, 40, 80 and 160 ms.
const FIVE_PAUSES: Duration = Duration::from_millis(310);

#[test]
fn who_is_away_is_waited_for_as_often_as_the_site_wants() {
    let daemon = httpd::daemon("");
    let (here, away) = (daemon.socket(), daemon.directory().join("away.sock"));
    for world in World::ALL {
        let site = |retries: u32| {
            pages::setup(world, &daemon).directives(&format!("SocketHandoffMaxRetries {retries}")).start()
        };
        let (never, sometimes, often) = (site(0), site(5), site(10));
        fs::rename(&here, &away).expect("a name to take away");
        let refused = |httpd: &Httpd| {
            let begun = Instant::now();
            assert_eq!(httpd.get("/handoff.php").status, 503, "{world:?}");
            begun.elapsed()
        };
        let took = [refused(&never), refused(&sometimes)];
        assert!(took[1] >= FIVE_PAUSES && took[0] < took[1], "{world:?}: {took:?}");
        // Ten of them are ten seconds.
        let mut client = often.ask("/handoff.php");
        client.patience(Duration::from_millis(200));
        let early = client.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(early, Err(ErrorKind::WouldBlock), "{world:?}");
        fs::rename(&away, &here).expect("a name to give back");
        client.patience(PATIENCE);
        assert!(client.response().is_complete(), "{world:?}");
    }
}

#[test]
fn a_full_backlog_is_waited_for_as_long_as_the_site_wants() {
    const LONG: Duration = Duration::from_millis(600);
    for world in World::ALL {
        let mut took = Vec::new();
        for milliseconds in [1, LONG.as_millis()] {
            let taker = Taker::listen(Door::SeqPacket, 0);
            let httpd = Setup::to_socket(world, taker.path())
                .file("handoff.php", pages::HANDOFF)
                .directives(&format!("SocketHandoffConnectTimeoutMs {milliseconds}"))
                .start();
            // Nobody accepts it: it fills the backlog.
            let _first = httpd.ask("/handoff.php?id=first");
            httpd.accessed("first");
            let begun = Instant::now();
            assert_eq!(httpd.get("/handoff.php?id=second").status, 503, "{world:?}");
            took.push(begun.elapsed());
            assert!(
                httpd.accessed("second").contains(" unavailable "),
                "{world:?}: {:?}",
                httpd.access_log()
            );
        }
        assert!(took[1] >= LONG && took[0] < took[1], "{world:?}: {took:?}");
    }
}

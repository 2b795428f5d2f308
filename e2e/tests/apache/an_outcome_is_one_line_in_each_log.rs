//! Whatever becomes of a request that should be handed over, and however often that was tried: one line in the access
//! log, with the outcome and the request's id, and one in the error log. What is no error is not logged as one.

use handoff_e2e::Httpd;
use handoff_e2e::httpd::{self, World};

use crate::pages;

/// Of the daemon's directory, the status that the client gets, the outcome, the error log's level.
const OUTCOMES: [(&str, u16, &str, &str); 4] = [
    ("handoffd.sock", 200, "sent", "[socket_handoff:info]"),
    ("nobody.sock", 503, "unavailable", "[socket_handoff:error]"),
    ("../nobody.sock", 403, "forbidden", "[socket_handoff:error]"),
    ("nobody.sock,nobody-else.sock", 503, "unavailable", "[socket_handoff:error]"),
];

fn ours(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().filter(|line| line.contains("mod_socket_handoff")).collect()
}

fn ask(httpd: &Httpd, directory: &str, sockets: &str, id: &str) -> u16 {
    let sockets: Vec<String> = sockets.split(',').map(|name| format!("{directory}/{name}")).collect();
    httpd.get(&format!("/handoff.php?id={id}&socket={}", sockets.join(","))).status
}

#[test]
fn whatever_it_is() {
    let daemon = httpd::daemon("");
    let directory = daemon.directory().display().to_string();
    for world in World::ALL {
        let httpd = pages::setup(world, &daemon).directives("SocketHandoffMaxRetries 3").start();
        for (number, (sockets, status, outcome, level)) in OUTCOMES.into_iter().enumerate() {
            let what = format!("{world:?}, {sockets}");
            let logged = ours(httpd.error_log()).len();
            assert_eq!(ask(&httpd, &directory, sockets, &format!("id-{number}")), status, "{what}");
            // Apache logs the request last.
            let note = format!(" {outcome} id-{number} ");
            httpd.accessed(&note);
            let accessed: Vec<String> = httpd
                .access_log()
                .into_iter()
                .filter(|line| line.contains(&format!("id-{number}&")))
                .collect();
            assert_eq!(accessed.len(), 1, "{what}: {accessed:#?}");
            let complained = ours(httpd.error_log()).split_off(logged);
            assert_eq!(complained.len(), 1, "{what}: {complained:#?}");
            assert!(complained[0].contains(level), "{what}: {complained:?}");
        }
    }
}

#[test]
fn a_request_without_an_id_gets_one_that_both_sides_log() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::site(world, &daemon);
        // The last one asks for an id that is none: a space would break the log's line apart.
        let mut ids: Vec<String> = ["number=0", "number=1", "number=2&id=a%20b"]
            .into_iter()
            .map(|query| {
                let response = httpd.get(&format!("/handoff.php?{query}"));
                let id = response.header("X-Request-Id").expect("an id").to_owned();
                let line = httpd.accessed(query);
                assert_eq!(line.split(' ').nth(3), Some(&*id), "{world:?}: {line}");
                assert_eq!(daemon.session(&id)["outcome"], "complete", "{world:?}");
                id
            })
            .collect();
        ids.dedup();
        assert_eq!(ids.len(), 3, "{world:?}: each has its own: {ids:?}");
    }
}

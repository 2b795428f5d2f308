//! PHP sets a header or two, and the client gets the daemon's whole answer: from the first byte on, and to the end of the
//! connection. The access log tells what became of it.

use std::io::Write;

use handoff_e2e::httpd::{self, World};

use crate::pages;

#[test]
fn in_both_worlds_by_header_and_by_body() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::site(world, &daemon);
        for way in ["", "&body"] {
            let id = format!("{world:?}{}", way.len());
            let response = httpd.get(&format!("/handoff.php?prompt=word-for-word&id={id}{way}"));
            assert!(response.is_complete(), "{world:?}{way}: {response:?}");
            assert!(response.text().contains("You asked: word-for-word"), "{world:?}{way}: {response:?}");
            assert_eq!(response.header("X-Request-Id"), Some(&*id), "{world:?}{way}: {response:?}");
            assert_eq!(daemon.session(&id)["outcome"], "complete", "{world:?}{way}");
            assert_eq!(response.heads(), 1, "{world:?}{way}: {response:?}");
            assert_eq!(
                response.header("Server"),
                None,
                "Apache has begun an answer of its own: {response:?}"
            );
            let line = httpd.accessed(&id);
            assert!(line.contains(&format!(" sent {id} ")), "{world:?}{way}: {line}");
        }
    }
}

#[test]
fn word_by_word() {
    let daemon = httpd::daemon("[backend.mock]\ntoken_delay_ms = 0\nallow_request_options = true\n");
    for world in World::ALL {
        let httpd = pages::site(world, &daemon);
        let mut client = httpd.ask("/handoff.php?delay=3600000");
        let begin = client.read_until("{\"content\":\"Hello\"}\n\n");
        assert!(begin.starts_with("HTTP/1.1 200 OK\r\n"), "{begin}");
        drop(client);
    }
}

#[test]
fn and_a_browser_that_asks_for_it_again_gets_nothing_more() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::site(world, &daemon);
        let mut client = httpd.connect();
        let request = httpd.request("GET", "/handoff.php", "Last-Event-ID: r:end\r\n");
        client.write_all(request.as_bytes()).expect("a request");
        let response = client.response();
        assert_eq!((response.status, response.body.as_str()), (204, ""), "{world:?}: {response:?}");
    }
}

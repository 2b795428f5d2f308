//! HEAD is answered with the head that GET would have, and nothing behind it.

use std::io::Write;

use handoff_e2e::httpd::{self, World};

use crate::pages;

#[test]
fn in_both_worlds_by_header_and_by_body() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::site(world, &daemon);
        // PHP's body does not come for HEAD: what it would have been makes no difference.
        for way in ["", "?body"] {
            let mut client = httpd.connect();
            let request = httpd.request("HEAD", &format!("/handoff.php{way}"), "");
            client.write_all(request.as_bytes()).expect("a request");
            let response = client.response();
            assert_eq!((response.status, response.body.as_str()), (200, ""), "{world:?}{way}: {response:?}");
            let kind = response.header("Content-Type");
            assert_eq!(kind, Some("text/event-stream"), "{world:?}{way}: {response:?}");
        }
    }
}

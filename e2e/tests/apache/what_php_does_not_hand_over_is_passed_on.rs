//! A page that has failed is a page, whatever it says about a handoff; by its body also one that is anything but 200.

use handoff_e2e::httpd::{self, Httpd, World};

const PAGE: &str = r#"<?php
http_response_code((int) $_GET['status']);
header('X-Socket-Handoff: ' . $_SERVER['SOCKET']);
header(isset($_GET['header']) ? 'X-Handoff-Data: {"prompt":"secret"}' : 'X-Handoff-Body: 1');
header('X-Own: kept');
echo 'why it went wrong';
"#;

fn is_passed_on(httpd: &Httpd, status: u16, way: &str) {
    let response = httpd.get(&format!("/page.php?status={status}{way}"));
    assert_eq!((response.status, response.body.as_str()), (status, "why it went wrong"), "{response:?}");
    assert_eq!(response.header("X-Own"), Some("kept"), "{response:?}");
    for name in ["X-Handoff-Body", "X-Handoff-Data", "X-Socket-Handoff"] {
        assert_eq!(response.header(name), None, "{response:?}");
    }
}

#[test]
fn with_its_status_and_body() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = Httpd::start(world, &daemon, &[("page.php", PAGE)]);
        for status in [201, 302, 400, 401, 403, 404, 500, 503] {
            is_passed_on(&httpd, status, "");
        }
        for status in [400, 404, 500, 503] {
            is_passed_on(&httpd, status, "&header");
        }
        assert_eq!(daemon.metric("daemon_handoffs_total"), 0.0, "{world:?}");
    }
}

/// By a header it need not be 200: the C module does not ask.
#[test]
fn and_what_has_not_failed_is_handed_over_by_a_header() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = Httpd::start(world, &daemon, &[("page.php", PAGE)]);
        for status in [200, 201, 302] {
            let response = httpd.get(&format!("/page.php?status={status}&header"));
            assert!(response.status == 200 && response.is_complete(), "{world:?}, {status}: {response:?}");
            assert_eq!(response.header("X-Own"), None, "{world:?}, {status}: {response:?}");
        }
    }
}

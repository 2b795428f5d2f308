//! A page whose status is not 200 is a page, whatever it says about a handoff by its body.

use handoff_e2e::httpd::{self, World};

const PAGE: &str = r"<?php
http_response_code((int) $_GET['status']);
header('X-Socket-Handoff: ' . $_SERVER['SOCKET']);
header('X-Handoff-Body: 1');
header('X-Own: kept');
echo 'why it went wrong';
";

#[test]
fn with_its_status_and_body() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = httpd::Httpd::start(world, &daemon, &[("page.php", PAGE)]);
        for status in [201, 400, 401, 403, 404, 500, 503] {
            let response = httpd.get(&format!("/page.php?status={status}"));
            assert_eq!(
                (response.status, response.body.as_str()),
                (status, "why it went wrong"),
                "{response:?}"
            );
            assert_eq!(response.header("X-Own"), Some("kept"), "{world:?}: {response:?}");
            assert_eq!(response.header("X-Handoff-Body"), None, "{world:?}: {response:?}");
            assert_eq!(response.header("X-Socket-Handoff"), None, "{world:?}: {response:?}");
        }
        assert_eq!(daemon.metric("daemon_handoffs_total"), 0.0, "{world:?}");
    }
}

//! Pages that hand nothing over are served as if the module was not there.

use std::io::Write;

use handoff_e2e::httpd::{self, Setup, World, read_one};

use crate::pages;

const PAGE: &str = "<?php header('X-Own: kept'); http_response_code((int)($_GET['status'] ?? 200));
echo 'method ', $_SERVER['REQUEST_METHOD'], ', body ', strlen(file_get_contents('php://input'));";
const LARGE: &str = "<?php for ($i = 0; $i < 20000; $i++) echo str_pad($i, 9, '.', STR_PAD_LEFT), \"\\n\";";

#[test]
fn whatever_its_status_size_and_method() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        for with_module in [false, true] {
            let mut setup = Setup::new(world, &daemon)
                .file("page.php", PAGE)
                .file("large.php", LARGE)
                .file("file.txt", "a file");
            setup.with_module = with_module;
            let httpd = setup.start();

            let response = httpd.get("/page.php");
            assert_eq!(
                (response.status, response.body.as_str()),
                (200, "method GET, body 0"),
                "{response:?}"
            );
            assert_eq!(response.header("X-Own"), Some("kept"), "{response:?}");
            let response = httpd.get("/page.php?status=404");
            assert_eq!(
                (response.status, response.body.as_str()),
                (404, "method GET, body 0"),
                "{response:?}"
            );

            let response = httpd.get("/large.php");
            assert_eq!(
                (response.status, response.body.len(), response.broken),
                (200, 200_000, None),
                "{response:?}"
            );

            // Three on one connection.
            let mut client = httpd.connect();
            let host = httpd.address();
            let body = "x".repeat(20_000);
            let requests = format!(
                "POST /page.php HTTP/1.1\r\nHost: {host}\r\nContent-Length: 20000\r\n\r\n{body}\
                 GET /file.txt HTTP/1.1\r\nHost: {host}\r\n\r\nHEAD /page.php HTTP/1.1\r\nHost: {host}\r\n\r\n"
            );
            client.write_all(requests.as_bytes()).expect("requests");
            assert_eq!(read_one(&mut client).body, "method POST, body 20000");
            assert_eq!(read_one(&mut client).body, "a file");
            client.half_close();
            let response = client.response();
            assert_eq!((response.status, response.body.as_str()), (200, ""), "{response:?}");
            assert!(httpd.accessed("HEAD /page.php").starts_with("200 "), "{:?}", httpd.access_log());
        }
    }
}

/// The connection is not that of the part alone.
#[test]
fn nor_is_one_of_which_a_part_would_hand_over() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::setup(world, &daemon)
            .modules(["include"])
            .directives("<Directory ${DIRECTORY}/htdocs>\nOptions +Includes\n</Directory>\nAddOutputFilter INCLUDES .shtml")
            .file("page.shtml", "before <!--#include virtual=\"/handoff.php?prompt=secret\" -->after")
            .start();
        let response = httpd.get("/page.shtml");
        assert_eq!(
            (response.status, response.body.as_str()),
            (200, "before after"),
            "{world:?}: {response:?}"
        );
        assert!(!response.head.contains("secret"), "{world:?}: {response:?}");
    }
    assert_eq!(daemon.metric("daemon_handoffs_total"), 0.0);
}

#[test]
fn whatever_a_client_says_in_its_request() {
    let daemon = httpd::daemon("");
    let lines = format!(
        "X-Socket-Handoff: {}\r\nX-Handoff-Data: {{\"prompt\":\"hi\"}}\r\nX-Handoff-Body: 1\r\n",
        daemon.socket().display()
    );
    for world in World::ALL {
        let httpd = Setup::new(world, &daemon).file("page.php", PAGE).file("file.txt", "a file").start();
        for (path, body) in [("/page.php", "method GET, body 0"), ("/file.txt", "a file")] {
            let mut client = httpd.connect();
            client.write_all(httpd.request("GET", path, &lines).as_bytes()).expect("a request");
            let response = httpd::unchunked(client.response());
            assert_eq!((response.status, response.body.as_str()), (200, body), "{world:?}: {response:?}");
        }
    }
    assert!(daemon.metric("daemon_handoffs_total") < 0.5, "nobody was handed over");
}

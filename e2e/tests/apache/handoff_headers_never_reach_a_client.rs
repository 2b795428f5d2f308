//! Neither the prompt nor where the daemon is gets to a client by a header, whatever becomes of the handoff.

use handoff_e2e::Response;
use handoff_e2e::httpd::{self, World};

use crate::pages;

/// What a page does besides `X-Handoff-Data`, the status that the client sees, and what the access log says of it.
const PAGES: [(&str, u16, &str, &str); 10] = [
    ("no_socket", 200, "-", "echo 'a page';"),
    ("twice", 200, "-", "header('X-Handoff-Data: {\"prompt\":1}', false); echo 'a page';"),
    ("empty_socket", 403, "forbidden", "header('X-Socket-Handoff:  ');"),
    ("not_found", 404, "-", "http_response_code(404); echo 'a page';"),
    ("moved", 302, "-", "header('Location: /elsewhere');"),
    ("unchanged", 304, "-", "http_response_code(304);"),
    ("body_asked_for", 500, "failed", "header('X-Handoff-Body: 1'); echo 'a page';"),
    ("forbidden", 403, "forbidden", "header('X-Socket-Handoff: /etc/passwd');"),
    (
        "unavailable",
        503,
        "unavailable",
        "header('X-Socket-Handoff: ' . dirname($_SERVER['SOCKET']) . '/nobody.sock');",
    ),
    (
        "no_socket_file",
        503,
        "unavailable",
        "header('X-Socket-Handoff: ' . dirname($_SERVER['SOCKET']) . '/daemon.toml');",
    ),
];
const SECRET: &str = "a prompt that is nobody's business";

fn keeps_secrets(what: &str, response: &Response) {
    for text in ["x-handoff", "x-socket-handoff", SECRET] {
        let found = response.head.to_ascii_lowercase().contains(text) || response.body.contains(text);
        assert!(!found, "{what}: {text:?} in {response:?}");
    }
}

#[test]
fn whatever_becomes_of_the_handoff() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let mut setup = pages::setup(world, &daemon);
        for (name, _, _, code) in PAGES {
            let page = format!(
                "<?php header('X-Handoff-Data: {{\"prompt\":\"{}\"}}'); {code}",
                SECRET.replace('\'', "\\'")
            );
            setup = setup.file(&format!("{name}.php"), &page);
        }
        let httpd = setup.start();
        for (name, status, outcome, _) in PAGES {
            let what = format!("{world:?}, {name}");
            let response = httpd.get(&format!("/{name}.php"));
            assert_eq!(response.status, status, "{what}: {response:?}");
            keeps_secrets(&what, &response);
            assert_eq!(response.header("Retry-After").is_some(), status == 503, "{what}: {response:?}");
            let line = httpd.accessed(&format!("/{name}.php"));
            assert_eq!(line.split(' ').nth(2), Some(outcome), "{what}: {line}");
            // HEAD too.
            let mut client = httpd.connect();
            let request = httpd.request("HEAD", &format!("/{name}.php"), "");
            std::io::Write::write_all(&mut client, request.as_bytes()).expect("a request");
            let response = client.response();
            assert_eq!((response.status, response.body.as_str()), (status, ""), "{what}: {response:?}");
            keeps_secrets(&what, &response);
        }
    }
}

#[test]
fn also_where_the_module_is_switched_off() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let mut setup = pages::setup(world, &daemon);
        setup.vhosts =
            "<VirtualHost ${ADDRESS}:${PORT}>\nServerName off.test\nSocketHandoffEnabled Off\n</VirtualHost>"
                .to_owned();
        let httpd = setup.start();
        // By its body it would be the page: there is none then.
        for (way, status) in [("", 200), ("&body", 500)] {
            let response = pages::get_from(&httpd, "off.test", &format!("/handoff.php?prompt=secret{way}"));
            assert_eq!(response.status, status, "{world:?}{way}: {response:?}");
            keeps_secrets(&format!("{world:?}{way}"), &response);
            assert!(!format!("{response:?}").contains("secret"), "{world:?}{way}: {response:?}");
        }
        // Others are none the worse.
        let response = httpd.get("/handoff.php?prompt=secret");
        assert!(response.text().contains("secret"), "{world:?}: {response:?}");
    }
}

/// Not in PHP's table of headers but in the other one, or in both.
#[test]
fn also_where_apache_itself_has_set_them() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::setup(world, &daemon)
            .modules(["headers"])
            .file("file.txt", "a file")
            .directives("Header set X-Handoff-Data a\nHeader always set X-Handoff-Data b\nHeader always set X-Handoff-Body 1")
            .directives("Header set X-Own kept")
            .start();
        for path in ["/plain.php", "/file.txt"] {
            let response = httpd.get(path);
            keeps_secrets(&format!("{world:?}, {path}"), &response);
        }
    }
}

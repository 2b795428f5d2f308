//! `examples/apache-c-module`: configuration and PHP of a site with the C module, behind our module, unchanged but for
//! the place of the socket.

use handoff_e2e::httpd::{self, Setup, World};

const CONFIGURATION: &str = include_str!("../../../examples/apache-c-module/site.conf");
const PAGE: &str = include_str!("../../../examples/apache-c-module/stream.php");
const LOGIN: &str = "<?php session_start(); $_SESSION['user_id'] = 'ada';";

#[test]
fn in_both_worlds() {
    let daemon = httpd::daemon("");
    let socket = daemon.socket();
    let directory = daemon.directory().display();
    let configuration = CONFIGURATION
        .replace("SocketHandoffAllowedPrefix /run/", &format!("SocketHandoffAllowedPrefix {directory}/"));
    let page = PAGE.replace("/run/handoffd/handoffd.sock", &socket.display().to_string());
    for world in World::ALL {
        let httpd = Setup::new(world, &daemon)
            .file("stream.php", &page)
            .file("login.php", LOGIN)
            .directives(&configuration)
            .start();
        let login = httpd.get("/login.php");
        let cookie =
            login.header("Set-Cookie").and_then(|cookie| cookie.split(';').next()).expect("a session");
        let ask = |method: &str, lines: &str| {
            let lines = format!("Cookie: {cookie}\r\n{lines}");
            let mut client = httpd.connect();
            let request = httpd.request(method, "/stream.php?prompt=hello", &lines);
            std::io::Write::write_all(&mut client, request.as_bytes()).expect("a request");
            client.response()
        };
        let response = ask("GET", "");
        assert!(response.is_complete(), "{world:?}: {response:?}");
        assert!(response.body.contains("data: Hello\n\n"), "{world:?}: {response:?}");
        let response = ask("HEAD", "");
        assert_eq!((response.status, response.body.as_str()), (200, ""), "{world:?}: {response:?}");
        let response = ask("GET", "Last-Event-ID: r:end\r\n");
        assert_eq!(response.status, 204, "{world:?}: {response:?}");
        assert_eq!(httpd.get("/stream.php?prompt=hello").status, 401, "{world:?}");
    }
}

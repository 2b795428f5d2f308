//! Half a payload is none: where PHP dies before its page is whole, nobody is asked, and the client gets an error.

use handoff_e2e::httpd::{self, World};

use crate::pages::application;

/// Everything is out of PHP before it dies.
const DIES: &str = r#"<?php
header('X-Socket-Handoff: ' . $_SERVER['SOCKET']);
header(isset($_GET['header']) ? 'X-Handoff-Data: {"prompt":"half of it"}' : 'X-Handoff-Body: 1');
echo '{"prompt":"half of ';
if ($_GET['flushed'] === '1') { while (ob_get_level() > 0) ob_end_flush(); flush(); }
if ($_GET['how'] === 'fatal') nobody(); else posix_kill(getmypid(), 9);
"#;

#[test]
fn by_an_error() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = httpd::Httpd::start(world, &daemon, &[("dies.php", DIES)]);
        let response = httpd.get("/dies.php?how=fatal&flushed=0");
        assert_eq!(response.status, 500, "{world:?}: {response:?}");
        // The status has gone out of PHP as 200: the daemon sees that the JSON is cut.
        let response = httpd.get("/dies.php?how=fatal&flushed=1");
        assert_eq!(response.status, 400, "{world:?}: {response:?}");
        assert!(!response.body.contains("half of"), "{world:?}: {response:?}");
    }
}

#[test]
fn with_its_process() {
    let daemon = httpd::daemon("");
    let mut setup = httpd::Setup::new(World::Event, &daemon).file("dies.php", DIES);
    setup.php_ini = "extension = posix\n".to_owned();
    let httpd = setup.start();
    for how in ["flushed=0", "flushed=1", "flushed=0&header", "flushed=1&header"] {
        let response = httpd.get(&format!("/dies.php?how=kill&{how}"));
        assert!(matches!(response.status, 500..=503), "{how}: {response:?}");
        assert!(!response.body.contains("half of") && response.heads() == 1, "{how}: {response:?}");
    }
    assert_eq!(daemon.metric("daemon_handoffs_total"), 0.0);
}

#[test]
fn with_the_server_behind_a_proxy() {
    let daemon = httpd::daemon("");
    let socket = daemon.socket();
    let socket = socket.display();
    // Valid JSON, so that nobody but Apache can tell; by a header, the body is nothing to anybody, and still is not whole.
    let payload = r#"{"prompt":"half of it"}"#;
    for headers in ["X-Handoff-Body: 1\r\n".to_owned(), format!("X-Handoff-Data: {payload}\r\n")] {
        for framing in ["Content-Length: 100\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n17\r\n"] {
            let answer = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nX-Socket-Handoff: {socket}\r\n{headers}{framing}{payload}"
            );
            let httpd = httpd::Setup::new(World::Event, &daemon)
                .modules(["proxy_http"])
                .directives(&format!("ProxyPass /app/ http://{}/", application(answer)))
                .start();
            let response = httpd.get("/app/chat");
            assert!(matches!(response.status, 500..=504), "{headers}{framing}: {response:?}");
            assert!(!response.body.contains("half of it") && response.heads() == 1, "{response:?}");
            assert!(httpd.accessed("/app/chat").contains(" failed "), "{:?}", httpd.access_log());
        }
    }
    assert_eq!(daemon.metric("daemon_handoffs_total"), 0.0);
}

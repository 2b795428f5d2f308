//! Half a payload is none: where PHP dies before its page is whole, nobody is asked, and the client gets an error.

use handoff_e2e::httpd::{self, World};

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

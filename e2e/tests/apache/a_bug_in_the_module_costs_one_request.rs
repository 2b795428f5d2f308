//! Should the module itself fail, it costs the request that has met the fault: a 500, a line in the log; its process, and
//! what else runs there, goes on.

use std::io::Write;

use handoff_e2e::httpd::{self, World};

use crate::pages;

#[test]
fn and_nobody_else_anything() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let mut setup = pages::setup(world, &daemon).tls("SocketHandoffRelay On");
        setup.fault_injection = true;
        let httpd = setup.start();
        let before = httpd.children();
        let passed = httpd.ask("/handoff.php?prompt=passed&length=60&delay=20");
        let mut relayed = httpd.tls_connect();
        let request = httpd.request("GET", "/handoff.php?prompt=relayed&length=60&delay=20", "");
        relayed.write_all(request.as_bytes()).expect("a request");
        for _ in 0..20 {
            let response = httpd.get("/handoff.php?socket=panic&prompt=secret");
            assert_eq!((response.status, response.heads()), (500, 1), "{world:?}: {response:?}");
            assert!(!format!("{response:?}").contains("secret"), "{world:?}: {response:?}");
        }
        httpd.complained("a bug in this module");
        assert_eq!(httpd.get("/plain.php").body, "plain", "{world:?}");
        for response in [passed.response(), httpd::unchunked(relayed.response())] {
            assert!(response.is_complete(), "{world:?}: {response:?}");
        }
        assert_eq!(httpd.children(), before, "{world:?}: the same processes");
    }
}

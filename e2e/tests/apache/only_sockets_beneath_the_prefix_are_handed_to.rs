//! A page can hand over to what is really beneath `SocketHandoffAllowedPrefix`, and to nothing else.

use std::os::unix::fs::symlink;

use handoff_e2e::Httpd;
use handoff_e2e::httpd::{self, Setup, World};

use crate::pages;

fn status(httpd: &Httpd, socket: &str) -> u16 {
    httpd.get(&format!("/handoff.php?socket={socket}")).status
}

#[test]
fn whatever_the_path_looks_like() {
    let daemon = httpd::daemon("");
    let other = httpd::daemon("");
    let inside = daemon.directory().display();
    let outside = other.directory().display();
    symlink(other.socket(), daemon.directory().join("link.sock")).expect("a link");
    symlink(other.directory(), daemon.directory().join("linked")).expect("a link");
    symlink(daemon.socket(), daemon.directory().join("alias.sock")).expect("a link");
    for world in World::ALL {
        let httpd = pages::site(world, &daemon);
        // The other daemon could be reached.
        assert!(Setup::new(world, &other).socket.exists());
        for path in [
            format!("{outside}/handoffd.sock"),
            format!("{inside}/../{}/handoffd.sock", other.directory().file_name().expect("a name").display()),
            format!("{inside}/link.sock"),
            format!("{inside}/linked/handoffd.sock"),
            format!("{inside}er/handoffd.sock"),
            "handoffd.sock".to_owned(),
        ] {
            assert_eq!(status(&httpd, &path), 403, "{world:?}: {path}");
            assert!(httpd.accessed(&path).contains(" forbidden "), "{:?}", httpd.access_log());
        }
        for path in [format!("{inside}/handoffd.sock"), format!("{inside}/./alias.sock")] {
            assert_eq!(status(&httpd, &path), 200, "{world:?}: {path}");
        }
    }
    assert_eq!(other.metric("daemon_handoffs_total"), 0.0);
}

#[test]
fn a_virtual_host_has_the_servers_prefix_until_it_says_another() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let mut setup = pages::setup(world, &daemon);
        setup.vhosts = "<VirtualHost ${ADDRESS}:${PORT}>\nServerName same.test\nSocketHandoffMaxRetries 1\n</VirtualHost>\n\
             <VirtualHost ${ADDRESS}:${PORT}>\nServerName other.test\nSocketHandoffAllowedPrefix /run/\n</VirtualHost>"
            .to_owned();
        let httpd = setup.start();
        for (host, status) in [("same.test", 200), ("other.test", 403)] {
            let response = pages::get_from(&httpd, host, "/handoff.php");
            assert_eq!(response.status, status, "{world:?}, {host}: {response:?}");
        }
    }
}

//! Several sockets are tried in their order: who is not there is passed over.

use handoff_e2e::httpd::{self, Setup, World};

use crate::pages;

#[test]
fn whoever_of_them_it_is() {
    let (first, second) = (httpd::daemon(""), httpd::daemon(""));
    for world in World::ALL {
        let _ = Setup::new(world, &second);
        let httpd = pages::setup(world, &first).directives("SocketHandoffAllowedPrefix /tmp/").start();
        let (nobody, dead) = (first.directory().join("nobody.sock"), first.directory().join("daemon.toml"));
        let (first, second) = (first.socket(), second.socket());
        let ask = |sockets: &[&std::path::Path]| {
            let list: Vec<String> = sockets.iter().map(|path| path.display().to_string()).collect();
            httpd.get(&format!("/handoff.php?socket={}", list.join(",%20")))
        };
        for sockets in
            [&[&*first, &second][..], &[&nobody, &dead, &first, &second], &[&nobody, &second, &first]]
        {
            let response = ask(sockets);
            assert!(response.is_complete(), "{world:?}, {sockets:?}: {response:?}");
        }
        assert_eq!(ask(&[&nobody, &dead]).status, 503, "{world:?}");
        // One that is not allowed spoils the list.
        assert_eq!(ask(&[&first, std::path::Path::new("/etc/passwd")]).status, 403, "{world:?}");
    }
    let count = |daemon: &handoff_e2e::Daemon| daemon.metric("daemon_handoffs_total");
    assert_eq!((count(&first), count(&second)), (4.0, 2.0));
}

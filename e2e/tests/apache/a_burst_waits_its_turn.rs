//! Many handoffs at once are all answered: Apache waits for a place, and a daemon that changes its workers refuses nobody.

use std::time::Duration;

use handoff_e2e::httpd::{self, Setup, Taker, World};
use handoff_e2e::{Crowd, Door, PATIENCE, eventually};
use nix::sys::signal::Signal;

use crate::pages;

const RELOADS: &str = "handoffd_reloads_total{result=\"done\"";

#[test]
fn five_hundred_while_the_daemon_rolls() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::setup(world, &daemon).workers(16).start();
        let before = daemon.metric(RELOADS);
        let mut crowd = Crowd::default();
        for number in 0..500 {
            if number % 100 == 50 {
                daemon.signal(Signal::SIGHUP);
            }
            if number == 300 {
                // The first roll lasts no longer than the burst.
                eventually("the daemon has rolled", || {
                    crowd.listen(Duration::ZERO);
                    (daemon.metric(RELOADS) > before).then_some(())
                });
            }
            crowd.join(httpd.ask("/handoff.php?length=5&delay=1"));
        }
        for (number, response) in crowd.responses(2 * PATIENCE).into_iter().enumerate() {
            assert!(
                response.is_complete() && response.data().len() == 7,
                "{world:?}, {number}: {response:?}"
            );
        }
    }
}

/// A daemon with room for one, that accepts every 20 ms.
#[test]
fn twenty_before_a_full_backlog() {
    for world in World::ALL {
        let taker = Taker::listen(Door::SeqPacket, 1);
        let setup = Setup::to_socket(world, taker.path()).file("handoff.php", pages::HANDOFF).workers(20);
        let httpd = setup.directives("SocketHandoffConnectTimeoutMs 10000").start();
        let mut crowd = Crowd::default();
        (0..20).for_each(|_| crowd.join(httpd.ask("/handoff.php")));
        let mut taken = Vec::new();
        while taken.len() < 20 {
            crowd.listen(Duration::from_millis(20));
            let refused = crowd.ended();
            assert!(refused.is_empty(), "{world:?}: {refused:?}");
            taken.extend(taker.try_take());
        }
    }
}

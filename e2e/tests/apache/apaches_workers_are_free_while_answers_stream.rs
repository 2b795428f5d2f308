//! A worker of Apache is held for the handoff, not for the answer.

use std::time::{Duration, Instant};

use handoff_e2e::httpd::{self, World};
use handoff_e2e::{Crowd, Httpd, PATIENCE, eventually};

use crate::pages;

const STREAMS: usize = 100;
const ASKED: usize = 51;
/// For a median; or three times what a plain request takes alone, on a machine that is busy.
const PLAIN_MAX: Duration = Duration::from_millis(5);

#[test]
fn a_hundred_streams_on_eight_workers_leave_room_for_pages() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::setup(world, &daemon).workers(8).start();
        let (alone, _) = plain(&httpd);
        let mut crowd = Crowd::default();
        for _ in 0..STREAMS {
            crowd.join(httpd.ask("/handoff.php?length=30&delay=100"));
        }
        eventually("every stream has begun", || {
            crowd.listen(Duration::ZERO);
            crowd.heard().iter().all(|heard| heard.contains("data: ")).then_some(())
        });
        assert_eq!(crowd.waiting(), STREAMS, "{world:?}: streams ended while others had not begun");

        let (median, longest) = plain(&httpd);
        crowd.listen(Duration::ZERO);
        assert_eq!(crowd.waiting(), STREAMS, "{world:?}: measured after streams had ended");
        println!(
            "{world:?}: a plain request took {alone:?} alone, {median:?} beside {STREAMS} streams (median; longest {longest:?})"
        );
        assert!(median < PLAIN_MAX.max(3 * alone), "{world:?}: {median:?}, alone {alone:?}");

        for response in crowd.responses(PATIENCE) {
            assert!(response.is_complete() && response.data().len() == 32, "{world:?}: {response:?}");
        }
    }
}

/// As Apache measures it itself: from the request's first byte to when it has finished with it.
#[test]
fn a_handoff_holds_a_worker_hardly_longer_than_a_page() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::setup(world, &daemon)
            .directives("LogFormat \"%D %U\" times\nCustomLog times.log times")
            .start();
        for _ in 0..ASKED {
            assert_eq!(httpd.get("/plain.php").body, "plain");
            assert!(httpd.get("/handoff.php?length=1").is_complete(), "{world:?}");
        }
        let [plain, handoff] = ["/plain.php", "/handoff.php"].map(|page| {
            let took = eventually("Apache has logged all requests", || {
                let took = times(&httpd, page);
                (took.len() == ASKED).then_some(took)
            });
            took[ASKED / 2]
        });
        println!("{world:?}: a page held a worker for {plain:?}, a handoff for {handoff:?} (medians)");
        assert!(handoff < PLAIN_MAX.max(3 * plain), "{world:?}: {handoff:?}, a page {plain:?}");
    }
}

/// What Apache has logged of this page, sorted.
fn times(httpd: &Httpd, page: &str) -> Vec<Duration> {
    let log = std::fs::read_to_string(httpd.directory().join("times.log")).expect("a log");
    let of = |line: &str| {
        let (microseconds, of) = line.split_once(' ')?;
        (of == page).then(|| Duration::from_micros(microseconds.parse().expect("microseconds")))
    };
    let mut took: Vec<Duration> = log.lines().filter_map(of).collect();
    took.sort_unstable();
    took
}

/// How long plain requests take, one after the other: median and longest.
fn plain(httpd: &Httpd) -> (Duration, Duration) {
    let mut took: Vec<Duration> = (0..ASKED)
        .map(|_| {
            let begin = Instant::now();
            assert_eq!(httpd.get("/plain.php").body, "plain");
            begin.elapsed()
        })
        .collect();
    took.sort_unstable();
    (took[ASKED / 2], took[ASKED - 1])
}

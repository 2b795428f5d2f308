//! A large question goes straight from the response into memory of its own: Apache's processes never hold it, and are
//! afterwards as large as before.

use std::fs::File;

use handoff_e2e::httpd::{Setup, Taker, World};
use handoff_e2e::{Door, Httpd, process};

/// 30 MB of a question, bit by bit: PHP itself never has all of it.
const PAGE: &str = r#"<?php
header('X-Socket-Handoff: ' . $_SERVER['SOCKET']);
header('X-Handoff-Body: 1');
echo '{"mock":{"length":1},"prompt":"';
for ($i = 0; $i < 480; $i++) echo str_repeat('x', 65536);
echo '"}';
"#;
/// All of it, in KiB.
const QUESTION_KIB: u64 = 480 * 64;
const GROWTH_KIB_MAX: u64 = QUESTION_KIB / 4;
const TIMES: usize = 5;

/// The most that each child has ever had, all together, in KiB.
fn peak(httpd: &Httpd) -> u64 {
    let of =
        |pid: &u32| process::status(*pid, "VmHWM").split(' ').next().and_then(|kib| kib.parse::<u64>().ok());
    httpd.children().iter().filter_map(of).sum()
}

#[test]
fn of_thirty_megabytes() {
    for world in World::ALL {
        let taker = Taker::listen(Door::SeqPacket, 10);
        // One process, or one thread: whatever is kept is kept there.
        let httpd = Setup::to_socket(world, taker.path())
            .workers(1)
            .file("large.php", PAGE)
            .file("small.php", "<?php echo 'small';")
            .start();
        assert_eq!(httpd.get("/small.php").body, "small");
        let (before, children) = (peak(&httpd), httpd.children());
        for _ in 0..TIMES {
            let client = httpd.ask("/large.php");
            let mut taken = taker.take();
            let question = File::from(taken.fds.pop().expect("a memfd"));
            let bytes = question.metadata().expect("a file").len();
            assert!(bytes > QUESTION_KIB * 1024, "{world:?}: {bytes} bytes");
            drop((client, taken));
        }
        let after = peak(&httpd);
        println!(
            "{world:?}: at most {before} KiB before, {after} KiB after {TIMES} questions of {QUESTION_KIB} KiB"
        );
        assert_eq!(httpd.children(), children, "{world:?}: other processes");
        assert!(before > 0 && after < before + GROWTH_KIB_MAX, "{world:?}: {before} KiB, then {after} KiB");
    }
}

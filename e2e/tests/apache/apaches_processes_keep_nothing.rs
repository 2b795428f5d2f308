//! Ten thousand requests leave nothing behind in Apache: no fds, no memory.

use std::collections::BTreeMap;
use std::process::Command;

use handoff_e2e::httpd::{self, World};
use handoff_e2e::{Httpd, eventually};

use crate::pages;

const REQUESTS: usize = 10_000;
/// For all children together; one leaked kibibyte a request would be more than twice as much.
const GROWTH_KIB_MAX: u64 = 4 * 1024;

/// ab(1); it must have an answer to everything.
fn load(httpd: &Httpd, requests: usize) {
    let output = Command::new("ab")
        .args(["-q", "-c", "8", "-n", &requests.to_string(), &httpd.url("/handoff.php?length=1")])
        .output()
        .expect("ab: run scripts/test-packages");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "ab: {said} {}", String::from_utf8_lossy(&output.stderr));
    let complete = format!("Complete requests:      {requests}\n");
    assert!(said.contains(&complete) && !said.contains("Non-2xx"), "{said}");
}

fn sum(usage: &BTreeMap<u32, (usize, u64)>) -> (usize, u64) {
    usage.values().fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
}

#[test]
fn of_ten_thousand_handoffs() {
    let daemon = httpd::daemon("[backend.mock]\ntoken_delay_ms = 0\nallow_request_options = true\n");
    for world in World::ALL {
        let httpd = pages::setup(world, &daemon).directives("MaxConnectionsPerChild 0").start();
        // Whatever is allocated once is there afterwards.
        load(&httpd, REQUESTS / 4);
        let before = httpd.usage();
        load(&httpd, REQUESTS);
        // Threads of Apache may be busy still with the last connections' ends.
        let after = eventually(&format!("{world:?}: no more fds than {before:?}"), || {
            Some(httpd.usage()).filter(|after| sum(after).0 <= sum(&before).0)
        });
        assert!(before.keys().eq(after.keys()), "{world:?}: other processes: {before:?}, {after:?}");
        let ((fds_before, kib_before), (fds, kib)) = (sum(&before), sum(&after));
        println!("{world:?}: fds {fds_before} -> {fds}, memory {kib_before} -> {kib} KiB");
        assert!(kib < kib_before + GROWTH_KIB_MAX, "{world:?}: {before:?}, {after:?}");
    }
}

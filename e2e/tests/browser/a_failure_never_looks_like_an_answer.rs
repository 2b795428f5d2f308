//! An answer that broke off shows as an error.

use handoff_e2e::{eventually, process};
use nix::sys::signal::Signal;

use crate::page::{BUTTONS, Page};

#[test]
fn when_its_worker_is_killed() {
    let page = Page::open("[backend.mock]\ntoken_delay_ms = 100\nlength = 10000");
    for button in BUTTONS {
        page.ask(button, "a long story");
        page.first_words();
        for worker in page.daemon.workers("ready") {
            process::signal(worker, Signal::SIGKILL);
        }
        page.wait_for("failed");
        eventually("new workers", || (page.daemon.workers("ready").len() == 2).then_some(()));
    }
    page.browser.screenshot("front-failed");
}

//! `php/handoff.php`: a page hands its client over, and the client has the daemon's answer.

#![forbid(unsafe_code)]

mod by_itself;
mod in_apache;
mod the_page_of_the_readme;

use std::path::PathBuf;

use handoff_e2e::container::workspace;

/// Where PHP's own tests and their pages are.
fn tests() -> PathBuf {
    workspace().join("php/tests")
}

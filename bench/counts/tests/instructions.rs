//! What the pure parts cost is what was recorded.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

use handoff_counts::baseline::{Baseline, Toolchain, Verdict};
use handoff_counts::cases;

/// Where cargo puts what it builds.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Like a release, and never the one of yesterday. What cargo tells a test of itself would make it build everything anew.
fn build() {
    let mut cargo = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let is_of_this_test =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
                .iter()
                .any(|prefix| name.to_str().is_some_and(|name| name.starts_with(prefix)));
        if is_of_this_test {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).arg("--quiet").args([
        "build",
        "--locked",
        "--profile",
        "counts",
    ]);
    let status = cargo.args(["--bin", "counts", "--target-dir"]).arg(target()).status().unwrap();
    assert!(status.success(), "cargo build --profile counts -p handoff-counts: {status}");
}

#[test]
fn no_pure_part_costs_five_percent_more_or_less_than_recorded() {
    build();
    let output = Command::new(target().join("counts/counts")).arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    assert!(output.status.success(), "counts check: {}\n{said}", output.status);
}

#[test]
fn every_part_has_one_name() {
    let mut names: Vec<&str> = cases().iter().map(|case| case.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

fn baseline(counts: &[(&str, u64)]) -> Baseline {
    let toolchain = Toolchain {
        architecture: "x86_64".to_owned(),
        compiler: "rustc 1.95.0".to_owned(),
        libc: "glibc 2.36".to_owned(),
    };
    let instructions = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    Baseline { toolchain, instructions }
}

fn sentences(verdict: Verdict) -> Vec<String> {
    match verdict {
        Verdict::Changed(sentences) => sentences,
        Verdict::Same | Verdict::Incomparable => Vec::new(),
    }
}

#[test]
fn what_is_written_is_what_is_read() {
    let baseline = baseline(&[("codec.encode_taken", 203), ("fleet.lease", 2549)]);
    assert_eq!(Baseline::parse(&baseline.to_string()).unwrap(), baseline);
}

#[test]
fn five_percent_is_too_much_in_either_direction() {
    let recorded = baseline(&[("fleet.lease", 1000)]);
    for count in [951, 1000, 1049] {
        assert_eq!(recorded.compare(&baseline(&[("fleet.lease", count)])), Verdict::Same, "{count}");
    }
    let more = sentences(recorded.compare(&baseline(&[("fleet.lease", 1050)])));
    assert_eq!(more, ["fleet.lease costs 1050 instructions, and cost 1000 (+5.0 %)"]);
    let less = sentences(recorded.compare(&baseline(&[("fleet.lease", 950)])));
    assert_eq!(less, ["fleet.lease costs 950 instructions, and cost 1000 (-5.0 %)"]);
}

#[test]
fn what_is_not_recorded_and_what_is_not_counted_is_named() {
    let said = sentences(baseline(&[("a", 10)]).compare(&baseline(&[("b", 10)])));
    assert_eq!(said, ["a is recorded, and counted no more", "b costs 10 instructions, and was not recorded"]);
}

#[test]
fn another_compiler_may_differ_by_less_than_a_quarter() {
    let recorded = baseline(&[("fleet.lease", 1000)]);
    let elsewhere = |count| {
        let mut now = baseline(&[("fleet.lease", count)]);
        now.toolchain.compiler = "rustc 1.96.0".to_owned();
        now
    };
    assert_eq!(recorded.compare(&elsewhere(1249)), Verdict::Same);
    assert_eq!(sentences(recorded.compare(&elsewhere(1250))).len(), 1);
}

#[test]
fn another_architecture_says_nothing() {
    let recorded = baseline(&[("fleet.lease", 1000)]);
    let mut now = baseline(&[("fleet.lease", 5000)]);
    now.toolchain.architecture = "aarch64".to_owned();
    assert_eq!(recorded.compare(&now), Verdict::Incomparable);
}

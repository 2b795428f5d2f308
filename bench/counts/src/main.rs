//! `counts`: the instructions that the pure parts of handoffd need, counted by callgrind: the same in every run, however
//! busy the machine is. Built with the profile `counts`.
//!
//! `counts check` compares them with instructions.toml, `counts record` writes them there, `counts list` shows them. Each
//! starts `counts run` under valgrind, which does every operation [`TIMES`] times.

#![forbid(unsafe_code)]

mod callgrind;

use std::io::Write;
use std::process::{Command, ExitCode};

use handoff_counts::baseline::{Baseline, Toolchain, Verdict};
use handoff_counts::cases;

/// How often an operation is done while it is counted.
const TIMES: u32 = 100;
/// And before: buffers have grown by then.
const TIMES_BEFORE: u32 = 100;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.toml");

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match arguments.next().as_deref() {
        Some("run") => {
            run(&arguments.collect::<Vec<_>>());
            Ok(true)
        }
        Some("check") => check(),
        Some("record") => record(),
        Some("list") => list(),
        _ => Err("usage: counts check | record | list | run [NAME…]".into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("counts: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Does the operations of these names, or all of them. callgrind counts what happens inside of [`measured`].
fn run(names: &[String]) {
    for case in cases().iter().filter(|case| names.is_empty() || names.iter().any(|name| name == case.name)) {
        let mut operation = (case.prepare)();
        (0..TIMES_BEFORE).for_each(|_| operation());
        measured(&mut operation);
    }
}

/// Known to callgrind by its name.
#[inline(never)]
fn measured(operation: &mut dyn FnMut()) {
    for _ in 0..TIMES {
        operation();
    }
}

fn check() -> Result<bool, Error> {
    let recorded = std::fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
    let recorded = Baseline::parse(&recorded).map_err(|error| format!("{FILE}: {error}"))?;
    let now = count()?;
    if recorded.toolchain != now.toolchain {
        say(&format!("NOTE: counted with {:?}, recorded with {:?}", now.toolchain, recorded.toolchain));
    }
    match recorded.compare(&now) {
        Verdict::Same => Ok(true),
        Verdict::Incomparable => {
            say("NOT RUN: nothing was recorded on this architecture");
            Ok(true)
        }
        Verdict::Changed(sentences) => {
            for sentence in sentences {
                say(&sentence);
            }
            say(
                "If this is meant, or an improvement, record it: make counts. Where the instructions are spent:\n  \
                 valgrind --tool=callgrind --toggle-collect=counts::measured target/counts/counts run NAME && callgrind_annotate",
            );
            Ok(false)
        }
    }
}

fn record() -> Result<bool, Error> {
    let now = count()?;
    std::fs::write(FILE, now.to_string()).map_err(|error| format!("{FILE}: {error}"))?;
    Ok(true)
}

fn list() -> Result<bool, Error> {
    for (name, count) in count()?.instructions {
        say(&format!("{count:>8} {name}"));
    }
    Ok(true)
}

fn count() -> Result<Baseline, Error> {
    let totals = callgrind::totals("run", "counts::measured")?;
    let names: Vec<&str> = cases().iter().map(|case| case.name).collect();
    if totals.len() != names.len() {
        return Err(format!("callgrind has counted {} operations of {}", totals.len(), names.len()).into());
    }
    let each = totals.into_iter().map(|total| (total + u64::from(TIMES) / 2) / u64::from(TIMES));
    let instructions = names.into_iter().map(str::to_owned).zip(each).collect();
    Ok(Baseline { toolchain: toolchain()?, instructions })
}

fn toolchain() -> Result<Toolchain, Error> {
    let compiler =
        callgrind::said(Command::new("rustc").arg("--version").current_dir(env!("CARGO_MANIFEST_DIR")))?;
    let libc = callgrind::said(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    Ok(Toolchain { architecture: std::env::consts::ARCH.to_owned(), compiler, libc })
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

//! This program under valgrind. In: its argument, and the name of a function. Out: the instructions of each call of it.
//!
//! Never: lets the environment, the machine or the place of this program change what is counted.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// The C library has one memcpy for each kind of processor, and this is every x86-64 processor's.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX2,-AVX,-ERMS,-FSRM,-BMI2,-MOVBE,-SSE4_2,-SSE4_1,-SSSE3";

/// Instructions of each call, in order, those of everything that it calls included.
pub(crate) fn totals(argument: &str, function: &str) -> Result<Vec<u64>, Error> {
    let program = std::env::current_exe()?;
    let (Some(directory), Some(name)) = (program.parent(), program.file_name()) else {
        return Err("this program is nowhere".into());
    };
    let place = tempfile::tempdir()?;
    let out = place.path().join("out");
    // The stack begins behind environment and arguments: both are always the same, so that its alignment is.
    let mut valgrind = Command::new(find("valgrind")?);
    valgrind.current_dir(directory).env_clear().env("GLIBC_TUNABLES", TUNABLES);
    valgrind.args(["-q", "--tool=callgrind"]).arg(option("--toggle-collect=", function));
    valgrind.arg(option("--dump-after=", function)).arg(option("--callgrind-out-file=", &out));
    said(valgrind.arg(option("./", name)).arg(argument))?;
    (1..)
        .map(|part| place.path().join(format!("out.{part}")))
        .take_while(|part| part.exists())
        .map(|part| total(&part))
        .collect()
}

/// What a command writes to its standard output, without the last newline.
pub(crate) fn said(command: &mut Command) -> Result<String, Error> {
    let name = command.get_program().to_owned();
    let output = command.output().map_err(|error| format!("{}: {error}", name.display()))?;
    if !output.status.success() {
        return Err(format!(
            "{}: {}: {}",
            name.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

/// Of one call. callgrind's format is described in valgrind's manual, "Callgrind Format Specification".
fn total(part: &Path) -> Result<u64, Error> {
    let text = std::fs::read_to_string(part)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.ok_or("callgrind writes no totals")?.trim().parse()?)
}

fn find(name: &str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{name} is not installed: make test-packages installs it").into())
}

fn option(name: &str, value: impl AsRef<OsStr>) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(name);
    option.push(value);
    option
}

//! Where the self-test may do harm: files made for it, some of them beneath a directory for attached files. In: nothing.
//! Out: a directory, and attacks on what is in it.
//!
//! A confined process cannot clean up behind itself. So the process that was started makes the place, has another one
//! attack, and removes the place.
//!
//! Never: attacks anything but its own files.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, open as open_path, openat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Everybody may do everything here: it is the sandbox that says no.
const ANYBODY: u32 = 0o777;

/// The place. Gone when dropped.
#[derive(Debug)]
pub struct Playground(PathBuf);

impl Playground {
    /// Makes it, among the temporary files.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn make() -> io::Result<Self> {
        let place = Self(std::env::temp_dir().join(format!("handoffd-self-test-{}.d", process::id())));
        let top = &place.0;
        DirBuilder::new().mode(0o700).create(top)?;
        for name in ["files", "outside"] {
            fs::create_dir(top.join(name))?;
            fs::set_permissions(top.join(name), Permissions::from_mode(ANYBODY))?;
        }
        for name in ["files/attached", "outside/file"] {
            fs::write(top.join(name), "nothing")?;
            fs::set_permissions(top.join(name), Permissions::from_mode(ANYBODY))?;
        }
        symlink(top.join("outside/file"), top.join("files/link"))?;
        fs::set_permissions(top, Permissions::from_mode(0o755))?;
        Ok(place)
    }

    /// Runs this program again, with these arguments and the place.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn attack(&self, arguments: impl Iterator<Item = std::ffi::OsString>) -> io::Result<ExitStatus> {
        Command::new("/proc/self/exe").args(arguments).arg("--playground").arg(&self.0).status()
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The directory for attached files there.
pub(super) fn files(playground: &Path) -> PathBuf {
    playground.join("files")
}

pub(super) fn leave_by_dots(playground: &Path) -> io::Result<()> {
    open(playground, "../outside/file", OFlag::O_RDONLY)
}

pub(super) fn leave_by_a_link(playground: &Path) -> io::Result<()> {
    open(playground, "link", OFlag::O_RDONLY)
}

pub(super) fn write_a_new_one(playground: &Path) -> io::Result<()> {
    open(playground, "new", OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL)
}

pub(super) fn change_one(playground: &Path) -> io::Result<()> {
    open(playground, "attached", OFlag::O_WRONLY)
}

pub(super) fn list_them(playground: &Path) -> io::Result<()> {
    fs::read_dir(files(playground)).map(drop)
}

pub(super) fn remove_another(playground: &Path) -> io::Result<()> {
    Ok(unlinkat(AT_FDCWD, &playground.join("outside/file"), UnlinkatFlags::NoRemoveDir)?)
}

/// As a worker opens what is attached, but without asking the kernel to stay beneath the directory.
fn open(playground: &Path, path: &str, flags: OFlag) -> io::Result<()> {
    let place = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let directory = open_path(&files(playground), place, Mode::empty())?;
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC);
    openat2(directory.as_fd(), path, how).map(File::from).map(drop)?;
    Ok(())
}

//! One directory, and what lies beneath it. In: paths that a site has named, names that we make. Out: bytes of regular
//! files; new files.
//!
//! Never: leaves the directory, by `..`, by an absolute path or by a symbolic link (openat2(2), `RESOLVE_BENEATH`);
//! waits for a FIFO; reads more than the caller's bound.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, renameat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// A rename elsewhere on the machine may make the kernel ask for another try (openat2(2), `EAGAIN`).
const TRIES: u32 = 16;

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

/// A file that was read: where, and which it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("outside of the directory")]
    Outside,
    #[error("no regular file")]
    NotRegular,
    #[error("larger than {bytes_max} bytes")]
    TooLarge { bytes_max: usize },
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Directory {
    /// Opens it, as nothing but a place to begin at.
    ///
    /// # Errors
    /// As of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self { fd: open(path, flags, Mode::empty())?, path: path.to_owned() })
    }

    /// Opens it to read files in, if this kernel can keep within it (openat2(2): Linux 5.6).
    ///
    /// # Errors
    /// As of open(2) and openat2(2).
    pub fn open_to_read(path: &Path) -> io::Result<Self> {
        let directory = Self::open(path)?;
        match directory.beneath(Path::new("."), OFlag::O_PATH | OFlag::O_DIRECTORY) {
            // Whoever opens it may not be allowed to enter: it is another user who will read there.
            Err(ReadError::Io(error)) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(directory),
        }
    }

    /// A file's bytes, and which file it was. The path is relative to the directory, or absolute and beneath it.
    pub(super) fn read(&self, path: &str, bytes_max: usize) -> Result<(Vec<u8>, Found), ReadError> {
        let path = self.relative(path)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::from(self.beneath(path, flags)?);
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(ReadError::NotRegular);
        }
        let limit = bytes_max as u64 + 1;
        if about.len() >= limit {
            return Err(ReadError::TooLarge { bytes_max });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or_default());
        // It may grow while it is read.
        file.take(limit).read_to_end(&mut bytes)?;
        if bytes.len() > bytes_max {
            return Err(ReadError::TooLarge { bytes_max });
        }
        let found = Found { path: path.to_owned(), device: about.dev(), inode: about.ino() };
        Ok((bytes, found))
    }

    /// Removes a file that was read. Another one that has taken its place since stays.
    pub(super) fn remove(&self, found: &Found) -> io::Result<()> {
        let name = found.path.file_name().unwrap_or_else(|| OsStr::new(""));
        let above = match found.path.parent() {
            Some(above) if above != Path::new("") => {
                Some(self.beneath(above, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(io::Error::from)?)
            }
            Some(_) | None => None,
        };
        let above = above.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
        let about = fstatat(above, name, AtFlags::empty())?;
        if (about.st_dev, about.st_ino) != (found.device, found.inode) {
            return Err(io::Error::other("another file has taken its place"));
        }
        Ok(unlinkat(above, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// A new file of this name, for its owner alone.
    ///
    /// # Errors
    /// As of open(2).
    pub(crate) fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// As of rename(2).
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes what was created.
    ///
    /// # Errors
    /// As of unlink(2).
    pub(crate) fn discard(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)?)
    }

    fn relative<'a>(&self, path: &'a str) -> Result<&'a Path, ReadError> {
        let path = Path::new(path);
        let path = if path.is_absolute() {
            path.strip_prefix(&self.path).map_err(|_| ReadError::Outside)?
        } else {
            path
        };
        if path.as_os_str().is_empty() { Err(ReadError::NotRegular) } else { Ok(path) }
    }

    fn beneath(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, ReadError> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut tries = 0;
        loop {
            match openat2(&self.fd, path, how) {
                Ok(fd) => return Ok(fd),
                Err(Errno::EXDEV) => return Err(ReadError::Outside),
                Err(Errno::EAGAIN | Errno::EINTR) if tries < TRIES => tries += 1,
                // A socket, or a device without a driver (open(2)).
                Err(Errno::ENXIO | Errno::ENODEV) => return Err(ReadError::NotRegular),
                Err(errno) => return Err(ReadError::Io(errno.into())),
            }
        }
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => error,
            other @ (ReadError::Outside | ReadError::NotRegular | ReadError::TooLarge { .. }) => {
                Self::other(other.to_string())
            }
        }
    }
}

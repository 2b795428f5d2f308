//! Files that others may have made, read without trust in them. In: a path. Out: bytes or text.
//! Never: waits for a FIFO's writer, reads a device, takes more than a bounded number of bytes.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

/// All of a file.
///
/// # Errors
/// It cannot be read, is no regular file, or has more than `bytes_max`.
pub(super) fn bytes(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let refused = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
    // Opening a FIFO would wait, opening a terminal could make it ours.
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(refused("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    match u64::try_from(bytes.len()).is_ok_and(|length| length <= bytes_max) {
        true => Ok(bytes),
        false => Err(refused("it is too large")),
    }
}

/// The same as text; what is no UTF-8 is replaced.
///
/// # Errors
/// As of [`bytes`].
pub(super) fn text(path: &Path, bytes_max: u64) -> io::Result<String> {
    bytes(path, bytes_max).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_files_of_a_bounded_size_are_read_and_nothing_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "12345").unwrap();
        symlink(path("file"), path("link")).unwrap();
        symlink("/dev/zero", path("zero")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(text(&path("file"), 5).unwrap(), "12345");
        assert_eq!(text(&path("link"), 5).unwrap(), "12345");
        assert!(text(&path("file"), 4).unwrap_err().to_string().contains("too large"));
        for name in ["zero", "fifo", "."] {
            let error = text(&path(name), 5).unwrap_err().to_string();
            assert_eq!(error, "it is no file", "{name}");
        }
        assert_eq!(text(&path("gone"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

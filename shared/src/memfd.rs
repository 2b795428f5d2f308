//! Large payloads in sealed memfds. In: bytes. Out: a memfd that nobody can change any more, and its bytes.
//! Never: trusts a memfd that is not sealed, moves a shared file offset (reads by pread).
//!
//! Source: memfd_create(2), "File sealing" in fcntl(2).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

const SEALS: SealFlag = SealFlag::F_SEAL_WRITE
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_SEAL);

/// A sealed memfd with these bytes.
///
/// # Errors
/// When the kernel has no memory or no fd for it.
pub fn seal(bytes: &[u8]) -> io::Result<OwnedFd> {
    let memfd = memfd_create(c"handoff-payload", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(memfd);
    file.write_all(bytes)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(file.into())
}

/// The size of a memfd that is sealed against writing, growing and shrinking; `None` for every other fd.
#[must_use]
pub fn sealed_bytes(fd: BorrowedFd<'_>) -> Option<u64> {
    let seals = SealFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GET_SEALS).ok()?);
    let needed = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK;
    if !seals.contains(needed) {
        return None;
    }
    u64::try_from(nix::sys::stat::fstat(fd).ok()?.st_size).ok()
}

/// Appends the first `length` bytes of a sealed memfd to `bytes`.
///
/// # Errors
/// When it holds fewer.
pub fn read_into(memfd: &OwnedFd, length: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    let start = bytes.len();
    bytes.resize(start + length, 0);
    let mut read = start;
    while read < bytes.len() {
        let offset = i64::try_from(read - start).map_err(io::Error::other)?;
        match nix::sys::uio::pread(memfd, &mut bytes[read..], offset) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(more) => read += more,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_sealed_payload_reads_back_and_cannot_be_written() {
        let memfd = seal(b"a long prompt").unwrap();
        assert_eq!(sealed_bytes(memfd.as_fd()), Some(13));
        let writer = File::from(memfd.try_clone().unwrap());
        assert!(writer.write_at(b"x", 0).is_err());
        let mut bytes = b"> ".to_vec();
        read_into(&memfd, 13, &mut bytes).unwrap();
        assert_eq!(bytes, b"> a long prompt");
    }

    #[test]
    fn an_unsealed_memfd_and_a_pipe_are_not_payloads() {
        let open = memfd_create(c"open", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert_eq!(sealed_bytes(open.as_fd()), None);
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert_eq!(sealed_bytes(reader.as_fd()), None);
    }
}

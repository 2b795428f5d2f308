//! The payload, as it comes: from a header at once, or from a response's body bit by bit.
//! In: bytes. Out: bytes, or a memfd that nobody can change any more.
//! Never: keeps more than [`INLINE_BYTES_MAX`] in Apache's own memory where the daemon takes memfds.
//!
//! Source: memfd_create(2), "File sealing" in fcntl(2).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// What travels inside the message.
pub(crate) const INLINE_BYTES_MAX: usize = 64 * 1024;
/// The largest payload.
pub(crate) const BYTES_MAX: usize = 32 * 1024 * 1024;
/// The largest without memfds: what the daemon's largest message can hold.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Why a payload cannot be taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It has more bytes than this.
    TooLarge(usize),
    /// The kernel has no memory or no fd for it.
    Io(io::Error),
}

/// A payload in the making.
#[derive(Debug)]
pub(crate) struct Collector {
    inline: Vec<u8>,
    memfd: Option<File>,
    bytes: usize,
    /// The daemon takes memfds.
    with_memfd: bool,
}

/// A whole payload.
#[derive(Debug)]
pub(crate) enum Payload {
    /// Inside the message.
    Inline(Vec<u8>),
    /// Behind it: the sealed memfd, and how many bytes it holds.
    Memfd(OwnedFd, usize),
}

impl Collector {
    pub(crate) fn new(with_memfd: bool) -> Self {
        Self { inline: Vec::new(), memfd: None, bytes: 0, with_memfd }
    }

    /// # Errors
    /// When it becomes too large, or the kernel has no room for it.
    pub(crate) fn add(&mut self, more: &[u8]) -> Result<(), Refused> {
        let limit = if self.with_memfd { BYTES_MAX } else { MESSAGE_BYTES_MAX };
        self.bytes = self.bytes.saturating_add(more.len());
        if self.bytes > limit {
            return Err(Refused::TooLarge(limit));
        }
        if self.with_memfd && self.memfd.is_none() && self.bytes > INLINE_BYTES_MAX {
            let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
            let memfd = memfd_create(c"handoff-payload", flags).map_err(|errno| Refused::Io(errno.into()))?;
            let memfd = self.memfd.insert(File::from(memfd));
            memfd.write_all(&std::mem::take(&mut self.inline)).map_err(Refused::Io)?;
        }
        match &mut self.memfd {
            Some(memfd) => memfd.write_all(more).map_err(Refused::Io),
            None => {
                self.inline.extend_from_slice(more);
                Ok(())
            }
        }
    }

    /// # Errors
    /// When the memfd cannot be sealed.
    pub(crate) fn finish(self) -> Result<Payload, Refused> {
        let Some(memfd) = self.memfd else {
            return Ok(Payload::Inline(self.inline));
        };
        let seals =
            SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&memfd, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| Refused::Io(errno.into()))?;
        Ok(Payload::Memfd(memfd.into(), self.bytes))
    }
}

impl Payload {
    /// Nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Inline(bytes) if bytes.is_empty())
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Memfd(_, bytes) => *bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::FileExt;

    fn collect(with_memfd: bool, parts: &[&[u8]]) -> Result<Payload, Refused> {
        let mut collector = Collector::new(with_memfd);
        for part in parts {
            collector.add(part)?;
        }
        collector.finish()
    }

    #[test]
    fn a_small_payload_stays_inside_the_message() {
        let Ok(Payload::Inline(bytes)) = collect(true, &[b"{\"prompt\":", b"\"hi\"}"]) else { panic!() };
        assert_eq!(bytes, b"{\"prompt\":\"hi\"}");
        assert!(collect(true, &[]).unwrap().is_empty());
        let limit = vec![b'x'; INLINE_BYTES_MAX];
        assert!(matches!(collect(true, &[&limit]), Ok(Payload::Inline(_))));
    }

    #[test]
    fn a_large_one_is_whole_in_a_memfd_that_nobody_can_change() {
        let (half, rest) = (vec![b'x'; INLINE_BYTES_MAX - 1], vec![b'y'; 9]);
        let Ok(Payload::Memfd(memfd, length)) = collect(true, &[&half, &rest, b"!"]) else { panic!() };
        let file = File::from(memfd);
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [&half[..], &rest, b"!"].concat());
        assert!((&file).write_all(b"z").is_err() && file.set_len(0).is_err());
        assert_eq!((&file).read(&mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn what_is_larger_than_allowed_is_refused() {
        let mebibyte = vec![b'x'; 1024 * 1024];
        let mut parts = vec![&mebibyte[..]; 32];
        assert_eq!(collect(true, &parts).unwrap().len(), BYTES_MAX);
        parts.push(b"!");
        assert!(matches!(collect(true, &parts), Err(Refused::TooLarge(BYTES_MAX))));
        assert!(matches!(collect(false, &[&mebibyte]), Ok(Payload::Inline(_))));
        assert!(matches!(collect(false, &[&mebibyte, b"!"]), Err(Refused::TooLarge(_))));
    }
}

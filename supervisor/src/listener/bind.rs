//! Makes a listening Unix socket. In: a path, a kind, owner and mode. Out: the socket, and its file.
//! Never: takes a path away from an instance that is alive, removes a file that is not ours.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use handoff_config::Server;
use handoff_shared::limits::LISTEN_BACKLOG;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind as bind_socket, connect, getsockname, listen,
    socket,
};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, chown};

use super::Kind;

/// A socket as it is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The key that says where.
    pub(crate) key: &'static str,
    pub(crate) path: &'a Path,
    pub(crate) kind: Kind,
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
    /// Permission bits.
    pub(crate) mode: u32,
}

impl<'a> Wanted<'a> {
    /// A socket for handoffs.
    pub(super) fn of_handoffs(server: &Server, key: &'static str, path: &'a Path, kind: Kind) -> Self {
        let (owner, group, mode) = (server.socket_owner, server.socket_group, server.socket_mode.0);
        Self { key, path, kind, owner, group, mode }
    }
}

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// Another daemon answers there.
    #[error("{path}: another instance is listening there; stop it first, or choose another {key}")]
    Occupied { path: PathBuf, key: &'static str },
    /// A file that is no socket.
    #[error("{path}: exists and is not a socket; it is left alone")]
    NotASocket { path: PathBuf },
    /// The directory is missing, or not writable.
    #[error("{path}: cannot bind: {source} (does the directory exist, and may we write to it?)")]
    Bind { path: PathBuf, source: io::Error },
    /// Owner, group or mode cannot be set.
    #[error("{path}: cannot set {what}: {source}")]
    Permissions { path: PathBuf, what: &'static str, source: io::Error },
    /// Anything else.
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// A socket file of ours.
#[derive(Debug)]
pub(crate) struct Bound {
    path: PathBuf,
    /// Device and inode, so that a successor's file is not taken for ours.
    file: Option<(u64, u64)>,
}

impl Bound {
    /// The file of a socket that was bound before. `is_ours`: also to be removed by us.
    pub(crate) fn inherited(socket: &OwnedFd, is_ours: bool) -> Self {
        let address = getsockname::<UnixAddr>(socket.as_raw_fd()).ok();
        let path = address.as_ref().and_then(UnixAddr::path).map(Path::to_owned).unwrap_or_default();
        let file = if is_ours { file_id(&path) } else { None };
        Self { path, file }
    }

    /// Nobody else owns the file.
    pub(crate) fn is_ours(&self) -> bool {
        self.file.is_some()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file, unless somebody else has put another one there.
    pub(crate) fn unlink(&self) {
        if self.file.is_some()
            && file_id(&self.path) == self.file
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "socket file could not be removed");
        }
    }
}

/// # Errors
/// When the path is somebody else's, or the kernel refuses.
pub(crate) fn bind(wanted: Wanted<'_>) -> Result<(OwnedFd, Bound), BindError> {
    let Wanted { path, kind, .. } = wanted;
    let path_buf = path.to_owned();
    clear_stale(wanted)?;
    let listener = new_socket(kind).map_err(|source| BindError::Io { path: path_buf.clone(), source })?;
    let address = UnixAddr::new(path)
        .map_err(|source| BindError::Bind { path: path_buf.clone(), source: source.into() })?;
    // Nobody may connect before owner and mode are right: the file is born without permissions.
    let mask = nix::sys::stat::umask(Mode::from_bits_truncate(0o777));
    let result = bind_socket(listener.as_raw_fd(), &address);
    nix::sys::stat::umask(mask);
    result.map_err(|source| BindError::Bind { path: path_buf.clone(), source: source.into() })?;
    let bound = Bound { path: path_buf, file: file_id(path) };
    set_permissions(wanted).inspect_err(|_| bound.unlink())?;
    let backlog = Backlog::new(LISTEN_BACKLOG).unwrap_or(Backlog::MAXCONN);
    listen(&listener, backlog)
        .map_err(|source| BindError::Io { path: path.to_owned(), source: source.into() })?;
    Ok((listener, bound))
}

fn new_socket(kind: Kind) -> io::Result<OwnedFd> {
    let socket_type = match kind {
        Kind::SeqPacket => SockType::SeqPacket,
        Kind::Stream => SockType::Stream,
    };
    Ok(socket(AddressFamily::Unix, socket_type, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?)
}

/// A dead instance's file is removed; a live instance is an error.
fn clear_stale(wanted: Wanted<'_>) -> Result<(), BindError> {
    let Wanted { key, path, kind, .. } = wanted;
    let path_buf = path.to_owned();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(BindError::Io { path: path_buf, source }),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket { path: path_buf });
    }
    let probe = new_socket(kind).map_err(|source| BindError::Io { path: path_buf.clone(), source })?;
    let address = UnixAddr::new(path)
        .map_err(|source| BindError::Bind { path: path_buf.clone(), source: source.into() })?;
    match connect(probe.as_raw_fd(), &address) {
        Err(Errno::ECONNREFUSED) => {
            fs::remove_file(path).map_err(|source| BindError::Io { path: path_buf, source })
        }
        Err(Errno::ENOENT) => Ok(()),
        // Connected, the backlog is full, or the socket is of the other type: somebody is alive there.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Err(BindError::Occupied { path: path_buf, key }),
        Err(source) => Err(BindError::Io { path: path_buf, source: source.into() }),
    }
}

fn set_permissions(wanted: Wanted<'_>) -> Result<(), BindError> {
    let Wanted { path, owner, group, mode, .. } = wanted;
    let fail = |what, source: io::Error| BindError::Permissions { path: path.to_owned(), what, source };
    if owner.is_some() || group.is_some() {
        chown(path, owner.map(Uid::from_raw), group.map(Gid::from_raw))
            .map_err(|source| fail("owner and group", source.into()))?;
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(path, mode).map_err(|source| fail("the mode", source))
}

fn file_id(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Says so when the kernel cuts the backlog.
pub(super) fn warn_if_backlog_is_cut() {
    let Ok(text) = fs::read_to_string("/proc/sys/net/core/somaxconn") else { return };
    if let Ok(somaxconn) = text.trim().parse::<i32>()
        && somaxconn < LISTEN_BACKLOG
    {
        tracing::warn!(
            somaxconn,
            wanted = LISTEN_BACKLOG,
            "net.core.somaxconn cuts the backlog: in a burst Apache answers 503 sooner; \
                 set net.core.somaxconn = {LISTEN_BACKLOG}"
        );
    }
}

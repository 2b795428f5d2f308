//! Which sockets a response may name. In: `X-Socket-Handoff`, the allowed prefix. Out: their real paths, in order.
//! Never: follows a link that leads out of the prefix, asks whether somebody listens.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Sockets that one response may name.
const TARGETS_MAX: usize = 8;

/// Why a socket may not be handed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forbidden(pub(crate) String);

/// The sockets of a list with commas, each beneath the prefix. An empty prefix allows every path.
///
/// # Errors
/// When one of them is not allowed: then none is.
pub(crate) fn admit(list: &str, prefix: &Path) -> Result<Vec<PathBuf>, Forbidden> {
    let names: Vec<&str> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return Err(Forbidden("X-Socket-Handoff names no socket".to_owned()));
    }
    if names.len() > TARGETS_MAX {
        return Err(Forbidden(format!("X-Socket-Handoff names more than {TARGETS_MAX} sockets")));
    }
    let real_prefix = real(prefix).unwrap_or_else(|_| prefix.to_owned());
    names.into_iter().map(|name| admit_one(name, prefix, &real_prefix)).collect()
}

fn admit_one(name: &str, prefix: &Path, real_prefix: &Path) -> Result<PathBuf, Forbidden> {
    let path = Path::new(name);
    let forbidden = |why: &str| Err(Forbidden(format!("{} {why}", name.escape_debug())));
    if !path.is_absolute() {
        return forbidden("is not an absolute path");
    }
    let real_path = match real(path) {
        Ok(real_path) => real_path,
        Err(error) => return forbidden(&format!("leads nowhere: {error}")),
    };
    match prefix.as_os_str().is_empty() || real_path.starts_with(real_prefix) {
        true => Ok(real_path),
        false => forbidden(&format!(
            "is not beneath SocketHandoffAllowedPrefix {} ({} in truth)",
            prefix.display(),
            real_path.display()
        )),
    }
}

/// The path without links, also when its end does not exist yet: a daemon may be about to create it.
fn real(path: &Path) -> io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        match fs::canonicalize(existing) {
            Ok(mut real) => {
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // A link that leads nowhere is not a missing file: connect(2) would follow it.
        if fs::symlink_metadata(existing).is_ok() {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        match (existing.components().next_back(), existing.parent()) {
            (Some(Component::Normal(name)), Some(parent)) => {
                missing.push(name);
                existing = parent;
            }
            // `..` beneath what does not exist.
            _ => return Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn allowed(list: &str, prefix: &Path) -> Option<Vec<PathBuf>> {
        admit(list, prefix).ok()
    }

    #[test]
    fn only_what_is_really_beneath_the_prefix_is_allowed() {
        let room = tempfile::tempdir().unwrap();
        let room = room.path().canonicalize().unwrap();
        let (inside, outside) = (room.join("in"), room.join("out"));
        fs::create_dir_all(inside.join("sub")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(inside.join("a.sock"), "").unwrap();
        fs::write(outside.join("b.sock"), "").unwrap();
        symlink(outside.join("b.sock"), inside.join("link.sock")).unwrap();
        symlink(outside.join("no.sock"), inside.join("dangling.sock")).unwrap();
        symlink(&outside, inside.join("linked")).unwrap();
        symlink(&inside, room.join("alias")).unwrap();
        let path = |name: &str| format!("{}/{name}", room.display());
        for name in ["in/a.sock", "in/no.sock", "in/sub/deep/no.sock", "in/../in/a.sock", "alias/a.sock"] {
            assert!(allowed(&path(name), &inside).is_some(), "{name}");
        }
        for name in [
            "out/b.sock",
            "in/../out/b.sock",
            "in/link.sock",
            "in/dangling.sock",
            "in/linked/b.sock",
            "in/no/../../out/b.sock",
            "insider/a.sock",
            "in.sock",
        ] {
            assert!(allowed(&path(name), &inside).is_none(), "{name}");
        }
        assert_eq!(allowed(&path("in/a.sock"), &room.join("alias/")), Some(vec![inside.join("a.sock")]));
        assert!(allowed("run/a.sock", &inside).is_none());
    }

    #[test]
    fn an_empty_prefix_allows_every_path() {
        assert!(allowed("/tmp/somewhere/a.sock", Path::new("")).is_some());
    }

    #[test]
    fn several_sockets_keep_their_order_and_all_must_be_allowed() {
        let room = tempfile::tempdir().unwrap();
        let room = room.path().canonicalize().unwrap();
        let list = format!("{0}/b.sock , {0}/a.sock,", room.display());
        assert_eq!(allowed(&list, &room), Some(vec![room.join("b.sock"), room.join("a.sock")]));
        assert!(allowed(&format!("{list}/etc/passwd"), &room).is_none());
        assert!(allowed(" , ", &room).is_none());
        assert!(allowed(&vec![format!("{}/a", room.display()); 9].join(","), &room).is_none());
    }
}

//! Secrets that systemd passes (systemd.exec(5), `LoadCredential=`). In: the directory that the environment names.
//! Out: settings. Never: shows a secret, reads a file that nobody named.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::ConfigError;
use crate::settings::{Setting, Settings};

/// Where systemd says that they are.
pub(crate) const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Each credential and its key.
const CREDENTIALS: &[(&str, &str)] = &[("openai_api_key", "backend.openai.api_key")];

/// More than any key is long, and less than harm.
const BYTES_MAX: u64 = 1 << 14;

/// Puts every credential over what the file said. One that is missing or empty counts as not set; white space around
/// it, such as an editor's last newline, does not count.
///
/// # Errors
/// A file that is there cannot be read.
pub(crate) fn overlay(
    settings: &mut Settings<'_>,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<(), ConfigError> {
    let Some(directory) = environment(DIRECTORY).filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return Ok(());
    };
    for &(name, key) in CREDENTIALS {
        let path = directory.join(name);
        match read(&path) {
            Ok(secret) if secret.is_empty() => {}
            Ok(secret) => {
                let place = path.display().to_string();
                settings.set(key, Setting::word(&place, OsString::from_vec(secret)));
            }
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => {}
            Err(reason) => return Err(ConfigError::Credential { path, reason }),
        }
    }
    Ok(())
}

/// What is in the file, without the white space around it.
///
/// # Errors
/// It cannot be read, is no regular file, or is larger than [`BYTES_MAX`].
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Opening a FIFO would wait for its writer.
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        let reason = format!("it is larger than {BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes.trim_ascii().to_vec())
}

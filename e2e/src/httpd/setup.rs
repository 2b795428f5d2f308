//! How a private Apache is to be. In: a test's wishes, one by one. Out: a setup that can be started. Never: a file but the
//! mode of the daemon's directory.

use std::path::{Path, PathBuf};

use super::{Httpd, open_directory};
use crate::daemon::Daemon;

/// How Apache runs PHP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// One process a connection, PHP in it: mod_mpm_prefork and mod_php.
    Prefork,
    /// Threads, and PHP behind FastCGI: mod_mpm_event, mod_proxy_fcgi and php-fpm.
    Event,
}

impl World {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Prefork, Self::Event];
}

/// How an Apache is started. Directives may use `${ADDRESS}`, `${PORT}`, `${TLS_PORT}`, `${DIRECTORY}` (the root) and
/// `${SOCKET}` (the daemon's).
#[derive(Clone, Debug)]
pub struct Setup {
    /// How PHP runs.
    pub world: World,
    /// Files of the document root: path and content. `$_SERVER['SOCKET']` is the daemon's socket.
    pub files: Vec<(String, String)>,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Directives of the main server, behind those of the tests.
    pub directives: String,
    /// Directives of the TLS virtual host; none: there is none. HTTP/2 is offered when mod_http2 is among the modules.
    pub tls: Option<String>,
    /// Whole `<VirtualHost ${ADDRESS}:${PORT}>` sections. Requests for other names meet the main server's directives.
    pub vhosts: String,
    /// Modules beside the necessary ones, without `mod_`: `deflate`, `headers`, `http2`, `remoteip`, `unique_id`…
    pub modules: Vec<String>,
    /// Requests that Apache serves at a time (MaxRequestWorkers).
    pub workers: u16,
    /// Processes of php-fpm.
    pub php_workers: u16,
    /// Lines of php.ini.
    pub php_ini: String,
    /// Our module is loaded.
    pub with_module: bool,
    /// It is the one that panics when a response asks for it.
    pub fault_injection: bool,
}

impl Setup {
    /// Eight workers that hand over to this daemon.
    ///
    /// # Panics
    /// When the daemon's directory cannot be opened for Apache's user.
    #[must_use]
    pub fn new(world: World, daemon: &Daemon) -> Self {
        open_directory(daemon.directory());
        Self::to_socket(world, &daemon.socket())
    }

    /// Eight workers that hand over to whoever listens there, in a directory that Apache's user may enter.
    #[must_use]
    pub fn to_socket(world: World, socket: &Path) -> Self {
        Self {
            world,
            files: Vec::new(),
            socket: socket.to_owned(),
            directives: String::new(),
            tls: None,
            vhosts: String::new(),
            modules: Vec::new(),
            workers: 8,
            php_workers: 8,
            php_ini: String::new(),
            with_module: true,
            fault_injection: false,
        }
    }

    /// One more file of the document root.
    #[must_use]
    pub fn file(mut self, path: &str, content: &str) -> Self {
        self.files.push((path.to_owned(), content.to_owned()));
        self
    }

    /// Further directives of the main server.
    #[must_use]
    pub fn directives(mut self, directives: &str) -> Self {
        self.directives.push_str(directives);
        self.directives.push('\n');
        self
    }

    /// A TLS virtual host, with these directives.
    #[must_use]
    pub fn tls(mut self, directives: &str) -> Self {
        self.tls = Some(directives.to_owned());
        self
    }

    /// Further modules.
    #[must_use]
    pub fn modules<const N: usize>(mut self, names: [&str; N]) -> Self {
        self.modules.extend(names.map(str::to_owned));
        self
    }

    /// So many requests at a time.
    #[must_use]
    pub fn workers(mut self, count: u16) -> Self {
        self.workers = count;
        self
    }

    /// Starts it.
    #[must_use]
    pub fn start(self) -> Httpd {
        Httpd::with(self)
    }
}

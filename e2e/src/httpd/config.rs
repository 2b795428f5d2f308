//! Configuration of a private Apache, php-fpm and PHP. In: a setup and its root. Out: the files' texts. Never: includes
//! anything of the system's.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::{Place, Setup, USER, World};

const MODULES: &str = "/usr/lib/apache2/modules";
/// What every site has.
const NECESSARY: [&str; 7] = ["authz_core", "alias", "dir", "env", "mime", "setenvif", "rewrite"];

/// Apache's configuration.
pub(super) fn httpd(root: &Path, setup: &Setup, place: &Place) -> String {
    let directory = root.display();
    let Place { address, port, tls_port } = place;
    let socket = setup.socket.display();
    let mut text = format!(
        "Define DIRECTORY {directory}\nDefine ADDRESS {address}\nDefine PORT {port}\nDefine TLS_PORT {tls_port}\n\
         Define SOCKET {socket}\n\
         ServerRoot ${{DIRECTORY}}\nServerName ${{ADDRESS}}\nPidFile run/httpd.pid\nDefaultRuntimeDir run\n\
         Mutex fcntl:run default\nListen ${{ADDRESS}}:${{PORT}}\nTimeout 20\nKeepAliveTimeout 20\n\
         ErrorLog error.log\nLogLevel info\n"
    );
    for module in modules(setup) {
        let _ = writeln!(text, "LoadModule {module}_module {MODULES}/mod_{module}.so");
    }
    text.push_str(
        "LogFormat \"%>s %O %{socket_handoff}n %{socket_handoff_id}n \\\"%r\\\"\" handoff\n\
         CustomLog access.log handoff\nTypesConfig /etc/mime.types\n\
         DocumentRoot ${DIRECTORY}/htdocs\nDirectoryIndex index.php index.html\nSetEnv SOCKET ${SOCKET}\n",
    );
    if geteuid().is_root() {
        let _ = writeln!(text, "User {USER}\nGroup {USER}");
    }
    text.push_str(&match setup.world {
        World::Prefork => prefork(setup),
        World::Event => event(setup),
    });
    if setup.with_module {
        let module = our_module(setup.fault_injection);
        let prefix = setup.socket.parent().expect("a directory").display();
        let _ = writeln!(text, "LoadModule socket_handoff_module {}", module.display());
        let _ = writeln!(text, "SocketHandoffAllowedPrefix {prefix}/");
    }
    text.push_str(&setup.directives);
    if !setup.vhosts.is_empty() {
        // The first section is for all names that no other one has.
        let _ = write!(text, "\n<VirtualHost ${{ADDRESS}}:${{PORT}}>\n</VirtualHost>\n{}\n", setup.vhosts);
    }
    if let Some(tls) = &setup.tls {
        let protocols =
            if setup.modules.iter().any(|name| name == "http2") { "h2 http/1.1" } else { "http/1.1" };
        let _ = write!(
            text,
            "\nListen ${{ADDRESS}}:${{TLS_PORT}} https\n<VirtualHost ${{ADDRESS}}:${{TLS_PORT}}>\nSSLEngine on\n\
             SSLCertificateFile tls.pem\nSSLCertificateKeyFile tls.key\nProtocols {protocols}\n{tls}\n</VirtualHost>\n"
        );
    }
    text
}

fn modules(setup: &Setup) -> Vec<&str> {
    let mut modules = match setup.world {
        World::Prefork => vec!["mpm_prefork"],
        World::Event => vec!["mpm_event", "proxy", "proxy_fcgi"],
    };
    modules.extend(NECESSARY);
    modules.extend(setup.modules.iter().map(String::as_str));
    if setup.tls.is_some() && !modules.contains(&"ssl") {
        modules.push("ssl");
    }
    modules
}

fn prefork(setup: &Setup) -> String {
    let php = only_file(Path::new(MODULES), "libphp", ".so");
    let workers = setup.workers;
    format!(
        "ServerLimit {workers}\nMaxRequestWorkers {workers}\nStartServers {workers}\nMinSpareServers {workers}\n\
         MaxSpareServers {}\nLoadModule php_module {}\nPHPIniDir ${{DIRECTORY}}\n\
         <FilesMatch \\.php$>\nSetHandler application/x-httpd-php\n</FilesMatch>\n",
        workers + 1,
        php.display()
    )
}

/// Room for further processes: those of before a graceful restart stay until their requests end.
fn event(setup: &Setup) -> String {
    let workers = setup.workers;
    format!(
        "ServerLimit 8\nStartServers 1\nThreadLimit {workers}\nThreadsPerChild {workers}\n\
         MaxRequestWorkers {workers}\nMinSpareThreads 1\nMaxSpareThreads {workers}\n\
         <FilesMatch \\.php$>\nSetHandler proxy:unix:${{DIRECTORY}}/fpm.sock|fcgi://localhost\n</FilesMatch>\n\
         # php-fpm does not understand bodies without a length.\nSetEnvIf Request_URI . proxy-sendcl=1\n"
    )
}

/// php-fpm's configuration.
pub(super) fn fpm(root: &Path, setup: &Setup) -> String {
    let directory = root.display();
    let run_as = match geteuid().is_root() {
        true => format!("user = {USER}\ngroup = {USER}\nlisten.owner = {USER}\nlisten.group = {USER}\n"),
        false => String::new(),
    };
    format!(
        "[global]\nerror_log = {directory}/fpm.log\n[site]\nlisten = {directory}/fpm.sock\nlisten.mode = 0660\n{run_as}\
         pm = static\npm.max_children = {}\ncatch_workers_output = yes\n",
        setup.php_workers
    )
}

/// As production has it, with room for large answers.
pub(super) fn php_ini(root: &Path, setup: &Setup) -> String {
    format!(
        "output_buffering = 4096\nmemory_limit = 1G\npost_max_size = 64M\nupload_max_filesize = 64M\n\
         display_errors = Off\nlog_errors = On\nsession.save_path = {directory}/state\nsys_temp_dir = {directory}/state\n{}",
        setup.php_ini,
        directory = root.display()
    )
}

/// The program's name has PHP's version in it.
pub(super) fn php_fpm() -> PathBuf {
    only_file(Path::new("/usr/sbin"), "php-fpm", "")
}

/// Of several versions the last one.
fn only_file(directory: &Path, begin: &str, end: &str) -> PathBuf {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let found = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(begin) && name.ends_with(end)
    });
    let name = format!("{}/{begin}*{end}", directory.display());
    found.max().unwrap_or_else(|| panic!("{name} is missing; run scripts/test-packages"))
}

/// The module, as it is installed.
fn our_module(fault_injection: bool) -> PathBuf {
    let tests = std::env::current_exe().expect("a path");
    let mut targets = tests
        .ancestors()
        .filter(|directory| directory.join("debug").is_dir() || directory.join("release").is_dir());
    let target = targets.next().expect("target/PROFILE/deps/test");
    let (directory, features) = match fault_injection {
        true => ("fault-injection/module", " --features fault-injection --target-dir target/fault-injection"),
        false => ("module", ""),
    };
    let path = target.join(directory).join("libmod_socket_handoff.so");
    let command = format!("cargo build --locked --profile module -p mod_socket_handoff{features}");
    assert!(path.exists(), "{} is missing; first run: {command}", path.display());
    path
}

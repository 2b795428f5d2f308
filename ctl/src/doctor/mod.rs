//! `handoffctl doctor`: looks at a site from all sides and says what to change.
//! In: a socket, Apache's configuration, the daemon's. Out: findings, and one exit code.
//! Never: changes anything, needs a privilege (what it could not see without one it says), starts Apache.

mod account;
mod agreement;
mod daemon;
mod finding;
mod httpd;
mod limits;
mod reach;
mod read;
mod running;
mod socket;
mod trial;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use handoff_config::Config;
use handoff_shared::status::Status;

use self::account::Account;
use self::finding::{Finding, Level};
use self::httpd::{Build, Configuration};
use self::running::Running;
use self::socket::{Knock, Look};
use crate::control::Place;
use crate::handover;
use crate::outcome::{Exit, Failure};

const HELP_TAIL: &str = "\
Nothing is changed. One handoff is tried, with the method HEAD: it asks no API. What only root may see \
is said to be \"not seen\".

Exit codes:
  0  no problem (there may be warnings)
  1  there are problems
  2  wrong usage

Examples:
  handoffctl doctor
  sudo handoffctl doctor --json | jq '.findings[] | select(.level == \"problem\")'
  handoffctl doctor --socket /run/handoffd/handoffd.sock --apache-config /etc/apache2/apache2.conf
  handoffctl doctor --apache-user www-data --config /etc/handoffd/daemon.toml";

/// What to look at.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP_TAIL)]
pub(crate) struct Args {
    /// A socket that PHP names; may be given several times [env: DAEMON_SOCKET_PATH] [default: the configuration's]
    #[arg(short, long, value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    socket: Vec<PathBuf>,
    /// The first file of Apache's configuration [default: where the distributions put it]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    apache_config: Option<PathBuf>,
    /// Whom Apache's workers run as [default: as its configuration says, else www-data, apache, http, wwwrun]
    #[arg(long, value_name = "USER[:GROUP]")]
    apache_user: Option<String>,
    /// The daemon's configuration [default: the running daemon's, else /etc/handoffd/daemon.toml]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    config: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Looks, and tells.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let findings = findings(args)?;
    let text = match args.json {
        true => format!("{}\n", finding::json(&findings)),
        false => finding::text(&findings),
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)?;
    Ok(match finding::verdict(&findings) {
        Level::Problem => Exit::Incomplete,
        Level::Warning | Level::Unseen | Level::Ok => Exit::Complete,
    })
}

fn findings(args: &Args) -> Result<Vec<Finding>, Failure> {
    // Without a file of our own, the place to ask is found by what the file would say that packages install.
    let (_, first_guess) = daemon::Process::default().load(args.config.as_deref());
    let sockets = args.sockets(first_guess.as_ref().ok());
    let place = args.control(&sockets, first_guess.as_ref().ok());
    let (apache, mut of_apache) = Apache::look(args, &sockets)?;
    let (status, of_status) =
        daemon::ask(&place, first_guess.as_ref().ok().filter(|_| args.config.is_some()));

    let pid = status.as_ref().map(|status| status.pid).filter(|pid| daemon::is_handoffd(*pid));
    let process = pid.map(daemon::Process::look).unwrap_or_default();
    let (config_path, loaded) = process.load(args.config.as_deref());
    // Defaults that nobody is known to have are compared with nothing.
    let config = loaded.as_ref().ok().filter(|_| config_path.is_some() || process.is_seen());

    let mut findings = Vec::new();
    for path in &sockets {
        let site = Site { apache: &apache, config, status: status.as_ref(), pid };
        findings.extend(site.socket(path));
    }
    findings.append(&mut of_apache);
    findings.extend(apache.limits());
    findings.extend(of_status);
    findings.extend(status.iter().flat_map(daemon::judge));
    findings.extend(daemon::file(config_path.as_deref(), &loaded, &process));
    let files = pid.and_then(limits::open_files);
    let max_connections = config.map(|config| config.server.max_connections.get());
    findings.extend(files.map(|soft| limits::daemon_files(soft, max_connections)));
    if let (Some(config), Some(account)) = (config, &apache.account) {
        findings.push(agreement::allowed(config, account));
    }
    findings.push(limits::somaxconn(limits::sysctl("net.core.somaxconn")));
    let sends_long_messages = httpd::sends_long_messages(apache.configuration.as_ref(), apache.build);
    let buffer = config.map(|config| config.server.handoff_buffer_bytes).filter(|_| sends_long_messages);
    findings.extend(limits::selinux());
    findings.extend(limits::wmem(limits::sysctl("net.core.wmem_default"), buffer));
    Ok(findings)
}

impl Args {
    fn sockets(&self, config: Option<&Config>) -> Vec<PathBuf> {
        if !self.socket.is_empty() {
            return self.socket.clone();
        }
        let environment =
            env::var_os("DAEMON_SOCKET_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
        let configured = || config.map(|config| config.server.socket_path.clone());
        vec![environment.or_else(configured).unwrap_or_else(|| handover::DEFAULT_PATH.into())]
    }

    /// The control socket: as said, else the configuration's, else beside the socket for handoffs.
    fn control(&self, sockets: &[PathBuf], config: Option<&Config>) -> Place {
        let configured = config.filter(|_| self.config.is_some());
        let configured = configured.and_then(|config| config.server.control_socket_path.clone());
        let beside = || sockets.first().map(|socket| socket.with_file_name("control.sock"));
        match self.place.chosen().or(configured).or_else(beside) {
            Some(path) => Place::at(path),
            None => self.place.clone(),
        }
    }
}

/// Apache, as far as it was seen.
struct Apache {
    configuration: Option<Configuration>,
    build: Build,
    running: Option<Running>,
    /// Who its workers are: as they run, else as they would.
    account: Option<Account>,
    /// Who they will be after a restart.
    next_account: Option<Account>,
}

impl Apache {
    fn look(args: &Args, sockets: &[PathBuf]) -> Result<(Self, Vec<Finding>), Failure> {
        let mut apache = Self {
            configuration: None,
            build: Build::Unknown,
            running: None,
            account: None,
            next_account: None,
        };
        let mut findings = Vec::new();
        match args.apache_config.clone().or_else(httpd::usual_file) {
            Some(file) => {
                let configuration = Configuration::read(&file)
                    .map_err(|source| Failure::Input { path: file.clone(), source })?;
                (apache.build, findings) = httpd::judge(&configuration, &file, sockets);
                apache.running = configuration.pid_file().and_then(|file| Running::look(&file));
                if let (Some(running), Some((ours, others))) = (&apache.running, configuration.module_files())
                {
                    findings.extend(running::judge_module(running, ours, &others));
                }
                apache.configuration = Some(configuration);
            }
            None => findings.push(Finding::unseen(
                "apache.config",
                "no Apache configuration where the distributions put it",
                "name its first file by --apache-config",
            )),
        }
        match apache.who(args) {
            Ok(account) => apache.next_account = Some(account),
            Err(reason) => findings.push(Finding::unseen(
                "apache.user",
                format!("who Apache's workers are is not known: {reason}"),
                "name the user by --apache-user",
            )),
        }
        let worker = apache.running.as_ref().and_then(|running| running.worker.clone());
        apache.account =
            worker.filter(|_| args.apache_user.is_none()).or_else(|| apache.next_account.clone());
        Ok((apache, findings))
    }

    fn who(&self, args: &Args) -> Result<Account, String> {
        if let Some(named) = &args.apache_user {
            let (user, group) = match named.split_once(':') {
                Some((user, group)) => (user, Some(group)),
                None => (named.as_str(), None),
            };
            return Account::find(user, group);
        }
        match self.configuration.as_ref().map(Configuration::account) {
            Some((Some(user), group)) => Account::find(user, group),
            Some((None, _)) | None => {
                Account::usual().ok_or_else(|| "none of the usual names is here".to_owned())
            }
        }
    }

    /// Of a running one.
    fn limits(&self) -> Option<Finding> {
        let soft = self.running.as_ref().and_then(|running| limits::open_files(running.pid));
        if let Some(soft) = soft {
            return Some(limits::apache_files(soft));
        }
        let file = self.configuration.as_ref()?.pid_file()?;
        Some(Finding::unseen(
            "apache.files",
            format!("Apache's limit on open files: no Apache that {} names is to be seen", file.display()),
            "start Apache, or ask again as root; systemd/apache2-handoffd.conf sets the limit",
        ))
    }
}

/// What a socket is compared with.
struct Site<'a> {
    apache: &'a Apache,
    config: Option<&'a Config>,
    status: Option<&'a Status>,
    /// The daemon that was asked, if it is one of this machine's.
    pid: Option<u32>,
}

impl Site<'_> {
    fn socket(&self, path: &Path) -> Vec<Finding> {
        let look = match socket::look(path) {
            Ok(look) => look,
            Err(finding) => return vec![finding],
        };
        let right = self.config.map(|config| config.server.socket_path.as_path());
        let mut findings = socket::judge(path, &look, self.apache.build, right);
        match (&self.apache.account, reach::steps(path)) {
            (Some(account), Ok(steps)) => {
                findings.extend(reach::judge(account, self.apache.next_account.as_ref(), &steps));
            }
            (Some(_), Err((step, error))) => {
                let found = format!("{}: {error}", step.display());
                findings.push(Finding::unseen("socket.permission", found, "ask again as root"));
            }
            (None, _) => {}
        }
        findings.extend(running::judge(self.apache.running.as_ref(), path));
        if let Some(config) = self.config {
            findings.push(agreement::path(config, path));
            findings.extend(agreement::mode(config, path, look.knock == Knock::Heard { pid: Some(1) }));
        }
        findings.extend(self.stranger(path, &look));
        findings.extend(self.trial(path, &look));
        findings
    }

    /// Another daemon than the one that was asked.
    fn stranger(&self, path: &Path, look: &Look) -> Option<Finding> {
        let Knock::Heard { pid: Some(listener) } = look.knock else { return None };
        let listener = u32::try_from(listener).ok().filter(|pid| daemon::is_handoffd(*pid))?;
        let asked = self.pid.filter(|pid| *pid != listener)?;
        let version = self.status.map_or("", |status| status.version.as_str());
        let found = format!(
            "{}: pid {listener} listens there; the daemon that was asked is pid {asked} ({version})",
            path.display()
        );
        Some(Finding::warning("socket.daemon", found, "name that one's control socket by --control"))
    }

    fn trial(&self, path: &Path, look: &Look) -> Option<Finding> {
        let (Knock::Heard { .. }, Some(kind)) = (look.knock, look.kind) else { return None };
        let own = Account::own();
        match self.config.is_none_or(|config| agreement::admits(&config.server, &own)) {
            true => Some(trial::run(path, kind)),
            false => Some(Finding::unseen(
                "trial.head",
                format!(
                    "{}: no handoff was tried: server.allowed_users does not name uid {}",
                    path.display(),
                    own.uid
                ),
                "ask again as Apache's user",
            )),
        }
    }
}

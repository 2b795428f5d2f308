//! Each virtual host, judged: whether what PHP hands over there reaches a daemon. In: the configuration, the sockets.
//! Out: findings. Never: asks the network.

use std::fs;
use std::path::{Path, PathBuf};

use super::settings::{self, Settings};
use super::walk::{Configuration, MAIN};
use super::{Build, PREFIX};
use crate::doctor::finding::Finding;

/// A host, as far as handoffs are concerned.
struct Host {
    title: String,
    settings: Settings,
    /// The client's end of the connection is encrypted.
    tls: bool,
    /// HTTP/2 may be spoken there without TLS.
    h2c: bool,
}

/// Everything that differs from host to host, and what all have in common.
pub(super) fn judge(configuration: &Configuration, build: Build, sockets: &[PathBuf]) -> Vec<Finding> {
    let all = hosts(configuration);
    // Once there are virtual hosts, the main server gets what none of them wants; what it says is inherited.
    let serving = if all.len() > 1 { &all[MAIN + 1..] } else { &all[..] };
    let enabled: Vec<&Host> = serving.iter().filter(|host| host.settings.enabled).collect();
    let mut findings = vec![switched_on(serving, &enabled)];
    if build == Build::Theirs {
        findings.extend(lost_prefixes(configuration));
    }
    for socket in sockets {
        findings.push(prefix(&enabled, socket));
    }
    findings.push(tls(&enabled));
    findings.push(h2c(&enabled));
    findings.extend(relay(configuration, &enabled));
    findings.extend(php_fpm(configuration, build, &enabled));
    findings
}

fn hosts(configuration: &Configuration) -> Vec<Host> {
    let is_on = |host, name| {
        let word = configuration.effective(host, name).and_then(|directive| directive.words.first());
        word.is_some_and(|word| !word.eq_ignore_ascii_case("off"))
    };
    let has_http2 = configuration.module("http2_module").is_some();
    // The word h2 means connections with TLS, and h2c the others.
    let offers_h2c = |host| {
        configuration
            .effective(host, "protocols")
            .is_some_and(|directive| directive.words.iter().any(|word| word.eq_ignore_ascii_case("h2c")))
    };
    let title = |host, title: &str| match configuration.of(host, "servername").last() {
        Some(directive) if host != MAIN => format!("{title} {}", directive.words.join(" ")),
        Some(_) | None => title.to_owned(),
    };
    let pairs = configuration.hosts.iter().zip(settings::of_hosts(configuration)).enumerate();
    let host = pairs.map(|(index, (found, settings))| {
        let tls = is_on(index, "sslengine") || is_on(index, "gnutlsenable");
        Host { title: title(index, &found.title), settings, tls, h2c: has_http2 && !tls && offers_h2c(index) }
    });
    host.collect()
}

fn titles(hosts: &[&Host]) -> String {
    hosts.iter().map(|host| host.title.as_str()).collect::<Vec<_>>().join(", ")
}

fn switched_on(serving: &[Host], enabled: &[&Host]) -> Finding {
    const CHECK: &str = "apache.enabled";
    let off: Vec<&Host> = serving.iter().filter(|host| !host.settings.enabled).collect();
    if enabled.is_empty() {
        let found = "SocketHandoffEnabled is Off everywhere: no client is handed over";
        return Finding::problem(CHECK, found, "write SocketHandoffEnabled On where PHP hands over");
    }
    match off.is_empty() {
        true => Finding::ok(CHECK, format!("on in {}", titles(enabled))),
        false => Finding::ok(CHECK, format!("on in {}; off in {}", titles(enabled), titles(&off))),
    }
}

/// The C module forgets the main server's prefix where a host says anything of its own.
fn lost_prefixes(configuration: &Configuration) -> Vec<Finding> {
    if configuration.main("sockethandoffallowedprefix").is_none() {
        return Vec::new();
    }
    let loses = |host: &usize| {
        let mut own = configuration
            .directives
            .iter()
            .filter(|directive| directive.host == *host)
            .map(|found| &found.name);
        let has_prefix = configuration.of(*host, "sockethandoffallowedprefix").next().is_some();
        !has_prefix && own.any(|name| name.starts_with(PREFIX))
    };
    let finding = |host: usize| {
        let title = &configuration.hosts[host].title;
        let found = format!("{title}: this module does not inherit SocketHandoffAllowedPrefix there: 403");
        Finding::problem(
            "apache.prefix",
            found,
            "repeat the directive there, or install handoffd's own module",
        )
    };
    (MAIN + 1..configuration.hosts.len()).filter(loses).map(finding).collect()
}

fn prefix(enabled: &[&Host], socket: &Path) -> Finding {
    const CHECK: &str = "apache.prefix";
    let Ok(real) = fs::canonicalize(socket) else {
        let found = format!("{}: where it really is cannot be seen", socket.display());
        return Finding::unseen(CHECK, found, "start handoffd, or ask again as root");
    };
    let is_outside = |host: &&&Host| !is_beneath(&real, &host.settings.prefix);
    let outside: Vec<&Host> = enabled.iter().filter(is_outside).copied().collect();
    let shown = match real == socket {
        true => socket.display().to_string(),
        false => format!("{} (really {})", socket.display(), real.display()),
    };
    let Some(first) = outside.first() else {
        return Finding::ok(CHECK, format!("{shown} is beneath SocketHandoffAllowedPrefix"));
    };
    let found = format!(
        "{}: {shown} is not beneath SocketHandoffAllowedPrefix {}: 403",
        titles(&outside),
        first.settings.prefix
    );
    let directory = real.parent().unwrap_or(Path::new("/")).display().to_string();
    let directory = directory.trim_end_matches('/');
    Finding::problem(CHECK, found, format!("write SocketHandoffAllowedPrefix {directory}/ there"))
}

/// As the module compares: both really, so that `/var/run/` is `/run/`, and no link leads out.
fn is_beneath(real: &Path, prefix: &str) -> bool {
    if prefix.is_empty() {
        return true;
    }
    let prefix = fs::canonicalize(prefix).unwrap_or_else(|_| prefix.into());
    real.starts_with(prefix)
}

fn tls(enabled: &[&Host]) -> Finding {
    const CHECK: &str = "apache.tls";
    let with_tls = || enabled.iter().filter(|host| host.tls);
    let refused: Vec<&Host> = with_tls().filter(|host| !host.settings.relay).copied().collect();
    if refused.is_empty() {
        let found = match with_tls().count() {
            0 => "no host with TLS hands over",
            _ => "hosts with TLS relay",
        };
        return Finding::ok(CHECK, found);
    }
    let found = format!("{}: a socket with TLS cannot be passed: each handoff is a 500", titles(&refused));
    let advice = "let a proxy in front end TLS, or write SocketHandoffRelay On there; \
                  SocketHandoffEnabled Off if nothing is handed over there";
    Finding::problem(CHECK, found, advice)
}

/// Without TLS browsers speak HTTP/1.1, but a proxy may not. With it all is said by [`tls`].
fn h2c(enabled: &[&Host]) -> Finding {
    const CHECK: &str = "apache.http2";
    let with_h2c = || enabled.iter().filter(|host| host.h2c);
    let refused: Vec<&Host> = with_h2c().filter(|host| !host.settings.relay).copied().collect();
    if refused.is_empty() {
        let found = match with_h2c().count() {
            0 => "no host that hands over speaks HTTP/2 without TLS",
            _ => "hosts with HTTP/2 relay",
        };
        return Finding::ok(CHECK, found);
    }
    let found = format!(
        "{}: h2c is offered; a client or proxy that takes it shares one socket among its requests: \
         each handoff to it is a 500",
        titles(&refused)
    );
    Finding::warning(CHECK, found, "write Protocols http/1.1 there, or SocketHandoffRelay On")
}

/// A relay costs a worker of Apache's for each stream: many on event, all there are on prefork.
fn relay(configuration: &Configuration, enabled: &[&Host]) -> Option<Finding> {
    const CHECK: &str = "apache.relay";
    let relaying: Vec<&Host> = enabled.iter().filter(|host| host.settings.relay).copied().collect();
    if relaying.is_empty() {
        return None;
    }
    if configuration.module("mpm_prefork_module").is_none() {
        return Some(Finding::ok(CHECK, format!("{}: a relayed stream holds one thread", titles(&relaying))));
    }
    let found = format!("{}: on prefork each relayed stream holds a process of Apache's", titles(&relaying));
    let advice =
        "use mpm_event with php-fpm, or a proxy in front that ends TLS; else raise MaxRequestWorkers";
    Some(Finding::warning(CHECK, found, advice))
}

/// A header line from FastCGI may have 8 KiB.
fn php_fpm(configuration: &Configuration, build: Build, enabled: &[&Host]) -> Option<Finding> {
    const CHECK: &str = "apache.php_fpm";
    let is_fcgi = |word: &String| word.contains("fcgi://");
    let mut ways =
        ["sethandler", "proxypass", "proxypassmatch"].into_iter().flat_map(|name| configuration.named(name));
    let way = ways.find(|directive| directive.words.iter().any(is_fcgi))?;
    let place = &way.place;
    let takes_bodies = build == Build::Ours && enabled.iter().all(|host| host.settings.body);
    if takes_bodies {
        let found =
            format!("{place}: php-fpm; JSON over 8 KB must be the body, which SocketHandoffBody allows");
        return Some(Finding::ok(CHECK, found));
    }
    let found = format!("{place}: php-fpm; JSON over 8 KB in X-Handoff-Data is a 500");
    let advice = match build {
        Build::Ours | Build::Unknown => {
            "write SocketHandoffBody On, and send the JSON as the body (X-Handoff-Body: 1)"
        }
        Build::Theirs => "install handoffd's own module, and send the JSON as the body (X-Handoff-Body: 1)",
    };
    Some(Finding::warning(CHECK, found, advice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    /// What is not well, with a host's text around `words`.
    fn judged(text: &str, build: Build) -> Vec<Finding> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("door.sock");
        fs::write(&socket, "").unwrap();
        let link = directory.path().join("link.sock");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let file = directory.path().join("httpd.conf");
        let text = text.replace("DIR", &directory.path().display().to_string());
        let prefix = format!("SocketHandoffAllowedPrefix {}\n", directory.path().display());
        fs::write(&file, format!("{prefix}{text}")).unwrap();
        let socket = if text.contains("# link") { link } else { socket };
        let mut findings = judge(&Configuration::read(&file).unwrap(), build, &[socket]);
        findings.retain(|finding| finding.level != Level::Ok);
        findings
    }

    #[test]
    fn each_fault_is_named_with_what_to_do() {
        let http2 = "LoadModule http2_module x.so\nProtocols h2c http/1.1\n";
        let cases = [
            ("SocketHandoffEnabled Off\n", "apache.enabled", Level::Problem, "SocketHandoffEnabled On"),
            (
                "SocketHandoffAllowedPrefix /srv/\n",
                "apache.prefix",
                Level::Problem,
                "SocketHandoffAllowedPrefix ",
            ),
            ("# link\n", "apache.prefix", Level::Problem, "SocketHandoffAllowedPrefix /dev/"),
            (
                "<VirtualHost *:80>\nSocketHandoffAllowedPrefix /srv/\n</VirtualHost>\n",
                "apache.prefix",
                Level::Problem,
                "DIR/",
            ),
            ("SSLEngine on\n", "apache.tls", Level::Problem, "SocketHandoffRelay On"),
            (
                "<VirtualHost *:443>\nSSLEngine on\n</VirtualHost>\n",
                "apache.tls",
                Level::Problem,
                "proxy in front",
            ),
            (http2, "apache.http2", Level::Warning, "Protocols http/1.1"),
            (
                "LoadModule mpm_prefork_module x.so\nSSLEngine on\nSocketHandoffRelay On\n",
                "apache.relay",
                Level::Warning,
                "mpm_event",
            ),
            (
                "SocketHandoffBody Off\n<FilesMatch php>\nSetHandler \"proxy:unix:/run/php.sock|fcgi://x\"\n</FilesMatch>\n",
                "apache.php_fpm",
                Level::Warning,
                "SocketHandoffBody On",
            ),
        ];
        for (text, check, level, advice) in cases {
            let findings = judged(text, Build::Ours);
            assert_eq!(findings.len(), 1, "{text}: {findings:?}");
            assert_eq!((findings[0].check, findings[0].level), (check, level), "{text}");
            let said = findings[0].advice.clone().unwrap();
            assert!(said.contains(advice) || advice == "DIR/" && said.ends_with("/ there"), "{text}: {said}");
        }
    }

    #[test]
    fn what_is_well_is_not_complained_about() {
        for text in [
            "",
            "<VirtualHost *:80>\n</VirtualHost>\n",
            // What does not hand over may have what it likes.
            "<VirtualHost *:80>\n</VirtualHost>\n<VirtualHost *:443>\nSSLEngine on\nProtocols h2\n\
             SocketHandoffEnabled Off\n</VirtualHost>\n",
            "Protocols h2c http/1.1\n", // without mod_http2 it is only a word
            "LoadModule http2_module x.so\nProtocols h2 http/1.1\n<VirtualHost *:80>\n</VirtualHost>\n",
            "LoadModule http2_module x.so\nProtocols h2c\n<VirtualHost *:80>\nProtocols http/1.1\n</VirtualHost>\n",
            "LoadModule mpm_event_module x.so\nSSLEngine on\nSocketHandoffRelay On\n",
            "SSLEngine on\n<VirtualHost *:80>\nSSLEngine off\n</VirtualHost>\n",
            "ProxyPassMatch \\.php fcgi://127.0.0.1:9000/\n",
        ] {
            assert_eq!(judged(text, Build::Ours), [], "{text}");
        }
    }

    #[test]
    fn the_c_module_forgets_an_inherited_prefix() {
        let text = "<VirtualHost *:80>\nSocketHandoffMaxRetries 1\n</VirtualHost>\n";
        let findings = judged(text, Build::Theirs);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].found.contains("does not inherit"), "{findings:?}");
        assert_eq!(judged(text, Build::Ours), []);
        assert_eq!(judged("<VirtualHost *:80>\n</VirtualHost>\n", Build::Theirs), []);
    }
}

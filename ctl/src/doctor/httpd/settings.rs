//! What the module's directives come to, for each virtual host. In: the directives. Out: settings, and what Apache would
//! not accept. Never: judges whether a site works with them.

use super::PREFIX;
use super::walk::{Configuration, Directive, MAIN};
use crate::doctor::finding::Finding;

/// The settings of a host that matter to a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) enabled: bool,
    /// Sockets must be beneath it; empty: anywhere.
    pub(super) prefix: String,
    /// The response's body may be the payload.
    pub(super) body: bool,
    /// The daemon is told of the request, and takes large payloads in a memfd.
    pub(super) envelope: bool,
    /// Where the socket cannot be passed, the answer goes through Apache.
    pub(super) relay: bool,
}

/// The module's own defaults.
impl Default for Settings {
    fn default() -> Self {
        Self { enabled: true, prefix: "/var/run/".to_owned(), body: true, envelope: true, relay: false }
    }
}

/// Headers that the daemon may be told.
const HEADERS_MAX: usize = 64;

/// What a directive's argument may be.
enum Allowed {
    OnOff,
    Number(u32, u32),
    Path,
    Names,
}

/// Each directive, in lower case, as it is written, and whether the C module has it too.
const DIRECTIVES: [(&str, Allowed, bool); 9] = [
    ("SocketHandoffEnabled", Allowed::OnOff, true),
    ("SocketHandoffAllowedPrefix", Allowed::Path, true),
    ("SocketHandoffConnectTimeoutMs", Allowed::Number(1, 60_000), true),
    ("SocketHandoffSendTimeoutMs", Allowed::Number(1, 60_000), true),
    ("SocketHandoffMaxRetries", Allowed::Number(0, 10), true),
    ("SocketHandoffBody", Allowed::OnOff, false),
    ("SocketHandoffEnvelope", Allowed::OnOff, false),
    ("SocketHandoffForwardHeaders", Allowed::Names, false),
    ("SocketHandoffRelay", Allowed::OnOff, false),
];

/// Each host's settings: its own over the main server's.
pub(super) fn of_hosts(configuration: &Configuration) -> Vec<Settings> {
    let mut main = Settings::default();
    for directive in configuration.directives.iter().filter(|directive| directive.host == MAIN) {
        main.apply(directive);
    }
    let of = |host| {
        let mut settings = main.clone();
        for directive in configuration.directives.iter().filter(|directive| directive.host == host) {
            settings.apply(directive);
        }
        settings
    };
    (0..configuration.hosts.len()).map(of).collect()
}

/// What keeps Apache from starting, or does not what was meant.
pub(super) fn mistakes(configuration: &Configuration, is_ours: bool) -> Vec<Finding> {
    let ours = configuration.directives.iter().filter(|directive| directive.name.starts_with(PREFIX));
    ours.filter_map(|directive| mistake(directive, is_ours)).collect()
}

fn mistake(directive: &Directive, is_ours: bool) -> Option<Finding> {
    let Directive { written, words, place, section, .. } = directive;
    let problem = |found: String, advice: String| Some(Finding::problem("apache.directives", found, advice));
    let known = DIRECTIVES.iter().find(|(name, ..)| name.eq_ignore_ascii_case(written));
    let Some((name, allowed, is_old)) = known else {
        return problem(
            format!("{place}: {written} is no directive of the module: Apache does not start"),
            format!("write {}", nearest(written)),
        );
    };
    if !is_ours && !is_old {
        return problem(
            format!("{place}: the module that is loaded does not know {name}: Apache does not start"),
            "load handoffd's own mod_socket_handoff.so, or take the line out".to_owned(),
        );
    }
    if let Some(section) = section {
        return problem(
            format!("{place}: {name} is not allowed inside {section}: Apache does not start"),
            "put it into the virtual host or the main server".to_owned(),
        );
    }
    let value = words.join(" ");
    let expected = allowed.refuses(words)?;
    problem(
        format!("{place}: {name} {value}: must be {expected}"),
        format!("write {name} {}", allowed.example()),
    )
}

/// The directive that has the most characters in common with it, from its start and from its end.
fn nearest(written: &str) -> &'static str {
    let same = |(a, b): &(char, char)| a.eq_ignore_ascii_case(b);
    let common = |name: &str| {
        let from_start = name.chars().zip(written.chars()).take_while(same).count();
        from_start + name.chars().rev().zip(written.chars().rev()).take_while(same).count()
    };
    DIRECTIVES.iter().map(|(name, ..)| *name).max_by_key(|name| common(name)).unwrap_or_default()
}

impl Settings {
    fn apply(&mut self, directive: &Directive) {
        let Some(word) = directive.words.first() else { return };
        let is_on = word.eq_ignore_ascii_case("on");
        match directive.name.as_str() {
            "sockethandoffenabled" => self.enabled = is_on,
            "sockethandoffallowedprefix" => self.prefix.clone_from(word),
            "sockethandoffbody" => self.body = is_on,
            "sockethandoffenvelope" => self.envelope = is_on,
            "sockethandoffrelay" => self.relay = is_on,
            _ => {}
        }
    }
}

impl Allowed {
    /// What is allowed instead; none: these words are.
    fn refuses(&self, words: &[String]) -> Option<String> {
        let single = match words {
            [single] => Some(single.as_str()),
            _ => None,
        };
        match self {
            Self::OnOff => {
                let fits = single.is_some_and(|word| ["on", "off"].contains(&word.to_lowercase().as_str()));
                (!fits).then(|| "On or Off".to_owned())
            }
            Self::Number(least, most) => {
                let number = single.and_then(|word| word.parse::<u32>().ok());
                let fits = number.is_some_and(|number| (*least..=*most).contains(&number));
                (!fits).then(|| format!("a number from {least} to {most}"))
            }
            Self::Path => {
                let fits = single.is_some_and(|word| word.is_empty() || word.starts_with('/'));
                (!fits).then(|| "one absolute path".to_owned())
            }
            Self::Names => {
                let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
                let is_name = |word: &String| !word.is_empty() && word.bytes().all(is_token);
                let is_mixed = words.len() > 1 && words.iter().any(|word| word.eq_ignore_ascii_case("none"));
                let fits = (1..=HEADERS_MAX).contains(&words.len()) && words.iter().all(is_name) && !is_mixed;
                (!fits).then(|| format!("names of at most {HEADERS_MAX} headers, or None alone"))
            }
        }
    }

    fn example(&self) -> &'static str {
        match self {
            Self::OnOff => "On",
            Self::Number(..) => "100",
            Self::Path => "/run/handoffd/",
            Self::Names => "Last-Event-ID Origin",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use std::fs;

    fn read(text: &str) -> Configuration {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("httpd.conf");
        fs::write(&file, text).unwrap();
        Configuration::read(&file).unwrap()
    }

    #[test]
    fn a_host_inherits_what_it_does_not_say() {
        let settings = of_hosts(&read(
            "<VirtualHost *:80>\nSocketHandoffRelay on\n</VirtualHost>\n\
             <VirtualHost *:81>\nSocketHandoffEnabled Off\nSocketHandoffBody Off\n</VirtualHost>\n\
             SocketHandoffAllowedPrefix /run/x/\n",
        ));
        let main = Settings { prefix: "/run/x/".to_owned(), ..Settings::default() };
        assert_eq!(
            settings,
            [
                main.clone(),
                Settings { relay: true, ..main.clone() },
                Settings { enabled: false, body: false, ..main }
            ]
        );
    }

    #[test]
    fn what_apache_would_not_accept_is_named() {
        for (line, is_ours, facts) in [
            (
                "SocketHandofEnabled On",
                true,
                &["SocketHandofEnabled is no directive", "write SocketHandoffEnabled"][..],
            ),
            ("SocketHandoffTimeout 5", true, &["no directive"]),
            ("SocketHandoffConnectTimeoutMs 0", true, &["must be a number from 1 to 60000"]),
            ("SocketHandoffSendTimeoutMs 60001", true, &["from 1 to 60000"]),
            ("SocketHandoffMaxRetries 11", true, &["from 0 to 10"]),
            ("SocketHandoffMaxRetries -1", true, &["from 0 to 10"]),
            ("SocketHandoffRelay yes", true, &["SocketHandoffRelay yes: must be On or Off"]),
            ("SocketHandoffAllowedPrefix run", true, &["one absolute path"]),
            ("SocketHandoffAllowedPrefix /a /b", true, &["one absolute path"]),
            ("SocketHandoffForwardHeaders", true, &["or None alone"]),
            ("SocketHandoffForwardHeaders None Origin", true, &["or None alone"]),
            ("SocketHandoffForwardHeaders a:b", true, &["names of at most 64 headers"]),
            ("SocketHandoffRelay On", false, &["the module that is loaded does not know SocketHandoffRelay"]),
            (
                "<Location />\nSocketHandoffEnabled On\n</Location>",
                true,
                &["not allowed inside <location />"],
            ),
        ] {
            let found = mistakes(&read(line), is_ours);
            assert_eq!(found.len(), 1, "{line}");
            assert_eq!(found[0].level, Level::Problem, "{line}");
            let said = format!("{} -> {}", found[0].found, found[0].advice.clone().unwrap());
            for fact in facts {
                assert!(said.contains(fact), "{line}: {fact:?} is not in {said:?}");
            }
        }
    }

    #[test]
    fn everything_that_is_allowed_is_no_mistake() {
        let text = "SocketHandoffEnabled ON\nSocketHandoffAllowedPrefix /run/\nSocketHandoffConnectTimeoutMs 60000\n\
            SocketHandoffSendTimeoutMs 1\nSocketHandoffMaxRetries 0\nSocketHandoffBody Off\nSocketHandoffEnvelope On\n\
            SocketHandoffForwardHeaders None\nSocketHandoffRelay Off\nsockethandoffrelay off\n";
        assert_eq!(mistakes(&read(text), true), []);
    }
}

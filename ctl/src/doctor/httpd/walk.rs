//! An Apache configuration, read from its first file on. In: the file. Out: every directive that holds, with its place
//! and its virtual host, the modules that are loaded, and what could not be read.
//! Never: starts Apache, reads a .htaccess, follows more than a bounded number of files.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::files;
use super::syntax::{self, Item, Variables};
use crate::doctor::read;

/// Files at most: a loop of includes ends here.
const FILES_MAX: usize = 4096;
/// Includes inside of includes.
const DEPTH_MAX: usize = 32;
/// No configuration is larger, with all that it includes.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Nobody reads more complaints of a kind.
const COMPLAINTS_MAX: usize = 16;

/// What the files say.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    /// What relative paths are relative to.
    pub(super) root: PathBuf,
    /// The main server, then the virtual hosts.
    pub(super) hosts: Vec<Host>,
    pub(super) directives: Vec<Directive>,
    pub(super) modules: Vec<Module>,
    pub(super) files: usize,
    /// Files that Apache cannot do without, and which are not there.
    pub(super) missing: Vec<String>,
    /// What could not be read, or is not understood: its place, and why.
    pub(super) unread: Vec<String>,
}

/// The main server or a virtual host.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// For people: `the main server`, or the section with its place.
    pub(super) title: String,
}

/// One directive that holds.
#[derive(Debug)]
pub(super) struct Directive {
    /// In lower case.
    pub(super) name: String,
    pub(super) written: String,
    pub(super) words: Vec<String>,
    /// Its host, an index of [`Configuration::hosts`].
    pub(super) host: usize,
    /// The innermost section in that host: `<Directory /var/www>`.
    pub(super) section: Option<String>,
    /// `FILE:LINE`.
    pub(super) place: String,
}

/// One `LoadModule`.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) place: String,
}

/// The main server.
pub(super) const MAIN: usize = 0;

impl Configuration {
    /// Reads it.
    ///
    /// # Errors
    /// The first file cannot be read.
    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        let root = file.parent().unwrap_or(Path::new("/")).to_owned();
        let variables = read::text(&root.join("envvars"), BYTES_MAX).unwrap_or_default();
        let mut walk = Walk {
            found: Self {
                root,
                hosts: vec![Host { title: "the main server".to_owned() }],
                ..Self::default()
            },
            variables: syntax::shell_variables(&variables),
            defined: BTreeSet::new(),
            host: MAIN,
            sections: Vec::new(),
            bytes_left: BYTES_MAX,
        };
        let text = walk.read(file)?;
        walk.text(file, &text, 0);
        Ok(walk.found)
    }

    /// The last of this name in the main server, as Apache takes it.
    pub(super) fn main<'a>(&'a self, name: &'a str) -> Option<&'a Directive> {
        self.of(MAIN, name).last()
    }

    /// All of this name in a host, outside of any section.
    pub(super) fn of<'a>(&'a self, host: usize, name: &'a str) -> impl Iterator<Item = &'a Directive> {
        self.named(name).filter(move |directive| directive.host == host && directive.section.is_none())
    }

    /// All of this name, anywhere.
    pub(super) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Directive> {
        self.directives.iter().filter(move |directive| directive.name == name)
    }

    /// What holds for a host: its own, else the main server's.
    pub(super) fn effective<'a>(&'a self, host: usize, name: &'a str) -> Option<&'a Directive> {
        self.of(host, name).last().or_else(|| self.main(name))
    }

    pub(super) fn module(&self, name: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.name == name)
    }

    /// Our module's file, and those of all others.
    pub(crate) fn module_files(&self) -> Option<(&Path, Vec<&Path>)> {
        let others = self.modules.iter().filter(|module| module.name != super::MODULE);
        Some((&self.module(super::MODULE)?.file, others.map(|module| module.file.as_path()).collect()))
    }

    /// A path as Apache takes it.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The process id file of a running Apache.
    pub(crate) fn pid_file(&self) -> Option<PathBuf> {
        let first = |name| self.main(name).and_then(|directive| directive.words.first());
        let in_directory =
            || first("defaultruntimedir").map(|directory| self.path(directory).join("httpd.pid"));
        first("pidfile").map(|path| self.path(path)).or_else(in_directory)
    }

    /// `User` and `Group`.
    pub(crate) fn account(&self) -> (Option<&str>, Option<&str>) {
        let first = |name| self.main(name).and_then(|directive| directive.words.first()).map(String::as_str);
        (first("user"), first("group"))
    }
}

/// The way through the files.
struct Walk {
    found: Configuration,
    variables: Variables,
    defined: BTreeSet<String>,
    host: usize,
    /// Open sections of the host.
    sections: Vec<(String, String)>,
    /// What may still be read.
    bytes_left: u64,
}

/// A section that does not hold is skipped up to its end.
struct Skipped {
    name: String,
    depth: usize,
    /// Whether somebody may make it hold by starting Apache with `-D`.
    why: Option<String>,
    speaks_of_us: bool,
}

impl Walk {
    fn text(&mut self, file: &Path, text: &str, depth: usize) {
        self.found.files += 1;
        let mut skipped: Option<Skipped> = None;
        for (number, line) in syntax::raw_lines(text) {
            let line = syntax::parse(number, &line, &self.variables);
            let place = format!("{}:{}", file.display(), line.number);
            if let Some(mut section) = skipped.take() {
                if !section.ends_with(&line.item) {
                    skipped = Some(section);
                } else if let Some(why) = section.why.filter(|_| section.speaks_of_us) {
                    self.unread(why);
                }
                continue;
            }
            match line.item {
                Item::Open { name, words } => skipped = self.open(name, &words, &place),
                Item::Close { name } => self.close(&name),
                Item::Directive { name, written, words } => {
                    self.directive(
                        Directive {
                            section: self.sections.last().map(|(_, title)| title.clone()),
                            host: self.host,
                            name,
                            written,
                            words,
                            place,
                        },
                        depth,
                    );
                }
            }
        }
    }

    fn open(&mut self, name: String, words: &[String], place: &str) -> Option<Skipped> {
        let argument = words.first().map_or("", String::as_str);
        let (is_negated, argument) =
            argument.strip_prefix('!').map_or((false, argument), |argument| (true, argument));
        let skip = |why| Some(Skipped { name: name.clone(), depth: 0, why, speaks_of_us: false });
        match name.as_str() {
            "ifmodule" if self.has_module(argument) == is_negated => skip(None),
            "iffile" if self.found.path(argument).exists() == is_negated => skip(None),
            "ifdefine" if self.defined.contains(argument) == is_negated => {
                skip(Some(format!("<IfDefine {argument}> at {place} is taken as not defined")))
            }
            // Of all versions that there are, this is the newest line.
            "ifversion" if argument.starts_with('<') => skip(None),
            "ifmodule" | "iffile" | "ifdefine" | "ifversion" | "ifdirective" | "ifsection" => None,
            "macro" => skip(Some(format!("<Macro {argument}> at {place} is not expanded"))),
            "virtualhost" => {
                let title = format!("<VirtualHost {}> ({place})", words.join(" "));
                self.found.hosts.push(Host { title });
                self.host = self.found.hosts.len() - 1;
                None
            }
            _ => {
                let title = format!("<{} {}>", name, words.join(" "));
                self.sections.push((name, title));
                None
            }
        }
    }

    fn close(&mut self, name: &str) {
        if name == "virtualhost" {
            self.host = MAIN;
            self.sections.clear();
        } else if self.sections.last().is_some_and(|(open, _)| open == name) {
            self.sections.pop();
        }
    }

    fn directive(&mut self, directive: Directive, depth: usize) {
        let word = |index: usize| directive.words.get(index).cloned().unwrap_or_default();
        match directive.name.as_str() {
            "include" | "includeoptional" => return self.include(&directive, depth),
            "define" => {
                self.defined.insert(word(0));
                if directive.words.len() > 1 {
                    self.variables.insert(word(0), word(1));
                }
            }
            "undefine" => {
                self.defined.remove(&word(0));
                self.variables.remove(&word(0));
            }
            "serverroot" => self.found.root = word(0).into(),
            "loadmodule" => {
                let file = self.found.path(&word(1));
                self.found.modules.push(Module { name: word(0), file, place: directive.place.clone() });
            }
            _ => {}
        }
        self.found.directives.push(directive);
    }

    fn include(&mut self, directive: &Directive, depth: usize) {
        let Some(path) = directive.words.first().map(|path| self.found.path(path)) else { return };
        let is_optional = directive.name == "includeoptional";
        let (place, shown) = (&directive.place, path.display());
        if depth >= DEPTH_MAX || self.found.files >= FILES_MAX {
            self.unread(format!("{shown}, included at {place}: too many includes"));
            return;
        }
        match files::named(&path) {
            Ok(files) if files.is_empty() && !is_optional && !files::is_pattern(&path) => {}
            Ok(files) => {
                for file in files {
                    match self.read(&file) {
                        Ok(text) => self.text(&file, &text, depth + 1),
                        Err(error) => self.unread(format!("{}: {error}", file.display())),
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !is_optional && self.found.missing.len() < COMPLAINTS_MAX {
                    self.found.missing.push(format!("{shown}, included at {place}"));
                }
            }
            Err(error) => self.unread(format!("{shown}, included at {place}: {error}")),
        }
    }

    fn read(&mut self, file: &Path) -> io::Result<String> {
        let text = read::text(file, self.bytes_left)?;
        self.bytes_left = self.bytes_left.saturating_sub(text.len() as u64);
        Ok(text)
    }

    fn unread(&mut self, what: String) {
        if self.found.unread.len() < COMPLAINTS_MAX && !self.found.unread.contains(&what) {
            self.found.unread.push(what);
        }
    }

    /// `<IfModule ssl_module>`, or by the name of a source file: `mod_ssl.c`, `prefork.c`.
    fn has_module(&self, name: &str) -> bool {
        let Some(source) = name.strip_suffix(".c") else {
            return self.found.module(name).is_some() || BUILT_IN.contains(&name.trim_end_matches("_module"));
        };
        let short = source.strip_prefix("mod_").unwrap_or(source);
        let is_it = |module: &Module| {
            let file = module.file.file_stem().unwrap_or_default().to_string_lossy();
            let file = file.strip_prefix("mod_").or_else(|| file.strip_prefix("lib")).unwrap_or(&file);
            file == short || file == format!("mpm_{short}") || module.name == format!("{short}_module")
        };
        BUILT_IN.contains(&short) || self.found.modules.iter().any(is_it)
    }
}

/// Modules that distributions build into Apache itself.
const BUILT_IN: [&str; 8] = ["core", "so", "http", "log_config", "logio", "version", "unixd", "watchdog"];

impl Skipped {
    fn ends_with(&mut self, item: &Item) -> bool {
        match item {
            Item::Open { name, .. } if *name == self.name => self.depth += 1,
            Item::Close { name } if *name == self.name && self.depth == 0 => return true,
            Item::Close { name } if *name == self.name => self.depth -= 1,
            Item::Directive { name, words, .. } => {
                let loads_us = words.first().is_some_and(|word| word == super::MODULE);
                self.speaks_of_us |= name.starts_with(super::PREFIX) || loads_us || name == "sslengine";
            }
            Item::Open { .. } | Item::Close { .. } => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn read(files: &[(&str, &str)]) -> Configuration {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Configuration::read(&directory.path().join("apache2.conf")).unwrap()
    }

    fn values<'a>(configuration: &'a Configuration, name: &'a str) -> Vec<(usize, &'a str)> {
        configuration.named(name).map(|directive| (directive.host, directive.words[0].as_str())).collect()
    }

    #[test]
    fn includes_hosts_and_sections_are_followed() {
        let configuration = read(&[
            ("envvars", "export APACHE_RUN_USER=www-data\nexport APACHE_RUN_GROUP=web\n"),
            (
                "apache2.conf",
                "User ${APACHE_RUN_USER}\nGroup ${APACHE_RUN_GROUP}\nDefine PREFIX /srv/\nA 1\n\
                 IncludeOptional mods/*.load\nIncludeOptional none/*.conf\nInclude sites\nInclude gone.conf\nA 5\n",
            ),
            ("mods/x.load", "LoadModule ssl_module lib/mod_ssl.so\n"),
            (
                "sites/a.conf",
                "<VirtualHost *:443 [::1]:443>\nA 2\n<Directory />\nB ${PREFIX}\n</Directory>\nA 3\n\
                 </VirtualHost>\nA 4\n",
            ),
        ]);
        assert_eq!(configuration.account(), (Some("www-data"), Some("web")));
        assert_eq!(values(&configuration, "a"), [(0, "1"), (1, "2"), (1, "3"), (0, "4"), (0, "5")]);
        let inner = configuration.named("b").next().unwrap();
        assert_eq!((inner.section.as_deref(), inner.words[0].as_str()), (Some("<directory />"), "/srv/"));
        assert_eq!(configuration.effective(1, "a").unwrap().words, ["3"]);
        assert!(
            configuration.hosts[1].title.starts_with("<VirtualHost *:443 [::1]:443> ("),
            "{configuration:?}"
        );
        assert!(configuration.hosts[1].title.ends_with("sites/a.conf:1)"));
        assert!(configuration.module("ssl_module").unwrap().file.ends_with("lib/mod_ssl.so"));
        assert_eq!(configuration.missing.len(), 1);
        assert!(configuration.missing[0].contains("gone.conf, included at"), "{:?}", configuration.missing);
        assert!(configuration.unread.is_empty(), "{:?}", configuration.unread);
        assert_eq!(configuration.files, 3);
    }

    #[test]
    fn conditions_are_weighed() {
        let configuration = read(&[(
            "apache2.conf",
            "LoadModule ssl_module m/mod_ssl.so\nLoadModule mpm_prefork_module m/mod_mpm_prefork.so\n\
             LoadModule php_module m/libphp8.2.so\nDefine HERE\n\
             <IfModule mod_ssl.c>\nA 1\n<IfModule !mod_ssl.c>\nA no\n<IfModule mod_ssl.c>\nA no\n</IfModule>\n</IfModule>\n\
             A 2\n</IfModule>\n<IfModule ssl_module>\nA 3\n</IfModule>\n<IfModule prefork.c>\nA 4\n</IfModule>\n\
             <IfModule mod_so.c>\nA 5\n</IfModule>\n<IfModule http2_module>\nA no\n</IfModule>\n\
             <IfDefine HERE>\nA 6\n</IfDefine>\n<IfDefine !HERE>\nA no\n</IfDefine>\n<IfDefine ELSE>\nA no\n</IfDefine>\n\
             <IfFile apache2.conf>\nA 7\n</IfFile>\n<IfVersion < 2.4>\nA no\n</IfVersion>\n<IfVersion >= 2.4>\nA 8\n</IfVersion>\n",
        )]);
        let seen: Vec<&str> = values(&configuration, "a").into_iter().map(|(_, value)| value).collect();
        assert_eq!(seen, ["1", "2", "3", "4", "5", "6", "7", "8"]);
        assert!(configuration.unread.is_empty(), "{:?}", configuration.unread);
    }

    #[test]
    fn what_cannot_be_weighed_is_said_where_it_matters() {
        let configuration = read(&[(
            "apache2.conf",
            "<IfDefine TLS>\nSSLEngine on\n</IfDefine>\n<IfDefine OTHER>\nServerAdmin x\n</IfDefine>\n\
             <Macro Site $name>\nSocketHandoffRelay On\n</Macro>\n",
        )]);
        assert_eq!(configuration.unread.len(), 2, "{:?}", configuration.unread);
        assert!(configuration.unread[0].starts_with("<IfDefine TLS> at "));
        assert!(configuration.unread[1].starts_with("<Macro Site> at "));
    }

    #[test]
    fn a_loop_of_includes_ends() {
        let text = "A 1\nInclude apache2.conf\nInclude apache2.conf\n";
        // Also one whose text alone would fill the memory, were all of it kept.
        for text in [text.to_owned(), format!("{text}# {}\n", "x".repeat(1 << 20))] {
            let configuration = read(&[("apache2.conf", &text)]);
            assert!(configuration.files <= FILES_MAX);
            assert!(configuration.files as u64 * text.len() as u64 <= BYTES_MAX);
            assert!((1..=COMPLAINTS_MAX).contains(&configuration.unread.len()));
        }
    }
}

//! The files that `Include` names. In: a path, perhaps with wildcards. Out: the files, sorted, as Apache reads them.
//! Never: follows more than a bounded number of names.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// More than any site includes by one line.
const MATCHES_MAX: usize = 4096;
/// Names that are looked at for one line: links may lead around in circles.
const NAMES_MAX: usize = 65_536;
/// A directory that is included is read with those in it; Apache's own bound is 128.
const DEPTH_MAX: usize = 16;

/// Whether there are wildcards in it.
pub(super) fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

/// All files that the path stands for; of a directory, all in it.
///
/// # Errors
/// A path without wildcards that is not there; a directory that cannot be read.
pub(super) fn named(path: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = if is_pattern(path) { matches(path)? } else { vec![path.to_owned()] };
    let (mut files, mut names_left) = (Vec::new(), NAMES_MAX);
    for path in paths {
        collect(&path, 0, &mut files, &mut names_left)?;
    }
    Ok(files)
}

fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>, names_left: &mut usize) -> io::Result<()> {
    *names_left = names_left
        .checked_sub(1)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too many files and directories"))?;
    if !fs::metadata(path)?.is_dir() {
        files.push(path.to_owned());
    } else if depth < DEPTH_MAX {
        for entry in entries(path)? {
            collect(&entry, depth + 1, files, names_left)?;
        }
    }
    Ok(())
}

fn matches(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let name = component.as_os_str().to_string_lossy();
        let is_wild = matches!(component, Component::Normal(_)) && name.contains(['*', '?', '[']);
        let mut next = Vec::new();
        for directory in found {
            if !is_wild {
                next.push(directory.join(component));
                continue;
            }
            match entries(&directory) {
                Ok(entries) => next.extend(entries.into_iter().filter(|entry| {
                    entry.file_name().is_some_and(|entry| fits(&name, &entry.to_string_lossy()))
                })),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
                Err(error) => return Err(error),
            }
        }
        next.truncate(MATCHES_MAX);
        found = next;
    }
    found.retain(|path| path.exists());
    Ok(found)
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    entries.sort();
    Ok(entries)
}

/// fnmatch(3) of one name: `*`, `?`, `[abc]`, `[a-z]`, `[!a]`. Hidden names are not meant by a wildcard.
fn fits(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on when the name does not fit: the last star takes one character more.
    let mut again: Option<(usize, usize)> = None;
    loop {
        let fit = match (pattern.get(p), name.get(n)) {
            (None, None) => return true,
            (Some('*'), _) => {
                again = Some((p, n));
                p += 1;
                continue;
            }
            (Some(_), Some(character)) => one(&pattern[p..], *character),
            (None, Some(_)) | (Some(_), None) => None,
        };
        match (fit, again) {
            (Some(length), _) => (p, n) = (p + length, n + 1),
            (None, Some((star, from))) if from < name.len() => {
                again = Some((star, from + 1));
                (p, n) = (star + 1, from + 1);
            }
            (None, _) => return false,
        }
    }
}

/// How much of the pattern the character takes.
fn one(pattern: &[char], character: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['[', rest @ ..] => {
            let Some(end) = rest.iter().skip(1).position(|character| *character == ']').map(|at| at + 1)
            else {
                return (character == '[').then_some(1);
            };
            let (is_negated, set) = match &rest[..end] {
                ['!' | '^', set @ ..] => (true, set),
                set => (false, set),
            };
            (is_in(set, character) != is_negated).then_some(end + 2)
        }
        [first, ..] => (*first == character).then_some(1),
        [] => None,
    }
}

fn is_in(set: &[char], character: char) -> bool {
    let mut rest = set;
    loop {
        rest = match rest {
            [first, '-', last, rest @ ..] => {
                if (*first..=*last).contains(&character) {
                    return true;
                }
                rest
            }
            [first, rest @ ..] => {
                if *first == character {
                    return true;
                }
                rest
            }
            [] => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_patterns() {
        for (pattern, name, fit) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf.bak", false),
            ("*.conf", ".a.conf", false),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?.conf", "a.conf", true),
            ("?.conf", ".conf", false),
            ("[0-9]*.conf", "00-x.conf", true),
            ("[!0-9]*.conf", "00-x.conf", false),
            ("[ab].x", "b.x", true),
            ("[ab].x", "c.x", false),
            ("[", "[", true),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }

    #[test]
    fn includes_are_found_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["sites/b.conf", "sites/a.conf", "sites/a.txt", "more/deep/c.conf"] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), "").unwrap();
        }
        let of = |pattern: &str| -> Vec<String> {
            let short = |path: &PathBuf| path.strip_prefix(root).unwrap().display().to_string();
            named(&root.join(pattern)).unwrap().iter().map(short).collect()
        };
        assert_eq!(of("sites/*.conf"), ["sites/a.conf", "sites/b.conf"]);
        assert_eq!(of("*/deep/*.conf"), ["more/deep/c.conf"]);
        assert_eq!(of("more"), ["more/deep/c.conf"]);
        assert_eq!(of("none/*.conf"), [""; 0]);
        assert!(named(&root.join("none.conf")).is_err());
    }

    #[test]
    fn links_in_a_circle_end() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            std::os::unix::fs::symlink(".", directory.path().join(name)).unwrap();
        }
        assert!(named(directory.path()).unwrap_err().to_string().contains("too many"));
    }
}

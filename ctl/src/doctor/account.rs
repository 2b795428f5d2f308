//! Who Apache is to the kernel. In: names. Out: ids, with the further groups that initgroups(3) gives it.
//! Never: becomes anybody.

use std::ffi::CString;
use std::fmt;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist, getgroups};

/// The usual users of Apache: Debian, Red Hat, Arch, SUSE.
const USUAL: [&str; 4] = ["www-data", "apache", "http", "wwwrun"];

/// A user, its primary group, and all groups that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// As `www-data (uid 33, gid 33)`.
impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (uid {}, gid {})", self.name, self.uid, self.gid)
    }
}

impl Account {
    /// By a name, or `#33` as Apache writes it, or `33`; the group is by default the user's own.
    pub(super) fn find(user: &str, group: Option<&str>) -> Result<Self, String> {
        let entry = match number(user) {
            Some(uid) => User::from_uid(Uid::from_raw(uid)),
            None => User::from_name(user),
        };
        let entry = entry.map_err(|errno| format!("user {user}: {errno}"))?;
        let uid = entry.as_ref().map(|entry| entry.uid.as_raw()).or_else(|| number(user));
        let uid = uid.ok_or_else(|| format!("there is no user {user}"))?;
        let gid = match group {
            Some(group) => group_id(group)?,
            None => entry.as_ref().map_or(uid, |entry| entry.gid.as_raw()),
        };
        let further = entry.as_ref().and_then(|entry| CString::new(entry.name.as_str()).ok());
        let further = further.and_then(|name| getgrouplist(&name, Gid::from_raw(gid)).ok());
        let mut groups: Vec<u32> = further.unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        if !groups.contains(&gid) {
            groups.push(gid);
        }
        Ok(Self { name: entry.map_or_else(|| format!("#{uid}"), |entry| entry.name), uid, gid, groups })
    }

    /// The first of the usual ones that is here.
    pub(super) fn usual() -> Option<Self> {
        USUAL.iter().find_map(|name| Self::find(name, None).ok())
    }

    /// Whoever runs this.
    pub(super) fn own() -> Self {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let mut groups: Vec<u32> = getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        groups.push(gid);
        Self { name: "you".to_owned(), uid, gid, groups }
    }
}

/// A user's name for people.
pub(super) fn user_name(uid: u32) -> String {
    let entry = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    entry.map_or_else(|| format!("#{uid}"), |entry| entry.name)
}

/// A group's name for people.
pub(super) fn group_name(gid: u32) -> String {
    let entry = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    entry.map_or_else(|| format!("#{gid}"), |entry| entry.name)
}

fn group_id(group: &str) -> Result<u32, String> {
    if let Some(gid) = number(group) {
        return Ok(gid);
    }
    let entry = Group::from_name(group).map_err(|errno| format!("group {group}: {errno}"))?;
    entry.map(|entry| entry.gid.as_raw()).ok_or_else(|| format!("there is no group {group}"))
}

fn number(name: &str) -> Option<u32> {
    name.strip_prefix('#').unwrap_or(name).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_the_same_account() {
        let root = Account::find("root", None).unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(Account::find("#0", Some("#0")).unwrap(), root);
        let stranger = Account::find("#61234", Some("61235")).unwrap();
        assert_eq!(stranger.to_string(), "#61234 (uid 61234, gid 61235)");
        assert_eq!(stranger.groups, [61235]);
    }

    #[test]
    fn who_is_nobody_is_named() {
        assert_eq!(Account::find("no-such-user", None).unwrap_err(), "there is no user no-such-user");
        assert_eq!(Account::find("root", Some("no-such")).unwrap_err(), "there is no group no-such");
    }
}

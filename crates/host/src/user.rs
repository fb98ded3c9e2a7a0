//! Users and groups from `/etc/passwd` and `/etc/group`. Name services behind NSS (LDAP and the like) are not asked:
//! they load code into the process and may wait on a network; numbers always work.

use std::fs;

/// Who a child runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, `gid` included.
    pub groups: Vec<u32>,
    pub name: Option<String>,
    pub home: Option<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("user `{0}` is not in /etc/passwd")]
    User(String),
    #[error("group `{0}` is not in /etc/group")]
    Group(String),
    #[error("user {0} is not in /etc/passwd, so its group is not known")]
    GroupOf(u32),
}

impl Error {
    pub fn code(&self) -> &'static str {
        "HF0204"
    }

    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Error::User(name) => format!("create it with: useradd --system {name} (or give a number)"),
            Error::Group(name) => format!("create it with: groupadd --system {name} (or give a number)"),
            Error::GroupOf(_) => "give `group` as well".into(),
        })
    }
}

/// `user` and `group` are names or numbers; `groups` replaces the supplementary groups from `/etc/group`.
pub fn resolve(user: &str, group: Option<&str>, groups: Option<&[String]>) -> Result<Account, Error> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    resolve_in(&read("/etc/passwd"), &read("/etc/group"), user, group, groups)
}

/// The number of a group given by name or number.
pub fn gid(group: &str) -> Result<u32, Error> {
    gid_in(&fs::read_to_string("/etc/group").unwrap_or_default(), group)
}

fn resolve_in(
    passwd: &str,
    group_file: &str,
    user: &str,
    group: Option<&str>,
    groups: Option<&[String]>,
) -> Result<Account, Error> {
    let number = user.parse::<u32>().ok();
    let entry = passwd
        .lines()
        .map(fields)
        .find(|f| f.len() >= 6 && (f[0] == user || number.is_some() && f[2].parse() == Ok(number.unwrap_or(0))));
    let uid = match (&entry, number) {
        (Some(f), _) => f[2].parse().map_err(|_| Error::User(user.into()))?,
        (None, Some(uid)) => uid,
        (None, None) => return Err(Error::User(user.into())),
    };
    let gid = match (group, &entry) {
        (Some(group), _) => gid_in(group_file, group)?,
        (None, Some(f)) => f[3].parse().map_err(|_| Error::GroupOf(uid))?,
        (None, None) => return Err(Error::GroupOf(uid)),
    };
    let name = entry.as_ref().map(|f| f[0].to_owned());
    let mut all = match groups {
        Some(listed) => listed.iter().map(|g| gid_in(group_file, g)).collect::<Result<Vec<_>, _>>()?,
        None => member_of(group_file, name.as_deref()),
    };
    all.push(gid);
    all.sort_unstable();
    all.dedup();
    Ok(Account { uid, gid, groups: all, name, home: entry.map(|f| f[5].to_owned()) })
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

fn gid_in(group_file: &str, group: &str) -> Result<u32, Error> {
    let found = group_file.lines().map(fields).find(|f| f.len() >= 3 && f[0] == group).and_then(|f| f[2].parse().ok());
    found.or_else(|| group.parse().ok()).ok_or_else(|| Error::Group(group.into()))
}

fn member_of(group_file: &str, name: Option<&str>) -> Vec<u32> {
    let Some(name) = name else { return Vec::new() };
    let member = |f: &Vec<&str>| f.len() >= 4 && f[3].split(',').any(|m| m == name);
    group_file.lines().map(fields).filter(member).filter_map(|f| f[2].parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv/web:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:40:ann,web\nmore:x:41:web\n";

    #[test]
    fn names_and_numbers_find_the_same_account() {
        for user in ["web", "33"] {
            let a = resolve_in(PASSWD, GROUP, user, None, None).unwrap();
            assert_eq!(
                (a.uid, a.gid, a.groups.as_slice(), a.home.as_deref()),
                (33, 34, [34, 40, 41].as_slice(), Some("/srv/web"))
            );
        }
        let a = resolve_in(PASSWD, GROUP, "web", Some("root"), Some(&["logs".into()])).unwrap();
        assert_eq!((a.gid, a.groups.as_slice()), (0, [0, 40].as_slice()));
    }

    #[test]
    fn what_is_unknown_is_named() {
        assert_eq!(resolve_in(PASSWD, GROUP, "nobody", None, None), Err(Error::User("nobody".into())));
        assert_eq!(resolve_in(PASSWD, GROUP, "web", Some("x"), None), Err(Error::Group("x".into())));
        assert_eq!(resolve_in(PASSWD, GROUP, "4000", None, None), Err(Error::GroupOf(4000)));
        assert_eq!(resolve_in(PASSWD, GROUP, "4000", Some("7"), None).unwrap().gid, 7);
    }
}

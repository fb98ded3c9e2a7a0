//! Volumes that are mounted and unmounted by name, twice without harm: what is asked for and is the case already is done.
//!
//! The programs `mount` and `umount` of util-linux do the work: they know every kind of file system and its helpers.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::files;

/// Users of a busy volume that are named.
const USERS_NAMED: usize = 4;
/// On top of each other at one place; more is not what holdfast did.
const DEPTH_MAX: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read /proc/self/mountinfo: {source}")]
    Table { source: io::Error },
    #[error("cannot create {}: {source}", target.display())]
    Target { target: PathBuf, source: files::Error },
    #[error("{} is a mount point of {found} already", target.display())]
    Taken { target: PathBuf, found: String },
    #[error("cannot run `{program}`: {source}")]
    Program { program: &'static str, source: io::Error },
    #[error("cannot mount {volume} on {}: {because}", target.display())]
    Mount { volume: String, target: PathBuf, because: String },
    #[error("cannot unmount {}: {because}{}", target.display(), used_by(users))]
    Unmount { target: PathBuf, because: String, users: Vec<String> },
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Error::Unmount { .. } => "HF0225",
            _ => "HF0224",
        }
    }
}

fn used_by(users: &[String]) -> String {
    if users.is_empty() { String::new() } else { format!(" (used by {})", users.join(", ")) }
}

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    target: PathBuf,
    source: String,
}

impl Entry {
    /// `36 35 98:0 /root /mnt/point rw,noatime master:1 - ext3 /dev/root rw`: optional fields end with the dash. See proc(5).
    fn parse(line: &str) -> Option<Entry> {
        let (place, volume) = line.split_once(" - ")?;
        let target = place.split(' ').nth(4)?;
        let source = volume.split(' ').nth(1)?;
        Some(Entry { target: PathBuf::from(plain(target)), source: plain(source) })
    }
}

/// Spaces, tabs, line feeds and backslashes are spelled as three octal digits.
fn plain(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        let (byte, skipped) = match code {
            Some(code) if *first == b'\\' => (code, 3),
            _ => (*first, 0),
        };
        bytes.push(byte);
        rest = &after[skipped..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is mounted there, the topmost last.
fn mounted(target: &Path) -> Result<Vec<Entry>, Error> {
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|source| Error::Table { source })?;
    // The table has paths without symbolic links.
    let real = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    Ok(table.lines().filter_map(Entry::parse).filter(|entry| entry.target == real).collect())
}

/// Whether an entry of the table is this volume: by name, by the device that the name stands for, by the file behind a loop
/// device, or, for a directory that is bound, by being the same directory.
fn is_same(found: &str, volume: &str, target: &Path) -> bool {
    let by_tag = |tag: &str, folder: &str| {
        volume.strip_prefix(tag).map(|name| Path::new("/dev/disk").join(folder).join(name.trim_matches('"')))
    };
    let named = by_tag("UUID=", "by-uuid")
        .or_else(|| by_tag("LABEL=", "by-label"))
        .or_else(|| by_tag("PARTUUID=", "by-partuuid"))
        .unwrap_or_else(|| PathBuf::from(volume));
    let behind_loop = || {
        let name = found.strip_prefix("/dev/")?;
        fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()
    };
    let real = fs::canonicalize(&named).unwrap_or(named);
    let inode = |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_dir).map(|m| (m.dev(), m.ino()));
    found == volume
        || Path::new(found) == real
        || behind_loop().is_some_and(|file| Path::new(file.trim_end()) == real)
        || inode(&real).is_some_and(|of| inode(target) == Some(of))
}

/// Mounts `volume` on `target`, which is made when it is not there; an empty kind is found out by `mount`. A volume that is there
/// already is not mounted again, another one is refused.
pub fn mount(volume: &str, target: &Path, kind: &str, options: &str) -> Result<(), Error> {
    if !target.exists() {
        files::create_dir(target).map_err(|source| Error::Target { target: target.to_owned(), source })?;
    }
    if let Some(top) = mounted(target)?.pop() {
        return match is_same(&top.source, volume, target) {
            true => Ok(()),
            false => Err(Error::Taken { target: target.to_owned(), found: top.source }),
        };
    }
    let mut command = Command::new("mount");
    if !kind.is_empty() {
        command.args(["-t", kind]);
    }
    if !options.is_empty() {
        command.args(["-o", options]);
    }
    let failed = |because| Error::Mount { volume: volume.to_owned(), target: target.to_owned(), because };
    run(command.arg("--").arg(volume).arg(target), "mount")?.map_err(failed)
}

/// Unmounts whatever is mounted on `target`. Never lazily: what still writes must keep it.
pub fn unmount(target: &Path) -> Result<(), Error> {
    for _ in 0..DEPTH_MAX {
        if mounted(target)?.is_empty() {
            return Ok(());
        }
        if let Err(because) = run(Command::new("umount").arg("--").arg(target), "umount")? {
            return Err(Error::Unmount { target: target.to_owned(), because, users: users(target) });
        }
    }
    match mounted(target)?.pop() {
        Some(left) => Err(Error::Unmount {
            target: target.to_owned(),
            because: format!("{} is left", left.source),
            users: Vec::new(),
        }),
        None => Ok(()),
    }
}

/// The last line that it said when it failed.
fn run(command: &mut Command, program: &'static str) -> Result<Result<(), String>, Error> {
    let done = command.env("LC_ALL", "C").output().map_err(|source| Error::Program { program, source })?;
    if done.status.success() {
        return Ok(Ok(()));
    }
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    // `mount` ends with where to read more.
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("dmesg(1)"));
    Ok(Err(lines.next_back().map_or_else(|| done.status.to_string(), str::to_owned)))
}

/// Processes with an open file, directory or program in there.
fn users(target: &Path) -> Vec<String> {
    let Ok(real) = fs::canonicalize(target) else { return Vec::new() };
    let inside = |link: PathBuf| fs::read_link(link).is_ok_and(|path| path.starts_with(&real));
    let uses = |process: &Path| {
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|fd| fd.path());
        ["cwd", "root", "exe"].into_iter().map(|name| process.join(name)).chain(open).any(inside)
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_pid = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    all.filter(|entry| entry.file_name().to_str().is_some_and(is_pid) && uses(&entry.path()))
        .take(USERS_NAMED)
        .map(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            format!("{} {}", name.trim_end(), entry.file_name().to_string_lossy())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read_with_its_escapes() {
        let line = r"36 35 98:0 / /mnt/a\040b\134c rw,noatime shared:1 - ext3 /dev/disk\040x rw,errors=continue";
        let entry = Entry { target: PathBuf::from(r"/mnt/a b\c"), source: "/dev/disk x".into() };
        assert_eq!(Entry::parse(line), Some(entry));
        assert_eq!(Entry::parse("36 35 98:0 / /mnt"), None);
        assert_eq!(plain(r"\04"), r"\04");
    }

    /// Needs the right to mount; told when it is not there.
    #[test]
    fn a_volume_is_mounted_once_and_unmounted_when_nobody_uses_it() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, target) = (dir.path().join("volume"), dir.path().join("a b").join("target"));
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("data"), "x").unwrap();
        let volume = volume.display().to_string();
        if let Err(error) = mount(&volume, &target, "", "bind") {
            assert!(!rustix::process::geteuid().is_root() || error.to_string().contains("permission"), "{error}");
            println!("skipped: {error}");
            return;
        }
        mount(&volume, &target, "", "bind").unwrap();
        assert_eq!(mounted(&target).unwrap().len(), 1, "once");
        let other = mount("/proc", &target, "", "bind").unwrap_err();
        assert!(matches!(other, Error::Taken { .. }), "{other}");
        let held = fs::File::open(target.join("data")).unwrap();
        let busy = unmount(&target).unwrap_err();
        assert_eq!(busy.code(), "HF0225");
        assert!(busy.to_string().contains(&std::process::id().to_string()), "{busy}");
        drop(held);
        unmount(&target).unwrap();
        unmount(&target).unwrap();
        assert!(!target.join("data").exists());
        let missing = mount(&dir.path().join("nothing").display().to_string(), &target, "", "bind").unwrap_err();
        assert!(matches!(missing, Error::Mount { .. }), "{missing}");
    }
}

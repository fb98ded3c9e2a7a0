//! Private files that are either the old ones or the new ones, whatever happens in between.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Owner only: everything holdfast writes may hold names and paths that others need not see.
pub const FILE_MODE: u32 = 0o600;
pub const DIR_MODE: u32 = 0o700;

/// A spare file grows in steps of this, so that small growth of the content needs no new space.
const SPARE_STEP: usize = 8 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot create directory {}: {source}", path.display())]
    CreateDir { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{} is damaged: {because}", path.display())]
    Damaged { path: PathBuf, because: String },
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Error::CreateDir { .. } | Error::Write { .. } => "HF0212",
            Error::Read { .. } | Error::TooLarge { .. } => "HF0218",
            Error::Damaged { .. } => "HF0210",
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            Error::CreateDir { source, .. } | Error::Write { source, .. } | Error::Read { source, .. } => {
                hint_of(source)
            }
            Error::TooLarge { .. } => None,
            Error::Damaged { path, .. } => Some(format!("move {} away; it is written again", path.display())),
        }
    }

    /// The cause, where the operating system gave one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Error::CreateDir { source, .. } | Error::Write { source, .. } | Error::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}

fn hint_of(source: &io::Error) -> Option<String> {
    match source.kind() {
        io::ErrorKind::StorageFull => Some("free some space; what runs goes on running".into()),
        io::ErrorKind::PermissionDenied => Some("run holdfast as the user who owns the data directory".into()),
        _ => None,
    }
}

/// Creates `path` and its parents, private. An existing directory is left as it is.
pub fn create_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)
        .map_err(|source| Error::CreateDir { path: path.to_owned(), source })
}

/// Replaces `path` durably: new file, fsync, rename, fsync of the directory.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<(), Error> {
    let wrap = |source| Error::Write { path: path.to_owned(), source };
    let fresh = beside(path, ".new");
    let result =
        write_new(&fresh, content, true).and_then(|()| fs::rename(&fresh, path)).and_then(|()| sync_parent(path));
    if result.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    result.map_err(wrap)
}

/// Replaces `path` without needing new disk space once a first call succeeded: a preallocated spare beside it
/// is overwritten in place (padded with spaces, which JSON ignores) and the two exchange their names.
/// With `sync` the change is durable on return.
pub fn write_in_reserve(path: &Path, content: &[u8], sync: bool) -> Result<(), Error> {
    let spare = beside(path, ".spare");
    let reserved = fs::metadata(&spare).map_or(0, |m| m.len() as usize);
    let attempt = || -> io::Result<()> {
        if reserved < content.len() {
            let size = (content.len() + 1).next_multiple_of(SPARE_STEP);
            let _ = fs::remove_file(&spare);
            write_new(&spare, &padded(content, size), sync)?;
        } else {
            let file = OpenOptions::new().write(true).open(&spare)?;
            file.write_all_at(&padded(content, reserved), 0)?;
            if sync {
                file.sync_data()?;
            }
        }
        exchange(&spare, path)?;
        if sync { sync_parent(path) } else { Ok(()) }
    };
    attempt().map_err(|source| Error::Write { path: path.to_owned(), source })
}

fn exchange(spare: &Path, path: &Path) -> io::Result<()> {
    if renameat_with(CWD, spare, CWD, path, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    // First time, or a file system without exchange: a plain rename is as atomic, but leaves no spare.
    let size = fs::metadata(spare)?.len() as usize;
    fs::rename(spare, path)?;
    let _ = write_new(spare, &padded(&[], size), false);
    Ok(())
}

fn padded(content: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(size, b' ');
    bytes
}

fn write_new(path: &Path, content: &[u8], sync: bool) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
    file.write_all(content)?;
    if sync { file.sync_all() } else { Ok(()) }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes a rename or creation in the parent directory of `path` durable.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

/// Logs and journals leave this much of a disk, so that the last of it is there for state: a sixteenth where that is less.
const LEFT_FOR_STATE: u64 = 4 << 20;

/// Whether the space left where `path` lies is only for what must be written. Unknown is no.
pub fn is_scarce(path: &Path) -> bool {
    let Ok(fs) = rustix::fs::statvfs(path) else { return false };
    let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
    bytes(fs.f_bavail) < LEFT_FOR_STATE.min(bytes(fs.f_blocks) / 16)
}

/// The whole file, refused when larger than `limit` bytes.
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let wrap = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(wrap)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(wrap)?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// As [`read_limited`], `None` when there is no such file.
pub fn read_optional(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    match read_limited(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_written_file_is_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file");
        create_dir(path.parent().unwrap()).unwrap();
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"2").unwrap();
        assert_eq!(read_limited(&path, 10).unwrap(), b"2");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_reserved_file_is_rewritten_in_place_and_may_grow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spec.json");
        for text in ["first", "second, longer", "3", &"x".repeat(20_000), "last"] {
            write_in_reserve(&path, text.as_bytes(), true).unwrap();
            let got = String::from_utf8(read_limited(&path, 100_000).unwrap()).unwrap();
            assert_eq!(got.trim_end(), text);
        }
    }

    #[test]
    fn a_large_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomic(&path, &[b'x'; 11]).unwrap();
        assert!(matches!(read_limited(&path, 10), Err(Error::TooLarge { limit: 10, .. })));
        assert!(read_optional(&dir.path().join("none"), 10).unwrap().is_none());
    }
}

//! Space set aside beside the file. Given up when the disk is full, taken back when there is room again.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Taking it back is tried no more often, so that a disk at its limit does not swing.
const RETRY: Duration = Duration::from_secs(2);

/// Taken back only when this many times its size is free.
const ROOM: u64 = 4;

pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: bool,
    tried: Option<Instant>,
}

impl Reserve {
    pub(crate) fn new(database: &Path, bytes: u64) -> Self {
        let path = PathBuf::from(format!("{}.reserve", database.display()));
        let held = std::fs::metadata(&path).is_ok_and(|m| m.len() == bytes);
        let mut reserve = Reserve { path, bytes, held, tried: None };
        reserve.restore();
        reserve
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held || self.bytes == 0
    }

    /// True when it freed something.
    pub(crate) fn release(&mut self) -> bool {
        if !std::mem::replace(&mut self.held, false) {
            return false;
        }
        self.tried = Some(Instant::now());
        std::fs::remove_file(&self.path).is_ok()
    }

    pub(crate) fn restore(&mut self) {
        if self.held || self.bytes == 0 || self.tried.is_some_and(|t| t.elapsed() < RETRY) {
            return;
        }
        self.tried = Some(Instant::now());
        self.held = self.room() && self.allocate().is_ok();
        if !self.held {
            drop(std::fs::remove_file(&self.path));
        }
    }

    fn room(&self) -> bool {
        let Some(Ok(fs)) = self.path.parent().map(statvfs) else { return false };
        fs.f_bavail.saturating_mul(fs.f_frsize) > self.bytes * ROOM
    }

    fn allocate(&self) -> std::io::Result<()> {
        let file: File = OpenOptions::new().write(true).create(true).truncate(true).open(&self.path)?;
        fallocate(&file, FallocateFlags::empty(), 0, self.bytes)?;
        Ok(())
    }
}

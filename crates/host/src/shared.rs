//! Words that several processes read and write at once: a file of `AtomicU64`, mapped.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::files::FILE_MODE;

/// The file must not be made shorter by anybody while it is mapped; holdfast only ever creates or extends it.
#[derive(Debug)]
pub struct SharedWords {
    start: NonNull<AtomicU64>,
    count: usize,
    _file: File,
}

// SAFETY: the mapping lives as long as the value, and is only reached through atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps `count` words of `path`, created with real zeros (so that a full disk cannot fault a later write).
    /// What an existing file holds is kept; a longer one is mapped in part.
    pub fn open(path: &Path, count: usize) -> io::Result<SharedWords> {
        let bytes = count.checked_mul(8).filter(|b| *b > 0).ok_or(io::ErrorKind::InvalidInput)?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        let have = file.metadata()?.len() as usize;
        if have < bytes {
            file.write_all_at(&vec![0u8; bytes - have], have as u64)?;
        }
        let flags = MapFlags::SHARED;
        // SAFETY: a fresh mapping chosen by the kernel; nothing else refers to it.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags, &file, 0)? };
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SharedWords { start, count, _file: file })
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// `i` must be below [`SharedWords::len`].
    pub fn get(&self, i: usize) -> &AtomicU64 {
        assert!(i < self.count, "word {i} of {}", self.count);
        // SAFETY: within the mapping, aligned (page start plus a multiple of 8), and any bits are a valid AtomicU64.
        unsafe { &*self.start.as_ptr().add(i) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `open`; references from `get` cannot outlive `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.count * 8) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn what_one_mapping_writes_the_other_sees() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shared");
        let a = SharedWords::open(&path, 100).unwrap();
        let b = SharedWords::open(&path, 200).unwrap();
        a.get(99).store(7, Relaxed);
        b.get(199).store(9, Relaxed);
        assert_eq!((b.get(99).load(Relaxed), a.len(), b.get(100).load(Relaxed)), (7, 100, 0));
        drop((a, b));
        assert_eq!(SharedWords::open(&path, 200).unwrap().get(199).load(Relaxed), 9);
    }

    #[test]
    #[should_panic(expected = "word 3 of 3")]
    fn a_word_outside_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        SharedWords::open(&dir.path().join("s"), 3).unwrap().get(3);
    }
}

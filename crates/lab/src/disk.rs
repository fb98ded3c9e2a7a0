//! Faults of a machine's disk: full, and slow.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use crate::{Error, Result};

/// The file that fills a disk; it goes with this value.
pub struct FullDisk {
    file: PathBuf,
}

pub(crate) fn fill(file: PathBuf) -> Result<FullDisk> {
    let full = FullDisk { file };
    let mut out = File::create(&full.file).map_err(|e| Error::io("fill a disk", e))?;
    match io::copy(&mut io::repeat(0), &mut out) {
        Err(error) if error.kind() == ErrorKind::StorageFull => Ok(full),
        Err(error) => Err(Error::io("fill a disk", error)),
        Ok(_) => Err(Error::failed("fill a disk", "it has no end")),
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// A limit in the blkio controller; it goes with this value.
pub struct SlowDisk {
    limits: PathBuf,
    device: String,
}

pub(crate) fn slow(blkio: &Path, dir: &Path, writes_per_s: u32) -> Result<SlowDisk> {
    let device = device(dir).ok_or_else(|| Error::skipped("the folder of labs is on no block device"))?;
    let slow = SlowDisk { limits: blkio.join("blkio.throttle.write_iops_device"), device };
    // 0 would be no limit.
    slow.set(writes_per_s.max(1)).map_err(|e| Error::io("slow a disk", e))?;
    Ok(slow)
}

impl SlowDisk {
    fn set(&self, writes_per_s: u32) -> io::Result<()> {
        fs::write(&self.limits, format!("{} {writes_per_s}", self.device))
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // Fails when its machine has been rebooted since, and the limit with it.
        let _ = self.set(0);
    }
}

/// `major:minor` of the whole disk below a folder: limits are not for partitions.
fn device(dir: &Path) -> Option<String> {
    let dev = fs::metadata(dir).ok()?.dev();
    let part = PathBuf::from(format!("/sys/dev/block/{}:{}", major(dev), minor(dev)));
    let part = fs::canonicalize(part).ok()?;
    let disk = if part.join("partition").exists() { part.parent()? } else { &part };
    fs::read_to_string(disk.join("dev")).ok().map(|text| text.trim().to_owned())
}

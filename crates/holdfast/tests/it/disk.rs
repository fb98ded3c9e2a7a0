//! A small disk that can be filled: a tmpfs over the site's data directory.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for rings, logs and databases of ten instances, filled within a moment.
const SIZE: &str = "size=64m";

pub(crate) struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// `None`, with the reason printed, where it may not be mounted.
    pub(crate) fn mount(at: &Path) -> Option<SmallDisk> {
        fs::create_dir_all(at).expect("the site's directory is writable");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "holdfast-test"]).arg(at).output();
        match mount {
            Ok(done) if done.status.success() => Some(SmallDisk { at: at.to_owned() }),
            Ok(done) => {
                println!("skipped: no tmpfs may be mounted: {}", String::from_utf8_lossy(&done.stderr));
                None
            }
            Err(error) => {
                println!("skipped: mount cannot be run: {error}");
                None
            }
        }
    }

    /// To the last byte.
    pub(crate) fn fill(&self) {
        let mut file =
            fs::OpenOptions::new().create(true).append(true).open(self.ballast()).expect("the disk is there");
        let block = [b'x'; 1 << 16];
        for size in [block.len(), 4096, 1] {
            while file.write_all(&block[..size]).is_ok() {}
        }
    }

    pub(crate) fn empty(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        // The site's own directory could not be removed below the mount.
        if let Some(site) = self.at.parent() {
            let _ = fs::remove_dir_all(site);
        }
    }
}

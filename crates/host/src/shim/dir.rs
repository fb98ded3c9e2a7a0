//! The directory of one instance: where its files are, and how they are read by those who are not its shim.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::spec::{self, Spec};
use super::state::{self, Exit, State};
use crate::files;
use crate::ring::{RingReader, Shape};

/// Exit results kept; each is far smaller than its slot.
pub(crate) const EXITS: Shape = Shape { slots: 32, slot_bytes: 1024 };
/// Two lives of a record that is rewritten seldom.
pub(crate) const DEAD: Shape = Shape { slots: 4, slot_bytes: 256 };

/// Layout of `run/INSTANCE`. The path is absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dir {
    path: PathBuf,
}

impl Dir {
    pub fn new(path: impl Into<PathBuf>) -> Dir {
        let path: PathBuf = path.into();
        let absolute = std::path::absolute(&path).unwrap_or(path);
        Dir { path: absolute }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    pub fn spec(&self) -> PathBuf {
        self.path.join("spec.json")
    }

    pub fn socket(&self) -> PathBuf {
        self.path.join("ctl.sock")
    }

    pub fn state(&self) -> PathBuf {
        self.path.join("state.json")
    }

    pub fn exits(&self) -> PathBuf {
        self.path.join("exit")
    }

    pub fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// Which generation is known to be over, and how.
    pub fn dead(&self) -> PathBuf {
        self.path.join("dead")
    }

    /// The pipe that is the child's standard output and error.
    pub fn fifo(&self) -> PathBuf {
        self.path.join("output")
    }

    pub fn logs(&self) -> PathBuf {
        self.path.join("log")
    }

    pub fn log(&self) -> PathBuf {
        self.logs().join("current")
    }

    /// Role and fencing token of the child: `EPOCH.REVISION ROLE`, replaced as a whole.
    pub fn token(&self) -> PathBuf {
        self.path.join("token")
    }

    /// What the shim itself has to say when it panics.
    pub fn shim_log(&self) -> PathBuf {
        self.path.join("shim.log")
    }

    /// Writes the spec durably, in space that was reserved when it was written first. Creates the directory.
    pub fn write_spec(&self, spec: &Spec) -> Result<(), files::Error> {
        files::create_dir(&self.path)?;
        let path = self.spec();
        let bytes = serde_json::to_vec(spec).map_err(|e| damaged(&path, e))?;
        files::write_in_reserve(&path, &bytes, true)
    }

    pub fn read_spec(&self) -> Result<Spec, files::Error> {
        let path = self.spec();
        let bytes = files::read_limited(&path, spec::SIZE_BYTES_MAX)?;
        serde_json::from_slice(&bytes).map_err(|e| damaged(&path, e))
    }

    /// The last state the shim wrote; `None` when there is none or it is damaged (it is not trusted anyway).
    pub fn read_state(&self) -> Option<State> {
        let bytes = files::read_limited(&self.state(), state::SIZE_BYTES_MAX).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Exit results, oldest first.
    pub fn read_exits(&self) -> Vec<Exit> {
        let Ok(batch) = RingReader::open(&self.exits()).and_then(|ring| ring.read_after(0)) else { return Vec::new() };
        batch.records.iter().filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok()).collect()
    }

    /// The highest generation that is known to be over.
    pub(crate) fn read_dead(&self) -> Option<Dead> {
        let batch = RingReader::open(&self.dead()).and_then(|ring| ring.read_after(0)).ok()?;
        batch
            .records
            .iter()
            .filter_map(|(_, bytes)| serde_json::from_slice::<Dead>(bytes).ok())
            .max_by_key(|d| d.generation)
    }
}

fn damaged(path: &Path, e: serde_json::Error) -> files::Error {
    files::Error::Damaged { path: path.to_owned(), because: e.to_string() }
}

/// Written under the lock: no shim of this generation or an earlier one may start any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Dead {
    pub(crate) version: u32,
    pub(crate) generation: u64,
    pub(crate) boot_id: String,
    pub(crate) wall_ms: u64,
    /// `shim` when it left on its own, `reader` when its death was found.
    pub(crate) by: String,
}

impl Dead {
    pub(crate) fn write(&self, dir: &Dir) -> io::Result<()> {
        let mut ring = crate::ring::Ring::open(&dir.dead(), DEAD)?;
        ring.append_json(self)?;
        ring.sync()
    }

    pub(crate) fn now(generation: u64, by: &str) -> Dead {
        Dead {
            version: 1,
            generation,
            boot_id: crate::clock::boot_id().to_owned(),
            wall_ms: crate::clock::wall_ms(),
            by: by.to_owned(),
        }
    }
}

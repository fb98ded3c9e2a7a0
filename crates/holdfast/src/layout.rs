//! Where things lie in a data directory.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure};

/// Raised when a release can no longer read what an older one wrote.
const FORMAT: u32 = 1;

/// The agent runs under a shim like everything else, under this name.
pub(crate) const AGENT: &str = "_agent-1";
/// Internal service of the data plane processes.
pub(crate) const PLANES: &str = "_balancer";
/// Internal service of the plane that keeps queues and workflows.
pub(crate) const TASKS: &str = "_tasks";

#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) data_dir: PathBuf,
    /// This machine's name in a cluster; `None` is the host name.
    pub(crate) node: Option<String>,
    /// Says which cluster an agent joins to which nothing was applied yet.
    pub(crate) file: PathBuf,
}

impl Layout {
    pub(crate) fn socket(&self) -> PathBuf {
        self.data_dir.join("agent.sock")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.data_dir.join("agent.lock")
    }

    /// Why the last agent refused to start; read by the CLI that waits for it.
    pub(crate) fn refusal(&self) -> PathBuf {
        self.data_dir.join("agent.refused")
    }

    pub(crate) fn run_dir(&self, instance: &str) -> PathBuf {
        self.data_dir.join("run").join(instance)
    }

    pub(crate) fn shared_table(&self) -> PathBuf {
        self.data_dir.join("plane").join("shared")
    }

    /// Queues, runs, histories.
    pub(crate) fn tasks_file(&self) -> PathBuf {
        self.data_dir.join("tasks.db")
    }

    /// Programs that workers run, one directory each.
    pub(crate) fn work_dir(&self) -> PathBuf {
        self.data_dir.join("work")
    }

    /// What steps of workflows give and print, one directory for each run.
    pub(crate) fn flow_dir(&self) -> PathBuf {
        self.data_dir.join("flow")
    }

    pub(crate) fn drill_dir(&self) -> PathBuf {
        self.data_dir.join("drill")
    }

    /// Makes the directory when it is missing and refuses one that a newer release has written.
    pub(crate) fn prepare(&self) -> Result<(), Failure> {
        let dir = &self.data_dir;
        for sub in ["", "run", "plane", "drill"] {
            let path = if sub.is_empty() { dir.clone() } else { dir.join(sub) };
            holdfast_host::files::create_dir(&path)
                .map_err(|source| unusable(format!("cannot make the data directory {}", path.display()), source))?;
        }
        self.check_format()
    }

    fn check_format(&self) -> Result<(), Failure> {
        let path = self.data_dir.join("format");
        let found = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse::<u32>().map_err(|_| {
                Failure::new("HF0305", format!("{} does not hold a format number", path.display())).hint(format!(
                    "if nothing runs from this directory, move it away: mv {0} {0}.broken",
                    dir_name(&self.data_dir)
                ))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return self.write_format(&path),
            Err(error) => return Err(unusable(format!("cannot read {}", path.display()), error)),
        };
        if found > FORMAT {
            return Err(Failure::new(
                "HF0302",
                format!(
                    "{} was written by a newer holdfast (format {found}, this one knows {FORMAT})",
                    dir_name(&self.data_dir)
                ),
            )
            .hint("run the newer binary, or choose another directory with --data-dir DIR")
            .exit(Exit::Refused));
        }
        Ok(())
    }

    fn write_format(&self, path: &Path) -> Result<(), Failure> {
        holdfast_host::files::write_atomic(path, format!("{FORMAT}\n").as_bytes())
            .map_err(|error| unusable(format!("cannot write {}", path.display()), error))
    }
}

/// The data directory, or what is in it.
pub(crate) fn unusable(what: String, error: impl Error + 'static) -> Failure {
    let mut cause: &dyn Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let full = cause.downcast_ref().is_some_and(|e: &io::Error| e.kind() == io::ErrorKind::StorageFull);
    let hint = match full {
        true => "free some space, or choose another directory with --data-dir DIR",
        false => "make it writable for this user, or choose another directory with --data-dir DIR",
    };
    // What the operating system said; what was tried stands in `what`.
    Failure::new("HF0304", what).because(cause).hint(hint)
}

fn dir_name(path: &Path) -> String {
    path.display().to_string()
}

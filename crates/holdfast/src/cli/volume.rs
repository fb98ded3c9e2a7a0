//! The agent's jobs around the volume of a redundant service: what they say last is told in the journal.

use std::path::Path;

use holdfast_host::mount::{self, Error};

use crate::failure::{Exit, Failure};

pub(super) fn mount(source: &str, target: &Path, kind: &str, options: &str) -> Result<Exit, Failure> {
    tell(mount::mount(source, target, kind, options))
}

pub(super) fn unmount(target: &Path) -> Result<Exit, Failure> {
    tell(mount::unmount(target))
}

fn tell(done: Result<(), Error>) -> Result<Exit, Failure> {
    match done {
        Ok(()) => Ok(Exit::Ok),
        Err(error) => {
            eprintln!("{}: {error}", error.code());
            Ok(Exit::Failed)
        }
    }
}

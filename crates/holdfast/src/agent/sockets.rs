//! Listening sockets of data planes: held by the shims of their instances, found again there after an agent's death.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_host::{listen, shim};

use crate::failure::Failure;

/// A shim answers from its poll loop.
pub(super) const SHIM_TIME: Duration = Duration::from_secs(2);
/// SIGKILL takes effect within it.
const ORPHAN_TIME: Duration = Duration::from_secs(5);

/// A socket by its name, `listen:ADDR:INDEX`.
pub(crate) type Sockets = BTreeMap<String, Arc<OwnedFd>>;

/// From the shims of the instances that live in `dirs`. Where none has any, planes without a shim are ended: they have the
/// only copies, nobody can take them over, and the addresses are free only when they are gone.
pub(super) async fn recover(dirs: &[PathBuf]) -> Sockets {
    let mut found = Sockets::new();
    for dir in dirs {
        let Ok(client) = shim::Client::connect(dir, SHIM_TIME).await else { continue };
        if let Ok(fds) = client.give_fds(SHIM_TIME).await {
            for (name, fd) in fds {
                found.entry(name).or_insert_with(|| Arc::new(fd));
            }
        }
    }
    if found.is_empty() {
        end_orphans(dirs).await;
    } else {
        tracing::info!(count = found.len(), "listening sockets recovered from shims");
    }
    found
}

async fn end_orphans(dirs: &[PathBuf]) {
    for dir in dirs.iter().filter(|dir| dir.exists()) {
        let plane = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = dir.clone();
        let ended = tokio::task::spawn_blocking(move || {
            let Ok(Some(absence)) = shim::absent(&dir) else { return false };
            let orphaned = !absence.orphans().is_empty();
            orphaned && absence.kill_orphans(ORPHAN_TIME).is_ok_and(|left| left.is_empty())
        });
        if ended.await.unwrap_or(false) {
            tracing::warn!(plane, "no shim was left to hand on its sockets: it is ended and started anew");
        }
    }
}

/// Why an address cannot be listened on.
pub(super) fn refused(error: &listen::Error) -> Failure {
    let failure = Failure::new(error.code(), error.to_string());
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

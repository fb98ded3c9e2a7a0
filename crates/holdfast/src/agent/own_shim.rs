//! The agent watches the shim that it runs under: without one, its next death would be its last.

use std::sync::Arc;
use std::time::Duration;

use holdfast_host::shim::{self, Client};
use holdfast_observe::incident::STAGE;
use holdfast_policy::Incarnation;

use super::core::Core;
use super::{launch, story};
use crate::layout::{AGENT, Layout};

/// A shim answers from its poll loop; one that is silent is asked again, because only its lock proves it dead.
const SHIM_TIME: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Which life of the agent this is, when a shim started it.
pub(super) fn incarnation() -> Option<Incarnation> {
    std::env::var("HOLDFAST_INCARNATION").ok()?.parse().ok()
}

/// Resolves when a new shim was launched in place of the one that is gone. The agent under it waits for this one to let go
/// of the data directory. An agent started by hand has no shim and never resolves.
pub(super) async fn replaced(core: &Arc<Core>) {
    let Some(own) = incarnation() else { return std::future::pending().await };
    lost(&core.layout, own).await;
    tracing::warn!("the agent's shim is gone; an agent under a new one takes over");
    let tell = |from: &str, to: &str, reason: &str, stage: &str| {
        let event = super::agent_event(core, story::SUBJECT).change(from, to, reason);
        core.journal.append(event.with(STAGE, stage).with("life", &core.life));
    };
    tell("running", "lost", "its shim is gone", "detected");
    tell("lost", "restarting", "an agent under a new shim takes over", "decided");
    while let Err(failure) = launch::agent(&core.layout).await {
        tracing::error!(code = failure.code, "cannot launch a shim for the agent: {failure}");
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Waits until the shim of generation `own` is proved dead, or one of a later generation is there already.
async fn lost(layout: &Layout, own: Incarnation) {
    let dir = layout.run_dir(AGENT);
    loop {
        if let Ok(client) = Client::connect(&dir, SHIM_TIME).await {
            if client.state().incarnation.generation > own.generation {
                return;
            }
            client.closed().await;
        }
        let proof = dir.clone();
        match tokio::task::spawn_blocking(move || shim::absent(&proof)).await {
            Ok(Ok(Some(_))) => return,
            Ok(Err(error)) => tracing::warn!(code = error.code(), %error, "cannot tell whether the agent's shim lives"),
            Ok(Ok(None)) | Err(_) => {}
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

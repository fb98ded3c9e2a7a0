//! The agent is started as everything else is: by a shim, under the name `_agent-1`.

use std::path::Path;
use std::time::Duration;

use holdfast_host::shim::{self, Body, Client, Dir, Phase, Spec, spec};

use crate::failure::Failure;
use crate::layout::{AGENT, Layout};

/// Exit code of an agent that must not be started again by itself: it was told to go.
const GONE_ON_PURPOSE: i32 = 0;

/// The first restart comes at once; then quickly, because nothing else watches while the agent is away.
const RESTART_BASE: Duration = Duration::from_millis(200);
const RESTART_MAX: Duration = Duration::from_secs(10);
/// The shim answers from its poll loop.
const SHIM_TIME: Duration = Duration::from_secs(2);

/// Launches the agent's shim; one that lives already is told to start its child now instead of after its back-off.
pub(crate) async fn agent(layout: &Layout) -> Result<(), Failure> {
    let path = layout.run_dir(AGENT);
    if let Ok(client) = Client::connect(&path, SHIM_TIME).await {
        if !client.state().phase.is_alive() {
            let _ = client.request(Body::Start {}, SHIM_TIME).await;
        }
        return Ok(());
    }
    let dir = Dir::new(&path);
    let exe =
        std::env::current_exe().map_err(|e| Failure::new("HF0311", "cannot find the running binary").because(e))?;
    let failed = |e: &dyn std::error::Error| {
        Failure::new("HF0311", "cannot start the agent's shim").because_of(e).hint("holdfast doctor")
    };
    let generation = dir.read_spec().map_or(0, |spec| spec.generation) + 1;
    dir.write_spec(&spec(layout, &exe, generation)).map_err(|e| failed(&e))?;
    shim::launch_async(exe, path, generation).await.map_err(|e| failed(&e))?;
    Ok(())
}

fn spec(layout: &Layout, exe: &Path, generation: u64) -> Spec {
    let mut argv = vec![exe.to_string_lossy().into_owned()];
    let mut option = |name: &str, value: String| argv.extend([name.to_owned(), value]);
    option("--data-dir", layout.data_dir.to_string_lossy().into_owned());
    option("--file", layout.file.to_string_lossy().into_owned());
    if let Some(node) = &layout.node {
        option("--node", node.clone());
    }
    argv.push("agent".into());
    Spec {
        instance: AGENT.into(),
        generation,
        argv,
        // References to the environment are resolved by the shims that the agent launches, so it must have it all.
        env_inherit: true,
        restart: spec::Restart {
            base_ms: u64::try_from(RESTART_BASE.as_millis()).unwrap_or(u64::MAX),
            max_ms: u64::try_from(RESTART_MAX.as_millis()).unwrap_or(u64::MAX),
            stop_codes: vec![GONE_ON_PURPOSE],
            ..spec::Restart::default()
        },
        notify: true,
        // The shims that the agent launches are no part of it: they must outlive it.
        spares_descendants: true,
        ..Spec::default()
    }
}

/// The agent's last act: its own shim goes too. Without one (started by hand) there is nothing to do.
pub(crate) async fn dismiss_own_shim(layout: &Layout) {
    let Ok(client) = Client::connect(&layout.run_dir(AGENT), SHIM_TIME).await else { return };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let state = client.state();
    if state.phase != Phase::Stopping && state.child.is_some_and(|child| child.pid == own) {
        let _ = client.request(Body::Exit { reason: "everything was stopped".into(), grace_ms: None }, SHIM_TIME).await;
    }
}

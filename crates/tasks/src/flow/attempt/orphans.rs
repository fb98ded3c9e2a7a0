//! Jobs of attempts that are over: the process before this one died before it had forgotten them, or gave them up.

use std::collections::BTreeSet;

use holdfast_host::job::Job;
use holdfast_policy::flow::Key;

use super::command::{is_token, token};
use crate::flow::Ground;

/// Who goes on with attempts that are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Owner {
    Here,
    Elsewhere,
}

/// Before any run goes on: what is there now and belongs to no attempt that is under way here never will.
pub(in crate::flow) async fn end_orphans(ground: &Ground, owner: Owner) {
    let open = match ground.desk.store.open_attempts().await {
        Ok(open) if owner == Owner::Here => open,
        Ok(_) => Vec::new(),
        // Whose they are is not known, so they are left alone.
        Err(error) => return tracing::warn!(%error, "nobody looks for what attempts left that are over"),
    };
    let living: BTreeSet<String> = open.iter().filter_map(|key| Some(token(&key.parse::<Key>().ok()?))).collect();
    for entry in std::fs::read_dir(&*ground.work).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !is_token(&name) || living.contains(&name) {
            continue;
        }
        tracing::info!(token = name, "what an attempt left that is over is taken away");
        let ended = Job::cancel(&ground.work, &name).await;
        if let Err(error) = ended.and_then(|()| Job::forget(&ground.work, &name)) {
            tracing::warn!(token = name, %error, "what is left of an attempt stays");
        }
    }
}

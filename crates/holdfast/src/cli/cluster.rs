//! `holdfast cluster …`: what a cluster is made of.

use clap::Subcommand;

use super::Common;
use super::simple::say;
use crate::api::{Apply, Done};
use crate::failure::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make this machine, with all that it runs, the first of the cluster that the file names
    Migrate,
}

pub(super) async fn run(common: &Common, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Migrate => migrate(common).await,
    }
}

async fn migrate(common: &Common) -> Result<Exit, Failure> {
    let loaded = super::check::load(common)?;
    let path = match common.layout()?.node {
        Some(node) => format!("/v1/migrate?node={node}"),
        None => "/v1/migrate".into(),
    };
    let done: Done = common.client()?.post(&path, &Apply { path: loaded.path, text: loaded.text }).await?;
    say(common, &done)
}

//! `holdfast key …`: keys of API clients elsewhere.

use clap::Subcommand;

use super::simple::{own_name, say};
use super::{Common, print_json, print_text};
use crate::api::{Done, KeyInfo, KeyWish};
use crate::failure::{Exit, Failure};
use crate::terminal::{table, width};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make one, and print it this once
    Add {
        /// Whose it is; stands in the journal with all that it does
        name: String,
        /// read, operate or admin
        #[arg(long)]
        role: String,
    },
    /// Names and roles
    List,
    /// From now on it is refused
    Remove { name: String },
}

pub(super) async fn run(common: &Common, command: Command) -> Result<Exit, Failure> {
    let (name, role) = match command {
        Command::List => return list(common).await,
        Command::Add { name, role } => (name, Some(role)),
        Command::Remove { name } => (name, None),
    };
    let done: Done = common.client()?.post("/v1/keys", &KeyWish { name, role, who: own_name() }).await?;
    say(common, &done)
}

async fn list(common: &Common) -> Result<Exit, Failure> {
    let keys: Vec<KeyInfo> = common.client()?.get("/v1/keys").await?;
    if common.json {
        print_json(&keys)?;
        return Ok(Exit::Ok);
    }
    let mut rows = vec![["KEY", "ROLE", "MADE BY"].map(str::to_owned).to_vec()];
    rows.extend(keys.into_iter().map(|key| vec![key.name, key.role, key.by]));
    print_text(&table(&rows, width()));
    Ok(Exit::Ok)
}

//! Real clients: boto3 as it speaks JSON today and as it spoke the query protocol until 2023, over real HTTP.

#[path = "clients/environment.rs"]
mod environment;
#[path = "clients/memory.rs"]
mod memory;
#[path = "clients/server.rs"]
mod server;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use environment::Environment;
use holdfast_sqs::{Key, Keys, Secret};
use server::Server;
use tokio::process::Command;

/// Far more than a run takes, on a slow machine too.
const RUN_MAX: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boto3_that_speaks_json() {
    run("json", "1.43.11").await;
}

/// The last release but a few before boto3 went over to JSON; it has all 23 actions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boto3_that_speaks_the_query_protocol() {
    run("query", "1.26.165").await;
}

async fn run(protocol: &str, version: &str) {
    let python = match Environment::of_python(&[&format!("boto3=={version}")]) {
        Ok(environment) => environment.path("bin/python"),
        Err(reason) => {
            eprintln!("skipped: there is no boto3 {version}: {reason}");
            return;
        }
    };
    let server = Server::start(keys()).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/check.py");
    let run = Command::new(python)
        .arg(script)
        .args([&server.url(), protocol])
        .env_clear()
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(RUN_MAX, run).await.expect("the script ends in time").expect("python starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{protocol}, boto3 {version}:\n{out}\n{err}");
    assert!(out.ends_with("all 23 actions\n"), "{out}");
}

/// One that may do everything, one that may only send to some queues, and one that manages those of its team.
fn keys() -> Keys {
    let key = |id: &str, secret: &str, queue: &str, receive: bool, manage: bool| Key {
        id: id.into(),
        secret: Secret::new(secret),
        queues: vec![queue.into()],
        send: true,
        receive,
        manage,
    };
    Keys::Known(vec![
        key("AKIDEVERYTHING", "everything-secret", "*", true, true),
        key("AKIDSENDER", "sender-secret", "public-*", false, false),
        key("AKIDMANAGER", "manager-secret", "team-*", false, true),
    ])
}

//! Real clients against the real plane: the script that checks the face in `sqs`, here with its queues on the disk.

use std::path::Path;
use std::process::{Command, Stdio};

#[path = "../../../../sqs/tests/clients/environment.rs"]
mod environment;

use environment::Environment;

use super::*;

/// The same keys as the script knows.
const KEYS: &str = r#"
[key.all]
id     = "AKIDEVERYTHING"
secret = { file = "{dir}/all" }
[key.sender]
id     = "AKIDSENDER"
secret = { file = "{dir}/sender" }
queues = ["public-*"]
allow  = ["send"]
[key.team]
id     = "AKIDMANAGER"
secret = { file = "{dir}/team" }
queues = ["team-*"]
allow  = ["send", "manage"]
"#;

#[test]
fn boto3_that_speaks_json() {
    run("json", "1.43.11");
}

#[test]
fn boto3_that_speaks_the_query_protocol() {
    run("query", "1.26.165");
}

fn run(protocol: &str, version: &str) {
    let python = match Environment::boto3(version) {
        Ok(environment) => environment.python(),
        Err(reason) => return eprintln!("skipped: there is no boto3 {version}: {reason}"),
    };
    let port = free_port();
    let site = Site::new("");
    for (file, secret) in [("all", "everything-secret"), ("sender", "sender-secret"), ("team", "manager-secret")] {
        std::fs::write(site.path().join(file), secret).expect("written");
    }
    site.write(&format!("[tasks]\nlisten = \"127.0.0.1:{port}\"\nregion = \"eu-west-1\"\n{KEYS}"));
    site.up();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sqs/tests/clients/check.py");
    let run = Command::new(python)
        .arg(script)
        .args([&format!("http://127.0.0.1:{port}"), protocol])
        .env_clear()
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()
        .expect("python starts");
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{protocol}, boto3 {version}:\n{out}\n{err}");
    assert!(out.ends_with("all 23 actions\n"), "{out}");
}

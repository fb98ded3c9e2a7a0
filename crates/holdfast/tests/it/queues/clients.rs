//! Real clients against the real plane, each with every action it has. That of boto3 is the script that checks the face in `sqs`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::*;
use crate::environment::{Environment, succeed};

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
    boto3("json", "1.43.11");
}

#[test]
fn boto3_that_speaks_the_query_protocol() {
    boto3("query", "1.26.165");
}

#[test]
fn the_command_line_of_aws_as_pypi_has_it() {
    match Environment::of_python(&["awscli==1.46.3"]) {
        Ok(environment) => command_line(&environment.path("bin/python"), 23),
        Err(reason) => eprintln!("skipped: there is no AWS CLI of PyPI: {reason}"),
    }
}

/// The second one, which knows nothing of moves yet.
#[test]
fn the_command_line_of_aws_as_debian_has_it() {
    command_line(Path::new("/usr/bin/python3"), 20);
}

#[test]
fn the_javascript_sdk() {
    let environment = match of_node(&["@aws-sdk/client-sqs@3.1169.0", "sqs-consumer@15.0.3"]) {
        Ok(environment) => environment,
        Err(reason) => return eprintln!("skipped: there is no SDK for JavaScript: {reason}"),
    };
    let (_site, url) = plane("");
    let mut node = Command::new("node");
    node.arg(script("javascript.cjs")).arg(&url).env("NODE_PATH", environment.path("node_modules"));
    run(&mut node, "all 23 actions");
}

/// Results, retries, tasks for later, order, a worker that is killed, one that is interrupted, and a queue of the file.
#[test]
fn celery_with_its_workers() {
    let packages = ["celery==5.6.3", "kombu==5.7.0", "boto3==1.43.11", "pycurl==7.49.0"];
    let environment = match Environment::of_python(&packages) {
        Ok(environment) => environment,
        Err(reason) => return eprintln!("skipped: there is no Celery: {reason}"),
    };
    let (site, url) = plane("[queue.predefined]\n");
    let mut driver = Command::new(environment.path("bin/python"));
    run(driver.arg(script("celery_app.py")).arg(&url).arg(site.path()), "all of Celery");
}

/// Built in the cache, outside the workspace: its dependencies are not ours.
#[test]
fn the_rust_sdk() {
    let environment = match of_rust() {
        Ok(environment) => environment,
        Err(reason) => return eprintln!("skipped: there is no SDK for Rust: {reason}"),
    };
    let (_site, url) = plane("");
    run(Command::new(environment.path("client")).arg(&url), "all 23 actions");
}

fn boto3(protocol: &str, version: &str) {
    let python = match Environment::of_python(&[&format!("boto3=={version}")]) {
        Ok(environment) => environment.path("bin/python"),
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
    let url = format!("http://127.0.0.1:{port}");
    run(Command::new(python).arg(script).args([&url, protocol]).env_clear(), "all 23 actions");
}

fn command_line(python: &Path, actions: usize) {
    let (_site, url) = plane("");
    let mut command = Command::new(python);
    run(command.arg(script("command_line.py")).arg(&url), &format!("all {actions} actions"));
}

/// Libraries of Node, each as `NAME@VERSION`.
fn of_node(packages: &[&str]) -> Result<Environment, String> {
    let name = packages.join("-").replace(['@', '/'], "-");
    Environment::keep(&format!("node{name}"), &packages.join("\n"), |dir| {
        let npm = ["install", "--silent", "--no-audit", "--no-fund", "--fetch-retries", "1", "--prefix"];
        succeed(Command::new("npm").args(npm).arg(dir).args(packages))
    })
}

fn of_rust() -> Result<Environment, String> {
    let files = ["Cargo.toml", "Cargo.lock", "src/main.rs"];
    let texts = files.map(|file| (file, std::fs::read_to_string(script("rust").join(file)).expect("it is there")));
    let recipe: String = texts.iter().map(|(_, text)| text.as_str()).collect();
    Environment::keep("rust-aws-sdk-sqs", &recipe, |dir| {
        std::fs::create_dir_all(dir.join("src")).map_err(|e| e.to_string())?;
        for (file, text) in &texts {
            std::fs::write(dir.join(file), text).map_err(|e| e.to_string())?;
        }
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--quiet", "--locked"]).current_dir(dir);
        let target = dir.join("target");
        succeed(build.env("CARGO_TARGET_DIR", &target))?;
        // The rest of what was built is large, and of no more use.
        std::fs::copy(target.join("debug/client"), dir.join("client")).map_err(|e| e.to_string())?;
        std::fs::remove_dir_all(target).map_err(|e| e.to_string())
    })
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/queues/clients").join(name)
}

/// A plane without keys and with these queues, and its address.
fn plane(queues: &str) -> (Site, String) {
    let port = free_port();
    let site = Site::new(&format!("[tasks]\nlisten = \"127.0.0.1:{port}\"\nregion = \"eu-west-1\"\n{queues}"));
    site.up();
    (site, format!("http://127.0.0.1:{port}"))
}

/// Its last line must begin so.
fn run(command: &mut Command, last: &str) {
    let done = command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null()).output().expect("it starts");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{command:?}\n{out}\n{err}");
    assert!(out.lines().last().is_some_and(|line| line.starts_with(last)), "{out}");
}

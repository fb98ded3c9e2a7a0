//! The commands of `docs/cluster.md`, taken from the page and run on three machines that have nothing yet.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_lab::{Lab, Options, Process};

use crate::town::{MACHINES, PATIENCE, Place, binary, finish};

/// The addresses of the page are those of an office, the lab has its own.
const PAGE_NET: &str = "10.0.0.";
const LAB_NET: &str = "10.77.0.";

/// A command and the machines that it is typed on.
#[derive(Debug)]
struct Typed {
    machines: Vec<usize>,
    command: String,
}

struct Page {
    file: String,
    commands: Vec<Typed>,
}

impl Page {
    fn read() -> Page {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cluster.md");
        let text = std::fs::read_to_string(path).expect("the page").replace(PAGE_NET, LAB_NET);
        let mut page = Page { file: String::new(), commands: Vec::new() };
        let (mut machines, mut inside) = (Vec::new(), "");
        for line in text.lines() {
            match (inside, line) {
                ("", "```toml") => inside = "toml",
                ("", "```sh") => inside = "sh",
                ("toml" | "sh", "```") => inside = "",
                ("toml", line) => page.file.push_str(&format!("{line}\n")),
                ("sh", line) => page.commands.push(Typed { machines: machines.clone(), command: line.to_owned() }),
                (_, line) => {
                    if let Some(names) = line.strip_prefix("<!-- on ").and_then(|rest| rest.strip_suffix(" -->")) {
                        machines = names.split(", ").map(|name| number(name) - 1).collect();
                    }
                }
            }
        }
        page
    }
}

fn number(name: &str) -> usize {
    name.strip_prefix("node").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{name} is no machine of the page"))
}

/// As typed in the directory of the file, which is the machine's own although all call it the same.
fn start(lab: &Lab, machine: usize, command: &str) -> Process {
    let (there, own) = (lab.dir().join("etc-holdfast"), lab.machine(machine).dir());
    let line = format!(
        "export NO_COLOR=1 HOLDFAST_NODE=node{n} PATH={bin}:$PATH; \
         mountpoint -q {there} || mount --bind {own} {there}; cd {there}; {command}",
        n = machine + 1,
        bin = binary().parent().expect("a directory").display(),
        there = there.display(),
        own = own.display(),
    );
    lab.machine(machine).spawn(&["/bin/sh", "-c", &line], &[]).expect("it starts")
}

fn run(lab: &Lab, machine: usize, command: &str) -> String {
    finish(start(lab, machine, command)).unwrap_or_else(|why| panic!("node{}: {command}: {why}", machine + 1))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The head of the answer, or why there is none.
fn get(address: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: page\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().unwrap_or_else(|error| error.to_string())
}

#[test]
fn ten_commands_make_three_machines_one() {
    let _place = Place::take();
    let Some(lab) = Lab::or_skip(&Options { machines: MACHINES, ..Options::default() }) else { return };
    let page = Page::read();
    assert!(
        !page.file.is_empty() && (5..=10).contains(&page.commands.iter().map(|t| t.machines.len()).sum::<usize>()),
        "{:?}",
        page.commands
    );
    std::fs::create_dir_all(lab.dir().join("etc-holdfast")).expect("the lab's own directory");
    for machine in 0..MACHINES {
        std::fs::write(lab.machine(machine).dir().join("holdfast.toml"), &page.file)
            .expect("a machine's own directory");
    }
    let mut token = String::new();
    for typed in &page.commands {
        let command = typed.command.replace("TOKEN", &token);
        let started: Vec<(usize, Process)> =
            typed.machines.iter().map(|machine| (*machine, start(&lab, *machine, &command))).collect();
        for (machine, process) in started {
            let told = finish(process).unwrap_or_else(|why| panic!("node{}: {command}: {why}", machine + 1));
            if command.ends_with("cluster token") {
                token = told.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned();
            }
        }
    }
    let nodes = || run(&lab, 1, "holdfast node list || true");
    wait_until("three machines that are ready", || nodes().matches(" ready ").count() >= MACHINES);
    let status = run(&lab, 2, "holdfast status");
    assert!(status.contains("ready: 3 of 3 instances"), "{status}");
    // An agent looks each second whether it has other certificates, and says so while it has none.
    wait_until("certificates in force", || {
        (0..MACHINES).all(|machine| !run(&lab, machine, "holdfast status || true").contains("HF0375"))
    });
    for machine in 0..MACHINES {
        let address = format!("{LAB_NET}{}:8080", machine + 1);
        let answer = lab.client().within(|| get(&address)).expect("the client's network");
        assert!(answer.starts_with("HTTP/1.1 200"), "{address}: {answer}");
    }
    for machine in 0..MACHINES {
        run(&lab, machine, "holdfast down --timeout 60s || true");
    }
}

//! `bench balancer`: holdfast as `holdfast up -d` runs it, HAProxy and nginx in front of the same three
//! backends, in turn A B C A B C, on the same CPUs. Every process of holdfast except the instances counts.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Options;
use super::machine::{self, Cores};
use super::rivals::{self, Running};
use super::spread::Spread;
use crate::{install, lanes, process, steps};

const UP_LIMIT: Duration = Duration::from_secs(60);

/// Before the first round: connections open, caches and branch predictors warm.
const WARM_UP_SECONDS: u64 = 2;

/// Ports below those that holdfast assigns and below the ephemeral range.
const FIRST_PORT: u16 = 17100;

#[derive(Clone, Debug)]
struct Run {
    requests: u64,
    rate: f64,
    p99_us: f64,
    cpu_us: f64,
    errors: u64,
    by_process: BTreeMap<String, f64>,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<Value> {
    install::ensure(install::BENCH)?;
    let stop = steps::on_interrupt()?;
    let bench = Bench::start(root, options, &stop)?;
    let conditions = machine::conditions(&bench.cores, &bench.binary)?;
    let mut runs: BTreeMap<&'static str, Vec<Run>> = BTreeMap::new();
    for name in NAMES {
        bench.drive(name, WARM_UP_SECONDS)?;
    }
    println!("round  program    requests/s       p99 us   CPU us/request");
    for round in 1..=options.repetitions {
        for name in NAMES {
            if stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            let run = bench.drive(name, options.seconds)?;
            println!("{round:>5}  {name:<9} {:>11.0} {:>12.0} {:>16.2}", run.rate, run.p99_us, run.cpu_us);
            runs.entry(name).or_default().push(run);
        }
    }
    let result = summary(conditions, options, &runs)?;
    bench.finish()?;
    Ok(result)
}

type Measure = (&'static str, fn(&Run) -> f64);

const NAMES: [&str; 3] = ["holdfast", "haproxy", "nginx"];

struct Bench {
    dir: PathBuf,
    cores: Cores,
    binary: PathBuf,
    connections: u32,
    ports: BTreeMap<&'static str, u16>,
    haproxy: Running,
    nginx: Running,
    holdfast: Holdfast,
}

impl Bench {
    fn start(root: &Path, options: &Options, stop: &Arc<AtomicBool>) -> Result<Bench> {
        let (profile, flag): (&str, &[&str]) = if options.dev { ("debug", &[]) } else { ("release", &["--release"]) };
        println!("building holdfast ({profile})");
        let mut build = vec!["build", "--locked", "--package", "holdfast"];
        build.extend(flag);
        process::run(lanes::cargo(root, &build), lanes::BUILD_LIMIT, stop)?;
        let dir = std::env::temp_dir().join(format!("holdfast-bench-{}", std::process::id()));
        fs::create_dir_all(dir.join("bin")).with_context(|| format!("cannot create {}", dir.display()))?;
        let binary = copy_programs(&process::target_dir(root).join(profile), &dir.join("bin"))?;
        let cores = Cores::split()?;
        let ports = free_ports()?;
        let backends = [ports[3], ports[4], ports[5]];
        let holdfast = Holdfast::up(&binary, &dir, &cores, ports[0], backends[0], stop)?;
        let haproxy = rivals::haproxy(&dir, &cores, ports[1], &backends)?;
        let nginx = rivals::nginx(&dir, &cores, ports[2], &backends)?;
        let ports = NAMES.into_iter().zip(ports).collect();
        Ok(Bench { dir, cores, binary, connections: options.connections, ports, haproxy, nginx, holdfast })
    }

    /// One measurement: CPU time of the program's processes around one run of wrk.
    fn drive(&self, name: &'static str, seconds: u64) -> Result<Run> {
        let before = self.cpu(name);
        let mut wrk = Cores::command(&self.cores.load, &install::path("wrk")?);
        wrk.args(["--latency", "-t", "1", "-c", &self.connections.to_string(), "-d", &format!("{seconds}s")]);
        wrk.arg(format!("http://127.0.0.1:{}/", self.ports[name]));
        let out = wrk.output().context("cannot run wrk")?;
        let after = self.cpu(name);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let load = parse_wrk(&text).with_context(|| format!("cannot read what wrk says:\n{text}"))?;
        if before.keys().ne(after.keys()) {
            bail!("{name}: processes came or went during the measurement: {:?} {:?}", before.keys(), after.keys());
        }
        let mut by_process: BTreeMap<String, f64> = BTreeMap::new();
        for (pid, now) in &after {
            let spent = now.saturating_sub(before[pid]).as_secs_f64() * 1e6 / load.requests as f64;
            *by_process.entry(kind(*pid)).or_default() += spent;
        }
        let cpu_us = by_process.values().sum();
        Ok(Run { cpu_us, by_process, ..load })
    }

    fn cpu(&self, name: &str) -> BTreeMap<u32, Duration> {
        let bin = self.dir.join("bin");
        let child_of = |parent: u32| move |pid: u32| pid == parent || parent_of(pid) == Some(parent);
        match name {
            "haproxy" => machine::cpu_by_process(child_of(self.haproxy.pid())),
            "nginx" => machine::cpu_by_process(child_of(self.nginx.pid())),
            _ => machine::cpu_by_process(|pid| {
                fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.starts_with(&bin))
            }),
        }
    }

    fn finish(self) -> Result<()> {
        let dir = self.dir.clone();
        self.holdfast.down()?;
        drop(self);
        let left = process::left_behind(&dir);
        if !left.is_empty() {
            bail!("left behind: {}", left.join("; "));
        }
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
    }
}

/// holdfast with the three backends as instances; stopped when the value ends.
struct Holdfast {
    binary: PathBuf,
    dir: PathBuf,
}

impl Holdfast {
    fn up(binary: &Path, dir: &Path, cores: &Cores, listen: u16, first: u16, stop: &AtomicBool) -> Result<Holdfast> {
        fs::write(dir.join("backend.conf"), rivals::backend_conf("@RUN@", "@PORT@"))?;
        let script = "mkdir -p \"$2\" && sed -e \"s|@RUN@|$2|g\" -e \"s|@PORT@|$1|\" backend.conf >\"$2/nginx.conf\" && exec \"$3\" -p \"$2\" -e stderr -c \"$2/nginx.conf\"";
        fs::write(dir.join("backend"), script)?;
        let nginx = install::path("nginx")?;
        let file = format!(
            "[service.static]\ncommand = [\"taskset\", \"-c\", \"{}\", \"sh\", \"backend\", \"{{port}}\", \"{}/{{instance}}\", \"{}\"]\n\
             port = {first}\nreplicas = 3\nready = {{ http = \"/\", every = \"1s\" }}\nstop = {{ signal = \"QUIT\" }}\n\n\
             [balancer.public]\nlisten = \"127.0.0.1:{listen}\"\nservice = \"static\"\naccess_log = true\n",
            cores.load,
            dir.display(),
            nginx.display(),
        );
        fs::write(dir.join("holdfast.toml"), file)?;
        let holdfast = Holdfast { binary: binary.to_owned(), dir: dir.to_owned() };
        // Agent, shims and balancers inherit the CPUs of this command; the backends set their own.
        let mut up = Cores::command(&cores.proxies, binary);
        up.args(["up", "-d"]).args(holdfast.arguments());
        process::run(up, UP_LIMIT, stop)?;
        TcpStream::connect(("127.0.0.1", listen))
            .with_context(|| format!("holdfast does not listen on port {listen}"))?;
        Ok(holdfast)
    }

    fn arguments(&self) -> [String; 4] {
        let path = |name: &str| self.dir.join(name).display().to_string();
        ["-f".into(), path("holdfast.toml"), "--data-dir".into(), path("state")]
    }

    fn down(&self) -> Result<()> {
        let mut down = Command::new(&self.binary);
        down.arg("down").args(self.arguments()).stdout(Stdio::null());
        process::run(down, UP_LIMIT, &AtomicBool::new(false))
    }
}

impl Drop for Holdfast {
    fn drop(&mut self) {
        // Also when a measurement failed half-way; after `finish` there is nothing left to stop.
        if !process::left_behind(&self.dir).is_empty()
            && let Err(error) = self.down()
        {
            eprintln!("warning: {error:#}");
        }
    }
}

/// The programs of a build, in a folder that no other process runs from: that is how they are told apart.
fn copy_programs(from: &Path, to: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && name.starts_with("holdfast") && !name.contains('.') {
            fs::copy(&path, to.join(&name)).with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    let binary = to.join("holdfast");
    if !binary.is_file() {
        bail!("no program `holdfast` in {}", from.display());
    }
    Ok(binary)
}

fn free_ports() -> Result<[u16; 6]> {
    let mut first = FIRST_PORT;
    while first < FIRST_PORT + 500 {
        let ports = [0, 1, 2, 3, 4, 5].map(|n| first + n);
        if ports.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return Ok(ports);
        }
        first += 10;
    }
    bail!("no six free ports from {FIRST_PORT} on")
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 2..].split(' ').nth(1)?.parse().ok()
}

/// What a process is, in one word for the report: `agent`, `__shim`, `balancer`, `haproxy`, `nginx:`.
fn kind(pid: u32) -> String {
    let line = process::command_line(pid);
    let program = line.split(' ').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let part = ["agent", "balancer", "__shim"].into_iter().find(|part| line.split(' ').any(|word| word == *part));
    part.filter(|_| program.starts_with("holdfast")).unwrap_or(program).to_owned()
}

fn parse_wrk(text: &str) -> Option<Run> {
    let line = |start: &str| text.lines().map(str::trim).find_map(|line| line.strip_prefix(start)).map(str::trim);
    let requests = text.lines().find(|line| line.contains(" requests in "))?.split_whitespace().next()?.parse().ok()?;
    let numbers = |text: &str| -> u64 { text.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok()).sum() };
    let errors = line("Socket errors:").map_or(0, numbers) + line("Non-2xx or 3xx responses:").map_or(0, numbers);
    Some(Run {
        requests,
        rate: line("Requests/sec:")?.parse().ok()?,
        p99_us: micros(line("99%")?)?,
        cpu_us: 0.0,
        errors,
        by_process: BTreeMap::new(),
    })
}

/// `950.00us`, `1.23ms`, `1.02s`.
fn micros(text: &str) -> Option<f64> {
    let end = text.find(|c: char| c.is_alphabetic())?;
    let number: f64 = text[..end].parse().ok()?;
    let factor = match &text[end..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(number * factor)
}

fn summary(conditions: Value, options: &Options, runs: &BTreeMap<&'static str, Vec<Run>>) -> Result<Value> {
    let column = |name: &str, value: fn(&Run) -> f64| -> Vec<f64> { runs[name].iter().map(value).collect() };
    let measures: [Measure; 3] =
        [("cpu_us_per_request", |r| r.cpu_us), ("requests_per_second", |r| r.rate), ("p99_us", |r| r.p99_us)];
    let mut programs = serde_json::Map::new();
    for name in NAMES {
        let mut program = serde_json::Map::new();
        for (measure, value) in measures {
            program.insert(measure.into(), Spread::of(&column(name, value)).json());
        }
        program.insert("errors".into(), runs[name].iter().map(|r| r.errors).sum::<u64>().into());
        let last = runs[name].last().context("no round was measured")?;
        program.insert("cpu_us_by_process".into(), json!(last.by_process));
        programs.insert(name.into(), program.into());
    }
    println!("\nholdfast against            CPU per request          requests/s                 p99");
    let mut ratios = serde_json::Map::new();
    for rival in ["haproxy", "nginx"] {
        let mut against = serde_json::Map::new();
        let mut texts = Vec::new();
        for (measure, value) in measures {
            let pairs = column("holdfast", value).into_iter().zip(column(rival, value));
            let spread = Spread::of(&pairs.map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>());
            texts.push(spread.text(2));
            against.insert(measure.into(), spread.json());
        }
        println!("{rival:<20} {:>22} {:>19} {:>19}", texts[0], texts[1], texts[2]);
        ratios.insert(rival.into(), against.into());
    }
    println!("(median, least and greatest of {} rounds of {} s)", options.repetitions, options.seconds);
    println!("{}", serde_json::to_string_pretty(&conditions)?);
    Ok(json!({
        "schema_version": 1,
        "bench": "balancer",
        "rounds": options.repetitions,
        "seconds": options.seconds,
        "connections": options.connections,
        "optimised": !options.dev,
        "conditions": conditions,
        "programs": programs,
        "ratios_to": ratios,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_read() {
        let text = "Running 2s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  Latency Distribution\n     50%  604.00us\n     99%    1.23ms\n  60211 requests in 2.00s, 9.99MB read\n  Socket errors: connect 0, read 2, write 0, timeout 1\n  Non-2xx or 3xx responses: 4\nRequests/sec:  30050.41\nTransfer/sec:      4.98MB\n";
        let run = parse_wrk(text).expect("readable");
        assert_eq!((run.requests, run.errors), (60211, 7));
        assert!((run.rate - 30050.41).abs() < 0.01 && (run.p99_us - 1230.0).abs() < 0.01);
    }

    #[test]
    fn units_of_wrk() {
        assert_eq!(micros("950.00us"), Some(950.0));
        assert_eq!(micros("1.02s"), Some(1_020_000.0));
        assert_eq!(micros("7"), None);
    }
}

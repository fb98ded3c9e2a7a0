//! `cargo xtask demo`: the shop, started from nothing, under traffic, drilled, shown, and stopped in order.

use std::fs;
use std::io::IsTerminal;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::load::{self, Summary};
use crate::process::{self, left_behind};
use crate::{install, lanes, picture, steps};

mod books;

#[derive(Args)]
pub(crate) struct Options {
    /// Stop after the drills; exit code 0 only if every drill met its target and nothing is left behind
    #[arg(long)]
    once: bool,
    /// Write the status and the table of drills as an SVG
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// The whole workspace is named, and an example, so that cargo chooses the same features of libraries as for the tests:
/// what is built for one command serves the other.
const BUILD: &[&str] = &["build", "--locked", "--workspace", "--bin", "holdfast", "--example", "origin"];

/// Ports as `shop.toml` has them; a copy gets others when these are taken.
const PORTS: [u16; 7] = [18080, 18081, 18082, 18083, 18084, 18090, 18091];

/// Blocks of ports that are tried, below those that holdfast assigns to instances.
const PORT_BLOCKS: u16 = 15;
const PORT_BLOCK: u16 = 100;

/// `up -d` returns when all is ready; the shop needs seconds.
const UP_LIMIT: Duration = Duration::from_secs(180);

/// All drills one after the other, with steady state before each.
const DRILLS_LIMIT: Duration = Duration::from_secs(25 * 60);

const DOWN_LIMIT: Duration = Duration::from_secs(120);

/// What customers do, with requests a second.
const TRAFFIC: [(&str, &str, u64); 4] =
    [("GET", "/", 40), ("GET", "/api/catalog/items", 20), ("GET", "/api/orders", 10), ("POST", "/api/orders", 3)];

/// An order of theirs; its key makes it safe to send again.
const ORDER: &str = r#"{"item":"lamp","count":1}"#;

/// Traffic lasts as long as the demo; this is only an upper end.
const TRAFFIC_SECONDS_MAX: u64 = 7 * 24 * 3600;

const RUNS_SHOWN: &str = "5";

const LOOK_EVERY: Duration = Duration::from_millis(100);
const STATUS_EVERY: Duration = Duration::from_secs(15);

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    install::ensure(install::SHOP)?;
    let stop = steps::on_interrupt()?;
    println!("building holdfast");
    process::run(lanes::cargo(root, BUILD), lanes::BUILD_LIMIT, &stop)?;
    let shop = Shop::prepare(root)?;
    let shown = show(&shop, options, &stop);
    let stopped = shop.stop();
    let gone = shop.wait_gone();
    let interrupted = shown.is_err() && stop.load(Ordering::Relaxed);
    if (shown.is_ok() || interrupted) && stopped.is_ok() && gone.is_ok() {
        fs::remove_dir_all(&shop.dir).with_context(|| format!("cannot remove {}", shop.dir.display()))?;
        println!("\nstopped; nothing is left behind");
        return if interrupted { Err(anyhow::anyhow!("interrupted")) } else { Ok(()) };
    }
    println!("\nlogs and state are kept in {}", shop.dir.display());
    shown.and(stopped).and(gone)
}

fn show(shop: &Shop, options: &Options, stop: &Arc<AtomicBool>) -> Result<()> {
    println!("starting the shop in {}", shop.dir.display());
    let (started, up) = shop.show(&["up", "-d"], UP_LIMIT, stop);
    started?;
    let traffic = Traffic::start(shop.ports[0]);
    process::run(shop.holdfast(&["status"]), DOWN_LIMIT, stop)?;
    println!(
        "\n{} requests a second from now on; breaking things on purpose",
        TRAFFIC.iter().map(|(_, _, rate)| rate).sum::<u64>()
    );
    let (drilled, table) = shop.show(&["drill", "--all"], DRILLS_LIMIT, stop);
    let told = tasks(shop, stop);
    if let Some(file) = &options.picture {
        println!();
        let (_, status) = shop.show(&["status"], DOWN_LIMIT, stop);
        let text = format!("$ holdfast up -d\n{up}\n$ holdfast drill --all\n{table}\n$ holdfast status\n{status}");
        fs::write(file, picture::svg("holdfast keeps a small shop up", &text))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if !options.once && !stop.load(Ordering::Relaxed) {
        println!("\nthe shop is at http://127.0.0.1:{}/ until Ctrl-C; try, in another terminal:\n", shop.ports[0]);
        println!("    {}", shop.shown(&["status"]));
        println!("    {}\n", shop.shown(&["incidents"]));
        shop.watch(stop)?;
    }
    traffic.finish()?;
    told?;
    books::settle(shop.ports[books::WAREHOUSE], shop.ports[books::PAYMENTS], stop)?;
    drilled.context("not every drill met its target")
}

/// The queue, a run of the report, and the sagas of the latest orders.
fn tasks(shop: &Shop, stop: &AtomicBool) -> Result<()> {
    println!("\norders go through a queue into a saga: reserve, charge, ship; and the report of the day\n");
    for arguments in [&["queue", "list"][..], &["run", "nightly", "--wait"]] {
        shop.show(arguments, DOWN_LIMIT, stop).0?;
        println!();
    }
    shop.show(&["runs", "list", "--limit", RUNS_SHOWN], DOWN_LIMIT, stop).0
}

struct Shop {
    binary: PathBuf,
    dir: PathBuf,
    ports: [u16; PORTS.len()],
}

impl Shop {
    /// A copy of `examples/shop` with free ports and its one compiled program.
    fn prepare(root: &Path) -> Result<Shop> {
        let dir = std::env::temp_dir().join(format!("holdfast-demo-{}", std::process::id()));
        copy(&root.join("examples/shop"), &dir)?;
        let ports = free_ports()?;
        let file = dir.join("shop.toml");
        let mut text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for (declared, free) in PORTS.iter().zip(ports) {
            text = text.replace(&declared.to_string(), &free.to_string());
        }
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        fs::create_dir_all(dir.join("data/bin"))?;
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-Wall", "-o", "data/bin/stock", "stock/stock.c"]).current_dir(&dir);
        if !cc.status().context("cannot run cc")?.success() {
            bail!("cc cannot build stock/stock.c");
        }
        Ok(Shop { binary: process::target_dir(root).join("debug/holdfast"), dir, ports })
    }

    fn arguments(&self, arguments: &[&str]) -> Vec<String> {
        let mut all: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        all.extend(["-f".into(), self.dir.join("shop.toml").display().to_string()]);
        all.extend(["--data-dir".into(), self.dir.join(".holdfast").display().to_string()]);
        all
    }

    fn holdfast(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(self.arguments(arguments)).current_dir(&self.dir);
        command
    }

    fn shown(&self, arguments: &[&str]) -> String {
        format!("{} {}", self.binary.display(), self.arguments(arguments).join(" "))
    }

    /// What it prints goes to our stdout and, with its colours, into a text; progress stays on stderr.
    fn show(&self, arguments: &[&str], limit: Duration, stop: &AtomicBool) -> (Result<()>, String) {
        let colours = std::io::stdout().is_terminal();
        let mut text = String::new();
        let mut command = self.holdfast(arguments);
        command.stdout(Stdio::piped()).env("CLICOLOR_FORCE", "1");
        let done = process::run_reading(command, limit, stop, |line| {
            println!("{}", if colours { line.to_owned() } else { picture::plain(line) });
            text += &format!("{line}\n");
        });
        (done, text)
    }

    fn watch(&self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let began = Instant::now();
            self.holdfast(&["status"]).status().context("cannot run holdfast status")?;
            println!();
            while began.elapsed() < STATUS_EVERY && !stop.load(Ordering::Relaxed) {
                thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    /// Also after Ctrl-C, which must not cut the stopping short.
    fn stop(&self) -> Result<()> {
        println!("\nstopping the shop");
        process::run(self.holdfast(&["down"]), DOWN_LIMIT, &AtomicBool::new(false))
    }

    /// Everything was started with a path inside the shop's folder: no process may name it any more.
    fn wait_gone(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let left = left_behind(&self.dir);
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("left behind after `down`: {}", left.join("; "));
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

struct Traffic {
    stop: Arc<AtomicBool>,
    senders: Vec<(String, JoinHandle<Result<Summary>>)>,
}

impl Traffic {
    fn start(port: u16) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let senders = TRAFFIC.map(|(method, path, rate)| {
            let mut options = load::Options::get(format!("http://127.0.0.1:{port}{path}"));
            (options.rate, options.seconds, options.connections) = (rate, TRAFFIC_SECONDS_MAX, 16);
            if method == "POST" {
                options.method = method.into();
                options.body = ORDER.into();
                options.header = vec![format!("idempotency-key: demo-{}-{{n}}", std::process::id())];
            }
            let stop = stop.clone();
            (format!("{method} {path}"), thread::spawn(move || load::drive(options, &stop)))
        });
        Traffic { stop, senders: senders.into() }
    }

    fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        println!("\ncustomers' traffic       requests   failed       p50       p99  failed as");
        for (path, sender) in self.senders {
            let summary = sender.join().map_err(|_| anyhow::anyhow!("a sender panicked"))??;
            let ms = |q| summary.quantile(q).as_secs_f64() * 1000.0;
            println!(
                "{path:<24} {:>8} {:>8} {:>6.1} ms {:>6.1} ms  {}",
                summary.requests(),
                summary.failed(),
                ms(0.5),
                ms(0.99),
                summary.failed_as()
            );
        }
        println!(
            "503: orders says that it is not ready while its warehouse (stock-stall) does not answer, and is believed."
        );
        Ok(())
    }
}

/// The declared ports, or the same in the next block of a hundred where all are free.
fn free_ports() -> Result<[u16; PORTS.len()]> {
    for block in 0..PORT_BLOCKS {
        let ports = PORTS.map(|port| port + block * PORT_BLOCK);
        if ports.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return Ok(ports);
        }
    }
    bail!("no free ports from {} on", PORTS[0])
}

/// Copies a folder, without what a run of it left there.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if name == "data" || name == ".holdfast" {
            continue;
        }
        if path.is_dir() {
            copy(&path, &to.join(name))?;
        } else {
            fs::copy(&path, to.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shop_names_the_ports_that_a_copy_replaces() {
        let text = fs::read_to_string(crate::root().expect("cargo runs this").join("examples/shop/shop.toml"))
            .expect("the shop is there");
        for port in PORTS {
            assert!(text.contains(&port.to_string()), "{port}");
        }
    }

    #[test]
    fn a_taken_port_moves_the_whole_block() {
        let ports = free_ports().expect("free ports");
        let _held = TcpListener::bind(("127.0.0.1", ports[2])).expect("just seen free");
        let others = free_ports().expect("free ports");
        assert_ne!(ports, others);
        assert_eq!(others[6] - others[0], PORTS[6] - PORTS[0]);
    }
}

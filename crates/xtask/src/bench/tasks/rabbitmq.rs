//! RabbitMQ: one node with a data directory and a port mapper of its own, a quorum queue, publisher confirms.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::amqp::{self, Connection, Reader, Writer};
use super::case::{Case, Count, Work, body};
use super::server::{Folder, Server, free_ports, listens};
use super::{Place, Program};
use crate::bench::machine::Cores;
use crate::install;

/// The scripts of Debian's package that run as whoever calls them; those in /usr/sbin change to its own user and directory.
const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

/// What is on its way when the time is over arrives within this.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);

/// Deliveries after which the consumer acknowledges even while more arrive.
const ACKNOWLEDGED_TOGETHER_MAX: u64 = 128;

pub(super) struct RabbitMq {
    port: u16,
    queues: u32,
    /// Ends before the port mapper, and both before their files.
    _server: Server,
    _port_mapper: Server,
    folder: Folder,
}

impl RabbitMq {
    pub(super) fn start(place: &Place<'_>) -> Result<RabbitMq> {
        let folder = Folder::create(place.base, "rabbitmq")?;
        let dir = folder.path();
        let [port, distribution, mapper] = free_ports()?;
        let mapper_dir = dir.join("epmd");
        fs::create_dir_all(&mapper_dir)?;
        let mut command = Cores::command(&place.cores.proxies, &install::path("epmd")?);
        command.args(["-address", "127.0.0.1", "-port", &mapper.to_string()]).current_dir(&mapper_dir);
        let mut port_mapper = Server::start(command, &mapper_dir, "TERM")?;
        port_mapper.wait_for(place.stop, || listens(mapper))?;
        fs::write(dir.join("rabbitmq.conf"), configuration(port))?;
        fs::write(dir.join("enabled_plugins"), "[].\n")?;
        let mut command = Cores::command(&place.cores.proxies, &Path::new(SCRIPTS).join("rabbitmq-server"));
        command.current_dir(dir).envs(environment(dir, distribution, mapper));
        let mut server = Server::start(command, dir, "TERM")?;
        server.wait_for(place.stop, || listens(port) && Connection::open(port).is_ok())?;
        Ok(RabbitMq { port, queues: 0, _server: server, _port_mapper: port_mapper, folder })
    }
}

impl Program for RabbitMq {
    fn drive(&mut self, case: Case, length: Duration, stop: &AtomicBool) -> Result<Count> {
        self.queues += 1;
        let queue = format!("bench-{}", self.queues);
        let mut control = Connection::open(self.port)?;
        control.declare_quorum(&queue)?;
        let count = drive(self.port, &queue, case, length, stop)?;
        control.delete(&queue)?;
        Ok(count)
    }

    fn dir(&self) -> &Path {
        self.folder.path()
    }
}

fn configuration(port: u16) -> String {
    format!(
        "listeners.tcp.local = 127.0.0.1:{port}\nlog.file = false\nlog.console = true\nlog.console.level = warning\n"
    )
}

/// Everything that would else be below /var or /etc, or on a port that others use.
fn environment(dir: &Path, distribution: u16, mapper: u16) -> Vec<(&'static str, String)> {
    let path = |name: &str| dir.join(name).display().to_string();
    vec![
        ("HOME", dir.display().to_string()),
        ("RABBITMQ_NODENAME", "bench@localhost".into()),
        ("RABBITMQ_CONF_ENV_FILE", path("none")),
        ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
        ("RABBITMQ_MNESIA_BASE", path("mnesia")),
        ("RABBITMQ_LOG_BASE", path("log")),
        ("RABBITMQ_PID_FILE", path("pid")),
        ("RABBITMQ_DIST_PORT", distribution.to_string()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".into()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("ERL_EPMD_PORT", mapper.to_string()),
    ]
}

/// How far a closed loop has come.
#[derive(Default)]
struct Progress {
    tally: Mutex<Tally>,
    changed: Condvar,
}

#[derive(Default)]
struct Tally {
    confirmed: u64,
    /// Acknowledged by the consumer: the protocol confirms no acknowledgement.
    acknowledged: u64,
    failure: Option<String>,
}

impl Progress {
    fn change(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    /// Messages that are through, when they are more than `known` or the time is over.
    fn wait_beyond(&self, case: Case, known: u64, until: Instant) -> Result<u64> {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(failure) = &tally.failure {
                bail!("{failure}");
            }
            let through = match case.work {
                Work::Sends => tally.confirmed,
                Work::Life => tally.confirmed.min(tally.acknowledged),
            };
            let left = until.saturating_duration_since(Instant::now());
            if through > known || left.is_zero() {
                return Ok(through);
            }
            tally = self.changed.wait_timeout(tally, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// One connection publishes, another consumes, as RabbitMQ advises.
fn drive(port: u16, queue: &str, case: Case, length: Duration, stop: &AtomicBool) -> Result<Count> {
    let progress = Progress::default();
    let mut publisher = Connection::open(port)?;
    publisher.confirm()?;
    let mut consumer = None;
    if case.work == Work::Life {
        let mut connection = Connection::open(port)?;
        connection.consume(queue, u16::try_from(case.in_flight)?)?;
        consumer = Some(connection);
    }
    let closing = AtomicBool::new(false);
    let watch = |outcome: Result<()>| {
        if let (Err(error), false) = (outcome, closing.load(Ordering::Relaxed)) {
            progress.change(|tally| tally.failure = Some(format!("{error:#}")));
        }
    };
    // Ends the readers, whatever becomes of the publisher.
    let ends = (publisher.closer()?, consumer.as_ref().map(Connection::closer).transpose()?);
    let (progress, watch) = (&progress, &watch);
    thread::scope(|scope| {
        let Connection { mut reader, mut writer } = publisher;
        scope.spawn(move || watch(read_confirms(&mut reader, progress)));
        if let Some(Connection { mut reader, mut writer }) = consumer {
            scope.spawn(move || watch(consume(&mut reader, &mut writer, progress)));
        }
        let count = publish(&mut writer, queue, case, length, stop, progress);
        closing.store(true, Ordering::Relaxed);
        drop(ends);
        count
    })
}

fn publish(
    writer: &mut Writer,
    queue: &str,
    case: Case,
    length: Duration,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<Count> {
    let began = Instant::now();
    let (mut sent, mut through) = (0, 0);
    while began.elapsed() < length && !stop.load(Ordering::Relaxed) {
        if sent - through == u64::from(case.in_flight) {
            through = progress.wait_beyond(case, through, began + length)?;
        }
        while sent - through < u64::from(case.in_flight) {
            writer.publish(queue, body(sent).as_bytes());
            sent += 1;
        }
        writer.flush()?;
    }
    let until = Instant::now() + DRAINED_WITHIN;
    while through < sent {
        let now = progress.wait_beyond(case, through, until)?;
        ensure!(
            now > through,
            "{} of {sent} messages are not through after {} s",
            sent - now,
            DRAINED_WITHIN.as_secs()
        );
        through = now;
    }
    Ok(Count { messages: sent, took: began.elapsed() })
}

/// Which publications are confirmed: all up to `low`, and single ones beyond.
#[derive(Default)]
struct Confirms {
    low: u64,
    beyond: BTreeSet<u64>,
}

impl Confirms {
    /// How many are new.
    fn add(&mut self, tag: u64, multiple: bool) -> u64 {
        let before = self.total();
        if multiple && tag > self.low {
            self.low = tag;
            self.beyond = self.beyond.split_off(&(tag + 1));
        } else if tag > self.low {
            self.beyond.insert(tag);
        }
        while self.beyond.remove(&(self.low + 1)) {
            self.low += 1;
        }
        self.total() - before
    }

    fn total(&self) -> u64 {
        self.low + self.beyond.len() as u64
    }
}

fn read_confirms(reader: &mut Reader, progress: &Progress) -> Result<()> {
    let mut confirms = Confirms::default();
    let mut new = 0;
    loop {
        let (kind, payload) = reader.next()?;
        if kind == amqp::METHOD {
            amqp::refuse_close(payload)?;
            ensure!(amqp::name_of(payload) == Some(amqp::ACK), "the broker did not take a message: {payload:?}");
            let (tag, multiple) = amqp::acknowledged(payload).context("a cut ack")?;
            new += confirms.add(tag, multiple);
        }
        if reader.is_drained() {
            progress.change(|tally| tally.confirmed += new);
            new = 0;
        }
    }
}

/// Acknowledges what has arrived in one go: the cheapest way that the protocol has.
fn consume(reader: &mut Reader, writer: &mut Writer, progress: &Progress) -> Result<()> {
    let (mut last, mut new) = (0, 0);
    loop {
        let (kind, payload) = reader.next()?;
        if kind == amqp::METHOD {
            amqp::refuse_close(payload)?;
            ensure!(amqp::name_of(payload) == Some(amqp::DELIVER), "no delivery: {payload:?}");
            last = amqp::delivered(payload).context("a cut delivery")?;
        } else if kind == amqp::BODY {
            new += 1;
        }
        if new > 0 && (reader.is_drained() || new == ACKNOWLEDGED_TOGETHER_MAX) {
            writer.acknowledge(last);
            writer.flush()?;
            progress.change(|tally| tally.acknowledged += new);
            new = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_are_counted_once_in_any_order() {
        let mut confirms = Confirms::default();
        assert_eq!((confirms.add(2, false), confirms.add(2, false), confirms.add(1, false)), (1, 0, 1));
        assert_eq!((confirms.add(5, false), confirms.add(4, true), confirms.add(4, true)), (1, 2, 0));
        assert_eq!((confirms.low, confirms.total()), (5, 5));
        assert_eq!((confirms.add(9, false), confirms.add(12, true), confirms.total()), (1, 6, 12));
    }

    #[test]
    fn a_loop_waits_for_both_ends_of_a_life() {
        let progress = Progress::default();
        progress.change(|tally| (tally.confirmed, tally.acknowledged) = (9, 4));
        let case = |work| Case { work, in_flight: 10 };
        let now = Instant::now();
        assert_eq!(progress.wait_beyond(case(Work::Life), 3, now).expect("no failure"), 4);
        assert_eq!(progress.wait_beyond(case(Work::Sends), 9, now).expect("no failure"), 9);
        progress.change(|tally| tally.failure = Some("cut".into()));
        progress.wait_beyond(case(Work::Sends), 0, now).expect_err("it failed");
    }
}

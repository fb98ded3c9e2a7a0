//! The shim's main loop: wait for something to happen, apply it, tell everybody what changed.

mod lifecycle;
mod requests;
mod role;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use holdfast_policy::restart::Machine;
use holdfast_policy::rng::Rng;
use holdfast_policy::{Incarnation, Timestamp};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::dir::{DEAD, Dead, Dir, EXITS};
use super::log::Log;
use super::notify::{Notify, Told};
use super::signals::{self, Heard, Signals};
use super::spec::Spec;
use super::state::{Failure, Phase, State, VERSION};
use crate::cgroup::Leaf;
use crate::event::Event;
use crate::lock::Lock;
use crate::process::{self, Identity};
use crate::ring::{EventRing, Ring};
use crate::seqpacket::{Connection, Listener};
use crate::user::{self, Account};
use crate::{clock, files};

/// Clients at the same time: the agent, the CLI, a drill, and their predecessors about to go.
const CLIENTS_MAX: usize = 32;

/// What the shim is to bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    Run,
    Rest,
    Leave,
}

/// One life of the child, from its spawn until nothing of it is left.
struct Run {
    who: Identity,
    started: Timestamp,
    oom_kills_before: Option<u64>,
    stopping: Option<Stopping>,
    /// The child itself has ended; descendants may be left.
    ended: Option<(super::signals::Status, Timestamp)>,
    /// SIGKILL was sent to all; repeated until they are gone.
    killed: bool,
    timed_out: bool,
}

struct Stopping {
    kill_at: Timestamp,
    signal: i32,
    /// The stop command, while it runs; the signal follows its end.
    command: Option<i32>,
    again: bool,
    reason: String,
}

pub(crate) struct Keeper {
    dir: Dir,
    opened: Timestamp,
    spec: Spec,
    state: State,
    machine: Machine,
    intent: Intent,
    run: Option<Run>,
    /// Start this soon, once nothing stands in the way.
    next_start: Option<Timestamp>,
    /// That start follows an exit, so it needs the restart grant.
    next_is_restart: bool,
    account: Option<Account>,
    leaf: Option<Leaf>,
    log: Log,
    log_has_more: bool,
    notify: Option<Notify>,
    events: Option<EventRing>,
    exits: Option<Ring>,
    exits_unsynced: bool,
    held: Vec<(String, OwnedFd)>,
    listener: Listener,
    clients: Vec<Client>,
    signals: Signals,
    timer: OwnedFd,
    timer_at: Option<Timestamp>,
    /// Clients were not told the present state yet.
    dirty: bool,
    /// Nor was the file, which is for the reader after a crash and does without status texts and watchdog times.
    file_stale: bool,
    oom_score_adj: Option<i32>,
    _lock: Lock,
}

struct Client {
    connection: Connection,
    /// It did not take the last state; it gets the newest one as soon as it reads again.
    owes_state: bool,
    gone: bool,
}

impl Keeper {
    /// Everything up to the point where clients can connect; nothing is spawned yet.
    pub(crate) fn open(dir: Dir, generation: u64) -> Result<Keeper, Failure> {
        let lock = take_lock(&dir)?;
        let spec = read_spec(&dir, generation)?;
        if !spec.spares_descendants {
            // Orphans among the child's descendants come to this process instead of init, and can be ended.
            // SAFETY: a flag of this process.
            unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        }
        let signals = Signals::take_over().map_err(|e| broken(&dir, "signals", &e))?;
        let listener = Listener::bind(&dir.socket()).map_err(|e| broken(&dir, "control socket", &e))?;
        super::child::make_output(&dir.fifo(), None).map_err(|e| broken(&dir, "output pipe", &e))?;
        let log = Log::open(&dir.fifo(), &dir.logs(), spec.log.clone()).map_err(|e| broken(&dir, "output pipe", &e))?;
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK);
        let notify = if spec.notify {
            Some(Notify::open(&spec.instance).map_err(|e| broken(&dir, "notify socket", &e))?)
        } else {
            None
        };
        // Rings that cannot be made (no space at first start) cost records, not the service.
        let (events, exits) = (EventRing::open(&dir.events()).ok(), Ring::open(&dir.exits(), EXITS).ok());
        // Made now, so that this generation can be declared over when the disk is full.
        let _ = Ring::open(&dir.dead(), DEAD);
        let machine = Machine::new((&spec.restart).into(), spec.oneshot, Rng::from_seed(seed()));
        let mut state = first_state(&spec);
        role::open(&dir, &spec, &mut state)?;
        let intent = if spec.autostart { Intent::Run } else { Intent::Rest };
        Ok(Keeper {
            state,
            machine,
            intent,
            run: None,
            next_start: spec.autostart.then_some(Timestamp::ZERO),
            next_is_restart: false,
            account: None,
            leaf: None,
            log,
            log_has_more: true,
            notify,
            events,
            exits,
            exits_unsynced: false,
            held: Vec::new(),
            listener,
            clients: Vec::new(),
            signals,
            timer: timer.map_err(|e| broken(&dir, "timer", &e.into()))?,
            timer_at: None,
            dirty: true,
            file_stale: true,
            oom_score_adj: protect_from_oom(),
            _lock: lock,
            opened: clock::now(),
            dir,
            spec,
        })
    }

    /// Runs until told to exit and the child is gone.
    pub(crate) fn keep(mut self) {
        loop {
            self.tick(clock::now());
            self.tell();
            if self.intent == Intent::Leave && self.run.is_none() || self.is_done() {
                break;
            }
            self.set_timer();
            self.wait();
        }
        self.leave();
    }

    fn leave(mut self) {
        self.log.finish();
        if let Some(leaf) = &self.leaf {
            let _ = leaf.remove();
        }
        let _ = Dead::now(self.spec.generation, "shim").write(&self.dir);
        let _ = std::fs::remove_file(self.dir.socket());
    }

    /// Waits for the next thing to happen, and handles all that did.
    fn wait(&mut self) {
        let more = self.log_has_more;
        let ready = {
            let input = PollFlags::IN;
            let mut fds = vec![
                PollFd::from_borrowed_fd(self.signals.fd(), input),
                PollFd::from_borrowed_fd(self.timer.as_fd(), input),
                PollFd::from_borrowed_fd(self.log.pipe(), input),
                PollFd::from_borrowed_fd(self.listener.as_fd(), input),
            ];
            fds.extend(self.clients.iter().map(|c| {
                let output = if c.owes_state { PollFlags::OUT } else { PollFlags::empty() };
                PollFd::from_borrowed_fd(c.connection.as_fd(), input | output)
            }));
            fds.extend(self.notify.iter().map(|n| PollFd::from_borrowed_fd(n.fd(), input)));
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut fds, more.then_some(&at_once)).is_err() {
                return;
            }
            fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<bool>>()
        };
        let (fixed, rest) = ready.split_at(4);
        let (clients, notify) = rest.split_at(self.clients.len());
        // The death of the child first: nothing else that happened at the same time is as urgent.
        if fixed[0] {
            self.hear_signals();
        }
        if fixed[1] {
            let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
            self.timer_at = None;
        }
        if notify.first() == Some(&true) {
            self.hear_child();
        }
        for (i, _) in clients.iter().enumerate().filter(|(_, ready)| **ready) {
            self.serve(i);
        }
        self.clients.retain(|c| !c.gone);
        if fixed[3] {
            self.accept();
        }
        if fixed[2] || more {
            self.log_has_more = self.log.drain();
            self.note_dropped_lines();
        }
    }

    fn hear_signals(&mut self) {
        for heard in self.signals.read() {
            match heard {
                Heard::Child => {}
                Heard::Terminate => self.request_exit("the shim was told to terminate", None),
            }
        }
        self.reap();
        self.note_stops();
    }

    /// A parent is told at once; somebody who looks from time to time would see a hang late or miss it.
    fn note_stops(&mut self) {
        let Some(run) = self.run.as_ref().filter(|run| run.ended.is_none()) else { return };
        if let Some(stopped) = signals::stop_or_continue(run.who.pid) {
            self.state.stopped_boot_ns = stopped.then(|| clock::now().as_nanos());
            self.changed();
        }
    }

    fn hear_child(&mut self) {
        let uid = self.account.as_ref().map(|a| a.uid);
        let told = self.notify.as_ref().map(|n| n.read(uid)).unwrap_or_default();
        if self.run.as_ref().is_none_or(|run| run.ended.is_some()) {
            return;
        }
        for message in told {
            self.dirty = true;
            match message {
                Told::Ready => {
                    self.state.notified_ready = true;
                    self.handle_ready("the child said READY=1");
                }
                Told::Status(text) => self.state.status = text,
                Told::Watchdog => self.state.watchdog_boot_ns = Some(clock::now().as_nanos()),
                Told::Stopping => {}
            }
        }
    }

    /// Told at 1, 2, 4, 8, … lines: the disk may be full for long.
    fn note_dropped_lines(&mut self) {
        let dropped = self.log.dropped_lines();
        if dropped > 0 && dropped >= self.state.log_lines_dropped.saturating_mul(2) {
            self.state.log_lines_dropped = dropped;
            self.dirty = true;
        }
    }

    fn set_timer(&mut self) {
        let due = self.next_deadline();
        if due == self.timer_at {
            return;
        }
        let nanos = due.map_or(0, |at| at.as_nanos().max(1));
        let value = Timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as _ };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec);
        self.timer_at = due;
    }

    /// A change of phase: one event, one push, one state file.
    fn enter(&mut self, phase: Phase, reason: &str, inputs: &[(&str, String)]) {
        let from = std::mem::replace(&mut self.state.phase, phase);
        self.state.reason = reason.to_owned();
        self.changed();
        self.record(from.name(), phase.name(), reason, inputs);
    }

    /// For clients and file.
    fn changed(&mut self) {
        self.dirty = true;
        self.file_stale = true;
    }

    fn record(&mut self, from: &str, to: &str, reason: &str, inputs: &[(&str, String)]) {
        let source = format!("shim/{}", self.spec.instance);
        let subject = format!("instance/{}", self.spec.instance);
        let mut event = Event::now(&self.spec.node, &source, self.state.incarnation, &subject).change(from, to, reason);
        for (name, value) in inputs {
            event = event.with(name, value);
        }
        if let Some(ring) = &mut self.events {
            let _ = ring.append(event);
        }
    }

    /// Pushes the state to all clients and writes it to its file, when it changed.
    fn tell(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.state.log_lines_dropped = self.log.dropped_lines();
            self.state.failures = self.machine.failures();
            self.state.crash_looping = self.machine.crash_looping();
            self.state.attempts_exhausted = self.machine.exhausted();
            self.state.next_start_boot_ns = self.next_start.map(Timestamp::as_nanos);
            self.state.held = self.held.iter().map(|(name, _)| name.clone()).collect();
            for client in &mut self.clients {
                client.owes_state = true;
            }
            self.push();
        }
        if std::mem::take(&mut self.file_stale)
            && let Ok(bytes) = serde_json::to_vec(&self.state)
        {
            // Without space it stays as it was; who reads it also takes the lock's verdict and the exit ring.
            let _ = files::write_in_reserve(&self.dir.state(), &bytes, false);
        }
        if std::mem::take(&mut self.exits_unsynced)
            && let Some(ring) = &self.exits
        {
            let _ = ring.sync();
        }
    }
}

/// One descriptor table for all: who connects, what he is sent.
impl Keeper {
    fn accept(&mut self) {
        while let Ok(Some(connection)) = self.listener.accept() {
            if self.clients.len() >= CLIENTS_MAX {
                // The oldest goes: a living agent connects again, a forgotten client does not.
                self.clients.remove(0);
            }
            self.clients.push(Client { connection, owes_state: true, gone: false });
        }
        self.push();
    }
}

fn take_lock(dir: &Dir) -> Result<Lock, Failure> {
    match Lock::try_take(&dir.lock()) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(Failure {
            code: "HF0207".into(),
            text: format!("another shim runs in {}", dir.path().display()),
            hint: None,
        }),
        Err(e) => Err(broken(dir, "lock", &e)),
    }
}

/// The spec, if it is the one this shim was launched for and that generation is not over.
fn read_spec(dir: &Dir, generation: u64) -> Result<Spec, Failure> {
    let spec = dir.read_spec().map_err(|e| Failure { code: e.code().into(), text: e.to_string(), hint: e.hint() })?;
    let refuse = |text: String| Failure { code: "HF0207".into(), text, hint: None };
    if spec.generation != generation {
        return Err(refuse(format!(
            "launched for generation {generation}, the directory is of generation {}",
            spec.generation
        )));
    }
    if dir.read_dead().is_some_and(|dead| dead.generation >= generation) {
        return Err(refuse(format!("generation {generation} is over")));
    }
    if spec.version > super::spec::VERSION {
        return Err(Failure {
            code: "HF0211".into(),
            text: format!("spec.json has version {}, this shim knows {}", spec.version, super::spec::VERSION),
            hint: Some("run the newer holdfast that wrote it".into()),
        });
    }
    Ok(spec)
}

fn broken(dir: &Dir, what: &str, e: &io::Error) -> Failure {
    let hint = (e.kind() == io::ErrorKind::StorageFull).then(|| "free some space".to_owned());
    Failure { code: "HF0207".into(), text: format!("shim of {}: {what}: {e}", dir.path().display()), hint }
}

fn first_state(spec: &Spec) -> State {
    State {
        version: VERSION,
        instance: spec.instance.clone(),
        boot_id: clock::boot_id().to_owned(),
        shim: process::identity(std::process::id() as i32),
        incarnation: Incarnation { generation: spec.generation, run: 0 },
        phase: Phase::Waiting,
        granted: true,
        ..State::default()
    }
}

/// Jitter need not be reproducible here; the simulator seeds its own machines.
fn seed() -> u64 {
    clock::now().as_nanos() ^ (u64::from(std::process::id()) << 32)
}

/// The keeper should be the last to go. Returns what the child gets back.
fn protect_from_oom() -> Option<i32> {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let own = std::fs::read_to_string(SCORE).ok()?.trim().parse().ok()?;
    std::fs::write(SCORE, "-900").is_ok().then_some(own)
}

pub(crate) fn resolve_account(spec: &Spec) -> Result<Option<Account>, Failure> {
    let group = spec.group.as_deref();
    let failed = |e: user::Error| Failure { code: e.code().into(), text: format!("cannot start: {e}"), hint: e.hint() };
    match &spec.user {
        Some(name) => user::resolve(name, group, spec.groups.as_deref()).map(Some).map_err(failed),
        None => match group {
            Some(group) => {
                let gid = user::gid(group).map_err(failed)?;
                let uid = rustix::process::geteuid().as_raw();
                Ok(Some(Account { uid, gid, groups: vec![gid], name: None, home: None }))
            }
            None => Ok(None),
        },
    }
}

fn make_leaf(path: &Path) -> Result<Leaf, Failure> {
    Leaf::create(path).map_err(|e| Failure {
        code: "HF0214".into(),
        text: format!("cannot start: cgroup {}: {e}", path.display()),
        hint: Some("the unified cgroup tree must be writable for holdfast; see `holdfast doctor`".into()),
    })
}

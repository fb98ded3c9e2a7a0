//! Start, stop, exit: the life of the child and what is left of it.

use std::os::fd::AsFd;
use std::time::Duration;

use holdfast_policy::restart::{Ended, Next};
use holdfast_policy::{Incarnation, Timestamp};

use super::{Intent, Keeper, Run, Stopping, make_leaf, resolve_account};
use crate::clock;
use crate::process::Identity;
use crate::shim::child::{self, Plan};
use crate::shim::environment;
use crate::shim::signals::{self, Peek, Status};
use crate::shim::state::{Exit, Failure, Phase};

/// Descendants that outlive SIGKILL (waiting for a dead disk) hold up the next start for this long; a fenced
/// instance waits for them for ever.
const LEFTOVERS_MAX: Duration = Duration::from_secs(5);
/// For how long a job waits to be given its input.
const UNUSED_MAX: Duration = Duration::from_secs(60);
/// SIGKILL is repeated this often, for what was born meanwhile.
const KILL_AGAIN: Duration = Duration::from_millis(20);

impl Keeper {
    /// Everything that time brings about.
    pub(super) fn tick(&mut self, now: Timestamp) {
        if self.machine.handle_time(now) {
            self.changed();
            self.record("", "", "ready for long enough, earlier failures are forgotten", &[]);
        }
        if self.waits_in_vain(now) {
            self.request_exit("nobody gave it what it needs to start", None);
        }
        self.watch_limits(now);
        self.watch_stop(now);
        self.sweep(now);
        if self.start_is_due(now) {
            self.start(now);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        let run = self.run.as_ref();
        let alive = run.filter(|r| !r.killed);
        let sweeping = run.filter(|r| r.killed || r.ended.is_some() && r.stopping.is_none());
        [
            self.next_start.filter(|_| self.run.is_none() && self.may_start()),
            self.machine.forgets_at().filter(|_| alive.is_some()),
            alive.and_then(|r| r.stopping.as_ref()).map(|s| s.kill_at),
            alive.and(self.state.deadline_boot_ns).filter(|_| self.spec.fenced).map(Timestamp::from_nanos),
            alive.filter(|r| r.stopping.is_none()).and_then(|r| self.run_limit(r)),
            self.waits_until(),
            sweeping.map(|_| clock::now() + KILL_AGAIN),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A job whose owner died between launching it and handing over its input.
    fn waits_in_vain(&self, now: Timestamp) -> bool {
        self.spec.leaves_when_done && self.intent == Intent::Run && self.waits_until().is_some_and(|at| now >= at)
    }

    fn waits_until(&self) -> Option<Timestamp> {
        (self.spec.leaves_when_done && self.state.incarnation.run == 0).then(|| self.opened + UNUSED_MAX)
    }

    /// A job that is over and whose result is kept.
    pub(super) fn is_done(&self) -> bool {
        let over = matches!(self.state.phase, Phase::Completed | Phase::Failed | Phase::Stopped);
        self.spec.leaves_when_done && self.run.is_none() && over
    }

    fn run_limit(&self, run: &Run) -> Option<Timestamp> {
        self.spec.run_ms_max.map(|ms| run.started + Duration::from_millis(ms))
    }

    /// The fenced deadline and the time limit of a job.
    fn watch_limits(&mut self, now: Timestamp) {
        let Some(run) = self.run.as_ref().filter(|r| !r.killed) else { return };
        let fence = self.spec.fenced && !self.may_run_at(now);
        let limit = run.stopping.is_none() && self.run_limit(run).is_some_and(|at| now >= at);
        if fence {
            self.set_stopping(now, "the deadline passed without a new one", 0, false);
            self.kill_all();
        } else if limit {
            self.state.error = Some(Failure {
                code: "HF0213".into(),
                text: format!("killed after its time limit of {} ms", self.spec.run_ms_max.unwrap_or(0)),
                hint: None,
            });
            self.kill_all();
            if let Some(run) = &mut self.run {
                run.timed_out = true;
            }
        }
    }

    fn watch_stop(&mut self, now: Timestamp) {
        let late = |run: &&Run| !run.killed && run.stopping.as_ref().is_some_and(|s| now >= s.kill_at);
        if self.run.as_ref().is_some_and(|run| late(&run)) {
            self.record("", "", "the grace is over: SIGKILL to all that is left", &[]);
            self.kill_all();
        }
    }

    /// What stands between the instance and its start, besides time.
    fn may_start(&self) -> bool {
        let holds = |name: &str| self.held.iter().any(|(held, _)| held == name);
        let granted = self.state.granted || !self.next_is_restart;
        let fenced = !self.spec.fenced || self.may_run_at(clock::now());
        let stdin = !self.spec.stdin || holds("stdin");
        self.intent == Intent::Run && granted && fenced && stdin && self.spec.fds.iter().all(|name| holds(name))
    }

    fn start_is_due(&self, now: Timestamp) -> bool {
        self.run.is_none() && self.next_start.is_some_and(|at| now >= at) && self.may_start()
    }

    pub(super) fn start(&mut self, now: Timestamp) {
        let before = self.state.incarnation;
        self.state.incarnation = Incarnation { run: before.run + 1, ..before };
        self.next_start = None;
        match self.spawn() {
            Ok(who) => self.handle_started(clock::now(), who),
            Err(failure) => {
                self.state.incarnation = before;
                let decision = self.machine.handle_exit(now, Ended::NotStarted);
                let reason = format!("{}; {}", failure.text, decision.reason);
                let mut inputs = decision.inputs;
                inputs.push(("code", failure.code.clone()));
                self.state.error = Some(failure);
                self.follow(decision.next, &reason, &inputs);
            }
        }
    }

    fn handle_started(&mut self, now: Timestamp, who: Identity) {
        self.machine.handle_started(now);
        let run = Run {
            who,
            started: now,
            oom_kills_before: self.oom_kills(),
            stopping: None,
            ended: None,
            killed: false,
            timed_out: false,
        };
        self.run = Some(run);
        let state = &mut self.state;
        state.restarts = u64::from(state.incarnation.run.saturating_sub(1));
        state.child = Some(who);
        state.started_boot_ns = now.as_nanos();
        state.ready_boot_ns = None;
        state.stopped_boot_ns = None;
        state.notified_ready = false;
        state.status.clear();
        state.watchdog_boot_ns = None;
        state.error = None;
        // A job has no readiness: it runs.
        let phase = if self.spec.oneshot { Phase::Running } else { Phase::Starting };
        self.enter(phase, "started", &[("pid", who.pid.to_string())]);
    }

    fn spawn(&mut self) -> Result<Identity, Failure> {
        self.account = resolve_account(&self.spec)?;
        child::make_output(&self.dir.fifo(), self.account.as_ref()).map_err(|e| self.output_failure(&e))?;
        if let Some(path) = &self.spec.cgroup {
            self.leaf = Some(make_leaf(path)?);
        }
        let held = |name: &str| self.held.iter().find(|(held, _)| held == name).map(|(_, fd)| fd.as_fd());
        let stdin = if self.spec.stdin { held("stdin") } else { None };
        // Those that came after the launch follow those that it was launched for.
        let later = self.held.iter().map(|(name, _)| name).filter(|n| *n != "stdin" && !self.spec.fds.contains(n));
        let names = self.spec.fds.iter().chain(later);
        let listeners = names.filter_map(|name| Some((name.as_str(), held(name)?))).collect();
        child::spawn(self.plan(&self.spec.argv, stdin, listeners)?)
    }

    fn output_failure(&self, e: &std::io::Error) -> Failure {
        Failure { code: "HF0212".into(), text: format!("cannot start: {}: {e}", self.dir.fifo().display()), hint: None }
    }

    fn plan<'a>(
        &'a self,
        argv: &'a [String],
        stdin: Option<std::os::fd::BorrowedFd<'a>>,
        listeners: Vec<(&'a str, std::os::fd::BorrowedFd<'a>)>,
    ) -> Result<Plan<'a>, Failure> {
        let mut env = environment::resolve(&self.spec, self.account.as_ref())?;
        env.insert("HOLDFAST_INSTANCE".into(), self.spec.instance.clone().into());
        env.insert("HOLDFAST_INCARNATION".into(), self.state.incarnation.to_string().into());
        env.insert("HOLDFAST_ORDINAL".into(), self.spec.ordinal.to_string().into());
        // Marks everything that descends from this instance, whatever it does to its group, session and parent.
        env.insert(crate::shim::MARK.into(), self.dir.path().into());
        self.role_environment(&mut env);
        if let Some(notify) = &self.notify {
            env.insert("NOTIFY_SOCKET".into(), notify.address().into());
        }
        let entrance = |leaf: &crate::cgroup::Leaf| {
            let failed = |e| Failure { code: "HF0214".into(), text: format!("cannot start: cgroup: {e}"), hint: None };
            leaf.entrance().map_err(failed)
        };
        Ok(Plan {
            spec: &self.spec,
            argv,
            env,
            account: self.account.as_ref(),
            output: child::open_output(&self.dir.fifo()).map_err(|e| self.output_failure(&e))?,
            stdin,
            listeners,
            cgroup: self.leaf.as_ref().map(entrance).transpose()?,
            bound: self.spec.fenced,
            oom_score_adj: self.oom_score_adj,
        })
    }

    pub(super) fn handle_ready(&mut self, reason: &str) {
        let now = clock::now();
        self.machine.handle_ready(now);
        self.state.ready_boot_ns.get_or_insert(now.as_nanos());
        self.changed();
        if self.state.phase == Phase::Starting {
            self.enter(Phase::Running, reason, &[]);
        }
    }

    /// Begins a graceful stop: command, signal, grace, SIGKILL. A second call can only make it stricter.
    pub(super) fn begin_stop(&mut self, reason: &str, grace_ms: Option<u64>, again: bool) {
        let now = clock::now();
        self.next_start = None;
        if self.run.is_none() {
            return self.rest_or_again(reason, again);
        }
        self.set_stopping(now, reason, grace_ms.unwrap_or(self.spec.stop.grace_ms), again);
    }

    fn rest_or_again(&mut self, reason: &str, again: bool) {
        if again {
            self.machine.forget();
            self.next_start = Some(Timestamp::ZERO);
            self.next_is_restart = false;
            self.changed();
        } else if !matches!(self.state.phase, Phase::Stopped | Phase::Completed) {
            self.enter(Phase::Stopped, reason, &[]);
        }
    }

    fn set_stopping(&mut self, now: Timestamp, reason: &str, grace_ms: u64, again: bool) {
        let kill_at = now + Duration::from_millis(grace_ms);
        let signal = self.spec.stop.signal;
        let Some(run) = &mut self.run else { return };
        if let Some(stopping) = &mut run.stopping {
            stopping.kill_at = stopping.kill_at.min(kill_at);
            stopping.again = again;
            stopping.reason = reason.to_owned();
            return;
        }
        let who = run.who;
        run.stopping = Some(Stopping { kill_at, signal, command: None, again, reason: reason.to_owned() });
        self.enter(Phase::Stopping, reason, &[("grace_ms", grace_ms.to_string())]);
        let command = self.run_stop_command();
        match (&mut self.run, command) {
            (Some(Run { stopping: Some(stopping), .. }), Some(pid)) => stopping.command = Some(pid),
            _ => self.signal_child(who.pid, signal),
        }
    }

    fn run_stop_command(&mut self) -> Option<i32> {
        let argv = self.spec.stop.command.clone()?;
        match self.plan(&argv, None, Vec::new()).and_then(child::spawn) {
            Ok(who) => Some(who.pid),
            Err(failure) => {
                self.record("", "", &format!("the stop command failed: {}", failure.text), &[]);
                None
            }
        }
    }

    /// A stopped process gets no signal before it is continued.
    fn signal_child(&self, pid: i32, signal: i32) {
        signals::kill_child(pid, signal);
        signals::kill_child(pid, libc::SIGCONT);
    }

    /// SIGKILL to the cgroup, the process group and every direct child; orphans become direct children in turn.
    pub(super) fn kill_all(&mut self) {
        if let Some(leaf) = &self.leaf {
            let _ = leaf.kill();
        }
        if let Some(run) = &mut self.run {
            run.killed = true;
            // Only while the leader is not reaped: afterwards the id may belong to others.
            if run.ended.is_none() {
                signals::kill_group(run.who.pid, libc::SIGKILL);
            }
        }
        if !self.spec.spares_descendants {
            for pid in signals::children() {
                signals::kill_child(pid, libc::SIGKILL);
            }
        }
    }

    /// Collects every child that ended.
    pub(super) fn reap(&mut self) {
        let now = clock::now();
        while let Peek::Ended(pid, status) = signals::peek() {
            if self.run.as_ref().is_some_and(|run| run.who.pid == pid && run.ended.is_none()) {
                self.handle_child_ended(pid, status, now);
            }
            signals::reap(pid);
            self.handle_stop_command_ended(pid);
        }
        self.sweep(now);
    }

    fn handle_child_ended(&mut self, pid: i32, status: Status, now: Timestamp) {
        let Some(run) = &mut self.run else { return };
        run.ended = Some((status, now));
        match &run.stopping {
            // What it leaves behind gets the signal too, and the rest of the grace.
            Some(stopping) if !run.killed => {
                signals::kill_group(pid, stopping.signal);
                if !self.spec.spares_descendants {
                    signal_orphans(pid, stopping.signal);
                }
            }
            _ => {
                run.killed = true;
                signals::kill_group(pid, libc::SIGKILL);
            }
        }
    }

    fn handle_stop_command_ended(&mut self, pid: i32) {
        let Some(run) = &mut self.run else { return };
        let who = run.who;
        let Some(stopping) = run.stopping.as_mut().filter(|s| s.command == Some(pid)) else { return };
        stopping.command = None;
        let signal = stopping.signal;
        if run.ended.is_none() {
            self.signal_child(who.pid, signal);
        }
    }

    /// Once the child has ended: gets rid of what it left, and concludes when nothing is left.
    fn sweep(&mut self, now: Timestamp) {
        let Some(run) = &self.run else { return };
        let Some((_, ended)) = run.ended else {
            if run.killed {
                self.kill_all();
            }
            return;
        };
        let empty = || matches!(signals::peek(), Peek::None);
        if self.spec.spares_descendants || empty() {
            return self.conclude();
        }
        if !run.killed {
            // Within the grace of a stop.
            return;
        }
        self.kill_all();
        if !self.spec.fenced && now.since(ended) >= LEFTOVERS_MAX {
            self.record(
                "",
                "",
                "processes were left that SIGKILL does not end",
                &[("pids", format!("{:?}", signals::children()))],
            );
            self.conclude();
        }
    }

    /// Nothing of this run is left: keeps its result and decides what follows.
    fn conclude(&mut self) {
        let Some(run) = self.run.take() else { return };
        let Some((status, ended)) = run.ended else { return };
        self.log.finish();
        let exit = self.exit_record(&run, status, ended);
        self.keep_exit(&exit);
        self.state.child = None;
        self.state.ready_boot_ns = None;
        self.state.stopped_boot_ns = None;
        self.state.last_exit = Some(exit.clone());
        match run.stopping {
            Some(stopping) => self.conclude_stop(&exit, stopping),
            None => {
                let ended_as = match (status.code, status.signal) {
                    (Some(code), _) => Ended::Code(code),
                    (None, Some(signal)) => Ended::Signal(signal),
                    (None, None) => Ended::Unknown,
                };
                let decision = self.machine.handle_exit(ended, ended_as);
                let reason = format!("{exit}; {}", decision.reason);
                let mut inputs = decision.inputs;
                inputs.extend(exit_inputs(&exit));
                self.follow(decision.next, &reason, &inputs);
            }
        }
    }

    fn conclude_stop(&mut self, exit: &Exit, stopping: Stopping) {
        let inputs = exit_inputs(exit);
        let inputs: Vec<(&str, String)> = inputs.iter().map(|(n, v)| (*n, v.clone())).collect();
        self.machine.forget();
        if stopping.again {
            self.next_start = Some(Timestamp::ZERO);
            self.next_is_restart = false;
            self.enter(Phase::Backoff, &format!("{}; starts again at once", stopping.reason), &inputs);
        } else if self.intent == Intent::Run {
            // Only the fence stops without being asked: a new deadline starts it again.
            self.next_start = Some(Timestamp::ZERO);
            self.next_is_restart = false;
            self.enter(Phase::Waiting, &stopping.reason, &inputs);
        } else {
            self.enter(Phase::Stopped, &format!("{}; {exit}", stopping.reason), &inputs);
        }
    }

    fn follow(&mut self, next: Next, reason: &str, inputs: &[(&'static str, String)]) {
        match next {
            Next::Start { at } => {
                let at = self.held_start(at);
                self.next_start = Some(at);
                self.next_is_restart = true;
                let waits = if self.state.granted { "" } else { " (when the agent grants restarts again)" };
                self.enter(Phase::Backoff, &format!("{reason}{waits}"), inputs);
            }
            Next::Completed => self.enter(Phase::Completed, reason, inputs),
            Next::Failed => self.enter(Phase::Failed, reason, inputs),
        }
    }

    fn exit_record(&self, run: &Run, status: Status, ended: Timestamp) -> Exit {
        let oom = status.signal == Some(libc::SIGKILL) && run.oom_kills_before < self.oom_kills();
        Exit {
            version: 1,
            incarnation: self.state.incarnation,
            pid: run.who.pid,
            code: status.code,
            signal: status.signal,
            oom,
            timed_out: run.timed_out,
            wanted: run.stopping.is_some(),
            boot_id: clock::boot_id().to_owned(),
            started_boot_ns: run.started.as_nanos(),
            ended_boot_ns: ended.as_nanos(),
            wall_ms: clock::wall_ms(),
            lived_ms: u64::try_from(ended.since(run.started).as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Into the preallocated ring: durable before the next start for a fenced instance, beside it for others.
    fn keep_exit(&mut self, exit: &Exit) {
        let Some(ring) = &mut self.exits else { return };
        let _ = ring.append_json(exit);
        if self.spec.fenced {
            let _ = ring.sync();
        } else {
            self.exits_unsynced = true;
        }
    }

    fn oom_kills(&self) -> Option<u64> {
        self.leaf.as_ref().and_then(|leaf| leaf.oom_kills()).or_else(crate::cgroup::oom_kills_of_host)
    }
}

/// Orphans of a child that has just ended and is not reaped yet; its group has got the signal already.
fn signal_orphans(ended: i32, signal: i32) {
    let elsewhere = |pid: &i32| *pid != ended && crate::process::stat(*pid).is_some_and(|s| s.pgrp != ended);
    for pid in signals::children().into_iter().filter(elsewhere) {
        signals::kill_child(pid, signal);
    }
}

fn exit_inputs(exit: &Exit) -> Vec<(&'static str, String)> {
    let mut inputs = vec![("pid", exit.pid.to_string()), ("exit", exit.to_string())];
    inputs.push(("started_boot_ns", exit.started_boot_ns.to_string()));
    inputs.push(("ended_boot_ns", exit.ended_boot_ns.to_string()));
    inputs
}

//! What clients ask for. A command that means another incarnation is refused: it was decided on old knowledge.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use holdfast_policy::{Incarnation, Timestamp};

use super::{Intent, Keeper};
use crate::clock;
use crate::shim::protocol::{Body, FDS_MAX, Request, Told};
use crate::shim::signals;
use crate::shim::state::Phase;

/// Packets of one client handled in one wakeup.
const PACKETS_AT_ONCE: usize = 16;

pub(super) enum Answer {
    Ack,
    /// All held descriptors.
    Fds,
    Deadline(u64),
    Refused(&'static str, String),
}

impl Keeper {
    pub(super) fn serve(&mut self, i: usize) {
        for _ in 0..PACKETS_AT_ONCE {
            match self.clients[i].connection.recv() {
                Ok(Some((bytes, fds))) => self.handle_packet(i, &bytes, fds),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Ok(None) | Err(_) => self.clients[i].gone = true,
            }
            if self.clients[i].gone {
                return;
            }
        }
        self.push();
    }

    /// The newest state to everybody who lacks it and reads.
    pub(super) fn push(&mut self) {
        if !self.clients.iter().any(|c| c.owes_state) {
            return;
        }
        let Ok(bytes) = serde_json::to_vec(&Told::State(Box::new(self.state.clone()))) else { return };
        for client in self.clients.iter_mut().filter(|c| c.owes_state) {
            match client.connection.send(&bytes, &[]) {
                Ok(()) => client.owes_state = false,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => client.gone = true,
            }
        }
    }

    fn handle_packet(&mut self, i: usize, bytes: &[u8], fds: Vec<OwnedFd>) {
        let (id, answer) = match serde_json::from_slice::<Request>(bytes) {
            Ok(request) => (request.id, self.handle(request.body, fds)),
            Err(e) => {
                let id = serde_json::from_slice::<serde_json::Value>(bytes).ok().and_then(|v| v.get("id")?.as_u64());
                (id.unwrap_or(0), Answer::Refused("HF0211", format!("this shim does not know the request: {e}")))
            }
        };
        let mut names = Vec::new();
        let mut given = Vec::new();
        let told = match answer {
            Answer::Ack => Told::Ack { id, deadline_boot_ns: None, names },
            Answer::Deadline(at) => Told::Ack { id, deadline_boot_ns: Some(at), names },
            Answer::Fds => {
                for (name, fd) in &self.held {
                    names.push(name.clone());
                    given.push(fd.as_fd());
                }
                Told::Ack { id, deadline_boot_ns: None, names }
            }
            Answer::Refused(code, reason) => {
                Told::Refused { id, code: code.into(), reason, incarnation: Some(self.state.incarnation.to_string()) }
            }
        };
        // Its buffer holds hundreds of answers: one who lets it fill up is not listening.
        if self.clients[i].connection.send_json(&told, &given).is_err() {
            self.clients[i].gone = true;
        }
    }

    fn handle(&mut self, body: Body, fds: Vec<OwnedFd>) -> Answer {
        match body {
            Body::Hello {} => Answer::Ack,
            Body::Start {} => self.request_start(),
            Body::Stop { incarnation, reason, grace_ms } => self.if_meant(incarnation, |keeper| {
                keeper.intent = if keeper.intent == Intent::Leave { Intent::Leave } else { Intent::Rest };
                keeper.begin_stop(&reason, grace_ms, false);
                Answer::Ack
            }),
            Body::Restart { incarnation, reason, grace_ms } => self.if_meant(incarnation, |keeper| {
                if keeper.intent == Intent::Leave {
                    return Answer::Refused("HF0209", "the shim is about to exit".into());
                }
                keeper.intent = Intent::Run;
                keeper.begin_stop(&reason, grace_ms, true);
                Answer::Ack
            }),
            Body::Kill { incarnation, reason } => self.if_meant(incarnation, |keeper| {
                keeper.record("", "", &format!("SIGKILL on request: {reason}"), &[]);
                keeper.kill_all();
                Answer::Ack
            }),
            Body::Grant { restart } => self.request_grant(restart),
            Body::Hold { ms } => self.request_hold(ms),
            Body::Role { incarnation, role, token } => {
                self.if_meant(incarnation, |keeper| keeper.request_role(role, &token))
            }
            Body::Freeze { incarnation, frozen } => self.if_meant(incarnation, |keeper| keeper.request_freeze(frozen)),
            Body::Ready { incarnation } => self.if_meant(incarnation, |keeper| {
                if keeper.run.is_some() {
                    keeper.handle_ready("the agent's probes passed");
                }
                Answer::Ack
            }),
            Body::Deadline { boot_ns } => self.request_deadline(boot_ns),
            Body::HoldFds { names } => self.hold(names, fds),
            Body::DropFds { names } => {
                self.held.retain(|(held, _)| !names.contains(held));
                // Nor does a later start wait for them.
                self.spec.fds.retain(|name| !names.contains(name));
                self.changed();
                Answer::Ack
            }
            Body::GiveFds {} => Answer::Fds,
            Body::Signal { incarnation, signo } => self.if_meant(incarnation, |keeper| keeper.request_signal(signo)),
            Body::Exit { reason, grace_ms } => {
                self.request_exit(&reason, grace_ms);
                Answer::Ack
            }
        }
    }

    fn if_meant(&mut self, meant: Incarnation, act: impl FnOnce(&mut Keeper) -> Answer) -> Answer {
        if meant == self.state.incarnation {
            return act(self);
        }
        Answer::Refused("HF0209", format!("incarnation {meant} is meant, this is {}", self.state.incarnation))
    }

    fn request_start(&mut self) -> Answer {
        if self.intent == Intent::Leave {
            return Answer::Refused("HF0209", "the shim is about to exit".into());
        }
        self.intent = Intent::Run;
        self.machine.forget();
        self.changed();
        match &mut self.run {
            None => {
                self.next_start = Some(Timestamp::ZERO);
                self.next_is_restart = false;
            }
            // It is on its way down: up again after that.
            Some(run) => {
                if let Some(stopping) = &mut run.stopping {
                    stopping.again = true;
                }
            }
        }
        Answer::Ack
    }

    fn request_grant(&mut self, restart: bool) -> Answer {
        if self.state.granted != restart {
            self.state.granted = restart;
            self.changed();
            let text = if restart { "restarts are granted" } else { "the restart grant is withdrawn" };
            self.record("", "", text, &[]);
        }
        Answer::Ack
    }

    /// A deadline is only ever moved forward; to end earlier, stop the instance.
    fn request_deadline(&mut self, boot_ns: u64) -> Answer {
        if !self.spec.fenced {
            return Answer::Refused("HF0215", "the instance is not fenced".into());
        }
        let now = clock::now().as_nanos();
        // Already passed: the next tick kills. Accepting it would let the renewed lease cover a dead promise.
        let bound = self.run.is_some() || self.spec.final_deadline;
        let lapsed = bound && self.state.deadline_boot_ns.is_some_and(|at| at <= now);
        if boot_ns <= now || lapsed {
            return Answer::Refused("HF0215", "the deadline has passed".into());
        }
        let in_force = self.state.deadline_boot_ns.map_or(boot_ns, |at| at.max(boot_ns));
        self.state.deadline_boot_ns = Some(in_force);
        self.dirty = true;
        Answer::Deadline(in_force)
    }

    fn hold(&mut self, names: Vec<String>, fds: Vec<OwnedFd>) -> Answer {
        if names.is_empty() || names.len() != fds.len() {
            return Answer::Refused("HF0208", format!("{} names came with {} descriptors", names.len(), fds.len()));
        }
        let fresh = names.iter().filter(|name| !self.held.iter().any(|(held, _)| held == *name)).count();
        if self.held.len() + fresh > FDS_MAX {
            return Answer::Refused("HF0208", format!("at most {FDS_MAX} descriptors are held"));
        }
        for (name, fd) in names.into_iter().zip(fds) {
            self.held.retain(|(held, _)| *held != name);
            self.held.push((name, fd));
        }
        self.changed();
        Answer::Ack
    }

    fn request_signal(&mut self, signo: i32) -> Answer {
        if !(0..=64).contains(&signo) {
            return Answer::Refused("HF0208", format!("{signo} is no signal"));
        }
        match self.run.as_ref().filter(|run| run.ended.is_none()) {
            Some(run) => {
                signals::kill_child(run.who.pid, signo);
                Answer::Ack
            }
            None => Answer::Refused("HF0209", "no child lives".into()),
        }
    }

    pub(super) fn request_exit(&mut self, reason: &str, grace_ms: Option<u64>) {
        self.intent = Intent::Leave;
        let reason = if reason.is_empty() { "told to exit" } else { reason };
        self.begin_stop(reason, grace_ms, false);
        if self.run.is_none() && self.state.phase == Phase::Backoff {
            self.enter(Phase::Stopped, reason, &[]);
        }
    }
}

//! What the child is among the members of a redundant service, and the token it acts under.

use std::time::Duration;

use holdfast_policy::Timestamp;
use holdfast_policy::lease::FencingToken;

use super::Keeper;
use super::requests::Answer;
use crate::clock;
use crate::files;
use crate::shim::dir::Dir;
use crate::shim::environment::Environment;
use crate::shim::signals;
use crate::shim::spec::Spec;
use crate::shim::state::{Failure, State};

pub(super) const ACTIVE: &str = "active";
/// Of the token file: two numbers and a word, and the padding of its reserve.
const SIZE_BYTES_MAX: u64 = 64 * 1024;
/// Longer than any sensible time for another member to take over: a child must not stay down for ever because of a
/// number that came over a socket.
const HOLD_MAX: Duration = Duration::from_secs(60);

/// Takes over the token of earlier generations, and writes the role that this one begins in.
pub(super) fn open(dir: &Dir, spec: &Spec, state: &mut State) -> Result<(), Failure> {
    state.role.clone_from(&spec.role);
    if !spec.fenced {
        return Ok(());
    }
    state.token = kept(dir).map(|token| token.to_string());
    write(dir, state)
}

fn kept(dir: &Dir) -> Option<FencingToken> {
    let bytes = files::read_optional(&dir.token(), SIZE_BYTES_MAX).ok().flatten()?;
    String::from_utf8(bytes).ok()?.split_whitespace().next()?.parse().ok()
}

/// `0.0` stands for no token yet.
fn write(dir: &Dir, state: &State) -> Result<(), Failure> {
    let token = state.token.clone().unwrap_or_else(|| FencingToken::default().to_string());
    let role = if state.role.is_empty() { "-" } else { &state.role };
    files::write_in_reserve(&dir.token(), format!("{token} {role}\n").as_bytes(), true).map_err(|e| Failure {
        code: "HF0341".into(),
        text: format!("cannot keep the fencing token: {e}"),
        hint: e.hint(),
    })
}

impl Keeper {
    /// Whether a fenced child may live now. A standby's may until its first deadline: then it is, or becomes, active.
    pub(super) fn may_run_at(&self, now: Timestamp) -> bool {
        match self.state.deadline_boot_ns {
            Some(at) => at > now.as_nanos(),
            None => self.spec.standby,
        }
    }

    pub(super) fn role_environment(&self, env: &mut Environment) {
        if !self.spec.fenced {
            return;
        }
        let role = if self.state.role.is_empty() { ACTIVE } else { &self.state.role };
        env.insert("HOLDFAST_ROLE".into(), role.into());
        env.insert("HOLDFAST_TOKEN_FILE".into(), self.dir.token().into());
        if role == ACTIVE
            && let Some(token) = &self.state.token
        {
            env.insert("HOLDFAST_TOKEN".into(), token.into());
        }
    }

    pub(super) fn request_role(&mut self, role: String, token: &str) -> Answer {
        let Ok(token) = token.parse::<FencingToken>() else {
            return Answer::Refused("HF0208", format!("`{token}` is no fencing token"));
        };
        if !self.spec.fenced {
            return Answer::Refused("HF0215", "the instance is not fenced".into());
        }
        let highest = self.state.token.as_deref().and_then(|text| text.parse::<FencingToken>().ok());
        if let Some(highest) = highest.filter(|h| token < *h) {
            return Answer::Refused("HF0340", format!("token {token} is older than {highest}, which it had already"));
        }
        let next = State { role, token: Some(token.to_string()), ..self.state.clone() };
        if let Err(failure) = write(&self.dir, &next) {
            return Answer::Refused("HF0341", failure.text);
        }
        if (&self.state.role, &self.state.token) != (&next.role, &next.token) {
            self.state = next;
            self.changed();
            let inputs = [("role", self.state.role.clone()), ("token", token.to_string())];
            self.record("", "", "role and fencing token are written", &inputs);
        }
        Answer::Ack
    }

    pub(super) fn request_hold(&mut self, ms: u64) -> Answer {
        let ms = ms.min(u64::try_from(HOLD_MAX.as_millis()).unwrap_or(u64::MAX));
        if self.state.hold_ms != ms {
            self.state.hold_ms = ms;
            self.changed();
        }
        Answer::Ack
    }

    pub(super) fn request_freeze(&mut self, frozen: bool) -> Answer {
        match self.run.as_ref().filter(|run| run.ended.is_none()) {
            Some(run) => {
                let signal = if frozen { libc::SIGSTOP } else { libc::SIGCONT };
                signals::kill_group(run.who.pid, signal);
                signals::kill_child(run.who.pid, signal);
                Answer::Ack
            }
            None => Answer::Refused("HF0209", "no child lives".into()),
        }
    }

    /// When the program is started again after a fault: not before another member had the time to take over.
    pub(super) fn held_start(&self, at: Timestamp) -> Timestamp {
        at.max(clock::now() + Duration::from_millis(self.state.hold_ms))
    }
}

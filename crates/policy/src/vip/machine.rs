//! The machine of one address on one node.

use std::borrow::Cow;

use super::announce::Announcer;
use super::quick::{self, Mode, Quick};
use super::*;
use crate::Transition;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    None,
    Running,
    Clear,
}

#[derive(Clone, Debug)]
pub struct Machine {
    settings: Settings,
    state: State,
    told: Option<Transition>,
    /// Sending time of the last acknowledged renewal, while the lease is ours.
    lease: Option<Timestamp>,
    /// Sending time of the last question that all others answered with *clear*.
    agreed: Option<Timestamp>,
    /// No claim before this, unless all others are asked and agree: what an earlier life promised is unknown, what this one
    /// promised holds.
    barred: Timestamp,
    /// Since when the present bar stands.
    barred_at: Timestamp,
    /// No try for the lease before this: another node carries the address without one, and is to get it first.
    yields_until: Timestamp,
    kernel: Kernel,
    /// What an earlier life of the agent left in the kernel is taken over, or ends with the right it was given for.
    inherited: bool,
    began: Timestamp,
    looked: bool,
    /// For which right the kernel was told last.
    set_until: Timestamp,
    /// In this life the address was claimed or taken over, and not let go since.
    carrying: bool,
    probe: Probe,
    probe_at: Timestamp,
    probe_pause: Duration,
    conflict: bool,
    campaigning: bool,
    asking: bool,
    ask_at: Timestamp,
    well: Option<bool>,
    ill_since: Timestamp,
    stopping: bool,
    /// The store went away while this node carried the address.
    split: bool,
    quick: Quick,
    announcer: Announcer,
}

impl Machine {
    pub fn new(settings: Settings, now: Timestamp) -> Machine {
        Machine {
            settings,
            state: State::Released,
            told: None,
            lease: None,
            agreed: None,
            barred: if settings.others && settings.rules.promise { now + settings.ttl } else { now },
            barred_at: now,
            yields_until: now,
            kernel: Kernel::Absent,
            inherited: false,
            began: now,
            looked: false,
            set_until: Timestamp::ZERO,
            carrying: false,
            probe: Probe::None,
            probe_at: now,
            probe_pause: PROBE_AGAIN,
            conflict: false,
            campaigning: false,
            asking: false,
            ask_at: now,
            well: None,
            ill_since: now,
            stopping: false,
            split: false,
            quick: Quick::default(),
            announcer: Announcer::default(),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Its right is what the others answer, and they may end its lease.
    pub fn is_quick(&self) -> bool {
        self.quick.mode == Mode::Quick
    }

    /// Until when the kernel may carry it by what is known now.
    pub fn kernel_until(&self) -> Timestamp {
        if self.carrying { self.set_until } else { Timestamp::ZERO }
    }

    /// Nothing is left to do for an address that is not wanted any more.
    pub fn is_over(&self) -> bool {
        self.stopping && self.kernel != Kernel::Ours && self.lease.is_none() && !self.campaigning
    }

    pub fn take_transition(&mut self) -> Option<Transition> {
        self.told.take()
    }

    /// An owner that is quick asks. *Clear* binds this node for [`quick::PROMISE`].
    pub fn asked_quickly(&mut self, now: Timestamp) -> Answer {
        let answer = self.answer();
        if answer == Answer::Clear && self.settings.rules.promise {
            (self.barred, self.barred_at) = (self.barred.max(now + quick::PROMISE), now);
        }
        answer
    }

    fn answer(&self) -> Answer {
        if self.kernel == Kernel::Ours {
            return Answer::Holds;
        }
        // Nor does it say what it does not know yet.
        if self.lease.is_some() || !self.looked { Answer::Claims } else { Answer::Clear }
    }

    /// Another node asks, because the store does not answer it. *Clear* binds this node.
    pub fn asked(&mut self, now: Timestamp) -> Answer {
        let answer = self.answer();
        if answer == Answer::Clear && self.settings.rules.promise {
            (self.barred, self.barred_at) = (now + self.settings.ttl, now);
            self.yields_until = self.barred;
        }
        answer
    }

    pub fn handle(&mut self, now: Timestamp, event: Event) {
        match event {
            Event::Held { confirmed } => self.held(now, confirmed),
            Event::Lost(loss) => self.lost(now, loss),
            Event::Kernel(found) => self.found(found),
            Event::Set { until } => self.set(until),
            Event::Probed { answered } => self.probed(now, answered),
            Event::Conflict if self.carrying => self.announcer.contested(now),
            Event::Conflict => {}
            Event::DataPlane { well } => {
                if !well && self.well != Some(false) {
                    self.ill_since = now;
                }
                self.well = Some(well);
            }
            Event::Peers { asked, found } => self.answered(now, asked, found),
            Event::QuickPeers { asked, found } => {
                self.quick.answered(now, asked, found);
                if found == Peers::Taken {
                    self.agreed = None;
                }
            }
            Event::Written { quick, taken: true } => self.quick.written(quick),
            Event::Written { taken: false, .. } => self.lost(now, Loss::Revoked),
            Event::QuickOwner(token) => self.quick.owner = token,
            Event::Stop => self.stopping = true,
        }
        self.settle(now);
    }

    fn held(&mut self, now: Timestamp, confirmed: Timestamp) {
        self.campaigning = false;
        let new = self.lease.is_none();
        self.lease = Some(self.lease.map_or(confirmed, |known| known.max(confirmed)));
        if new {
            let pause = if self.settings.quick { quick::PROBE_AGAIN } else { PROBE_AGAIN };
            (self.probe, self.probe_at, self.probe_pause) = (Probe::None, now, pause);
            self.conflict = false;
            // Whoever goes on with a lease has said so in the store first.
            (self.quick.mode, self.quick.owner) = (Mode::Slow, None);
            self.quick.forget();
        }
        if self.holds_lease(now) && std::mem::take(&mut self.split) && self.settings.rules.announce_after_split {
            self.announcer.claimed(now);
        }
    }

    fn lost(&mut self, now: Timestamp, loss: Loss) {
        self.lease = None;
        self.campaigning = false;
        self.conflict = false;
        self.probe = Probe::None;
        match loss {
            Loss::Unanswered => self.split |= self.carrying && self.right_until(now).is_some(),
            // Whoever the store gave it to may claim it now.
            Loss::Revoked => {
                self.agreed = None;
                self.quick.forget();
            }
        }
        self.carrying &= self.kernel == Kernel::Ours;
    }

    fn found(&mut self, found: Kernel) {
        if self.carrying && found == Kernel::Absent && self.kernel == Kernel::Ours {
            // It was taken away by hand, or with its interface. Nobody else may have it while the lease lasts.
            self.carrying = self.lease.is_some();
            self.probe = if self.carrying { Probe::Clear } else { Probe::None };
        }
        self.inherited = found == Kernel::Ours && (self.inherited || !self.looked);
        self.looked = true;
        self.kernel = found;
    }

    /// A call that was held up between its counting and its end gave more than there was.
    fn set(&mut self, until: Timestamp) {
        self.kernel = Kernel::Ours;
        if until > self.set_until + KERNEL_LATE {
            (self.carrying, self.inherited) = (false, false);
        }
    }

    fn probed(&mut self, now: Timestamp, answered: bool) {
        if self.probe != Probe::Running {
            return;
        }
        self.conflict = answered;
        if answered {
            self.probe = Probe::None;
            self.probe_at = now + self.probe_pause;
            self.probe_pause = (self.probe_pause * 2).min(PROBE_AGAIN_MAX);
        } else {
            self.probe = Probe::Clear;
        }
    }

    fn answered(&mut self, now: Timestamp, asked: Timestamp, found: Peers) {
        self.asking = false;
        self.ask_at = now + ASK_EVERY;
        match found {
            Peers::AllClear => {
                self.agreed = Some(self.agreed.map_or(asked, |known| known.max(asked)));
                if asked >= self.barred_at {
                    self.barred = self.barred.min(now);
                }
            }
            Peers::Silent => {}
            Peers::Taken => self.agreed = None,
        }
    }

    fn holds_lease(&self, now: Timestamp) -> bool {
        self.lease.is_some_and(|confirmed| now < confirmed + self.settings.give_up)
    }

    /// What the store may still say of it: another may end the lease whatever its time.
    fn goes_by_lease(&self) -> bool {
        self.quick.mode == Mode::Slow || !self.settings.rules.mode
    }

    fn agrees(&self, now: Timestamp) -> bool {
        !self.settings.others || self.agreed.is_some_and(|asked| now < asked + self.settings.give_up)
    }

    /// When the last proof of the right was asked for. What the others say counts only for who carries it already.
    fn confirmed(&self, now: Timestamp) -> Option<Timestamp> {
        let lease = self.lease.filter(|_| self.holds_lease(now) && self.goes_by_lease());
        let agreed = match self.settings.others {
            true => self.agreed.filter(|_| self.agrees(now)),
            // Alone there is nobody to ask.
            false => Some(now).filter(|_| lease.is_none()),
        };
        lease.max(agreed.filter(|_| self.carrying))
    }

    /// Until when the kernel may carry it.
    fn right_until(&self, now: Timestamp) -> Option<Timestamp> {
        let by_lease = self.confirmed(now).map(|confirmed| self.settings.kernel_until(confirmed));
        let quickly = self.quick.agreed(now).filter(|_| self.carrying && self.settings.quick);
        by_lease.max(quickly.map(|asked| asked + quick::KERNEL))
    }

    fn is_ill(&self, now: Timestamp) -> bool {
        self.well == Some(false) && now >= self.ill_since + ILL_AFTER
    }

    fn unfit(&self, now: Timestamp) -> bool {
        self.stopping || self.kernel == Kernel::Foreign || self.is_ill(now)
    }

    /// Who finds the address in its kernel goes on before its balancers have answered.
    fn wants_lease(&self, now: Timestamp) -> bool {
        let takes_over = self.kernel == Kernel::Ours;
        !self.unfit(now) && (takes_over || (self.well == Some(true) && now >= self.yields_until))
    }

    fn must_go(&self, now: Timestamp) -> bool {
        let without_right = self.right_until(now).is_none() || !self.carrying;
        let inherited = self.inherited && (!self.settings.quick || now < self.began + quick::INHERITED);
        self.kernel == Kernel::Ours && (self.unfit(now) || (without_right && !inherited))
    }

    pub fn poll(&mut self, now: Timestamp) -> Option<Action> {
        let action = self.next(now);
        self.settle(now);
        action
    }

    fn next(&mut self, now: Timestamp) -> Option<Action> {
        if self.must_go(now) {
            self.let_go();
            return Some(Action::Remove);
        }
        if self.lease.is_some() && self.unfit(now) {
            self.lease = None;
            return Some(Action::Resign);
        }
        let campaign = self.lease.is_none() && self.wants_lease(now);
        if campaign != self.campaigning && self.lease.is_none() {
            self.campaigning = campaign;
            return Some(if campaign { Action::Campaign } else { Action::Withdraw });
        }
        if let Some(action) = self.next_quickly(now) {
            return Some(action);
        }
        let until = self.right_until(now);
        let claimed = until.filter(|until| lifetime(now, *until).is_some()).and_then(|until| self.claim(now, until));
        if claimed.is_some() {
            return claimed;
        }
        if self.wants_to_ask(now) && !self.asking && now >= self.ask_at {
            self.asking = true;
            return Some(Action::AskPeers);
        }
        (self.carrying && self.kernel == Kernel::Ours && self.announcer.take(now)).then_some(Action::Announce)
    }

    fn next_quickly(&mut self, now: Timestamp) -> Option<Action> {
        if !self.settings.quick || !self.settings.others {
            return None;
        }
        // Also one that had to let go in the meantime: its lease is worth nothing before the store has said so.
        if self.lease.is_some()
            && let Some(quick) = self.quick.write(now)
        {
            return Some(Action::Write { quick });
        }
        if self.carrying && self.kernel == Kernel::Ours && !self.stopping {
            return self.quick.asks(now).then_some(Action::AskQuickly);
        }
        let silent = now >= self.barred && now >= self.quick.depose_at && self.well == Some(true);
        let token = self.quick.owner.filter(|_| silent && self.campaigning && !self.unfit(now))?;
        self.quick.depose_at = now + quick::DEPOSE_AGAIN;
        Some(Action::Depose { token })
    }

    fn claim(&mut self, now: Timestamp, until: Timestamp) -> Option<Action> {
        if self.kernel == Kernel::Ours {
            // One that an earlier life left behind needs the lease to be taken over.
            let gains = until > self.set_until && until >= self.set_until + LIFETIME_MIN;
            let refresh = gains && (self.carrying || self.holds_lease(now));
            return refresh.then(|| {
                if !self.carrying {
                    self.announcer.claimed(now);
                }
                (self.carrying, self.inherited, self.set_until) = (true, false, until);
                Action::Refresh { until }
            });
        }
        if !self.holds_lease(now) || !self.goes_by_lease() || (now < self.barred && !self.carrying) {
            return None;
        }
        match self.probe {
            Probe::Clear => {
                (self.probe, self.carrying, self.set_until) = (Probe::None, true, until);
                self.kernel = Kernel::Ours;
                self.announcer.claimed(now);
                Some(Action::Add { until })
            }
            Probe::None if now >= self.probe_at => {
                self.probe = Probe::Running;
                Some(Action::Probe)
            }
            Probe::None | Probe::Running => None,
        }
    }

    /// An owner asks before it is too late, one that is barred asks to be let in.
    fn wants_to_ask(&self, now: Timestamp) -> bool {
        let late = |confirmed: Timestamp| now >= confirmed + self.settings.renew + self.settings.renew / 2;
        let doubts = self.carrying && self.lease.is_none_or(late);
        self.settings.others
            && !self.stopping
            && (doubts || (self.lease.is_some() && !self.carrying && now < self.barred))
    }

    fn let_go(&mut self) {
        self.kernel = Kernel::Absent;
        (self.carrying, self.inherited) = (false, false);
        self.set_until = Timestamp::ZERO;
        self.agreed = None;
        self.quick.forget();
        self.split = false;
        self.probe = Probe::None;
        self.announcer.stop();
    }

    /// When `poll` may have something to say without another event.
    pub fn next_deadline(&self, now: Timestamp) -> Timestamp {
        let give_up = |from: Option<Timestamp>| from.map_or(Timestamp::NEVER, |at| at + self.settings.give_up);
        let doubt = self.lease.map_or(self.ask_at, |at| at + self.settings.renew + self.settings.renew / 2);
        let due = [
            give_up(self.lease),
            give_up(self.agreed),
            doubt,
            self.ask_at,
            self.ill_since + ILL_AFTER,
            self.probe_at,
            self.barred,
            self.announcer.due(),
        ];
        let quick = if self.settings.quick { self.quick.next_deadline() } else { [Timestamp::NEVER; 4] };
        due.into_iter()
            .chain(quick)
            .chain([self.began + quick::INHERITED])
            .filter(|at| *at > now)
            .min()
            .unwrap_or(Timestamp::NEVER)
    }

    fn settle(&mut self, now: Timestamp) {
        let carries = self.carrying && self.kernel == Kernel::Ours;
        let state = match (carries, self.lease.is_some()) {
            (true, true) => State::Owned,
            (true, false) => State::SafeMode,
            (false, true) if self.conflict => State::Conflict,
            (false, true) => State::Probing,
            (false, false) if self.campaigning => State::Standby,
            (false, false) => State::Released,
        };
        if state != self.state {
            let mut transition = Transition::new(self.state.name(), state.name(), self.reason(now, state));
            if let Some(confirmed) = self.confirmed(now) {
                let left = now.until(confirmed + self.settings.ttl);
                transition = transition.with("right_left_ms", left.as_millis());
            }
            self.state = state;
            self.told = Some(transition);
        }
    }

    fn reason(&self, now: Timestamp, to: State) -> Cow<'static, str> {
        match to {
            State::Owned if self.state == State::SafeMode => "the store answers again, and the lease is ours".into(),
            State::Owned => "the lease is ours and nobody else answers for the address".into(),
            State::SafeMode => {
                "the store does not answer; all other nodes say that they leave the address alone".into()
            }
            State::Conflict => "another host answers for the address".into(),
            State::Probing => "the lease is ours; asking whether somebody answers for the address".into(),
            State::Standby => "waits for the lease".into(),
            State::Released if self.stopping => "not wanted here any more".into(),
            State::Released if self.kernel == Kernel::Foreign => "configured on this machine by somebody else".into(),
            State::Released if self.is_ill(now) => "the balancers of this node do not answer".into(),
            State::Released if now < self.yields_until => "left to another node, which asked".into(),
            State::Released => "the lease is not ours any more".into(),
        }
    }
}

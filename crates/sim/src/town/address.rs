//! The virtual address: the real machine of each agent, simulated kernels, probes and questions.

use std::time::Duration;

use holdfast_policy::Timestamp;
use holdfast_policy::lease::{Lost, Timings};
use holdfast_policy::vip::{self, Action, Answer, Event, Kernel, Loss, Peers, Rules, Settings, State};

use super::calls::Call;
use super::member::{Role, Which};
use super::world::{Happening, Note, Town};

pub(super) const KEY: &str = "/vip/10.0.0.100";
const TIMINGS: Timings = Timings::DEFAULT;
/// A probe and the wait for its answer.
const PROBE: Duration = Duration::from_millis(300);
/// Steps of one look; more is a machine that never has enough.
const STEPS: u32 = 50;

pub(super) struct Address {
    pub(super) machine: vip::Machine,
    pub(super) role: Role,
    campaigning: bool,
    /// Somebody has the lease, as far as the watch says.
    held: bool,
    told: Option<Kernel>,
    state: State,
}

impl Address {
    pub(super) fn new(local: Timestamp, rules: Rules, carried: bool) -> Address {
        let settings = Settings {
            ttl: TIMINGS.ttl,
            renew: TIMINGS.renew,
            give_up: TIMINGS.give_up,
            others: true,
            quick: false,
            rules,
        };
        let mut machine = vip::Machine::new(settings, local);
        let kernel = if carried { Kernel::Ours } else { Kernel::Absent };
        machine.handle(local, Event::Kernel(kernel));
        machine.handle(local, Event::DataPlane { well: true });
        let role = Role::new(KEY, "", true);
        Address { machine, role, campaigning: false, held: false, told: Some(kernel), state: State::Released }
    }

    pub(super) fn next_deadline(&self, local: Timestamp) -> Timestamp {
        self.machine.next_deadline(local).min(self.role.next_deadline(self.campaigning && !self.held))
    }
}

impl Town {
    fn address(&mut self, m: usize) -> Option<&mut Address> {
        self.machines[m].agent.as_mut().map(|agent| &mut agent.address)
    }

    pub(super) fn run_address(&mut self, m: usize) {
        let now = self.now;
        let local = self.machines[m].local(now);
        let name = self.machines[m].name.clone();
        let kernel = if self.machines[m].address.is_some() { Kernel::Ours } else { Kernel::Absent };
        let Some(address) = self.address(m) else { return };
        address.role.set_node(&name);
        if address.told != Some(kernel) {
            address.told = Some(kernel);
            address.machine.handle(local, Event::Kernel(kernel));
        }
        let wants = address.campaigning && !address.held;
        self.drive(m, Which::Address, wants);
        for _ in 0..STEPS {
            let Some(address) = self.address(m) else { return };
            let Some(action) = address.machine.poll(local) else { break };
            self.act_on_address(m, local, action);
        }
        let Some(address) = self.address(m) else { return };
        let (before, after) = (address.state, address.machine.state());
        address.state = after;
        if before != after {
            self.note(format!("    {name}: address {} -> {}", before.name(), after.name()));
            if (before, after) == (State::SafeMode, State::Owned) {
                self.judge.announce_due(now, m);
            }
        }
    }

    fn act_on_address(&mut self, m: usize, local: Timestamp, action: Action) {
        let (now, life) = (self.now, self.machines[m].life);
        match action {
            Action::Campaign | Action::Withdraw => {
                let on = action == Action::Campaign;
                self.address(m).into_iter().for_each(|a| a.campaigning = on);
            }
            Action::Resign => self.resign(m),
            Action::Probe => {
                let answered = self.address_answers(m);
                self.later(PROBE, Happening::Agent(m, life, Note::Probed(answered)));
            }
            Action::Add { until } | Action::Refresh { until } => {
                let Some(lifetime) = vip::lifetime(local, until) else { return };
                let late = Duration::from_millis(self.rng.below(vip::KERNEL_LATE.as_millis() as u64));
                let machine = &mut self.machines[m];
                let ends = match until {
                    Timestamp::NEVER => Timestamp::NEVER,
                    _ => now + machine.clock.lasts(lifetime) + late,
                };
                machine.address = Some(ends);
                self.judge.host_moved = true;
                let until = if until == Timestamp::NEVER { until } else { local + lifetime };
                if let Some(address) = self.address(m) {
                    address.told = Some(Kernel::Ours);
                    address.machine.handle(local, Event::Set { until });
                }
            }
            Action::Announce => self.judge.announced(m),
            Action::Remove => {
                self.machines[m].address = None;
                self.judge.not_announced(m);
                if let Some(address) = self.address(m) {
                    address.told = Some(Kernel::Absent);
                    address.machine.handle(local, Event::Kernel(Kernel::Absent));
                }
            }
            // Only with the fast profile, which this town does not have: `policy::vip::model` has it.
            Action::AskQuickly | Action::Write { .. } | Action::Depose { .. } => {}
            Action::AskPeers => {
                let wait = Duration::from_millis(1 + self.rng.below(20));
                self.later(wait, Happening::AskPeers(m, life, local));
            }
        }
    }

    fn resign(&mut self, m: usize) {
        let Some(role) = self.role(m, Which::Address) else { return };
        let lease = role.let_go();
        self.ask(m, Call::Revoke(lease));
    }

    /// Another kernel answers for it.
    fn address_answers(&mut self, m: usize) -> bool {
        let now = self.now;
        let there = |other: &usize| {
            let machine = &self.machines[*other];
            *other != m && machine.up && !machine.frozen && machine.address.is_some_and(|end| end > now)
        };
        let holders: Vec<usize> = (0..self.machines.len()).filter(there).collect();
        holders.into_iter().any(|other| self.net.is_linked(now, m, other))
    }

    pub(super) fn ask_peers(&mut self, m: usize, life: u64, asked: Timestamp) {
        let now = self.now;
        if self.machines[m].life != life {
            return;
        }
        let mut found = Peers::AllClear;
        for other in (0..self.machines.len()).filter(|other| *other != m) {
            let sent = self.net.send(now, &mut self.rng, m, other).is_some();
            let machine = &mut self.machines[other];
            let local = machine.local(now);
            let runs = sent && machine.agent_runs(now);
            let answer = machine.agent.as_mut().filter(|_| runs).map(|agent| agent.address.machine.asked(local));
            let heard = self.net.send(now, &mut self.rng, other, m).is_some();
            found = match (answer.filter(|_| heard), found) {
                (Some(Answer::Claims | Answer::Holds), _) | (_, Peers::Taken) => Peers::Taken,
                (None, _) => Peers::Silent,
                (Some(Answer::Clear), so_far) => so_far,
            };
            if answer.is_some() {
                self.settle(other);
            }
        }
        let wait = Duration::from_millis(if found == Peers::Silent { 450 } else { 1 + self.rng.below(30) });
        self.later(wait, Happening::Agent(m, life, Note::Peers(asked, found)));
    }

    pub(super) fn address_told(&mut self, m: usize, note: Note) {
        let local = self.machines[m].local(self.now);
        let answered = matches!(note, Note::Probed(true)) || matches!(note, Note::Probed(_)) && self.address_answers(m);
        let Some(address) = self.address(m) else { return };
        match note {
            Note::Probed(_) => address.machine.handle(local, Event::Probed { answered }),
            Note::Peers(asked, found) => address.machine.handle(local, Event::Peers { asked, found }),
            _ => {}
        }
    }

    pub(super) fn address_held(&mut self, m: usize, held: bool) {
        let local = self.machines[m].local(self.now);
        let delay = vip::campaign_delay(m);
        let Some(address) = self.address(m) else { return };
        if address.held && !held {
            address.role.again = local + delay;
        }
        // Its own, from before, is taken up again.
        address.held = held && address.told != Some(Kernel::Ours);
    }

    pub(super) fn address_renewed(&mut self, m: usize) {
        let local = self.machines[m].local(self.now);
        let Some(address) = self.address(m) else { return };
        let Some(keeper) = &address.role.keeper else { return };
        if !keeper.holds(local) {
            return;
        }
        let confirmed = keeper.deadline() - TIMINGS.give_up;
        if !address.campaigning && !matches!(address.machine.state(), State::Owned | State::Probing | State::Conflict) {
            return self.resign(m);
        }
        address.campaigning = false;
        address.machine.handle(local, Event::Held { confirmed });
    }

    pub(super) fn address_lost(&mut self, m: usize, lost: Lost) {
        let local = self.machines[m].local(self.now);
        let Some(address) = self.address(m) else { return };
        address.held = false;
        let loss = if lost == Lost::Revoked { Loss::Revoked } else { Loss::Unanswered };
        address.machine.handle(local, Event::Lost(loss));
    }
}

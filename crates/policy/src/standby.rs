//! Redundant deployment: one active member of a service and its standbys, one state machine for all tiers.
//!
//! | tier | a standby | what a takeover costs |
//! |---|---|---|
//! | hot  | runs and is ready | lease, deadline, token, `promote` |
//! | warm | ran until it was ready and is paused, or is stopped; data kept by `sync` | going on or starting, `promote` |
//! | cold | is staged only | `restore`, starting, `promote` |
//!
//! Who holds the lease of the service may be active, nobody else. A member gives the lease back only when its program
//! is proved dead; one that cannot give it back is fenced (or its lease runs out) before another becomes active.
//! The edges below are all there are; whoever takes another one has a bug, and is told so.

mod choice;
#[cfg(test)]
mod tests;

pub use choice::{
    AfterFault, BACKOFF_FAILURES, CLAIM_AGAIN, CLAIM_STEP, FIRST_STEP, Facts, HAND_OVER_WINDOW, HAND_OVERS_MAX, HOLD,
    Ineligible, LAST_WAIT, STALENESS_SHARE, Wish, after_fault, claim_delay, eligible, failback_due, hold,
};

/// How much of a standby is there before it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Tier {
    #[default]
    Hot,
    Warm,
    Cold,
}

impl Tier {
    pub const ALL: [(&'static str, Tier); 3] = [("hot", Tier::Hot), ("warm", Tier::Warm), ("cold", Tier::Cold)];

    pub fn name(self) -> &'static str {
        Tier::ALL.iter().find(|(_, t)| *t == self).map_or("", |(name, _)| name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum State {
    /// Nothing of it is there.
    #[default]
    Absent,
    /// Its directory, port and definition are there; nothing runs.
    Staged,
    /// Its program starts, or its first data is on the way.
    Seeding,
    /// It can take over.
    Standby,
    /// It holds the lease and is on its way to be active.
    Promoting,
    Active,
    /// It gives up being active in an orderly way.
    Draining,
    /// Its program, which was active, is proved dead.
    Fenced,
    /// On its way back to be a standby.
    Rejoining,
}

/// What moves a member from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Stage,
    Seed,
    /// It fulfils what its tier asks of a standby.
    Settle,
    /// The lease was won.
    Win,
    /// Deadline acknowledged, others fenced, token written, `promote` done.
    Promoted,
    /// Its shim starts its program again under the same lease and token.
    RestartHere,
    Drain,
    /// Its program is proved dead and will not be started again by its shim.
    ProvedDead,
    Rejoin,
    /// Not wanted any more, and nothing of it runs.
    Remove,
}

impl State {
    pub const ALL: [State; 9] = [
        State::Absent,
        State::Staged,
        State::Seeding,
        State::Standby,
        State::Promoting,
        State::Active,
        State::Draining,
        State::Fenced,
        State::Rejoining,
    ];

    pub fn name(self) -> &'static str {
        match self {
            State::Absent => "absent",
            State::Staged => "staged",
            State::Seeding => "seeding",
            State::Standby => "standby",
            State::Promoting => "promoting",
            State::Active => "active",
            State::Draining => "draining",
            State::Fenced => "fenced",
            State::Rejoining => "rejoining",
        }
    }

    /// States that only the holder of the lease may be in.
    pub fn needs_token(self) -> bool {
        matches!(self, State::Promoting | State::Active | State::Draining)
    }

    /// The table of all edges.
    pub fn next(self, step: Step) -> Option<State> {
        Some(match (self, step) {
            (State::Absent, Step::Stage) => State::Staged,
            (State::Staged | State::Rejoining, Step::Seed) => State::Seeding,
            (State::Staged | State::Seeding | State::Rejoining, Step::Settle) => State::Standby,
            (State::Standby, Step::Win) => State::Promoting,
            (State::Promoting, Step::Promoted) => State::Active,
            (State::Active, Step::RestartHere) => State::Promoting,
            (State::Promoting | State::Active, Step::Drain) => State::Draining,
            (State::Promoting | State::Active | State::Draining, Step::ProvedDead) => State::Fenced,
            // One that was never active needs no fencing.
            (State::Seeding | State::Standby, Step::ProvedDead) => State::Rejoining,
            (State::Fenced, Step::Rejoin) => State::Rejoining,
            (State::Staged | State::Standby | State::Seeding | State::Fenced | State::Rejoining, Step::Remove) => {
                State::Absent
            }
            _ => return None,
        })
    }
}

impl Step {
    pub const ALL: [Step; 10] = [
        Step::Stage,
        Step::Seed,
        Step::Settle,
        Step::Win,
        Step::Promoted,
        Step::RestartHere,
        Step::Drain,
        Step::ProvedDead,
        Step::Rejoin,
        Step::Remove,
    ];
}

/// An edge that does not exist was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegal {
    pub state: State,
    pub step: Step,
}

/// One member with the token under which it is, or becomes, active. `T` is [`crate::lease::FencingToken`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<T> {
    state: State,
    token: Option<T>,
    /// Highest token it ever had.
    highest: Option<T>,
}

impl<T> Default for Member<T> {
    fn default() -> Self {
        Member { state: State::Absent, token: None, highest: None }
    }
}

impl<T: Ord + Copy> Member<T> {
    /// As its shim and its files tell after a restart of the agent.
    pub fn adopted(active_under: Option<T>, highest: Option<T>) -> Self {
        let state = if active_under.is_some() { State::Active } else { State::Seeding };
        Member { state, token: active_under, highest: highest.max(active_under) }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn highest(&self) -> Option<T> {
        self.highest
    }

    pub fn token(&self) -> Option<T> {
        self.token
    }

    /// Every step but [`Step::Win`].
    pub fn step(&mut self, step: Step) -> Result<State, Illegal> {
        let illegal = Illegal { state: self.state, step };
        if step == Step::Win {
            return Err(illegal);
        }
        self.state = self.state.next(step).ok_or(illegal)?;
        if !self.state.needs_token() {
            self.token = None;
        }
        Ok(self.state)
    }

    /// The lease was won under `token`. A token that it had already is late news of a lease that it gave back; one below
    /// belongs to a state that was lost.
    pub fn win(&mut self, token: T) -> Result<State, Illegal> {
        let illegal = Illegal { state: self.state, step: Step::Win };
        if self.highest.is_some_and(|h| token <= h) {
            return Err(illegal);
        }
        self.state = self.state.next(Step::Win).ok_or(illegal)?;
        (self.token, self.highest) = (Some(token), Some(token));
        Ok(self.state)
    }

    /// Its lease was lost and won again while its program went on: the same member, a newer token.
    pub fn renew(&mut self, token: T) -> bool {
        let newer = self.state.needs_token() && self.highest.is_none_or(|h| token >= h);
        if newer {
            (self.token, self.highest) = (Some(token), Some(token));
        }
        newer
    }
}

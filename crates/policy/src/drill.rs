//! Drills: may one start, must it be stopped, did it pass.
//!
//! A drill breaks a running system on purpose, so the rules here lean to refusing: never into a system
//! that is not well already, never the last copy, never two at once. What a fault takes away is told by
//! its [`Blast`]; which fault has which blast is the drill crate's table.

use std::fmt;
use std::time::Duration;

use crate::time::Timestamp;

/// What a fault takes away while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blast {
    /// One instance of the target stops answering.
    Instance,
    /// Every instance of the target at once: the point of the drill, so no copy need be left.
    Service,
    /// One balancer process.
    Plane,
    /// The agent: control only, no instance.
    Control,
    /// The plane of tasks: there is one, its clients wait for the next.
    Tasks,
    /// A program of a worker: its message is tried again.
    Program,
    /// A place of a worker, which nobody else gets while the fault is held.
    Place,
}

/// What must be known before a fault is injected.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Instances of the target, or places of the worker that is struck.
    pub desired: u32,
    pub ready: u32,
    pub min_available: u32,
    /// How many of them the fault takes at once.
    pub struck: u32,
    /// Services other than the target that have fewer ready than desired.
    pub not_ready_elsewhere: Vec<String>,
    /// Subjects of incidents that are open on the target or on what the drill measures through.
    pub open_incidents: Vec<String>,
    /// Scopes that are paused: holdfast would not act, so there is nothing to measure.
    pub pauses: Vec<String>,
    pub planes: u32,
    /// Probe stream just before: requests sent and failed.
    pub probes: u64,
    pub probes_failed: u64,
}

/// Why a drill must not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Degraded {
        desired: u32,
        ready: u32,
    },
    NotReadyElsewhere(Vec<String>),
    OpenIncident(String),
    Paused(String),
    /// Striking one would leave too few.
    TooFewLeft {
        left: u32,
        min_available: u32,
    },
    OnlyPlane,
    NothingProbed,
    ProbesFailing {
        failed: u64,
        of: u64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Degraded { desired, ready } => write!(f, "the target has {ready} of {desired} instances ready"),
            Refusal::NotReadyElsewhere(names) => write!(f, "not all is ready: {}", names.join(", ")),
            Refusal::OpenIncident(subject) => write!(f, "an incident is open on {subject}"),
            Refusal::Paused(scope) => write!(f, "holdfast is paused ({scope}) and would not act"),
            Refusal::TooFewLeft { left, min_available } => {
                write!(f, "{left} would be left ready, at least {} must be", (*min_available).max(1))
            }
            Refusal::OnlyPlane => write!(f, "it would strike the only balancer process"),
            Refusal::NothingProbed => write!(f, "no request was answered before the fault"),
            Refusal::ProbesFailing { failed, of } => write!(f, "{failed} of {of} requests failed before the fault"),
        }
    }
}

/// Every reason against starting; empty means go. `probed` is false for a dry run, which sends nothing.
pub fn refusals(blast: Blast, facts: &Facts, probed: bool) -> Vec<Refusal> {
    let mut out = Vec::new();
    if facts.ready < facts.desired {
        out.push(Refusal::Degraded { desired: facts.desired, ready: facts.ready });
    }
    if !facts.not_ready_elsewhere.is_empty() {
        out.push(Refusal::NotReadyElsewhere(facts.not_ready_elsewhere.clone()));
    }
    out.extend(facts.open_incidents.iter().cloned().map(Refusal::OpenIncident));
    out.extend(facts.pauses.iter().cloned().map(Refusal::Paused));
    let left = facts.ready.saturating_sub(facts.struck);
    if matches!(blast, Blast::Instance | Blast::Place) && left < facts.min_available.max(1) {
        out.push(Refusal::TooFewLeft { left, min_available: facts.min_available });
    }
    if blast == Blast::Plane && facts.planes < 2 {
        out.push(Refusal::OnlyPlane);
    }
    if probed && facts.probes == 0 {
        out.push(Refusal::NothingProbed);
    }
    if probed && facts.probes_failed > 0 {
        out.push(Refusal::ProbesFailing { failed: facts.probes_failed, of: facts.probes });
    }
    out
}

/// When a drill under way has gone too far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Share of failed requests among those finished since the fault, judged from `requests_min` on.
    pub failed_share_max: f64,
    /// Too few requests say nothing about a share.
    pub requests_min: u64,
    /// Instances that may be not ready at the same time, over all services.
    pub lost_max: u32,
    /// The drill is over by then, whatever happened.
    pub deadline: Timestamp,
}

/// What is seen while a drill is under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    pub finished: u64,
    pub failed: u64,
    pub lost: u32,
    pub interrupted: bool,
    /// The guard lives.
    pub guarded: bool,
}

/// Why a drill under way is stopped and undone at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stop {
    Interrupted,
    FailedShare {
        failed: u64,
        of: u64,
        share_max: f64,
    },
    LostMore {
        lost: u32,
        meant: u32,
    },
    /// Nobody would undo the fault if the drill died now.
    GuardLost,
    TimeLimit,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Interrupted => write!(f, "stopped by the operator"),
            Stop::FailedShare { failed, of, share_max } => {
                write!(f, "{failed} of {of} requests failed, more than the bound of {:.0} %", share_max * 100.0)
            }
            Stop::LostMore { lost, meant } => write!(f, "{lost} instances were not ready, {meant} were meant"),
            Stop::GuardLost => write!(f, "the guard that would undo it has gone"),
            Stop::TimeLimit => write!(f, "the time limit of the drill passed"),
        }
    }
}

pub fn stop(bounds: &Bounds, now: Timestamp, seen: &Seen) -> Option<Stop> {
    let share = seen.failed as f64 / seen.finished.max(1) as f64;
    if seen.interrupted {
        Some(Stop::Interrupted)
    } else if !seen.guarded {
        Some(Stop::GuardLost)
    } else if seen.lost > bounds.lost_max {
        Some(Stop::LostMore { lost: seen.lost, meant: bounds.lost_max })
    } else if seen.finished >= bounds.requests_min && share > bounds.failed_share_max {
        Some(Stop::FailedShare { failed: seen.failed, of: seen.finished, share_max: bounds.failed_share_max })
    } else if now >= bounds.deadline {
        Some(Stop::TimeLimit)
    } else {
        None
    }
}

/// What must be reached; `None` is not judged.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Goals {
    pub detect: Option<Duration>,
    pub recover: Option<Duration>,
    pub rotate_out: Option<Duration>,
    pub failed: Option<u64>,
    pub p99: Option<Duration>,
    /// Restarts of anything that the drill did not itself kill.
    pub restarts: Option<u32>,
    /// Probes of a queue that were confirmed and never done.
    pub lost: Option<u64>,
    /// Probes of a queue that were done more than once.
    pub twice: Option<u64>,
    /// From when a probe of a queue was due until it was done; of those that were not struck.
    pub done: Option<Duration>,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Measured {
    pub detected: Option<Duration>,
    pub recovered: Option<Duration>,
    pub rotated_out: Option<Duration>,
    pub requests: u64,
    pub failed: u64,
    pub p99: Option<Duration>,
    pub restarts: u32,
    /// Absent where no queue was probed.
    pub kept: Option<Kept>,
    /// Everything injected was taken back.
    pub undone: bool,
    /// The steady state held again before the time limit.
    pub steady: bool,
    pub stopped: Option<Stop>,
}

/// What became of the probes of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Kept {
    pub confirmed: u64,
    pub lost: u64,
    pub twice: u64,
    pub longest: Duration,
}

/// One thing a drill did not reach.
#[derive(Clone, Debug, PartialEq)]
pub enum Miss {
    Stopped(Stop),
    NotUndone,
    NotSteady,
    NoRequests,
    /// Judged, and never seen.
    Never {
        what: &'static str,
        within: Duration,
    },
    Late {
        what: &'static str,
        took: Duration,
        within: Duration,
    },
    Failed {
        failed: u64,
        allowed: u64,
    },
    Restarted {
        restarts: u32,
        allowed: u32,
    },
    Lost {
        lost: u64,
        allowed: u64,
    },
    Twice {
        twice: u64,
        allowed: u64,
    },
    /// A message that its program dies of is still tried.
    NotBuried,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::Stopped(stop) => write!(f, "{stop}"),
            Miss::NotUndone => write!(f, "the fault could not be undone"),
            Miss::NotSteady => write!(f, "the steady state did not come back in time"),
            Miss::NoRequests => write!(f, "no request was measured"),
            Miss::Never { what, within } => write!(f, "not {what} (target {})", millis(*within)),
            Miss::Late { what, took, within } => {
                write!(f, "{what} in {} (target {})", millis(*took), millis(*within))
            }
            Miss::Failed { failed, allowed } => write!(f, "{failed} failed requests (target {allowed})"),
            Miss::Restarted { restarts, allowed } => write!(f, "{restarts} restarts (target {allowed})"),
            Miss::NotBuried => write!(f, "the poison did not end in the dead letters"),
            Miss::Lost { lost, allowed } => write!(f, "{lost} confirmed messages were lost (target {allowed})"),
            Miss::Twice { twice, allowed } => write!(f, "{twice} messages were done twice (target {allowed})"),
        }
    }
}

fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

/// Everything that was missed; empty means passed.
pub fn judge(goals: &Goals, seen: &Measured) -> Vec<Miss> {
    let mut misses = Vec::new();
    misses.extend(seen.stopped.map(Miss::Stopped));
    if !seen.undone {
        misses.push(Miss::NotUndone);
    }
    if !seen.steady {
        misses.push(Miss::NotSteady);
    }
    if seen.requests == 0 && (goals.failed.is_some() || goals.p99.is_some()) {
        misses.push(Miss::NoRequests);
    }
    misses.extend(timed("detected", goals.detect, seen.detected));
    misses.extend(timed("out of rotation", goals.rotate_out, seen.rotated_out));
    misses.extend(timed("recovered", goals.recover, seen.recovered));
    if seen.requests > 0 {
        misses.extend(timed("p99", goals.p99, seen.p99));
    }
    if let Some(allowed) = goals.failed
        && seen.failed > allowed
    {
        misses.push(Miss::Failed { failed: seen.failed, allowed });
    }
    if let Some(allowed) = goals.restarts
        && seen.restarts > allowed
    {
        misses.push(Miss::Restarted { restarts: seen.restarts, allowed });
    }
    if let Some(kept) = &seen.kept {
        judge_kept(goals, kept, &mut misses);
    }
    misses
}

fn judge_kept(goals: &Goals, kept: &Kept, misses: &mut Vec<Miss>) {
    if kept.confirmed == 0 {
        misses.push(Miss::NoRequests);
    }
    if let Some(allowed) = goals.lost
        && kept.lost > allowed
    {
        misses.push(Miss::Lost { lost: kept.lost, allowed });
    }
    if let Some(allowed) = goals.twice
        && kept.twice > allowed
    {
        misses.push(Miss::Twice { twice: kept.twice, allowed });
    }
    misses.extend(timed("the slowest message done", goals.done, Some(kept.longest)));
}

fn timed(what: &'static str, goal: Option<Duration>, took: Option<Duration>) -> Option<Miss> {
    match (goal?, took) {
        (within, None) => Some(Miss::Never { what, within }),
        (within, Some(took)) if took > within => Some(Miss::Late { what, took, within }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Facts {
        Facts {
            desired: 3,
            ready: 3,
            min_available: 1,
            struck: 1,
            not_ready_elsewhere: vec![],
            open_incidents: vec![],
            pauses: vec![],
            planes: 2,
            probes: 100,
            probes_failed: 0,
        }
    }

    #[test]
    fn a_well_system_may_be_struck_in_every_way() {
        let all = [Blast::Instance, Blast::Service, Blast::Plane, Blast::Control, Blast::Tasks, Blast::Program];
        for blast in all.into_iter().chain([Blast::Place]) {
            assert_eq!(refusals(blast, &well(), true), vec![], "{blast:?}");
        }
    }

    #[test]
    fn each_thing_that_is_not_well_refuses() {
        type Change = fn(&mut Facts);
        let table: [(Blast, Change, Refusal); 9] = [
            (Blast::Place, |f| f.struck = 3, Refusal::TooFewLeft { left: 0, min_available: 1 }),
            (Blast::Control, |f| f.ready = 2, Refusal::Degraded { desired: 3, ready: 2 }),
            (
                Blast::Plane,
                |f| f.not_ready_elsewhere = vec!["api".into()],
                Refusal::NotReadyElsewhere(vec!["api".into()]),
            ),
            (Blast::Service, |f| f.open_incidents = vec!["web-1".into()], Refusal::OpenIncident("web-1".into())),
            (Blast::Service, |f| f.pauses = vec!["all".into()], Refusal::Paused("all".into())),
            (Blast::Instance, |f| f.min_available = 3, Refusal::TooFewLeft { left: 2, min_available: 3 }),
            (Blast::Plane, |f| f.planes = 1, Refusal::OnlyPlane),
            (Blast::Control, |f| f.probes = 0, Refusal::NothingProbed),
            (Blast::Control, |f| f.probes_failed = 1, Refusal::ProbesFailing { failed: 1, of: 100 }),
        ];
        for (blast, change, expected) in table {
            let mut facts = well();
            change(&mut facts);
            assert_eq!(refusals(blast, &facts, true), vec![expected]);
        }
    }

    #[test]
    fn the_last_copy_is_never_struck_even_when_the_minimum_is_zero() {
        let facts = Facts { desired: 1, ready: 1, min_available: 0, ..well() };
        assert_eq!(refusals(Blast::Instance, &facts, true), vec![Refusal::TooFewLeft { left: 0, min_available: 0 }]);
        assert_eq!(refusals(Blast::Control, &facts, true), vec![]);
    }

    #[test]
    fn a_dry_run_is_not_refused_for_want_of_probes() {
        let facts = Facts { probes: 0, ..well() };
        assert_eq!(refusals(Blast::Instance, &facts, false), vec![]);
    }

    #[test]
    fn stop_conditions() {
        let bounds =
            Bounds { failed_share_max: 0.5, requests_min: 20, lost_max: 1, deadline: Timestamp::from_millis(1000) };
        let fine = Seen { finished: 100, failed: 50, lost: 1, interrupted: false, guarded: true };
        let now = Timestamp::from_millis(999);
        assert_eq!(stop(&bounds, now, &fine), None);
        assert_eq!(stop(&bounds, now, &Seen { interrupted: true, ..fine }), Some(Stop::Interrupted));
        assert_eq!(stop(&bounds, now, &Seen { guarded: false, ..fine }), Some(Stop::GuardLost));
        assert_eq!(stop(&bounds, now, &Seen { lost: 2, ..fine }), Some(Stop::LostMore { lost: 2, meant: 1 }));
        assert!(matches!(stop(&bounds, now, &Seen { failed: 51, ..fine }), Some(Stop::FailedShare { failed: 51, .. })));
        assert_eq!(stop(&bounds, now, &Seen { finished: 19, failed: 19, ..fine }), None);
        assert_eq!(stop(&bounds, Timestamp::from_millis(1000), &fine), Some(Stop::TimeLimit));
    }

    fn good() -> Measured {
        Measured {
            detected: Some(Duration::from_millis(10)),
            recovered: Some(Duration::from_millis(200)),
            rotated_out: Some(Duration::from_millis(5)),
            requests: 500,
            failed: 0,
            p99: Some(Duration::from_millis(9)),
            restarts: 0,
            kept: Some(Kept { confirmed: 100, lost: 0, twice: 0, longest: Duration::from_millis(800) }),
            undone: true,
            steady: true,
            stopped: None,
        }
    }

    #[test]
    fn judgement_names_each_miss_and_nothing_else() {
        let goals = Goals {
            detect: Some(Duration::from_millis(100)),
            recover: Some(Duration::from_millis(500)),
            rotate_out: Some(Duration::from_millis(500)),
            failed: Some(0),
            p99: Some(Duration::from_millis(20)),
            restarts: Some(0),
            lost: Some(0),
            twice: Some(0),
            done: Some(Duration::from_secs(1)),
        };
        assert_eq!(judge(&goals, &good()), vec![]);
        let kept = |kept: Kept| Measured { kept: Some(kept), ..good() };
        let well = Kept { confirmed: 100, longest: Duration::from_millis(800), ..Kept::default() };
        for (kept, expected) in [
            (Kept { lost: 1, ..well }, "1 confirmed messages were lost (target 0)"),
            (Kept { twice: 2, ..well }, "2 messages were done twice (target 0)"),
            (Kept { confirmed: 0, ..well }, "no request was measured"),
            (
                Kept { longest: Duration::from_millis(1001), ..well },
                "the slowest message done in 1001 ms (target 1000 ms)",
            ),
        ]
        .map(|(k, text)| (kept(k), text))
        {
            let said: Vec<String> = judge(&goals, &kept).iter().map(Miss::to_string).collect();
            assert_eq!(said, vec![expected.to_string()]);
        }
        type Change = fn(&mut Measured);
        let table: [(Change, &str); 10] = [
            (|m| m.failed = 2, "2 failed requests (target 0)"),
            (|m| m.restarts = 1, "1 restarts (target 0)"),
            (|m| m.detected = None, "not detected (target 100 ms)"),
            (|m| m.recovered = Some(Duration::from_millis(501)), "recovered in 501 ms (target 500 ms)"),
            (|m| m.rotated_out = None, "not out of rotation (target 500 ms)"),
            (|m| m.p99 = Some(Duration::from_millis(21)), "p99 in 21 ms (target 20 ms)"),
            (|m| m.undone = false, "the fault could not be undone"),
            (|m| m.steady = false, "the steady state did not come back in time"),
            (|m| m.stopped = Some(Stop::Interrupted), "stopped by the operator"),
            (|m| m.requests = 0, "no request was measured"),
        ];
        for (change, expected) in table {
            let mut measured = good();
            change(&mut measured);
            let said: Vec<String> = judge(&goals, &measured).iter().map(Miss::to_string).collect();
            assert_eq!(said, vec![expected.to_string()]);
        }
    }

    #[test]
    fn what_has_no_goal_is_not_judged_but_undoing_always_is() {
        let bad = Measured { failed: 99, restarts: 9, detected: None, ..good() };
        assert_eq!(judge(&Goals::default(), &bad), vec![]);
        assert_eq!(judge(&Goals::default(), &Measured { undone: false, ..bad }), vec![Miss::NotUndone]);
    }
}

use proptest::prelude::*;

use super::*;
use crate::Timestamp;
use std::time::Duration;

/// As a person reads it: every edge that exists, and by exhaustion none other.
const EDGES: &[(State, Step, State)] = &[
    (State::Absent, Step::Stage, State::Staged),
    (State::Staged, Step::Seed, State::Seeding),
    (State::Staged, Step::Settle, State::Standby),
    (State::Staged, Step::Remove, State::Absent),
    (State::Seeding, Step::Settle, State::Standby),
    (State::Seeding, Step::ProvedDead, State::Rejoining),
    (State::Seeding, Step::Remove, State::Absent),
    (State::Standby, Step::Win, State::Promoting),
    (State::Standby, Step::ProvedDead, State::Rejoining),
    (State::Standby, Step::Remove, State::Absent),
    (State::Promoting, Step::Promoted, State::Active),
    (State::Promoting, Step::Drain, State::Draining),
    (State::Promoting, Step::ProvedDead, State::Fenced),
    (State::Active, Step::RestartHere, State::Promoting),
    (State::Active, Step::Drain, State::Draining),
    (State::Active, Step::ProvedDead, State::Fenced),
    (State::Draining, Step::ProvedDead, State::Fenced),
    (State::Fenced, Step::Rejoin, State::Rejoining),
    (State::Fenced, Step::Remove, State::Absent),
    (State::Rejoining, Step::Seed, State::Seeding),
    (State::Rejoining, Step::Settle, State::Standby),
    (State::Rejoining, Step::Remove, State::Absent),
];

#[test]
fn the_table_has_these_edges_and_no_other() {
    for state in State::ALL {
        for step in Step::ALL {
            let listed = EDGES.iter().find(|(s, t, _)| (*s, *t) == (state, step)).map(|(.., to)| *to);
            assert_eq!(state.next(step), listed, "{state:?} {step:?}");
        }
    }
}

#[test]
fn active_is_reached_through_the_lease_and_left_through_a_proof_of_death() {
    for state in State::ALL {
        for step in Step::ALL {
            let Some(to) = state.next(step) else { continue };
            if to == State::Active {
                assert_eq!((state, step), (State::Promoting, Step::Promoted));
            }
            if to.needs_token() && !state.needs_token() {
                assert_eq!((state, step), (State::Standby, Step::Win), "{state:?} {step:?}");
            }
            if state.needs_token() && !to.needs_token() {
                assert_eq!((to, step), (State::Fenced, Step::ProvedDead), "{state:?} {step:?}");
            }
        }
    }
}

#[test]
fn a_lower_token_than_the_last_is_refused() {
    let mut m: Member<u64> = Member::default();
    for step in [Step::Stage, Step::Seed, Step::Settle] {
        m.step(step).unwrap();
    }
    assert!(m.step(Step::Win).is_err(), "only with a token");
    m.win(7).unwrap();
    m.step(Step::Promoted).unwrap();
    assert!(!m.renew(6) && m.renew(8));
    for step in [Step::ProvedDead, Step::Rejoin, Step::Settle] {
        m.step(step).unwrap();
    }
    assert_eq!(m.token(), None);
    assert!(m.win(7).is_err() && m.win(8).is_err(), "late news");
    assert_eq!(m.win(9), Ok(State::Promoting));
    assert!(Member::adopted(None, Some(9_u64)).win(5).is_err());
}

fn facts() -> Facts {
    Facts { tier: Tier::Hot, prepared: true, leaving: false, age: None, max_staleness: None, forced: false }
}

#[test]
fn who_is_eligible_by_table() {
    let s = Duration::from_secs;
    let synced = Facts { max_staleness: Some(s(30)), age: Some(s(5)), ..facts() };
    for (name, facts, expected) in [
        ("ready", facts(), Ok(())),
        ("not ready", Facts { prepared: false, ..facts() }, Err(Ineligible::NotPrepared)),
        ("on its way out", Facts { leaving: true, ..facts() }, Err(Ineligible::Leaving)),
        ("fresh", synced, Ok(())),
        ("at the limit", Facts { age: Some(s(30)), ..synced }, Ok(())),
        ("stale", Facts { age: Some(s(31)), ..synced }, Err(Ineligible::Stale)),
        ("never synced", Facts { age: None, ..synced }, Err(Ineligible::NeverSynced)),
        ("stale, forced", Facts { age: Some(s(99)), forced: true, ..synced }, Ok(())),
        ("forced, not ready", Facts { prepared: false, forced: true, ..synced }, Err(Ineligible::NotPrepared)),
    ] {
        assert_eq!(eligible(facts), expected, "{name}");
    }
}

#[test]
fn what_follows_a_fault() {
    for (tier, failures, rival, expected) in [
        (Tier::Hot, 1, true, AfterFault::HandOver),
        (Tier::Hot, 9, false, AfterFault::RestartHere),
        (Tier::Warm, 1, true, AfterFault::RestartHere),
        (Tier::Warm, BACKOFF_FAILURES, true, AfterFault::HandOver),
        (Tier::Cold, BACKOFF_FAILURES - 1, true, AfterFault::RestartHere),
        (Tier::Cold, BACKOFF_FAILURES, false, AfterFault::RestartHere),
    ] {
        assert_eq!(after_fault(tier, failures, rival, HAND_OVERS_MAX), AfterFault::RestartHere, "passed round");
        assert_eq!(after_fault(tier, failures, rival, HAND_OVERS_MAX - 1), expected, "{tier:?} {failures} {rival}");
        assert_eq!(hold(tier, rival) > Duration::ZERO, tier == Tier::Hot && rival);
    }
}

#[test]
fn a_wish_ends_with_the_lease_that_fulfils_it() {
    let at = Timestamp::from_millis;
    let wish = Wish { to: Some("db-2"), over: Some(5_u64), force: false, until: at(60_000) };
    assert!(wish.holds(at(1), Some(&5)) && wish.holds(at(1), None));
    assert!(!wish.holds(at(1), Some(&6)) && !wish.holds(at(60_000), Some(&5)));
    assert!(wish.lets_claim(&"db-2", Some(&"db-1")) && !wish.lets_claim(&"db-3", Some(&"db-1")));
    let any = Wish { to: None, ..wish };
    assert!(any.lets_claim(&"db-3", Some(&"db-1")) && !any.lets_claim(&"db-1", Some(&"db-1")));
}

#[test]
fn failback_waits_until_the_preferred_member_was_well_for_long_enough() {
    let (at, long) = (Timestamp::from_millis, Duration::from_secs(60));
    assert!(!failback_due(at(100_000), None, long));
    assert!(!failback_due(at(100_000), Some(at(40_001)), long));
    assert!(failback_due(at(100_000), Some(at(40_000)), long));
}

proptest! {
    /// Whatever steps are asked for: a token exactly in the states that need one, and tokens never go down.
    #[test]
    fn a_token_is_held_exactly_while_it_is_needed(steps in proptest::collection::vec((0usize..10, 0u64..20), 0..200)) {
        let mut m: Member<u64> = Member::default();
        let mut highest = 0;
        for (n, token) in steps {
            let before = m;
            let done = if Step::ALL[n] == Step::Win { m.win(token) } else { m.step(Step::ALL[n]) };
            if done.is_err() {
                prop_assert_eq!(m, before);
            }
            prop_assert_eq!(m.token().is_some(), m.state().needs_token());
            if let Some(token) = m.token() {
                prop_assert!(token >= highest);
                highest = token;
            }
        }
    }

    /// The better claims first, and nobody waits for ever.
    #[test]
    fn claims_are_staggered_and_bounded(ordinal in 1u32..2000, age in 0u64..1000, max in 1u64..1000) {
        let fresh = Facts { max_staleness: Some(Duration::from_secs(max)), age: Some(Duration::ZERO), ..facts() };
        let aged = Facts { age: Some(Duration::from_secs(age)), ..fresh };
        prop_assert!(claim_delay(ordinal, aged, false, false) >= claim_delay(ordinal, fresh, false, false));
        prop_assert!(claim_delay(1, aged, false, true) > claim_delay(2, aged, false, false));
        prop_assert!(claim_delay(ordinal + 1, aged, false, false) >= claim_delay(ordinal, aged, false, false));
        prop_assert!(claim_delay(ordinal, aged, false, false) <= Duration::from_secs(1));
        prop_assert!(claim_delay(ordinal, aged, true, true) <= Duration::from_secs(10));
    }
}

use proptest::prelude::*;

use super::*;
use crate::rng::Rng;

const GOOD: Candidate = Candidate {
    state: State::Ready,
    verdict: Verdict::Ok,
    phase: Phase::In,
    until: Timestamp::ZERO,
    admits: true,
    in_flight: 0,
    in_flight_max: u32::MAX,
    cost: 1.0,
    share: 1.0,
    tried: false,
};

fn pick(algorithm: Algorithm, all: &[Candidate], seed: u64) -> Choice {
    Picker::default().pick(algorithm, all.len(), |i| all[i], &mut Rng::from_seed(seed))
}

const ALL: [Algorithm; 3] = [Algorithm::RoundRobin, Algorithm::LeastRequests, Algorithm::P2c];

#[test]
fn the_tiers_in_their_order() {
    let suspect = Candidate { state: State::Suspect, ..GOOD };
    let out = Candidate { phase: Phase::Out, until: Timestamp::from_millis(5), ..GOOD };
    let later = Candidate { phase: Phase::Out, until: Timestamp::from_millis(9), ..GOOD };
    let stopped = Candidate { verdict: Verdict::Stopped, ..GOOD };
    let not_ready = Candidate { state: State::NotReady, ..GOOD };
    let draining = Candidate { state: State::Draining, ..GOOD };
    let tried = Candidate { tried: true, ..GOOD };
    let full = Candidate { in_flight: 4, in_flight_max: 4, ..GOOD };
    let table: Vec<(Vec<Candidate>, Choice)> = vec![
        (vec![], Choice::None(Why::Empty)),
        (vec![GOOD], Choice::Use { index: 0, tier: Tier::Ready }),
        (vec![suspect, GOOD], Choice::Use { index: 1, tier: Tier::Ready }),
        (vec![not_ready, suspect], Choice::Use { index: 1, tier: Tier::Suspect }),
        (vec![later, out], Choice::Use { index: 1, tier: Tier::LastResort }),
        (vec![stopped, GOOD], Choice::Use { index: 1, tier: Tier::Ready }),
        (vec![stopped, later], Choice::Use { index: 1, tier: Tier::LastResort }),
        (vec![not_ready], Choice::None(Why::NotReady)),
        (vec![not_ready, draining], Choice::None(Why::NotReady)),
        (vec![draining], Choice::None(Why::Empty)),
        (vec![tried, not_ready], Choice::None(Why::Tried)),
        (vec![tried, out], Choice::None(Why::Tried)),
        (vec![full, GOOD], Choice::Use { index: 1, tier: Tier::Ready }),
        (vec![full], Choice::None(Why::Full)),
    ];
    for (candidates, want) in table {
        for algorithm in ALL {
            for seed in 0..20 {
                assert_eq!(pick(algorithm, &candidates, seed), want, "{algorithm:?} {candidates:?}");
            }
        }
    }
}

#[test]
fn when_all_are_hung_nobody_is() {
    let stopped = Candidate { verdict: Verdict::Stopped, ..GOOD };
    for algorithm in ALL {
        assert!(matches!(pick(algorithm, &[stopped, stopped], 3), Choice::Use { tier: Tier::Ready, .. }));
    }
}

#[test]
fn round_robin_is_even() {
    let (mut picker, mut rng) = (Picker::default(), Rng::from_seed(5));
    let mut got = [0; 3];
    for _ in 0..300 {
        if let Choice::Use { index, .. } = picker.pick(Algorithm::RoundRobin, 3, |_| GOOD, &mut rng) {
            got[index] += 1;
        }
    }
    assert_eq!(got, [100, 100, 100]);
}

#[test]
fn the_slower_of_two_gets_less_and_a_ramping_one_its_share() {
    let slow = Candidate { cost: 9.0, ..GOOD };
    let ramping = Candidate { share: 0.3, ..GOOD };
    let count = |second: Candidate| {
        (0..2_000)
            .filter(|s| pick(Algorithm::P2c, &[GOOD, second], *s) == Choice::Use { index: 1, tier: Tier::Ready })
            .count()
    };
    assert_eq!(count(slow), 0);
    let got = count(Candidate { cost: 0.5, ..ramping });
    assert!((500..700).contains(&got), "{got} of 2000 at a share of 0.3");
}

fn candidate() -> impl Strategy<Value = Candidate> {
    (0u8..4, 0u8..4, 0u8..3, any::<bool>(), 0u32..4, any::<bool>(), 0.0f64..1.0).prop_map(
        |(s, v, p, admits, in_flight, tried, share)| Candidate {
            state: [State::Ready, State::Suspect, State::NotReady, State::Draining][usize::from(s)],
            verdict: [Verdict::Ok, Verdict::Stopped, Verdict::NoProgress, Verdict::Busy][usize::from(v)],
            phase: [Phase::In, Phase::Out, Phase::Probing][usize::from(p)],
            admits,
            in_flight,
            in_flight_max: 3,
            share,
            tried,
            ..GOOD
        },
    )
}

proptest! {
    #[test]
    fn never_a_draining_not_ready_full_or_tried_one_and_never_none_while_one_is_left(
        all in proptest::collection::vec(candidate(), 0..7), seed in any::<u64>(),
    ) {
        for algorithm in ALL {
            match pick(algorithm, &all, seed) {
                Choice::Use { index, tier } => {
                    let c = all[index];
                    prop_assert!(c.eligible() && c.free());
                    let better = all.iter().any(|c| c.normal(algorithm));
                    prop_assert!(!better || tier == Tier::Ready, "{:?} although a ready one is there", tier);
                }
                Choice::None(_) => {
                    prop_assert!(!all.iter().any(|c| c.eligible() && c.free() && c.in_rotation(algorithm)));
                    prop_assert!(all.iter().any(|c| c.tried) || !all.iter().any(|c| c.eligible() && c.free()));
                }
            }
        }
    }
}

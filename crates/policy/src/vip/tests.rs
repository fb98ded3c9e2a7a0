use std::time::Duration;

use super::*;

const TTL: Duration = Duration::from_secs(10);

fn settings(others: bool) -> Settings {
    let (renew, give_up) = (Duration::from_secs(3), Duration::from_secs(7));
    Settings { ttl: TTL, renew, give_up, others, quick: false, rules: Rules::default() }
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

/// One machine, and what it asked for.
struct Bench {
    machine: Machine,
    now: u64,
}

impl Bench {
    fn new(others: bool) -> Bench {
        let mut bench = Bench { machine: Machine::new(settings(others), at(0)), now: 0 };
        assert_eq!(bench.tell(0, Event::Kernel(Kernel::Absent)), []);
        bench
    }

    /// A machine that carries the address since 0.4 s, and has told so.
    fn owner(others: bool) -> Bench {
        let mut bench = Bench::new(others);
        bench.tell(0, Event::DataPlane { well: true });
        bench.tell(100, Event::Held { confirmed: at(100) });
        if others {
            bench.tell(110, Event::Peers { asked: at(105), found: Peers::AllClear });
        }
        bench.tell(400, Event::Probed { answered: false });
        assert_eq!(bench.machine.state(), State::Owned);
        bench
    }

    fn tell(&mut self, now: u64, event: Event) -> Vec<Action> {
        self.now = now;
        self.machine.handle(at(now), event);
        self.poll(now)
    }

    fn poll(&mut self, now: u64) -> Vec<Action> {
        self.now = now;
        let actions: Vec<Action> = std::iter::from_fn(|| self.machine.poll(at(now))).take(20).collect();
        assert!(actions.len() < 20, "it never has enough: {actions:?}");
        actions
    }

    /// Renewed every second until then; what was asked for except announcements and refreshes.
    fn renewed(&mut self, until: u64) -> Vec<Action> {
        let mut asked = Vec::new();
        while self.now + 1000 <= until {
            let now = self.now + 1000;
            asked.extend(self.tell(now, Event::Held { confirmed: at(now) }));
        }
        asked.retain(|a| !matches!(a, Action::Announce | Action::Refresh { .. }));
        asked
    }
}

#[test]
fn an_address_is_claimed_with_the_lease_after_a_probe_and_told() {
    let mut bench = Bench::new(false);
    assert_eq!(bench.poll(50), [], "nothing is known of the balancers");
    assert_eq!(bench.tell(60, Event::DataPlane { well: true }), [Action::Campaign]);
    assert_eq!(bench.machine.state(), State::Standby);
    assert_eq!(bench.tell(100, Event::Held { confirmed: at(90) }), [Action::Probe]);
    let until = at(90) + TTL - KERNEL_LATE - TTL / 50;
    assert_eq!(bench.tell(400, Event::Probed { answered: false }), [Action::Add { until }, Action::Announce]);
    assert_eq!(lifetime(at(400), until), Some(Duration::from_secs(8)), "rounded down");
    assert_eq!(bench.machine.take_transition().unwrap().to, "owned");
    let until = at(3090) + TTL - KERNEL_LATE - TTL / 50;
    let actions = bench.tell(3100, Event::Held { confirmed: at(3090) });
    assert_eq!(actions[0], Action::Refresh { until }, "at each renewal");
}

/// An owner that all others have answered for as long as it takes, and that has said so.
fn quick_owner() -> Bench {
    let settings = Settings { quick: true, ..settings(true) };
    let mut bench = Bench { machine: Machine::new(settings, at(0)), now: 0 };
    bench.tell(0, Event::Kernel(Kernel::Absent));
    bench.tell(0, Event::DataPlane { well: true });
    bench.tell(11_000, Event::Held { confirmed: at(11_000) });
    bench.tell(11_400, Event::Probed { answered: false });
    let mut asked = Vec::new();
    for ms in (11_500..21_600).step_by(500) {
        bench.tell(ms, Event::Held { confirmed: at(ms) });
        asked.extend(bench.tell(ms, Event::QuickPeers { asked: at(ms), found: Peers::AllClear }));
    }
    let writes = asked.iter().filter(|a| **a == Action::Write { quick: true }).count();
    assert!(writes == 1 && !bench.machine.is_quick(), "said once, and not believed before the store has it");
    bench.tell(21_510, Event::Written { quick: true, taken: true });
    assert!(bench.machine.is_quick());
    bench.tell(21_600, Event::QuickPeers { asked: at(21_600), found: Peers::AllClear });
    bench
}

#[test]
fn a_quick_owner_that_is_not_answered_goes_by_its_lease_once_the_store_has_it() {
    let mut bench = quick_owner();
    let asked = bench.tell(21_900, Event::QuickPeers { asked: at(21_700), found: Peers::Silent });
    assert!(!asked.contains(&Action::Write { quick: false }) && bench.machine.is_quick(), "{asked:?}");
    let asked = bench.poll(21_600 + quick::DOUBT.as_millis() as u64);
    assert!(asked.contains(&Action::Write { quick: false }), "{asked:?}");
    bench.tell(21_950, Event::Written { quick: false, taken: true });
    assert_eq!(bench.machine.state(), State::Owned);
    assert!(!bench.poll(24_000).contains(&Action::Remove), "its lease lasts");
}

#[test]
fn a_quick_owner_without_answers_and_store_lets_go_whatever_its_lease_says() {
    let mut bench = quick_owner();
    let gone = 21_600 + quick::GIVE_UP.as_millis() as u64;
    assert!(!bench.poll(gone - 1).contains(&Action::Remove));
    assert_eq!(bench.poll(gone)[0], Action::Remove);
    assert_eq!(bench.poll(gone + 500)[0], Action::Write { quick: false }, "it goes on to ask the store");
    let asked = bench.tell(gone + 600, Event::Written { quick: false, taken: false });
    assert_eq!(asked, [Action::Campaign], "another has ended its lease");
}

#[test]
fn a_silent_owner_that_is_quick_is_deposed_after_what_was_promised_it() {
    let settings = Settings { quick: true, ..settings(true) };
    let mut bench = Bench { machine: Machine::new(settings, at(0)), now: 0 };
    bench.tell(0, Event::Kernel(Kernel::Absent));
    assert_eq!(bench.tell(0, Event::DataPlane { well: true }), [Action::Campaign]);
    assert_eq!(bench.tell(5_000, Event::QuickOwner(Some(7))), [], "nobody knows what the life before promised");
    assert_eq!(bench.machine.asked_quickly(at(12_000)), Answer::Clear);
    let free = 12_000 + quick::PROMISE.as_millis() as u64;
    assert_eq!(bench.poll(free - 1), []);
    assert_eq!(bench.poll(free), [Action::Depose { token: 7 }]);
    assert_eq!(bench.poll(free + 10), [], "once");
    assert_eq!(bench.tell(free + 20, Event::QuickOwner(None)), []);
    assert_eq!(bench.poll(free + 5_000), [], "it went by its lease in time");
}

#[test]
fn every_profile_leaves_the_kernel_time_for_two_renewals() {
    for (name, timings) in crate::lease::Timings::PROFILES {
        let (ttl, renew, give_up) = (timings.ttl, timings.renew, timings.give_up);
        let settings = Settings { ttl, renew, give_up, others: true, quick: false, rules: Rules::default() };
        let seconds = lifetime(at(0), settings.kernel_until(at(0))).unwrap();
        assert!(seconds >= renew * 2 && seconds + KERNEL_LATE < ttl, "{name}: {seconds:?}");
    }
}

#[test]
fn an_address_that_another_host_uses_is_not_claimed_and_probed_again() {
    let mut bench = Bench::new(false);
    bench.tell(0, Event::DataPlane { well: true });
    assert_eq!(bench.tell(0, Event::Held { confirmed: at(0) }), [Action::Probe]);
    assert_eq!(bench.tell(200, Event::Probed { answered: true }), []);
    assert_eq!(bench.machine.state(), State::Conflict);
    assert_eq!(bench.poll(1100), []);
    assert_eq!(bench.poll(1200), [Action::Probe]);
    bench.tell(1400, Event::Probed { answered: true });
    assert_eq!(bench.poll(2500), [], "the pause grows");
    bench.tell(3000, Event::Held { confirmed: at(3000) });
    assert_eq!(bench.poll(3400), [Action::Probe]);
    let actions = bench.tell(3600, Event::Probed { answered: false });
    assert!(matches!(actions[..], [Action::Add { .. }, Action::Announce]), "{actions:?}");
}

#[test]
fn an_owner_without_renewals_lets_go_before_the_lease_ends_even_if_nobody_tells_it() {
    let mut bench = Bench::owner(true);
    let asked = bench.poll(6000);
    assert!(asked.contains(&Action::AskPeers), "{asked:?}");
    assert!(!bench.poll(7104).contains(&Action::Remove));
    assert_eq!(bench.poll(7105)[0], Action::Remove, "7 s after what was sent last, the question at the claim");
    assert_eq!(bench.machine.state(), State::Probing);
    assert_eq!(bench.tell(7110, Event::Lost(Loss::Unanswered)), [Action::Campaign]);
}

#[test]
fn without_a_store_it_stays_only_while_all_others_agree() {
    let mut bench = Bench::owner(true);
    bench.poll(5000);
    let refreshed = bench.tell(5100, Event::Peers { asked: at(5050), found: Peers::AllClear });
    assert!(matches!(refreshed[0], Action::Refresh { .. }), "worth as much as a renewal: {refreshed:?}");
    bench.tell(7100, Event::Lost(Loss::Unanswered));
    assert_eq!(bench.machine.state(), State::SafeMode);
    assert!(!bench.poll(12_000).contains(&Action::Remove), "5.05 s + 7 s");
    assert_eq!(bench.poll(12_050)[0], Action::Remove);
    assert_eq!(bench.machine.state(), State::Standby, "it still tries for the lease");
}

#[test]
fn one_that_claims_ends_the_safe_mode_at_once() {
    let mut bench = Bench::owner(true);
    bench.poll(5000);
    bench.tell(5100, Event::Peers { asked: at(5050), found: Peers::AllClear });
    bench.tell(7100, Event::Lost(Loss::Unanswered));
    bench.poll(7200);
    assert_eq!(bench.tell(7300, Event::Peers { asked: at(7200), found: Peers::Taken })[0], Action::Remove);
}

#[test]
fn alone_it_keeps_its_address_without_a_store() {
    let mut bench = Bench::owner(false);
    bench.poll(5000);
    bench.tell(7100, Event::Lost(Loss::Unanswered));
    assert_eq!(bench.machine.state(), State::SafeMode);
    for now in (7500..100_000).step_by(500) {
        let actions = bench.poll(now);
        assert!(!actions.contains(&Action::Remove), "{now}: {actions:?}");
    }
}

/// Negative control included: with the rule off the network hears nothing for up to a minute.
#[test]
fn after_a_split_it_is_told_again() {
    for (rule, want) in [(true, true), (false, false)] {
        let mut bench = Bench::owner(false);
        bench.machine = {
            let rules = Rules { announce_after_split: rule, ..Rules::default() };
            Machine::new(Settings { rules, ..settings(false) }, at(0))
        };
        bench.tell(0, Event::DataPlane { well: true });
        bench.tell(0, Event::Held { confirmed: at(0) });
        bench.tell(400, Event::Probed { answered: false });
        bench.renewed(40_000);
        bench.tell(47_000, Event::Lost(Loss::Unanswered));
        let actions = bench.tell(50_000, Event::Held { confirmed: at(50_000) });
        assert_eq!(actions.contains(&Action::Announce), want, "{actions:?}");
    }
}

#[test]
fn who_said_clear_does_not_claim_unless_it_is_let() {
    let mut bench = Bench::new(true);
    bench.tell(0, Event::DataPlane { well: true });
    bench.tell(100, Event::Peers { asked: at(50), found: Peers::AllClear });
    assert_eq!(bench.machine.asked(at(1000)), Answer::Clear);
    assert_eq!(bench.poll(1000), [Action::Withdraw], "the one who asked is to get the lease first");
    // It was won at the same moment.
    let actions = bench.tell(1100, Event::Held { confirmed: at(1050) });
    assert_eq!(actions, [Action::AskPeers], "no claim");
    assert_eq!(bench.machine.asked(at(1150)), Answer::Claims);
    assert_eq!(bench.tell(1200, Event::Peers { asked: at(1100), found: Peers::Taken }), []);
    assert_eq!(bench.poll(1700), [Action::AskPeers]);
    assert_eq!(bench.tell(1800, Event::Peers { asked: at(1700), found: Peers::AllClear }), [Action::Probe]);
}

#[test]
fn a_new_life_goes_on_with_what_it_finds_in_the_kernel() {
    let mut bench = Bench { machine: Machine::new(settings(true), at(0)), now: 0 };
    assert_eq!(bench.tell(0, Event::Kernel(Kernel::Ours)), [Action::Campaign], "before its balancers answered");
    let actions = bench.tell(50, Event::Held { confirmed: at(40) });
    assert!(matches!(actions[..], [Action::Refresh { .. }, Action::Announce]), "no gap, no probe: {actions:?}");
    assert_eq!(bench.machine.state(), State::Owned);
}

#[test]
fn a_node_whose_balancers_do_not_answer_gives_way_and_does_not_flap() {
    let mut bench = Bench::owner(true);
    bench.renewed(5400);
    assert!(!bench.tell(5500, Event::DataPlane { well: false }).contains(&Action::Remove));
    assert!(bench.tell(7000, Event::DataPlane { well: true }).iter().all(|a| *a != Action::Remove), "it was short");
    bench.tell(7100, Event::Held { confirmed: at(7100) });
    bench.tell(8000, Event::DataPlane { well: false });
    let actions = bench.poll(10_000);
    assert_eq!(actions, [Action::Remove, Action::Resign]);
    assert_eq!(bench.poll(20_000), [], "no campaign while ill");
    assert_eq!(bench.tell(20_100, Event::DataPlane { well: true }), [Action::Campaign]);
}

#[test]
fn down_takes_the_address_away_before_the_lease_goes() {
    let mut bench = Bench::owner(true);
    assert_eq!(bench.tell(500, Event::Stop), [Action::Remove, Action::Resign]);
    assert!(bench.machine.is_over());
    assert_eq!(bench.poll(60_000), []);
}

#[test]
fn an_address_removed_by_hand_comes_back_at_once() {
    let mut bench = Bench::owner(true);
    let actions = bench.tell(500, Event::Kernel(Kernel::Absent));
    assert!(matches!(actions[..], [Action::Add { .. }, Action::Announce]), "{actions:?}");
}

#[test]
fn a_call_that_was_held_up_is_undone() {
    let mut bench = Bench::owner(true);
    bench.renewed(3400);
    assert_eq!(bench.tell(3500, Event::Set { until: at(30_000) })[0], Action::Remove);
}

#[test]
fn one_that_somebody_configured_is_left_alone() {
    let mut bench = Bench::new(false);
    bench.tell(0, Event::Kernel(Kernel::Foreign));
    assert_eq!(bench.tell(10, Event::DataPlane { well: true }), []);
    assert_eq!(bench.machine.state(), State::Released);
}

#[test]
fn a_revoked_lease_ends_it_at_once_whatever_the_others_said() {
    let mut bench = Bench::owner(true);
    bench.poll(5000);
    bench.tell(5100, Event::Peers { asked: at(5050), found: Peers::AllClear });
    assert_eq!(bench.tell(5200, Event::Lost(Loss::Revoked)), [Action::Remove, Action::Campaign]);
}

#[test]
fn the_preferred_node_tries_first() {
    let order = ["a".to_owned(), "b".to_owned()];
    let delays: Vec<_> = ["a", "b", "c"].map(|n| campaign_delay(rank(&order, n)).as_millis()).to_vec();
    assert_eq!(delays, [0, 200, 400]);
    assert_eq!(campaign_delay(1000), RANK_WAIT_MAX);
}

#[test]
fn the_next_deadline_is_never_behind() {
    let bench = Bench::owner(true);
    for now in [0, 400, 5000, 100_000] {
        assert!(bench.machine.next_deadline(at(now)) > at(now));
    }
}

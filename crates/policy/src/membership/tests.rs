use super::*;

mod rig;

use rig::{Rig, TTL, name};

#[test]
fn a_node_is_lost_when_its_lease_is_gone_and_nobody_reaches_it() {
    let mut rig = Rig::ready(3);
    rig.links("n3", Link::Silent);
    rig.run(1_000);
    assert_eq!(rig.state("n3"), "ready", "the lease is there, and silence is short");
    rig.run(3_000);
    assert_eq!(rig.state("n3"), "suspect");
    rig.lease("n3", Lease::Gone);
    rig.run(1_000);
    assert_eq!(rig.state("n3"), "lost", "at most a second after both sources are in");
    assert_eq!(rig.hold(), "");
    assert_eq!(rig.view("n3").standing, Standing::Lost);
}

#[test]
fn one_source_alone_never_makes_a_node_lost() {
    let mut rig = Rig::ready(3);
    rig.links("n3", Link::Refused);
    rig.run(60_000);
    assert_eq!(rig.state("n3"), "suspect");
    let mut rig = Rig::ready(3);
    rig.lease("n3", Lease::Gone);
    rig.run(60_000);
    assert_eq!((rig.state("n3"), rig.view("n3").standing), ("suspect", Standing::Suspect));
    rig.lease("n3", Lease::Present);
    assert_eq!((rig.state("n3"), rig.view("n3").standing), ("ready", Standing::Open), "nothing was taken from it");
}

#[test]
fn what_another_member_hears_counts() {
    let mut rig = Rig::ready(3);
    rig.hears("n1", "n3", Link::Silent);
    rig.lease("n3", Lease::Gone);
    rig.run(60_000);
    assert_eq!(rig.state("n3"), "suspect", "n2 reaches it");
    rig.hears("n2", "n3", Link::Silent);
    rig.run(3_000);
    assert_eq!(rig.state("n3"), "lost");
}

#[test]
fn the_word_of_a_stranger_does_not_count() {
    let mut rig = Rig::ready(3);
    rig.links("n3", Link::Silent);
    rig.lease("n3", Lease::Gone);
    for _ in 0..5 {
        rig.handle(Event::Link { node: name("n3"), by: name("n9"), link: Link::Answers, at: rig.now });
        rig.run(1_000);
    }
    assert_eq!(rig.state("n3"), "lost");
}

#[test]
fn the_leader_alone_waits_a_lease_longer_for_the_word_of_others() {
    let mut rig = Rig::ready(3);
    rig.mute("n2");
    rig.links("n3", Link::Silent);
    rig.run(4_000);
    rig.lease("n3", Lease::Gone);
    rig.run(9_000);
    assert_eq!(rig.state("n3"), "suspect", "n2 lives and has not said anything");
    rig.run(2_000);
    assert_eq!(rig.state("n3"), "lost");
}

#[test]
fn a_late_answer_revives_and_a_lease_alone_does_not() {
    let mut rig = Rig::ready(3);
    rig.lose("n3");
    rig.lease("n3", Lease::Present);
    rig.run(5_000);
    assert_eq!(rig.state("n3"), "lost");
    rig.lease("n3", Lease::Gone);
    rig.hears("n2", "n3", Link::Answers);
    rig.run(1_000);
    assert_eq!(rig.state("n3"), "suspect");
    rig.lease("n3", Lease::Present);
    assert_eq!((rig.state("n3"), rig.view("n3").standing), ("returned", Standing::Closed));
    rig.run(11_000);
    let view = rig.view("n3");
    assert_eq!((rig.state("n3"), view.standing), ("ready", Standing::Open));
    assert!(view.stable_since > rig.start() + RETURNED_FOR, "it counts from when it takes new instances again");
}

#[test]
fn a_node_that_comes_and_goes_is_damped_for_longer_each_time() {
    let mut rig = Rig::ready(4);
    for expected in ["returned", "returned", "damped", "damped"] {
        rig.lose("n3");
        rig.find("n3");
        assert_eq!(rig.state("n3"), expected);
        rig.run(20_000);
    }
    let Some(State::Damped { until }) = rig.membership.state(&name("n3")) else { panic!("damped") };
    let left = rig.now.until(until) + Duration::from_secs(20);
    assert!(left > DAMPED_FOR && left <= DAMPED_FOR * 2, "{left:?}");
    assert_eq!(rig.view("n3").standing, Standing::Closed);
    rig.run(600_000);
    assert_eq!(rig.state("n3"), "ready");
    rig.run(u64::try_from(FLAP_WINDOW.as_millis()).unwrap());
    rig.lose("n3");
    rig.find("n3");
    assert_eq!(rig.state("n3"), "returned", "what is an hour ago is forgotten");
}

#[test]
fn a_reboot_counts_as_a_loss_unless_people_took_the_node_out_first() {
    let mut rig = Rig::ready(3);
    rig.known("n3", "boot-2", 7, Admin::Open);
    assert_eq!(rig.state("n3"), "returned");
    for boot in ["boot-3", "boot-4"] {
        rig.run(20_000);
        rig.known("n3", boot, 7, Admin::Open);
    }
    assert_eq!(rig.state("n3"), "damped");
    let mut rig = Rig::ready(3);
    rig.known("n3", "boot-1", 7, Admin::Cordoned);
    for boot in ["boot-2", "boot-3", "boot-4"] {
        rig.known("n3", boot, 7, Admin::Cordoned);
        rig.run(20_000);
    }
    assert_eq!((rig.state("n3"), rig.view("n3").standing), ("ready", Standing::Closed));
}

#[test]
fn the_brake_by_number_of_nodes() {
    for (nodes, may) in [(2, 1), (3, 1), (5, 1), (6, 2), (8, 2), (9, 3)] {
        for away in 1..nodes.min(5) {
            let mut rig = Rig::ready(nodes);
            let names: Vec<String> = (0..away).map(|n| format!("n{}", nodes - n)).collect();
            names.iter().for_each(|n| rig.links(n, Link::Silent));
            rig.run(4_000);
            names.iter().for_each(|n| rig.lease(n, Lease::Gone));
            rig.run(1_000);
            assert_eq!(rig.hold(), if away > may { "brake" } else { "" }, "{away} of {nodes}");
            rig.run(200_000);
            assert_eq!(rig.hold(), if away > may { "brake" } else { "" }, "{away} of {nodes}, for long");
        }
    }
}

/// Leases end one after the other; who went together is counted together, in every profile.
#[test]
fn the_brake_sees_the_second_before_the_first_is_lost() {
    let fast = crate::lease::Timings::FAST;
    let shortest = u64::try_from((fast.ttl - fast.renew).as_millis()).unwrap();
    for offset in (0..1_000).step_by(100) {
        let mut rig = Rig::ready(3);
        rig.run(offset);
        rig.links("n2", Link::Silent);
        rig.links("n3", Link::Silent);
        rig.mute("n2");
        rig.mute("n3");
        rig.run(shortest);
        rig.lease("n2", Lease::Gone);
        for _ in 0..10 {
            rig.run(100);
            assert!(rig.state("n2") != "lost" || rig.hold() == "brake", "offset {offset}");
        }
        assert_eq!(rig.state("n2"), "lost", "the word of n3, which fell silent as well, is not waited for");
        rig.lease("n3", Lease::Gone);
        rig.run(2_000);
        assert_eq!((rig.state("n2"), rig.state("n3"), rig.hold()), ("lost", "lost", "brake"));
    }
}

#[test]
fn who_just_fell_silent_holds_what_the_loss_of_another_would_move() {
    let mut rig = Rig::ready(3);
    rig.links("n2", Link::Silent);
    rig.run(3_000);
    rig.lease("n2", Lease::Gone);
    rig.links("n3", Link::Silent);
    rig.run(1_000);
    assert_eq!((rig.state("n2"), rig.state("n3"), rig.hold()), ("lost", "ready", "brake"));
    rig.links("n3", Link::Answers);
    rig.run(1_000);
    assert_eq!((rig.state("n2"), rig.state("n3"), rig.hold()), ("lost", "ready", ""));
}

#[test]
fn an_answer_that_is_under_way_when_the_lease_ends_arrives_in_time() {
    let mut rig = Rig::ready(2);
    rig.links("n2", Link::Silent);
    rig.run(3_000);
    rig.lease("n2", Lease::Gone);
    rig.links("n2", Link::Answers);
    rig.tick_only(400);
    assert_eq!(rig.state("n2"), "suspect");
    rig.run(2_000);
    assert_eq!(rig.state("n2"), "suspect");
}

#[test]
fn losses_one_after_the_other_are_no_mass_failure() {
    let mut rig = Rig::ready(5);
    rig.lose("n5");
    rig.run(61_000);
    rig.lose("n4");
    assert_eq!(rig.hold(), "", "n5 was dealt with a minute ago");
    rig.lose("n3");
    assert_eq!(rig.hold(), "brake", "n4 was not");
    let until = rig.now + Duration::from_secs(60);
    rig.handle(Event::BrakeOff { until });
    assert_eq!(rig.hold(), "", "a person says so");
    rig.run(59_000);
    assert_eq!(rig.hold(), "");
}

#[test]
fn the_brake_goes_when_nodes_come_back() {
    let mut rig = Rig::ready(3);
    rig.lose("n2");
    rig.lose("n3");
    assert_eq!(rig.hold(), "brake");
    rig.find("n2");
    assert_eq!(rig.hold(), "");
    let said: Vec<&str> = rig.changes.iter().filter(|c| c.node.is_none()).map(|c| c.transition.to).collect();
    assert_eq!(said, ["engaged", "released"]);
}

#[test]
fn what_the_last_leader_dealt_with_does_not_engage_the_brake_of_the_next() {
    for (count, expected) in [(0, ""), (1, "brake")] {
        let mut rig = Rig::new(5);
        for node in ["n4", "n5"] {
            rig.handle(Event::Instances { node: name(node), count });
            rig.lease(node, Lease::Gone);
            rig.links(node, Link::Silent);
        }
        rig.run(30_000);
        assert_eq!((rig.state("n4"), rig.state("n5"), rig.hold()), ("lost", "lost", expected), "{count} instances");
    }
}

#[test]
fn a_leader_that_was_just_elected_looks_around_first() {
    let mut rig = Rig::new(3);
    rig.lease("n3", Lease::Gone);
    rig.links("n3", Link::Silent);
    assert_eq!(rig.hold(), "void");
    rig.run(1_000);
    assert_eq!((rig.state("n3"), rig.hold()), ("joining", "void"));
    rig.run(1_000);
    assert_eq!((rig.state("n3"), rig.hold()), ("lost", ""), "within two seconds of the election");
}

#[test]
fn a_stopped_leader_believes_nothing_from_before() {
    let mut rig = Rig::ready(3);
    rig.links("n3", Link::Silent);
    rig.run(3_000);
    rig.pause(8_000);
    // What waited in its queues comes first.
    rig.lease("n3", Lease::Gone);
    assert_eq!(rig.hold(), "void");
    rig.links("n3", Link::Answers);
    rig.run(10_000);
    assert_eq!((rig.state("n3"), rig.hold()), ("suspect", ""));
    assert!(rig.changes.iter().any(|c| c.transition.to == "late"));
    assert!(!rig.changes.iter().any(|c| c.transition.to == "lost"));
}

#[test]
fn after_a_store_that_was_away_everybody_may_renew_first() {
    let mut rig = Rig::ready(3);
    rig.handle(Event::StoreAway);
    rig.run(2_000);
    rig.handle(Event::StoreBack);
    assert_eq!(rig.hold(), "", "a blink");
    rig.handle(Event::StoreAway);
    rig.run(30_000);
    assert_eq!(rig.hold(), "void");
    rig.handle(Event::StoreBack);
    rig.lease("n3", Lease::Gone);
    rig.links("n3", Link::Silent);
    rig.run(9_000);
    assert_eq!((rig.state("n3"), rig.hold()), ("suspect", "void"));
    rig.run(2_000);
    assert_eq!((rig.state("n3"), rig.hold()), ("lost", ""));
    assert!(rig.now.since(rig.start()) > TTL);
}

#[test]
fn another_release_takes_nothing_new() {
    for (release, state) in [(5, "incompatible"), (6, "ready"), (7, "ready"), (8, "ready"), (9, "incompatible")] {
        let mut rig = Rig::ready(3);
        rig.known("n3", "boot-1", release, Admin::Open);
        assert_eq!(rig.state("n3"), state, "release {release}");
        assert_eq!(rig.view("n3").standing == Standing::Open, state == "ready");
    }
}

#[test]
fn what_people_want_of_a_node() {
    let mut rig = Rig::ready(3);
    rig.known("n3", "boot-1", 7, Admin::Cordoned);
    assert_eq!(rig.view("n3").standing, Standing::Closed);
    rig.handle(Event::Instances { node: name("n3"), count: 2 });
    rig.known("n3", "boot-1", 7, Admin::Draining);
    assert_eq!((rig.view("n3").standing, rig.view("n3").drained), (Standing::Draining, false));
    rig.handle(Event::Instances { node: name("n3"), count: 0 });
    assert!(rig.view("n3").drained && !rig.view("n3").may_be_forgotten());
    rig.known("n3", "boot-1", 7, Admin::Removing);
    assert!(rig.view("n3").may_be_forgotten());
    assert_eq!(rig.view("n3").to_string(), "n3: ready, drained: lease and links are well");
    rig.handle(Event::Forgotten { node: name("n3") });
    assert_eq!(rig.state("n3"), "unknown");
    // A lost node that people give up counts no longer for the brake.
    let mut rig = Rig::ready(3);
    rig.lose("n2");
    rig.lose("n3");
    assert_eq!(rig.hold(), "brake");
    rig.known("n3", "boot-1", 7, Admin::Removing);
    assert_eq!((rig.hold(), rig.view("n3").may_be_forgotten()), ("", true));
}

/// No false alarm: looks that fail now and then, ticks that are late, leases that stay.
#[test]
fn a_shaky_network_on_a_busy_machine_changes_nothing() {
    let mut rng = crate::rng::Rng::from_seed(5);
    let mut rig = Rig::ready(6);
    let before = rig.changes.len();
    for _ in 0..1_800 {
        for by in 1..=6 {
            for node in 1..=6 {
                let link = if rng.below(100) == 0 { Link::Silent } else { Link::Answers };
                rig.hears(&format!("n{by}"), &format!("n{node}"), link);
            }
        }
        rig.run(1_000);
        rig.pause(rng.below(1_500));
    }
    assert_eq!(rig.changes[before..], []);
}

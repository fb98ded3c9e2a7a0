mod lose;
mod properties;
mod rig;
mod simulation;

use std::time::Duration;

use super::{FAILED_MOVE_DELAY, FAILED_MOVE_DELAY_MAX, LOCAL_FAILURES_MAX, Step};
use expect_test::{Expect, expect};
use rig::Rig;

fn check(topology: &str, plan: Expect) {
    plan.assert_eq(&Rig::read(topology).plan().to_string());
}

#[test]
fn replicas_spread_over_zones_first_then_racks_then_hosts() {
    check(
        "node n1 zone=a rack=1
         node n2 zone=a rack=1
         node n3 zone=a rack=2
         node n4 zone=b rack=3
         service web 4",
        expect![[r#"
            place  web-1 on n1: wanted
            place  web-2 on n4: wanted
            place  web-3 on n3: wanted
            place  web-4 on n4: wanted
        "#]],
    );
}

#[test]
fn a_lost_node_gives_up_its_instances_and_nobody_else_moves() {
    check(
        "node n1 zone=a
         node n2 zone=b lost
         node n3 zone=b
         service web 3
         service api 2
         on n1 web-1 api-1
         on n2 web-2 api-2
         on n3 web-3",
        expect![[r#"
            remove web-2 from n2: n2 is lost
            place  web-2 on n3: n2 is lost
            remove api-2 from n2: n2 is lost
            place  api-2 on n3: n2 is lost
        "#]],
    );
}

#[test]
fn a_drained_node_is_emptied_one_by_one_and_the_new_copy_comes_first() {
    let mut rig = Rig::read(
        "node n1 draining
         node n2
         service web 2
         on n1 web-1 web-2",
    );
    let mut seen = String::new();
    for _ in 0..4 {
        let plan = rig.plan();
        seen += &plan.to_string();
        rig.apply(&plan);
        rig.settle(Duration::from_secs(5));
    }
    expect![[r#"
        move   web-2 from n1 to n2: n1 is drained
        hold   web-1: n1 is drained; 1 of web moving already
        remove web-2 from n1: ready on n2
        move   web-1 from n1 to n2: n1 is drained
        remove web-1 from n1: ready on n2
        nothing to do
    "#]]
    .assert_eq(&seen);
}

#[test]
fn the_brake_moves_nothing_but_places_what_is_new() {
    check(
        "node n1
         node n2 lost
         node n3 draining
         service web 3
         service new 1
         brake
         on n1 web-1
         on n2 web-2
         on n3 web-3",
        expect![[r#"
            place  new-1 on n1: wanted
            hold   web-2: brake
            hold   web-3: n3 is drained; brake
        "#]],
    );
}

#[test]
fn void_evidence_does_nothing_at_all() {
    check(
        "node n1
         node n2 lost
         service web 2
         service new 1
         void
         on n1 web-1 gone-1
         on n2 web-2",
        expect![[r#"
            hold   web-2: void
            hold   new-1: void
        "#]],
    );
}

#[test]
fn members_of_a_group_never_share_a_node() {
    check(
        "node n1
         node n2
         service db 3 distinct
         on n1 db-1A
         on n2 db-2S",
        expect![[r#"
            hold   db-3: no node takes it: 2 running another member
        "#]],
    );
}

#[test]
fn one_node_alone_may_be_crowded_when_the_group_allows_it() {
    check(
        "node n1
         service db 2 distinct crowd
         service strict 2 distinct",
        expect![[r#"
            place  db-1 on n1: wanted
            place  db-2 on n1: wanted
            place  strict-1 on n1: wanted
            hold   strict-2: no node takes it: 1 running another member
        "#]],
    );
}

#[test]
fn a_second_node_takes_one_member_of_a_crowded_group_and_not_the_active_one() {
    check(
        "node n1
         node n2
         service db 2 distinct crowd
         on n1 db-1A db-2S",
        expect![[r#"
            move   db-2 from n1 to n2: n1 may not keep it: running another member
        "#]],
    );
}

#[test]
fn a_member_on_a_lost_node_stays_assigned_when_nobody_else_may_have_it() {
    check(
        "node n1
         node n2 lost
         service db 2 distinct
         on n1 db-1A
         on n2 db-2S!",
        expect![[r#"
            hold   db-2: n2 is lost, and no node takes it: 1 lost, 1 running another member
        "#]],
    );
}

#[test]
fn an_active_one_leaves_only_after_somebody_took_over() {
    check(
        "node n1 draining
         node n2
         node n3
         service db 2 distinct min=1
         on n1 db-1A
         on n3 db-2S
         on n2 db-1>S",
        expect![[r#"
            hold   db-1: active; another must take over before it leaves for n2
        "#]],
    );
}

#[test]
fn a_move_that_does_not_get_ready_is_waited_for() {
    check(
        "node n1 draining
         node n2
         service web 1 min=1
         on n1 web-1
         on n2 web-1>!",
        expect![[r#"
            hold   web-1: waits until it is ready on n2
        "#]],
    );
}

#[test]
fn a_move_that_fails_goes_back() {
    check(
        "node n1 draining
         node n2
         service web 1 min=1
         on n1 web-1
         on n2 web-1>*",
        expect![[r#"
            remove web-1 from n2: not ready there, and n1 still has it
        "#]],
    );
}

#[test]
fn an_instance_that_fails_again_and_again_moves_away_at_once() {
    check(
        "node n1
         node n2
         service web 2
         on n1 web-1*
         on n2 web-2",
        expect![[r#"
            remove web-1 from n1: failed 5 times on n1
            place  web-1 on n2: failed 5 times on n1
        "#]],
    );
}

#[test]
fn what_may_not_be_moved_stays_and_says_so() {
    check(
        "node n1 draining
         node n2
         service files 1 fixed
         service stuck 1 fixed
         on n1 files-1
         on n2 stuck-1*",
        expect![[r#"
            hold   stuck-1: failed 5 times on n2; it may not be moved while its node lives
            hold   files-1: n1 is drained; it may not be moved while its node lives
        "#]],
    );
}

#[test]
fn stop_first_keeps_min_available() {
    check(
        "node n1 draining
         node n2
         service one 2 stopfirst min=1
         service two 2 stopfirst min=2
         on n1 one-1 two-1
         on n2 one-2 two-2",
        expect![[r#"
            remove one-1 from n1: n1 is drained
            hold   two-1: n1 is drained; 1 would be ready, and min_available = 2
        "#]],
    );
}

#[test]
fn constraints_pins_and_apartness_hold() {
    check(
        "node n1 disk=ssd
         node n2 disk=hdd
         node n3 disk=ssd
         service db 2 only=disk:ssd
         service cold 1 not=disk:ssd
         service api 2 apart=db
         service pinned 1 pin=n3",
        expect![[r#"
            place  db-1 on n1: wanted
            place  db-2 on n3: wanted
            place  api-1 on n2: wanted
            place  api-2 on n2: wanted
            place  cold-1 on n2: wanted
            place  pinned-1 on n3: wanted
        "#]],
    );
}

#[test]
fn a_label_that_changed_moves_what_must_not_be_there() {
    check(
        "node n1 disk=hdd
         node n2 disk=ssd
         service db 1 only=disk:ssd
         on n1 db-1",
        expect![[r#"
            move   db-1 from n1 to n2: n1 may not keep it: against its constraints
        "#]],
    );
}

#[test]
fn resources_limit_and_steer() {
    check(
        "node big cpu=4000 memory=8000
         node small cpu=1000 memory=1000
         service web 5 cpu=1000 memory=500",
        expect![[r#"
            place  web-1 on big: wanted
            place  web-2 on small: wanted
            place  web-3 on big: wanted
            place  web-4 on big: wanted
            place  web-5 on big: wanted
        "#]],
    );
}

#[test]
fn a_full_slot_is_full() {
    check(
        "node n1 slots=1
         node n2 closed
         node n3 lost
         service web 2",
        expect![[r#"
            place  web-1 on n1: wanted
            hold   web-2: no node takes it: 1 lost, 1 taking nothing new, 1 full
        "#]],
    );
}

#[test]
fn scaled_down_the_highest_ordinals_go() {
    check(
        "node n1
         node n2
         service web 2
         on n1 web-1 web-3
         on n2 web-2 web-4",
        expect![[r#"
            remove web-4 from n2: web has 2 replicas
            remove web-3 from n1: web has 2 replicas
        "#]],
    );
}

#[test]
fn what_leaves_no_longer_counts_for_the_spread() {
    check(
        "node n1
         node n2
         service web 2 min=0
         on n1 web-3 web-4
         on n2 web-2",
        expect![[r#"
            remove web-4 from n1: web has 2 replicas
            remove web-3 from n1: web has 2 replicas
            place  web-1 on n1: wanted
        "#]],
    );
}

#[test]
fn scaled_down_never_below_min_available() {
    check(
        "node n1
         node n2
         service web 2 min=2
         on n1 web-1! web-3
         on n2 web-2 web-4",
        expect![[r#"
            remove web-4 from n2: web has 2 replicas
            hold   web-3: surplus, but only 2 are ready
        "#]],
    );
}

#[test]
fn a_service_that_is_gone_goes_everywhere() {
    check(
        "node n1
         node n2 lost
         on n1 web-1
         on n2 web-2",
        expect![[r#"
            remove web-1 from n1: its service is gone
            remove web-2 from n2: its service is gone
        "#]],
    );
}

#[test]
fn a_cordoned_node_keeps_what_it_has() {
    check(
        "node n1 closed
         node n2
         service web 4
         on n1 web-1 web-2
         on n2 web-3",
        expect![[r#"
            place  web-4 on n2: wanted
        "#]],
    );
}

#[test]
fn a_returned_node_gets_one_move_at_a_time() {
    check(
        "node n1 zone=a
         node n2 zone=b
         service web 4
         service api 2
         on n1 web-1 web-2 web-3 web-4 api-1 api-2",
        expect![[r#"
            move   web-1 from n1 to n2: 4 in its zone, 0 in that of n2
        "#]],
    );
}

#[test]
fn a_node_that_just_returned_is_left_alone() {
    check(
        "node n1
         node n2 fresh
         service web 2
         on n1 web-1 web-2",
        expect![[r#"
            nothing to do
        "#]],
    );
}

#[test]
fn a_difference_of_one_is_balance() {
    check(
        "node n1
         node n2
         service web 3
         on n1 web-1 web-2
         on n2 web-3",
        expect![[r#"
            nothing to do
        "#]],
    );
}

#[test]
fn unequal_services_are_balanced_over_nodes_too() {
    check(
        "node n1
         node n2
         service a 1
         service b 1
         service c 1
         on n1 a-1 b-1 c-1",
        expect![[r#"
            move   a-1 from n1 to n2: 3 instances on its node, 0 on n2
        "#]],
    );
}

#[test]
fn an_unknown_node_is_no_node() {
    check(
        "node n1
         service web 1
         on n9 web-1",
        expect![[r#"
            remove web-1 from n9: n9 is no node of this cluster
            place  web-1 on n1: n9 is no node of this cluster
        "#]],
    );
}

#[test]
fn what_is_ready_on_a_suspect_node_counts_for_nothing_and_stays() {
    check(
        "node n1 draining
         node n2 suspect
         node n3
         service one 2 stopfirst min=1
         service two 1
         on n1 one-1
         on n2 one-2 two-1*",
        expect![[r#"
            hold   two-1: failed 5 times on n2; n2 is suspect, and may not hear of it
            hold   one-1: n1 is drained; 0 would be ready, and min_available = 1
        "#]],
    );
}

#[test]
fn an_instance_that_fails_everywhere_moves_with_its_own_back_off() {
    let mut rig = Rig::read(
        "node n1
         node n2
         node n3
         service web 1
         on n1 web-1*",
    );
    let (mut waits, mut last, mut visited) = (Vec::new(), rig.now, Vec::new());
    while waits.len() < 9 {
        let plan = rig.plan();
        if plan.is_idle() {
            rig.now = plan.next.expect("a time to look again");
            continue;
        }
        rig.apply(&plan);
        waits.push(rig.now.since(last).as_secs());
        last = rig.now;
        rig.assigned[0].failures = LOCAL_FAILURES_MAX;
        visited.push(rig.assigned[0].node.to_string());
    }
    assert_eq!(waits, [0, 30, 60, 120, 240, 480, 960, 1920, 3600]);
    assert_eq!(visited[..4], ["n2", "n3", "n1", "n2"], "where it failed least first");
    rig.settle(FAILED_MOVE_DELAY_MAX);
    rig.plan();
    assert!(rig.planner.memory.troubles.is_empty(), "an hour of being well is forgotten");
}

#[test]
fn a_move_that_takes_too_long_goes_back_and_is_tried_again_later() {
    let mut rig = Rig::read(
        "node n1 draining
         node n2
         service web 1
         on n1 web-1",
    );
    let plan = rig.plan();
    rig.apply(&plan);
    rig.now = rig.plan().next.expect("patience ends");
    let plan = rig.plan();
    assert_eq!(plan.to_string(), "remove web-1 from n2: not ready there, and n1 still has it\n");
    rig.apply(&plan);
    let plan = rig.plan();
    assert_eq!(plan.to_string(), "hold   web-1: n1 is drained; the last move failed\n");
    assert_eq!(plan.next, Some(rig.now + FAILED_MOVE_DELAY));
}

#[test]
fn rebalancing_takes_its_time() {
    let mut rig = Rig::read(
        "node n1
         node n2
         service web 6
         on n1 web-1 web-2 web-3 web-4 web-5 web-6",
    );
    let started = rig.now;
    let mut moves = Vec::new();
    for _ in 0..30 {
        let plan = rig.plan();
        moves.extend(
            plan.steps.iter().filter(|p| matches!(p.step, Step::Move { .. })).map(|_| rig.now.since(started).as_secs()),
        );
        rig.apply(&plan);
        rig.settle(Duration::from_secs(2));
    }
    assert_eq!(moves, [0, 10, 20]);
    assert!(rig.plan().is_idle() && rig.plan().next.is_none());
}

mod rig;

use std::time::Duration;

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
            remove web-2 from n2: the node is lost
            place  web-2 on n3: n2 is lost
            remove api-2 from n2: the node is lost
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
        move   web-1 from n1 to n2: n1 is drained
        hold   web-2: n1 is drained; 1 of web are on the move
        remove web-1 from n1: ready on n2
        hold   web-2: n1 is drained; 1 of web are on the move
        move   web-2 from n1 to n2: n1 is drained
        remove web-2 from n1: ready on n2
    "#]]
    .assert_eq(&seen);
}

use super::*;

mod rig;

use rig::Rig;

#[test]
fn a_node_is_lost_when_its_lease_is_gone_and_nobody_reaches_it() {
    let mut rig = Rig::new(3);
    rig.run(5_000);
    assert_eq!(rig.state("n3"), "ready");
    rig.links("n3", Link::Silent);
    rig.run(2_000);
    assert_eq!(rig.state("n3"), "ready", "the lease is there, and silence is short");
    rig.run(2_500);
    assert_eq!(rig.state("n3"), "suspect");
    rig.lease("n3", Lease::Gone);
    rig.run(900);
    assert_eq!(rig.state("n3"), "lost", "at most a second after both sources are in");
    assert_eq!(rig.hold(), "");
}

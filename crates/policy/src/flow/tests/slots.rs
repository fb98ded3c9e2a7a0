//! Slots of pools: asked for before each attempt, given back however it ends.

use super::*;

fn pooled(name: &str, after: &[&str]) -> Step {
    Step { pool: Some("db".into()), priority: Some(3), ..step(name, after) }
}

fn granted(key: &str) -> Event {
    Event::SlotGranted { key: long(key) }
}

#[test]
fn a_slot_is_asked_for_before_each_attempt_and_freed_after_it() {
    let (mut rig, actions) = Rig::begun(workflow(vec![pooled("a", &[])]));
    assert_eq!(actions, ["acquire db a.do.1 at 3"]);
    assert_eq!(rig.tell(granted("a.do.1")), ["start a.do.1"]);
    assert_eq!(rig.tell(granted("a.do.1")), Vec::<String>::new(), "granted twice is granted once");
    assert_eq!(rig.end("a.do.1", fails()), ["release db a.do.1"]);
    assert_eq!(rig.pass_s(1), ["acquire db a.do.2 at 3"]);
    assert_eq!(rig.tell(granted("a.do.2")), ["start a.do.2"]);
    assert_eq!(rig.end("a.do.2", done()), ["release db a.do.2", "ended succeeded"]);
}

#[test]
fn every_way_to_end_frees_the_slot() {
    let limits =
        Limits { run: Some(Duration::from_secs(10)), heartbeat: Some(Duration::from_secs(5)), ..Limits::default() };
    let run_then = |act: fn(&mut Rig)| {
        let (mut rig, _) = Rig::begun(workflow(vec![Step { limits, ..pooled("a", &[]) }]));
        rig.tell(granted("a.do.1"));
        act(&mut rig);
        let mut seen = rig.pass(STOP_LIMIT);
        seen.extend(rig.pass(STOP_LIMIT));
        seen
    };
    let ways: [fn(&mut Rig); 4] = [
        |rig| drop(rig.tell(Event::Cancel { by: by("ann") })),
        |rig| drop(rig.pass_s(6)),
        |rig| {
            rig.pass_s(3);
            rig.tell(Event::Heartbeat { key: long("a.do.1") });
            rig.pass_s(8);
        },
        |rig| drop(rig.crash()),
    ];
    for (n, way) in ways.into_iter().enumerate() {
        let seen = run_then(way);
        assert_eq!(seen.iter().filter(|line| *line == "release db a.do.1").count(), 1, "way {n}: {seen:?}");
    }
}

#[test]
fn a_request_that_is_withdrawn_is_given_back_even_when_the_grant_comes_later() {
    let (mut rig, _) = Rig::begun(workflow(vec![pooled("a", &[])]));
    assert_eq!(rig.tell(Event::Pause { by: by("ann") }), ["release db a.do.1"]);
    assert_eq!(rig.tell(granted("a.do.1")), ["release db a.do.1"], "they crossed");
    assert_eq!(rig.tell(Event::Resume { by: by("ann") }), ["acquire db a.do.2 at 3"]);
    assert_eq!(rig.tell(Event::Cancel { by: by("ann") }), ["release db a.do.2", "ended cancelled"]);
    assert_eq!(rig.tell(granted("a.do.2")), ["release db a.do.2"]);
}

#[test]
fn after_a_crash_slots_are_asked_for_or_held_as_before() {
    let (mut rig, _) = Rig::begun(workflow(vec![pooled("a", &[]), pooled("b", &[])]));
    rig.tell(granted("a.do.1"));
    assert_eq!(rig.crash(), ["hold db a.do.1", "again a.do.1", "acquire db b.do.1 at 3"]);
}

#[test]
fn an_undo_needs_a_slot_too_and_goes_first() {
    let a = Step { undo: Some(call("undo")), ..pooled("a", &[]) };
    let (mut rig, _) = Rig::begun(workflow(vec![a]));
    rig.tell(granted("a.do.1"));
    assert_eq!(rig.end("a.do.1", business()), ["release db a.do.1", "acquire db a.undo.1 at 100"]);
    assert_eq!(rig.tell(granted("a.undo.1")), ["start a.undo.1"]);
    assert_eq!(rig.end("a.undo.1", done()), ["release db a.undo.1", "ended rolled-back"]);
}

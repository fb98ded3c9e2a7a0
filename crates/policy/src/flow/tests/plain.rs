//! Workflows without a saga: dependencies, triggers, conditions, fan-out, retries, sleeps, signals, runs below.

use super::*;

#[test]
fn a_step_begins_when_all_it_comes_after_is_done() {
    let steps =
        vec![step("join", &["left", "right"]), step("left", &["first"]), step("right", &["first"]), step("first", &[])];
    let (mut rig, actions) = Rig::begun(workflow(steps));
    assert_eq!(actions, ["start first.do.1"]);
    assert_eq!(rig.end("first.do.1", done()), ["start left.do.1", "start right.do.1"]);
    assert_eq!(rig.end("right.do.1", done()), Vec::<String>::new());
    assert_eq!(rig.steps(), "join:waiting left:running right:done first:done");
    assert_eq!(rig.end("left.do.1", done()), ["start join.do.1"]);
    assert_eq!(rig.end("join.do.1", gives(Value::from("all"))), ["ended succeeded"]);
    assert_eq!(rig.run.next_deadline(), None);
}

#[test]
fn trigger_rules() {
    use Trigger::{AllDone, AllFailed, AllOk, AnyFailed, AnyOk, NoneFailed};
    let no = Outcome::Terminal { error: "broken".into() };
    for (a, b, runs) in [
        (done(), done(), [true, true, false, true, false, true]),
        (done(), no.clone(), [false, true, true, true, false, false]),
        (no.clone(), no, [false, true, true, false, true, false]),
    ] {
        for (trigger, runs) in [AllOk, AllDone, AnyFailed, AnyOk, AllFailed, NoneFailed].into_iter().zip(runs) {
            let last = Step { trigger, ..step("last", &["a", "b"]) };
            let (mut rig, _) = Rig::begun(workflow(vec![step("a", &[]), step("b", &[]), last]));
            assert_eq!(rig.end("a.do.1", a.clone()), Vec::<String>::new());
            let actions = rig.end("b.do.1", b.clone());
            assert_eq!(actions.contains(&"start last.do.1".into()), runs, "{trigger:?} after {a:?} {b:?}");
            let failed = a != done() || b != done();
            let end = if runs { rig.end("last.do.1", done()) } else { actions };
            assert_eq!(end, [if failed { "ended failed" } else { "ended succeeded" }], "clean-up heals nothing");
        }
    }
}

#[test]
fn a_skipped_step_skips_those_that_need_it_and_lets_none_failed_through() {
    let skipped = Step { when: Some(Expr::parse("false").unwrap()), ..step("skipped", &[]) };
    let through = Step { trigger: Trigger::NoneFailed, ..step("through", &["skipped"]) };
    let (mut rig, actions) = Rig::begun(workflow(vec![skipped, step("needs", &["skipped"]), through]));
    assert_eq!(actions, ["start through.do.1"]);
    assert_eq!(rig.end("through.do.1", done()), ["ended succeeded"]);
    assert_eq!(rig.steps(), "skipped:skipped needs:skipped through:done");
}

#[test]
fn outputs_flow_into_conditions_and_bodies() {
    let many = Step { when: Some(Expr::parse("${steps.count.output.rows} > 2").unwrap()), ..step("many", &["count"]) };
    let few = Step { when: Some(Expr::parse("${steps.count.output.rows} <= 2").unwrap()), ..step("few", &["count"]) };
    let many = Step { work: call("${run.id}: ${steps.count.output.rows} of ${steps.count.output}"), ..many };
    let (mut rig, _) = Rig::begun(workflow(vec![step("count", &[]), many, few]));
    let rows = Value::Map([("rows".to_owned(), Value::Number(3.0))].into());
    assert_eq!(rig.end("count.do.1", gives(rows)), ["start many.do.1"]);
    assert_eq!(rig.last_body(), r#"r: 3 of {"rows":3}"#);
    assert_eq!(rig.steps(), "count:done many:running few:skipped");
}

#[test]
fn what_cannot_be_filled_in_fails_and_says_where() {
    let wrong = Step { work: call("${steps.a.output.rows}"), ..step("b", &["a"]) };
    let odd = Step { when: Some(Expr::parse("${steps.a.output} > 1").unwrap()), ..step("c", &["a"]) };
    let (mut rig, _) = Rig::begun(workflow(vec![step("a", &[]), wrong, odd]));
    assert_eq!(rig.end("a.do.1", gives(Value::from("text"))), ["ended failed"], "no retry mends it");
    let errors: Vec<_> = rig.run.state().steps.iter().filter_map(|step| step.error.clone()).collect();
    assert!(errors[0].contains("at byte 0: the output of `a` is a text without `rows`"), "{errors:?}");
    assert!(errors[1].contains("condition: at byte 18: a text and a number have no order"), "{errors:?}");
}

#[test]
fn a_fan_out_keeps_to_its_width_and_gives_a_list() {
    let fan = Step { each: each(&["a", "b", "c", "d"], 2, 0), work: call("do ${item}"), ..step("fan", &[]) };
    let sum = Step { work: call("${steps.fan.output.2} of ${steps.fan.output}"), ..step("sum", &["fan"]) };
    let (mut rig, actions) = Rig::begun(workflow(vec![fan, sum]));
    assert_eq!(actions, ["start fan.do.1", "start fan[1].do.1"]);
    assert_eq!(rig.end("fan[1].do.1", gives(Value::from("B"))), ["start fan[2].do.1"]);
    assert_eq!(rig.last_body(), "do c");
    assert_eq!(rig.end("fan[2].do.1", gives(Value::from("C"))), ["start fan[3].do.1"]);
    rig.end("fan[3].do.1", gives(Value::from("D")));
    assert_eq!(rig.end("fan.do.1", gives(Value::from("A"))), ["start sum.do.1"]);
    assert_eq!(rig.last_body(), r#"C of ["A","B","C","D"]"#);
}

#[test]
fn so_many_children_may_fail() {
    for (allowed, ends) in [(1, "done"), (0, "failed")] {
        let retry = Retry { attempts: 1, ..step("", &[]).retry };
        let fan = Step { each: each(&["a", "b", "c"], 2, allowed), retry, ..step("fan", &[]) };
        let (mut rig, _) = Rig::begun(workflow(vec![fan]));
        let next = rig.end("fan.do.1", fails());
        assert_eq!(
            next.contains(&"start fan[2].do.1".into()),
            allowed == 1,
            "a step that has failed begins nothing more"
        );
        rig.end("fan[1].do.1", gives(Value::from("B")));
        rig.end("fan[2].do.1", done());
        assert_eq!(rig.steps(), format!("fan:{ends}"));
    }
}

#[test]
fn a_fan_out_of_nothing_is_done_and_one_that_is_too_large_fails() {
    for (count, status) in [(0, "succeeded"), (3, "running"), (4, "failed")] {
        let items = Items::From(Template::parse("${steps.a.output}").unwrap());
        let fan = Some(Each { items, width: 8, items_max: 3, allow_failed: 0 });
        let list = Value::List(vec![Value::Null; count]);
        let definition = workflow(vec![step("a", &[]), Step { each: fan, ..step("fan", &["a"]) }]);
        let (mut rig, _) = Rig::begun(definition);
        rig.end("a.do.1", gives(list));
        assert_eq!(rig.status(), status, "{count} items");
    }
}

#[test]
fn what_follows_each_outcome() {
    let cases: [(Outcome, &str); 6] = [
        (done(), "a:done"),
        (fails(), "a:retrying"),
        (unknown(), "a:retrying"),
        (Outcome::Terminal { error: "x".into() }, "a:failed"),
        (business(), "a:failed"),
        (Outcome::StillRunning, "a:running"),
    ];
    for (outcome, steps) in cases {
        let (mut rig, _) = Rig::begun(workflow(vec![step("a", &[])]));
        rig.end("a.do.1", outcome.clone());
        assert_eq!(rig.steps(), steps, "{outcome:?}");
    }
}

#[test]
fn retries_come_after_their_back_off_until_the_attempts_are_used_up() {
    let (mut rig, _) = Rig::begun(workflow(vec![step("a", &[])]));
    rig.end("a.do.1", fails());
    assert_eq!(rig.run.next_deadline(), Some(Timestamp::from_millis(1_000)));
    assert_eq!(rig.pass(Duration::from_millis(999)), Vec::<String>::new());
    assert_eq!(rig.pass(Duration::from_millis(1)), ["start a.do.2"]);
    rig.end("a.do.2", unknown());
    assert_eq!(rig.pass_s(2), ["start a.do.3"]);
    assert_eq!(rig.crash(), ["again a.do.3"], "the counter is in the state");
    assert_eq!(rig.end("a.do.3", fails()), ["ended failed"]);
    assert_eq!(rig.run.state().cause.as_deref(), Some("step a: try later"));
}

#[test]
fn what_still_runs_is_asked_again_under_the_same_key() {
    let (mut rig, _) = Rig::begun(workflow(vec![step("a", &[])]));
    assert_eq!(rig.end("a.do.1", Outcome::StillRunning), Vec::<String>::new());
    assert_eq!(rig.pass(POLL_EVERY), ["again a.do.1"]);
    assert_eq!(rig.end("a.do.1", done()), ["ended succeeded"]);
}

#[test]
fn events_of_attempts_that_are_over_change_nothing() {
    let (mut rig, _) = Rig::begun(workflow(vec![step("a", &[]), step("b", &["a"])]));
    rig.end("a.do.1", unknown());
    rig.pass_s(1);
    rig.notes();
    let before = rig.run.state().steps.clone();
    for key in ["a.do.1", "a.do.3", "2:a.do.2", "a.undo.2", "a[1].do.2", "b.do.1", "c.do.1"] {
        assert_eq!(rig.end(key, done()), Vec::<String>::new(), "{key}");
        assert!(rig.was_ignored(), "{key}");
        rig.tell(Event::Heartbeat { key: long(key) });
        assert!(rig.was_ignored(), "{key}");
    }
    let other = Key { run: "other".into(), ..long("a.do.2") };
    assert_eq!(rig.tell(Event::ended(&other, done())), Vec::<String>::new());
    assert_eq!(rig.run.state().steps, before);
    assert_eq!(rig.end("a.do.2", done()), ["start b.do.1"]);
    assert_eq!(rig.end("a.do.2", done()), Vec::<String>::new(), "a second time");
}

#[test]
fn so_many_steps_at_once_by_priority() {
    let steps = ["a", "b", "c", "d"].map(|name| Step { priority: (name == "c").then_some(5), ..step(name, &[]) });
    let nap = Step { work: Work::Sleep(Duration::from_secs(9)), ..step("nap", &[]) };
    let definition = Definition { concurrency: 2, ..workflow(steps.into_iter().chain([nap]).collect()) };
    let (mut rig, actions) = Rig::begun(definition);
    assert_eq!(actions, ["start c.do.1", "start a.do.1"]);
    assert_eq!(rig.steps(), "a:running b:ready c:running d:ready nap:running", "a sleep needs no room");
    assert_eq!(rig.end("a.do.1", fails()), ["start b.do.1"], "nor does a back-off");
    assert_eq!(rig.pass_s(1), Vec::<String>::new());
    assert_eq!(rig.end("c.do.1", done()), ["start a.do.2"]);
}

#[test]
fn a_sleep_lasts_over_restarts() {
    let nap = Step { work: Work::Sleep(Duration::from_secs(86_400 * 3)), ..step("nap", &[]) };
    let (mut rig, actions) = Rig::begun(workflow(vec![nap, step("b", &["nap"])]));
    assert_eq!(actions, Vec::<String>::new());
    assert_eq!(rig.pass_s(86_400), Vec::<String>::new());
    assert_eq!(rig.crash(), Vec::<String>::new());
    assert_eq!(rig.run.next_deadline(), Some(Timestamp::ZERO + Duration::from_secs(86_400 * 3)));
    assert_eq!(rig.until_deadline(), ["start b.do.1"]);
}

#[test]
fn signals_wake_a_step_that_waits_and_wait_for_one_that_does_not_yet() {
    let gate = |name: &str, after: &[&str]| {
        let work = Work::Wait { signal: "approved".into() };
        Step { work, retry: Retry { attempts: 1, ..Retry::default() }, ..step(name, after) }
    };
    let (mut rig, actions) = Rig::begun(workflow(vec![gate("one", &[]), gate("two", &["one"])]));
    assert_eq!(actions, Vec::<String>::new());
    rig.tell(signal("1", "other", Value::Null));
    assert_eq!(rig.steps(), "one:running two:waiting");
    rig.tell(signal("2", "approved", Value::from("ann")));
    rig.tell(signal("2", "approved", Value::from("ann")));
    assert!(rig.was_ignored(), "the same signal again");
    assert_eq!(rig.steps(), "one:done two:running");
    assert_eq!(rig.tell(signal("3", "approved", Value::from("ben"))), ["ended succeeded"]);
    assert_eq!(rig.run.state().steps[0].output, Some(Value::from("ann")));

    let (mut rig, _) = Rig::begun(workflow(vec![step("a", &[]), gate("two", &["a"])]));
    rig.tell(signal("1", "approved", Value::Null));
    assert_eq!(rig.end("a.do.1", done()), ["ended succeeded"], "it had come before");
}

#[test]
fn signals_that_nobody_waits_for_are_bounded() {
    let (mut rig, _) = Rig::begun(workflow(vec![step("a", &[])]));
    for n in 0..SIGNALS_MAX + 1 {
        rig.notes();
        rig.tell(signal(&n.to_string(), "x", Value::Null));
    }
    assert!(rig.was_ignored());
    assert_eq!(rig.run.state().signals["x"].len(), SIGNALS_MAX);
}

#[test]
fn a_run_below_is_one_step_and_gives_its_output() {
    let parameters = [("day".to_owned(), Template::parse("${run.id}").unwrap())].into();
    let work = Work::Run { workflow: "load".into(), parameters };
    let below = Step { work, retry: Retry { attempts: 1, ..Retry::default() }, ..step("below", &[]) };
    let use_it = Step { work: call("${steps.below.output}"), ..step("b", &["below"]) };
    let (mut rig, _) = Rig::begun(workflow(vec![below, use_it]));
    let parameters = [("day".to_owned(), Value::from("r"))].into();
    assert_eq!(rig.starts[0].job, Job::Run { workflow: "load".into(), parameters });
    assert_eq!(rig.end("below.do.1", gives(Value::from("7 rows"))), ["start b.do.1"]);
    assert_eq!(rig.last_body(), "7 rows");
}

#[test]
fn cancel_stops_what_runs_and_waits_for_its_end() {
    let nap = Step { work: Work::Sleep(Duration::from_secs(9)), ..step("nap", &[]) };
    let (mut rig, _) = Rig::begun(workflow(vec![step("a", &[]), step("b", &[]), nap, step("c", &["a"])]));
    rig.end("b.do.1", fails());
    assert_eq!(rig.tell(Event::Cancel { by: by("ann") }), ["stop a.do.1"]);
    assert_eq!(rig.steps(), "a:running b:cancelled nap:cancelled c:cancelled");
    assert_eq!(rig.end("a.do.1", unknown()), ["ended cancelled"]);
    assert_eq!(rig.tell(Event::Cancel { by: by("ann") }), Vec::<String>::new());
    let (mut rig, _) = Rig::begun(workflow(vec![step("a", &[])]));
    rig.tell(Event::Cancel { by: by("ann") });
    assert_eq!(rig.pass(STOP_LIMIT), ["ended cancelled"], "nobody answered");
}

#[test]
fn a_pause_lets_go_on_what_runs_and_begins_nothing() {
    let (mut rig, _) = Rig::begun(workflow(vec![step("a", &[]), step("b", &[]), step("c", &["a"])]));
    rig.tell(Event::Pause { by: by("ann") });
    assert_eq!(rig.status(), "paused");
    assert_eq!(rig.end("a.do.1", done()), Vec::<String>::new());
    rig.end("b.do.1", fails());
    assert_eq!(rig.pass_s(100), Vec::<String>::new());
    assert!(rig.run.next_deadline() > Some(rig.now), "it does not ask to be woken for what it will not do");
    assert_eq!(rig.crash(), Vec::<String>::new());
    assert_eq!(rig.tell(Event::Resume { by: by("ann") }), ["start b.do.2", "start c.do.1"]);
}

#[test]
fn a_run_that_waits_begins_when_told_and_is_cancelled_at_once() {
    let mut rig = Rig::new(workflow(vec![step("a", &[])]));
    assert_eq!((rig.status(), rig.tell(Event::Time)), ("queued", vec![]));
    assert_eq!(rig.tell(Event::Cancel { by: by("ann") }), ["ended cancelled"]);
    assert_eq!(rig.tell(Event::Begin), Vec::<String>::new());
}

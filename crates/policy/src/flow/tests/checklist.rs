//! What a correct saga engine must do, line by line.

use super::*;

fn saga() -> Rig {
    Rig::begun(transfer()).0
}

/// Forward to the attempt of `until`, which is under way afterwards.
fn forward_to(rig: &mut Rig, until: &str) {
    for name in ["reserve", "charge", "ship", "mail"] {
        if name == until {
            return;
        }
        rig.end(&format!("{name}.do.1"), gives(Value::from(name)));
    }
}

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn c01_all_is_there_before_the_first_call_and_another_submission_must_be_the_same() {
    let mut definition = transfer();
    let amount = Parameter { kind: ParameterKind::Number, default: Some(Value::Number(5.0)) };
    definition.parameters.insert("amount".into(), amount);
    let mut rig = Rig::new(definition.clone());
    assert_eq!(rig.shown(), none(), "nothing is called before the state can be stored");
    let state = rig.run.state();
    assert_eq!((state.steps.len(), &state.parameters["amount"], state.version), (4, &Value::Number(5.0), 0));
    let again = |n: f64| Submission {
        run: "r".into(),
        parameters: [("amount".to_owned(), Value::Number(n))].into(),
        nominal: None,
    };
    assert!(
        rig.run.is_same(&definition, &again(5.0))
            && rig.run.is_same(&definition, &Submission { run: "r".into(), ..Submission::default() })
    );
    assert!(!rig.run.is_same(&definition, &again(6.0)), "same id, other payload");
}

#[test]
fn c02_the_intent_is_stored_before_a_call_and_a_crash_repeats_it() {
    let mut rig = saga();
    assert_eq!(rig.crash(), ["again reserve.do.1"]);
    let stored = rig.run.state().clone();
    assert_eq!(rig.end("reserve.do.1", done()), ["start charge.do.1"]);
    rig.run = Run::from_state(Arc::new(transfer()), stored).unwrap();
    rig.run.recover(rig.now);
    assert_eq!(
        rig.shown(),
        ["again reserve.do.1"],
        "the result was not stored, so the call is made again, with its key"
    );
    assert_eq!(rig.end("reserve.do.1", done()), ["start charge.do.1"]);
    rig.end("charge.do.1", business());
    assert_eq!(rig.crash(), ["again charge.undo.1"], "an undo too");
}

#[test]
fn c03_every_call_carries_run_round_step_operation_and_attempt() {
    let mut rig = saga();
    rig.end("reserve.do.1", unknown());
    rig.pass_s(1);
    rig.end("reserve.do.2", business());
    let keys: Vec<String> = rig.starts.iter().map(|start| start.key.to_string()).collect();
    assert_eq!(keys, ["r/1/reserve/0/do/1", "r/1/reserve/0/do/2", "r/1/reserve/0/undo/1"]);
    assert_eq!(rig.starts[0].key.barrier(), rig.starts[1].key.barrier(), "one row for all attempts");
    assert_ne!(rig.starts[1].key.barrier(), rig.starts[2].key.barrier());
}

#[test]
fn c04_only_a_business_failure_or_a_deadline_goes_back_at_once_and_the_unknown_is_tried_again() {
    for (outcome, steps) in [
        (done(), "reserve:done charge:running ship:waiting mail:waiting"),
        (business(), "reserve:undoing charge:cancelled ship:cancelled mail:cancelled"),
        (unknown(), "reserve:retrying charge:waiting ship:waiting mail:waiting"),
        (fails(), "reserve:retrying charge:waiting ship:waiting mail:waiting"),
        (Outcome::StillRunning, "reserve:running charge:waiting ship:waiting mail:waiting"),
    ] {
        let mut rig = saga();
        rig.end("reserve.do.1", outcome.clone());
        assert_eq!(rig.steps(), steps, "{outcome:?}");
    }
    let mut rig = saga();
    for (key, wait) in [("reserve.do.1", 1), ("reserve.do.2", 2)] {
        rig.end(key, unknown());
        rig.pass_s(wait);
    }
    assert_eq!(rig.end("reserve.do.3", unknown()), ["start reserve.undo.1"], "it may have happened");
}

#[test]
fn c05_steps_are_compensable_pivot_or_retriable() {
    let definition = transfer();
    let kinds: Vec<Option<Kind>> = definition.steps.iter().map(|step| definition.kind(step)).collect();
    let (compensable, pivot, retriable) = (Some(Kind::Compensable), Some(Kind::Pivot), Some(Kind::Retriable));
    assert_eq!(kinds, [compensable, compensable, pivot, retriable]);
    let plain = workflow(vec![step("a", &[])]);
    assert_eq!(plain.kind(&plain.steps[0]), None);
}

#[test]
fn c06_before_the_pivot_back_after_it_only_forward() {
    let mut rig = saga();
    forward_to(&mut rig, "ship");
    assert_eq!(
        rig.end("ship.do.1", business()),
        ["start charge.undo.1"],
        "a pivot that did not commit has nothing to undo"
    );

    let mut rig = saga();
    forward_to(&mut rig, "mail");
    let mut paged = 0;
    for attempt in 1..=20 {
        let outcome = if attempt % 2 == 0 { business() } else { unknown() };
        paged += rig.end(&format!("mail.do.{attempt}"), outcome).iter().filter(|l| l.starts_with("page mail")).count();
        assert_eq!(rig.status(), if attempt < 5 { "running" } else { "stuck" }, "attempt {attempt}");
        assert_eq!(rig.until_deadline(), [format!("start mail.do.{}", attempt + 1)]);
    }
    assert_eq!(paged, 1);
    assert_eq!(rig.tell(Event::Cancel { by: by("ann") }), none());
    assert!(rig.was_ignored());
    assert_eq!(rig.end("mail.do.21", done()), ["ended succeeded"]);
}

#[test]
fn c06_a_pivot_that_may_have_committed_is_asked_until_it_answers() {
    let mut rig = saga();
    forward_to(&mut rig, "ship");
    assert_eq!(rig.tell(Event::Cancel { by: by("ann") }), none(), "nobody knows yet");
    for attempt in 1..=7 {
        rig.end(&format!("ship.do.{attempt}"), unknown());
        assert_eq!(rig.until_deadline(), [format!("start ship.do.{}", attempt + 1)], "beyond its attempts");
    }
    assert_eq!(rig.status(), "stuck");
    let mut other = Rig { run: rig.run.clone(), rng: rig.rng.clone(), now: rig.now, starts: Vec::new() };
    assert_eq!(rig.end("ship.do.8", business()), ["start charge.undo.1"]);
    assert_eq!(other.end("ship.do.8", done()), ["start mail.do.1"], "too late to go back");

    let mut rig = saga();
    forward_to(&mut rig, "ship");
    rig.tell(Event::Cancel { by: by("ann") });
    assert_eq!(rig.end("ship.do.1", fails()), ["start charge.undo.1"], "it says that it failed");
}

#[test]
fn c07_the_last_is_undone_first_and_side_by_side_only_what_the_graph_leaves_free() {
    let ship = of_kind(Kind::Pivot, "ship", &["left", "right"]);
    let steps = vec![undoable("first", &[]), undoable("left", &["first"]), undoable("right", &["first"]), ship];
    let (mut rig, _) = Rig::begun(workflow(steps));
    for key in ["first.do.1", "left.do.1", "right.do.1"] {
        rig.end(key, done());
    }
    assert_eq!(rig.end("ship.do.1", business()), ["start left.undo.1", "start right.undo.1"]);
    assert_eq!(rig.end("right.undo.1", done()), none());
    assert_eq!(rig.end("left.undo.1", fails()), none());
    assert_eq!(rig.until_deadline(), ["start left.undo.2"]);
    assert_eq!(rig.end("left.undo.2", done()), ["start first.undo.1"]);
    assert_eq!(rig.end("first.undo.1", done()), ["ended rolled-back"]);
}

#[test]
fn c08_the_failed_and_the_maybe_ran_are_undone_too_and_those_never_begun_are_not() {
    let fan = Step { each: each(&["a", "b", "c", "d"], 2, 0), ..undoable("fan", &[]) };
    let (mut rig, _) = Rig::begun(workflow(vec![fan, undoable("after", &["fan"])]));
    rig.end("fan.do.1", done());
    rig.end("fan[1].do.1", unknown());
    assert_eq!(rig.end("fan[2].do.1", business()), ["start fan[2].undo.1", "start fan[1].undo.1"], "the retry is off");
    assert_eq!(rig.end("fan[1].undo.1", done()), ["start fan.undo.1"], "as wide as forward");
    rig.end("fan[2].undo.1", done());
    assert_eq!(rig.end("fan.undo.1", done()), ["ended rolled-back"]);
    assert_eq!(rig.steps(), "fan:undone after:cancelled");
}

#[test]
fn c09_an_undo_gets_the_output_of_its_action_and_works_without_it() {
    let charge =
        Step { undo: Some(call("refund ${steps.charge.output.id} ${steps.charge.output}")), ..step("charge", &[]) };
    let definition = workflow(vec![charge, undoable("b", &["charge"])]);
    let (mut rig, _) = Rig::begun(definition.clone());
    let output = Value::Map([("id".to_owned(), Value::Number(7.0))].into());
    rig.end("charge.do.1", gives(output.clone()));
    rig.end("b.do.1", business());
    rig.end("b.undo.1", done());
    assert_eq!((rig.last_body(), &rig.starts.last().unwrap().output), (r#"refund 7 {"id":7}"#.into(), &Some(output)));
    let (mut rig, _) = Rig::begun(definition);
    rig.end("charge.do.1", business());
    assert_eq!((rig.last_body(), &rig.starts.last().unwrap().output), ("refund  ".into(), &None));
}

#[test]
fn c10_an_undo_is_tried_without_end_and_is_never_silent() {
    let mut rig = saga();
    rig.end("reserve.do.1", business());
    let mut pages = Vec::new();
    for attempt in 1..=30 {
        let outcome = [fails(), business(), unknown(), Outcome::Terminal { error: "x".into() }][attempt % 4].clone();
        let actions = rig.end(&format!("reserve.undo.{attempt}"), outcome);
        pages.extend(actions.iter().filter(|line| line.starts_with("page")).map(|_| attempt));
        let wait = rig.now.until(rig.run.next_deadline().unwrap());
        assert!(wait >= RETRY_DELAY_MIN && wait <= Duration::from_secs(60), "capped");
        assert_eq!(rig.until_deadline(), [format!("start reserve.undo.{}", attempt + 1)]);
    }
    assert_eq!((pages, rig.status()), (vec![STUCK_AFTER as usize], "stuck"));
    assert_eq!(rig.crash(), ["again reserve.undo.31", "page reserve.undo.31"], "a page that was lost is sent again");
    assert_eq!(rig.end("reserve.undo.31", done()), ["ended rolled-back"]);
}

#[test]
fn c11_a_success_after_the_rollback_began_is_recorded_and_still_undone() {
    let left = undoable("left", &[]);
    let two = workflow(vec![left.clone(), undoable("right", &[])]);
    let (mut rig, _) = Rig::begun(two.clone());
    assert_eq!(rig.end("right.do.1", business()), ["stop left.do.1", "start right.undo.1"]);
    assert_eq!(rig.end("left.do.1", gives(Value::from("late"))), ["start left.undo.1"], "after its own end");
    assert_eq!(rig.run.state().steps[0].items[0].output, Some(Value::from("late")));

    let given_up = || {
        let (mut rig, _) = Rig::begun(two.clone());
        rig.end("right.do.1", business());
        assert_eq!(rig.pass(STOP_LIMIT), ["start left.undo.1"], "nobody answers: it may have run");
        rig
    };
    let mut rig = given_up();
    assert_eq!(rig.end("left.do.1", gives(Value::from("late"))), none(), "while its undo runs");
    assert_eq!(rig.run.state().steps[0].items[0].output, Some(Value::from("late")));
    assert_eq!(rig.end("left.undo.1", done()), ["start left.undo.2"], "the undo may have come first");
    rig.end("left.undo.2", done());
    assert_eq!(rig.end("right.undo.1", done()), ["ended rolled-back"]);
    let mut rig = given_up();
    rig.end("left.undo.1", done());
    assert_eq!(rig.end("left.do.1", done()), ["start left.undo.2"], "after its undo");
    assert_eq!(rig.end("left.do.1", done()), none(), "told twice");
    rig.end("left.undo.2", done());
    assert_eq!(rig.end("right.undo.1", done()), ["ended rolled-back"]);
    let mut rig = given_up();
    rig.end("left.undo.1", done());
    rig.end("right.undo.1", done());
    assert_eq!(rig.end("left.do.1", done()), ["page left.do.1"], "after the end somebody is told");
}

#[test]
fn c12_a_rollback_is_not_cancelled_and_a_cancellation_is_a_rollback() {
    let mut rig = saga();
    forward_to(&mut rig, "charge");
    assert_eq!(rig.tell(Event::Cancel { by: by("ann") }), ["stop charge.do.1"]);
    assert_eq!(rig.status(), "rolling-back");
    assert_eq!(rig.tell(Event::Cancel { by: by("ann") }), none());
    assert!(rig.was_ignored());
    assert_eq!(rig.end("charge.do.1", unknown()), ["start charge.undo.1"]);
    rig.end("charge.undo.1", done());
    assert_eq!(rig.end("reserve.undo.1", done()), ["ended rolled-back"]);
}

fn rounds() -> Definition {
    Definition { rounds: 3, round_delay: Duration::from_secs(60), ..transfer() }
}

#[test]
fn c13_the_whole_saga_runs_again_with_new_keys_and_only_so_often() {
    let (mut rig, _) = Rig::begun(rounds());
    let mut keys = Vec::new();
    for round in 1..=4 {
        let at = |key: &str| if round == 1 { key.to_owned() } else { format!("{round}:{key}") };
        rig.end(&at("reserve.do.1"), business());
        let end = rig.end(&at("reserve.undo.1"), done());
        keys.extend(rig.starts.drain(..).map(|start| start.key.barrier()));
        match round {
            4 => assert_eq!(end, ["ended rolled-back"]),
            _ => assert_eq!(rig.until_deadline(), [format!("start {}:reserve.do.1", round + 1)]),
        }
    }
    assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), 8, "no key comes twice: {keys:?}");
    let (mut rig, _) = Rig::begun(rounds());
    rig.tell(Event::Cancel { by: by("ann") });
    rig.end("reserve.do.1", unknown());
    assert_eq!(rig.end("reserve.undo.1", done()), ["ended rolled-back"], "a cancelled one does not run again");
}

#[test]
fn c14_a_round_begins_when_all_of_the_one_before_is_undone() {
    let (mut rig, _) = Rig::begun(rounds());
    forward_to(&mut rig, "charge");
    rig.end("charge.do.1", business());
    rig.end("charge.undo.1", done());
    for _ in 0..20 {
        rig.pass_s(600);
        let attempt = rig.starts.last().unwrap().key.attempt;
        assert!(rig.starts.iter().all(|start| start.key.round == 1));
        rig.end(&format!("reserve.undo.{attempt}"), fails());
    }
    rig.until_deadline();
    let attempt = rig.starts.last().unwrap().key.attempt;
    assert_eq!(rig.end(&format!("reserve.undo.{attempt}"), done()), none());
    assert_eq!(rig.pass_s(59), none());
    assert_eq!(rig.pass_s(1), ["start 2:reserve.do.1"]);
    assert_eq!(rig.end("reserve.do.1", done()), none(), "a late answer of round 1 is not one of round 2");
}

#[test]
fn c15_steps_and_sagas_have_limits_in_engine_time() {
    let mut definition = Definition { timeout: Some(Duration::from_secs(100)), ..transfer() };
    definition.steps[0].limits.run = Some(Duration::from_secs(30));
    let (mut rig, _) = Rig::begun(definition);
    rig.pass_s(29);
    assert_eq!(rig.crash(), ["again reserve.do.1"]);
    assert_eq!(rig.run.next_deadline(), Some(Timestamp::from_millis(30_000)), "it survives the restart");
    assert_eq!(rig.pass_s(1), ["stop reserve.do.1"]);
    rig.end("reserve.do.1", unknown());
    rig.pass_s(1);
    rig.end("reserve.do.2", done());
    assert_eq!(rig.pass_s(68), none());
    assert_eq!(rig.pass_s(1), ["stop charge.do.1"], "100 s");
    assert_eq!(rig.end("charge.do.1", done()), ["start charge.undo.1"]);

    let (mut rig, _) = Rig::begun(Definition { timeout: Some(Duration::from_secs(100)), ..transfer() });
    forward_to(&mut rig, "mail");
    assert_eq!(rig.pass_s(100), ["page run"], "after the pivot it goes on, and somebody is told");
    assert_eq!(rig.pass_s(100), none());
    assert_eq!(rig.end("mail.do.1", done()), ["ended succeeded"]);
}

#[test]
fn c16_of_two_coordinators_one_can_store() {
    let mut stored = saga().run.state().clone();
    let load = |state: &State| {
        let mut run = Run::from_state(Arc::new(transfer()), state.clone()).unwrap();
        run.recover(state.seen);
        run
    };
    let replace = |stored: &mut State, read: u64, new: &State| {
        let first = stored.version == read;
        if first {
            *stored = new.clone();
        }
        first
    };
    let read = stored.version;
    let (mut one, mut two) = (load(&stored), load(&stored));
    let event = Event::ended(&long("reserve.do.1"), done());
    one.handle(Timestamp::ZERO, event.clone(), &mut Rng::from_seed(1));
    two.handle(Timestamp::ZERO, Event::Cancel { by: by("ann") }, &mut Rng::from_seed(1));
    assert!(one.state().version > read && two.state().version > read, "every event is a new version");
    assert!(replace(&mut stored, read, one.state()));
    assert!(!replace(&mut stored, read, two.state()), "the loser stores nothing, and so calls nobody");
}

#[test]
fn c17_a_saga_below_rolls_back_fully_before_its_parent_goes_on() {
    let work = Work::Run { workflow: "child".into(), parameters: BTreeMap::new() };
    let child = Step { work, retry: Retry { attempts: 1, ..Retry::default() }, ..undoable("child", &[]) };
    let (mut rig, _) = Rig::begun(workflow(vec![undoable("other", &[]), child]));
    rig.end("other.do.1", business());
    assert_eq!(rig.starts.last().unwrap().key, long("other.undo.1"));
    assert_eq!(rig.pass_s(3_600 * 24 * 3), ["stop other.undo.1"], "however long the child takes, it is not given up");
    rig.end("other.undo.1", done());
    assert_eq!(rig.status(), "rolling-back");
    assert_eq!(rig.end("child.do.1", Outcome::Business { error: "rolled back".into() }), ["start child.undo.1"]);
    assert_eq!(rig.end("child.undo.1", done()), ["ended rolled-back"]);
}

#[test]
fn c18_a_saga_ends_succeeded_or_rolled_back_or_is_stuck_and_alive() {
    let mut rig = saga();
    forward_to(&mut rig, "");
    assert_eq!((rig.status(), rig.run.state().ended), ("succeeded", Some(rig.now)));
    let mut rig = saga();
    rig.end("reserve.do.1", Outcome::Terminal { error: "x".into() });
    rig.end("reserve.undo.1", done());
    assert_eq!(rig.status(), "rolled-back");
    let notes = rig.notes();
    let keys: Vec<&str> = notes.iter().flat_map(|n| &n.inputs).filter(|i| i.0 == "key").map(|i| i.1.as_str()).collect();
    assert!(
        keys.contains(&"r/1/reserve/0/do/1") && keys.contains(&"r/1/reserve/0/undo/1"),
        "told per attempt: {keys:?}"
    );
}

#[test]
fn c19_no_isolation_is_promised() {
    let (mut one, mut two) = (saga(), saga());
    assert_eq!(one.end("reserve.do.1", done()), ["start charge.do.1"]);
    assert_eq!(two.end("reserve.do.1", done()), ["start charge.do.1"], "no run waits for another to be undone or done");
}

#[test]
fn c20_any_language_can_take_part() {
    let body = || Value::from("b");
    let kind = |outcome: Outcome| match outcome {
        Outcome::Success { .. } => "done",
        Outcome::Retryable { .. } => "again",
        Outcome::Terminal { .. } => "never",
        Outcome::Business { .. } => "no",
        Outcome::StillRunning => "runs",
        Outcome::Unknown { .. } => "unknown",
    };
    for (status, what) in [
        (200, "done"),
        (204, "done"),
        (409, "no"),
        (425, "runs"),
        (404, "again"),
        (408, "unknown"),
        (429, "again"),
        (503, "unknown"),
    ] {
        assert_eq!(kind(Outcome::of_status(status, body())), what, "{status}");
    }
    for (code, what) in [(0, "done"), (1, "again"), (65, "no"), (75, "again"), (3, "never"), (-1, "again")] {
        assert_eq!(kind(Outcome::of_exit(code, &[3, 75], body())), what, "{code}");
    }
}

//! Operators: retry, skip, mark done, mark failed, and running again what is over.

use super::*;

fn stuck_undo() -> Rig {
    let (mut rig, _) = Rig::begun(transfer());
    rig.end("reserve.do.1", business());
    for attempt in 1..=STUCK_AFTER {
        rig.end(&format!("reserve.undo.{attempt}"), fails());
        if attempt < STUCK_AFTER {
            rig.until_deadline();
        }
    }
    assert_eq!(
        (rig.status(), rig.steps()),
        ("stuck", "reserve:stuck charge:cancelled ship:cancelled mail:cancelled".into())
    );
    rig
}

#[test]
fn an_undo_that_is_stuck_is_retried_skipped_or_marked_done() {
    let mut rig = stuck_undo();
    assert_eq!(rig.tell(operator("reserve", Verb::Retry, "")), ["start reserve.undo.6"]);
    assert_eq!(rig.status(), "rolling-back", "with all its attempts");
    let mut rig = stuck_undo();
    assert_eq!(rig.tell(operator("reserve", Verb::Skip, "written off")), ["ended rolled-back"]);
    let audit = &rig.run.state().audit[0];
    assert_eq!((audit.by.as_str(), audit.reason.as_str()), ("ann", "written off"));
    assert_eq!(audit.what, "skip reserve item 0");
    let mut rig = stuck_undo();
    let verb = Verb::MarkDone { output: Value::Null };
    assert_eq!(rig.tell(operator("reserve", verb, "paid back by hand")), ["ended rolled-back"]);
}

#[test]
fn what_an_operator_may_not_do_is_refused_and_says_why() {
    let mut rig = stuck_undo();
    for (step, item, verb, reason, says) in [
        ("reserve", 0, Verb::Skip, " ", "a reason must be given"),
        ("reserve", 0, Verb::MarkFailed, "x", "cannot fail"),
        ("nothing", 0, Verb::Retry, "", "no such step"),
        ("reserve", 1, Verb::Retry, "", "no such item"),
        ("charge", 0, Verb::Retry, "", "no such item"),
    ] {
        rig.notes();
        let event = Event::Operator { step: step.into(), item, verb, by: by("ann"), reason: reason.into() };
        assert_eq!(rig.tell(event), Vec::<String>::new());
        let notes = rig.notes();
        assert!(notes.iter().any(|note| note.to == "refused" && note.reason.contains(says)), "{says}: {notes:?}");
    }
    assert!(rig.run.state().audit.is_empty());
    rig.until_deadline();
    rig.tell(operator("reserve", Verb::Retry, ""));
    assert!(rig.was_ignored(), "an attempt is under way");
}

#[test]
fn a_pivot_in_doubt_is_decided_by_who_knows() {
    let doubt = || {
        let (mut rig, _) = Rig::begun(transfer());
        rig.end("reserve.do.1", done());
        rig.end("charge.do.1", done());
        rig.end("ship.do.1", unknown());
        rig
    };
    let mut rig = doubt();
    rig.tell(operator("ship", Verb::Skip, "x"));
    assert!(rig.was_ignored(), "skipping says nothing about what happened");
    assert_eq!(rig.tell(operator("ship", Verb::MarkFailed, "not in their books")), ["start charge.undo.1"]);
    let mut rig = doubt();
    let verb = Verb::MarkDone { output: Value::from("seen") };
    assert_eq!(rig.tell(operator("ship", verb, "it is in their books")), ["start mail.do.1"]);
}

#[test]
fn a_step_after_the_pivot_that_cannot_begin_waits_for_a_decision() {
    let mut definition = transfer();
    definition.steps[3].when = Some(Expr::parse("${steps.ship.output} > 1").unwrap());
    let blocked = || {
        let (mut rig, _) = Rig::begun(definition.clone());
        rig.end("reserve.do.1", done());
        rig.end("charge.do.1", done());
        assert_eq!(rig.end("ship.do.1", gives(Value::from("text"))), ["page run"]);
        assert_eq!((rig.status(), rig.crash()), ("stuck", vec!["page run".to_owned()]));
        rig
    };
    let mut rig = blocked();
    assert_eq!(rig.tell(operator("mail", Verb::Retry, "")), ["page run"], "nothing has changed");
    assert_eq!(rig.tell(operator("mail", Verb::Skip, "not needed")), ["ended succeeded"]);
    let mut rig = blocked();
    rig.tell(operator("mail", Verb::MarkFailed, "x"));
    assert!(rig.was_ignored());
}

/// `a`, then `b` and `c`; `b` fails, `last` needs both.
fn failed_run() -> Rig {
    let last = Step { work: call("${steps.b.output}"), ..step("last", &["b", "c"]) };
    let once = Retry { attempts: 1, ..step("", &[]).retry };
    let steps = vec![step("a", &[]), Step { retry: once, ..step("b", &["a"]) }, step("c", &["a"]), last];
    let (mut rig, _) = Rig::begun(workflow(steps));
    rig.end("a.do.1", done());
    rig.end("c.do.1", done());
    assert_eq!(rig.end("b.do.1", unknown()), ["ended failed"]);
    rig
}

fn rerun(from: &[&str]) -> Event {
    Event::Rerun { from: from.iter().map(|s| (*s).to_owned()).collect(), parameters: None, by: by("ann") }
}

#[test]
fn a_failed_run_goes_on_from_what_failed_under_the_same_key() {
    let mut rig = failed_run();
    assert_eq!(rig.tell(rerun(&[])), ["start b.do.2"], "it may have happened: its key stays, its attempt counts on");
    assert_eq!(rig.steps(), "a:done b:running c:done last:waiting");
    assert_eq!(rig.end("b.do.1", done()), Vec::<String>::new(), "an answer from before");
    assert_eq!(rig.end("b.do.2", gives(Value::from("B"))), ["start 2:last.do.1"]);
    assert_eq!(rig.last_body(), "B");
    assert_eq!(rig.end("2:last.do.1", done()), ["ended succeeded"]);
}

#[test]
fn what_is_done_anew_gets_new_keys_downstream_and_all() {
    let mut rig = failed_run();
    assert_eq!(rig.tell(rerun(&["a"])), ["start 2:a.do.1"]);
    assert_eq!(rig.steps(), "a:running b:waiting c:waiting last:waiting");
    assert_eq!(rig.end("2:a.do.1", done()), ["start 2:b.do.1", "start 2:c.do.1"]);
    for (event, says) in [(rerun(&[]), "not over"), (rerun(&["x"]), "not over")] {
        rig.notes();
        rig.tell(event);
        assert!(rig.notes().iter().any(|note| note.reason.contains(says)));
    }
}

#[test]
fn a_fan_out_runs_again_only_where_it_failed() {
    let once = Retry { attempts: 1, ..step("", &[]).retry };
    let fan = Step { each: each(&["a", "b", "c"], 3, 0), retry: once, ..step("fan", &[]) };
    let (mut rig, _) = Rig::begun(workflow(vec![fan]));
    rig.end("fan.do.1", gives(Value::from("A")));
    rig.end("fan[1].do.1", fails());
    rig.end("fan[2].do.1", gives(Value::from("C")));
    assert_eq!((rig.status(), rig.tell(rerun(&[]))), ("failed", vec!["start fan[1].do.2".to_owned()]));
    rig.end("fan[1].do.2", gives(Value::from("B")));
    let output = rig.run.state().steps[0].output.as_ref().unwrap();
    assert_eq!(output.to_string(), r#"["A","B","C"]"#);
}

#[test]
fn another_input_gives_new_keys_and_is_checked() {
    let mut definition = workflow(vec![Step { work: call("${parameters.n}"), ..step("a", &[]) }]);
    let parameter = Parameter { kind: ParameterKind::Number, default: Some(Value::Number(1.0)) };
    definition.parameters.insert("n".into(), parameter);
    let (mut rig, _) = Rig::begun(definition);
    rig.end("a.do.1", business());
    let with = |value: Value| Event::Rerun {
        from: Vec::new(),
        parameters: Some([("n".to_owned(), value)].into()),
        by: by("ann"),
    };
    assert_eq!(rig.tell(with(Value::from("x"))), Vec::<String>::new());
    assert_eq!((rig.was_ignored(), rig.status()), (true, "failed"));
    assert_eq!(rig.tell(with(Value::Number(2.0))), ["start 2:a.do.1"], "the same key must not mean another input");
    assert_eq!(rig.last_body(), "2");
}

#[test]
fn a_saga_runs_again_as_a_whole() {
    let (mut rig, _) = Rig::begun(transfer());
    rig.end("reserve.do.1", business());
    rig.end("reserve.undo.1", done());
    assert_eq!(rig.tell(rerun(&["charge"])), Vec::<String>::new());
    assert!(rig.was_ignored());
    assert_eq!(rig.tell(rerun(&[])), ["start 2:reserve.do.1"]);
}

#[test]
fn nothing_of_a_saga_that_runs_again_keeps_its_old_key() {
    let look =
        Step { kind: Some(Kind::Compensable), retry: Retry { attempts: 1, ..Retry::default() }, ..step("look", &[]) };
    let (mut rig, _) = Rig::begun(workflow(vec![look, undoable("charge", &["look"])]));
    assert_eq!(rig.end("look.do.1", unknown()), ["ended rolled-back"], "it changes nothing: there is nothing to undo");
    assert_eq!(rig.tell(rerun(&[])), ["start 2:look.do.1"]);
}

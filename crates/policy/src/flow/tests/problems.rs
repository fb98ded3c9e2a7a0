//! Definitions that cannot run, and submissions that are refused.

use super::*;

fn problems(definition: Definition) -> String {
    let submission = Submission { run: "r".into(), ..Submission::default() };
    match Run::new(Arc::new(definition), submission, Timestamp::ZERO) {
        Err(NotARun::Definition(problems)) => problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; "),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_wrong_with_a_definition() {
    let (pivot, retriable) = (Kind::Pivot, Kind::Retriable);
    for (steps, says) in [
        (vec![], "no step"),
        (vec![step("a", &[]), step("a", &[])], "two steps are called `a`"),
        (vec![step("a", &["b"])], "`a` comes after `b`, which does not exist"),
        (vec![step("a", &["c"]), step("b", &[]), step("c", &["a"])], "wait for each other: a, c"),
        (vec![step("a", &["a"])], "wait for each other: a"),
        (vec![Step { work: call("${steps.b.output}"), ..step("a", &[]) }, step("b", &[])], "no step that comes before"),
        (vec![Step { work: call("${parameters.x}"), ..step("a", &[]) }], "`${parameters.x}` is no parameter"),
        (vec![Step { work: call("${item}"), ..step("a", &[]) }], "outside of a `for_each`"),
        (vec![Step { work: call("${steps.a.state}"), ..step("a", &[]) }], "neither `output` nor `error`"),
        (vec![Step { work: call("${env.x}"), ..step("a", &[]) }], "begins with none of"),
        (vec![Step { when: Some(Expr::parse("${x} == 1").unwrap()), ..step("a", &[]) }], "begins with none of"),
        (vec![Step { each: each(&["x"], 101, 0), ..step("a", &[]) }], "width is 1 to 100"),
        (vec![Step { undo: Some(Work::Sleep(Duration::ZERO)), ..step("a", &[]) }], "an undo is a command or a call"),
        (
            vec![undoable("u", &[]), of_kind(pivot, "a", &["u"]), of_kind(pivot, "b", &["a"])],
            "`a` and `b` are both the pivot",
        ),
        (vec![of_kind(pivot, "a", &[]), undoable("b", &["a"])], "`b` is compensable and does not come before"),
        (vec![undoable("a", &[]), of_kind(pivot, "b", &["a"]), step("c", &[])], "`c` cannot be undone"),
        (vec![undoable("a", &[]), undoable("b", &[]), step("c", &["a"])], "`c` cannot be undone"),
        (
            vec![undoable("a", &[]), Step { each: each(&["x"], 1, 0), ..of_kind(pivot, "b", &["a"]) }],
            "a pivot has no `for_each`",
        ),
        (
            vec![undoable("a", &[]), Step { trigger: Trigger::AllDone, ..of_kind(retriable, "b", &["a"]) }],
            "the only trigger is all-ok",
        ),
    ] {
        let got = problems(workflow(steps));
        assert!(got.contains(says), "{got}");
    }
    let many = (0..STEPS_MAX + 1).map(|n| step(&n.to_string(), &[])).collect();
    let rounds = Definition { rounds: 11, ..transfer() };
    assert!(problems(rounds).contains("11 more rounds, at most 10"));
    assert!(problems(workflow(many)).contains("1001 steps, at most 1000"));
    assert!(
        Run::new(Arc::new(transfer()), Submission { run: "r".into(), ..Submission::default() }, Timestamp::ZERO)
            .is_ok()
    );
}

#[test]
fn parameters_are_checked_and_completed() {
    let parameter = |kind, default| Parameter { kind, default };
    let mut definition = workflow(vec![Step { work: call("${parameters.day} ${parameters.n}"), ..step("a", &[]) }]);
    definition.parameters.insert("day".into(), parameter(ParameterKind::Date, None));
    definition.parameters.insert("n".into(), parameter(ParameterKind::Integer, Some(Value::Number(1.0))));
    let given = |day: &str| BTreeMap::from([("day".to_owned(), Value::from(day))]);
    let accept = |given: &BTreeMap<String, Value>| definition.accept(given);
    assert_eq!(accept(&given("2024-02-29")).unwrap()["n"], Value::Number(1.0));
    for day in ["2023-02-29", "2024-13-01", "2024-1-01", "2024-04-31", "today", ""] {
        assert!(accept(&given(day)).unwrap_err().contains("`day` must be a date"), "{day}");
    }
    assert_eq!(accept(&BTreeMap::new()).unwrap_err(), "parameter `day` is missing");
    let mut more = given("2024-02-29");
    more.insert("n".into(), Value::Number(1.5));
    assert!(accept(&more).unwrap_err().contains("`n` must be a whole number, not a number"));
    more.insert("x".into(), Value::Null);
    assert!(accept(&more).unwrap_err().contains("has no parameter `x`"));
    let mut rig = Rig::with(definition, given("2024-02-29"));
    rig.tell(Event::Begin);
    assert_eq!(rig.last_body(), "2024-02-29 1");
}

#[test]
fn a_state_of_another_definition_is_refused() {
    let rig = Rig::new(workflow(vec![step("a", &[])]));
    let other = Arc::new(workflow(vec![step("a", &[]), step("b", &[])]));
    let refused = Run::from_state(other, rig.run.state().clone()).unwrap_err();
    assert!(refused.to_string().contains("run r was not begun with this definition"), "{refused}");
    for name in ["", "a/b"] {
        let submission = Submission { run: name.into(), ..Submission::default() };
        let definition = Arc::new(workflow(vec![step("a", &[])]));
        assert_eq!(Run::new(definition, submission, Timestamp::ZERO).unwrap_err(), NotARun::Name(name.into()));
    }
}

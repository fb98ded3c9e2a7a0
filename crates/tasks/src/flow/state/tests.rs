//! What is read is what was stored, in every field.

use proptest::collection::{btree_map, btree_set, vec, vec_deque};
use proptest::option;
use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    "[a-zäß\"\\\\\n]{0,6}"
}

fn at() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_nanos)
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<f64>().prop_filter("it is equal to itself", |n| !n.is_nan()).prop_map(Value::Number),
        text().prop_map(Value::Text),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![vec(inner.clone(), 0..3).prop_map(Value::List), btree_map(text(), inner, 0..3).prop_map(Value::Map)]
    })
}

fn run_phase() -> impl Strategy<Value = RunPhase> {
    prop_oneof![
        Just(RunPhase::Queued),
        Just(RunPhase::Running),
        any::<bool>().prop_map(|timed_out| RunPhase::Stopping { timed_out }),
        Just(RunPhase::RollingBack),
        at().prop_map(|at| RunPhase::BetweenRounds { at }),
        Just(RunPhase::Succeeded),
        Just(RunPhase::Failed),
        Just(RunPhase::Cancelled),
        Just(RunPhase::RolledBack),
    ]
}

fn halting() -> impl Strategy<Value = Halting> {
    let why = prop_oneof![
        Just(Halt::WaitLimit),
        Just(Halt::RunLimit),
        Just(Halt::Heartbeat),
        Just(Halt::TotalLimit),
        Just(Halt::Cancelled),
        Just(Halt::Rollback),
    ];
    (why, option::of(at())).prop_map(|(why, until)| Halting { why, until })
}

fn phase() -> impl Strategy<Value = Phase> {
    let times = (any::<bool>(), option::of(at()), at(), option::of(at()), option::of(at()), option::of(halting()));
    let running = times.prop_map(|(slot, started, heard, wake, poll, halt)| {
        Phase::Running(Running { slot, started, heard, wake, poll, halt })
    });
    prop_oneof![
        Just(Phase::Idle),
        Just(Phase::Ready),
        Just(Phase::Asking),
        running,
        at().prop_map(|at| Phase::Retrying { at }),
        Just(Phase::Done),
        Just(Phase::Failed),
        Just(Phase::Skipped),
        Just(Phase::Cancelled),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let counts = (any::<u32>(), any::<u32>(), any::<u32>(), any::<bool>(), any::<bool>());
    (phase(), counts, at(), option::of(at()), option::of(text())).prop_map(|(phase, counts, ready, began, error)| {
        let (attempt, ran, failures, doubt, paged) = counts;
        Call { phase, attempt, ran, failures, doubt, paged, ready, began, error }
    })
}

fn step() -> impl Strategy<Value = StepState> {
    let phase = prop_oneof![
        Just(StepPhase::Waiting),
        Just(StepPhase::Open),
        Just(StepPhase::Blocked),
        Just(StepPhase::Done),
        Just(StepPhase::Failed),
        Just(StepPhase::Skipped),
        Just(StepPhase::Cancelled),
        Just(StepPhase::Undoing),
        Just(StepPhase::Undone),
    ];
    let item = (call(), call(), option::of(value()), any::<bool>())
        .prop_map(|(action, undo, output, undo_again)| Item { action, undo, output, undo_again });
    let counts = (any::<u32>(), any::<u32>(), any::<u32>());
    let ends = (option::of(value()), option::of(text()));
    (phase, option::of(vec(value(), 0..3)), vec(item, 0..3), btree_set(any::<u32>(), 0..3), counts, ends).prop_map(
        |(phase, values, items, live, (round, failed, undo_left), (output, error))| StepState {
            phase,
            round,
            values,
            items,
            live,
            failed,
            undo_left,
            output,
            error,
        },
    )
}

prop_compose! {
    fn word()(at in at(), by in text(), what in text(), reason in text()) -> Audit {
        Audit { at, by, what, reason }
    }
}

prop_compose! {
    fn some_state()(
        (run, workflow, nominal, cause, pending) in (text(), text(), option::of(text()), option::of(text()), option::of(text())),
        parameters in btree_map(text(), value(), 0..3),
        (version, round, rounds_again) in (any::<u64>(), any::<u32>(), any::<u32>()),
        (seen, began, ended) in (at(), at(), option::of(at())),
        (paused, again, overdue, started) in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        phase in run_phase(),
        steps in vec(step(), 0..3),
        signals in btree_map(text(), vec_deque(value(), 0..3), 0..3),
        signals_seen in vec_deque(text(), 0..3),
        audit in vec_deque(word(), 0..3),
    ) -> State {
        State {
            run, workflow, parameters, nominal, version, seen, began, ended, phase, paused, round, rounds_again, cause, again,
            pending, overdue, started, steps, signals, signals_seen, audit,
        }
    }
}

proptest! {
    #[test]
    fn a_state_comes_back_as_it_was(state in some_state()) {
        let text = encode(&state).expect("it is encoded");
        prop_assert_eq!(decode(&text).expect("it is read"), state);
    }
}

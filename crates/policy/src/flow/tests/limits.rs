//! Limits of attempts and runs, in engine time.

use super::*;

fn limited(limits: Limits) -> Step {
    Step { limits, ..step("a", &[]) }
}

fn seconds(n: u64) -> Option<Duration> {
    Some(Duration::from_secs(n))
}

#[test]
fn an_attempt_that_runs_too_long_is_stopped_and_another_follows() {
    let (mut rig, _) = Rig::begun(workflow(vec![limited(Limits { run: seconds(10), ..Limits::default() })]));
    assert_eq!(rig.pass_s(9), Vec::<String>::new());
    assert_eq!(rig.pass_s(1), ["stop a.do.1"]);
    assert_eq!(rig.pass_s(5), Vec::<String>::new(), "never two at once");
    assert_eq!(rig.end("a.do.1", unknown()), Vec::<String>::new());
    assert_eq!(rig.pass_s(1), ["start a.do.2"]);
    rig.pass_s(10);
    assert_eq!(rig.end("a.do.2", done()), ["ended succeeded"], "it was quicker than the stop");
}

#[test]
fn silence_ends_an_attempt_and_a_heartbeat_does_not_lengthen_its_run_limit() {
    let limits = Limits { run: seconds(12), heartbeat: seconds(5), ..Limits::default() };
    let (mut rig, _) = Rig::begun(workflow(vec![limited(limits)]));
    for _ in 0..2 {
        assert_eq!(rig.pass_s(4), Vec::<String>::new());
        rig.tell(Event::Heartbeat { key: long("a.do.1") });
    }
    assert_eq!(rig.pass_s(3), Vec::<String>::new());
    rig.tell(Event::Heartbeat { key: long("a.do.1") });
    assert_eq!(rig.pass_s(1), ["stop a.do.1"], "12 s");
    rig.end("a.do.1", unknown());
    rig.pass_s(1);
    assert_eq!(rig.pass_s(5), ["stop a.do.2"], "silent");
    rig.end("a.do.2", unknown());
    let error = rig.run.state().steps[0].items[0].action.error.clone();
    assert_eq!(error.as_deref(), Some("it was silent for longer than its heartbeat: cut off"));
}

#[test]
fn silence_while_the_engine_was_away_is_nobodys_fault() {
    let (mut rig, _) = Rig::begun(workflow(vec![limited(Limits { heartbeat: seconds(5), ..Limits::default() })]));
    rig.now = rig.now + Duration::from_secs(600);
    assert_eq!(rig.crash(), ["again a.do.1"]);
    assert_eq!(rig.pass_s(4), Vec::<String>::new());
    assert_eq!(rig.pass_s(1), ["stop a.do.1"]);
}

#[test]
fn all_attempts_together_have_a_limit() {
    let (mut rig, _) = Rig::begun(workflow(vec![limited(Limits { total: seconds(3), ..Limits::default() })]));
    rig.pass_s(1);
    rig.end("a.do.1", fails());
    assert_eq!(rig.pass_s(1), ["start a.do.2"]);
    assert_eq!(rig.pass_s(1), ["stop a.do.2"]);
    assert_eq!(rig.end("a.do.2", unknown()), ["ended failed"], "no third one");

    let (mut rig, _) = Rig::begun(workflow(vec![limited(Limits { total: seconds(3), ..Limits::default() })]));
    rig.pass_s(2);
    rig.end("a.do.1", fails());
    assert_eq!(rig.pass_s(1), ["ended failed"], "the back-off ends with the limit");
}

#[test]
fn what_is_not_started_in_time_fails_wherever_it_waits() {
    let limits = Limits { wait: seconds(10), ..Limits::default() };
    let pooled = Step { pool: Some("db".into()), ..limited(limits) };
    let (mut rig, _) = Rig::begun(workflow(vec![pooled]));
    assert_eq!(rig.pass_s(10), ["release db a.do.1", "ended failed"], "for a slot");

    let work = Work::Send { queue: "q".into(), body: Template::literal("x"), wait_for_worker: true };
    let (mut rig, _) = Rig::begun(workflow(vec![Step { work: work.clone(), ..limited(limits) }]));
    assert_eq!(rig.pass_s(10), ["stop a.do.1"], "for a worker");
    assert_eq!(rig.end("a.do.1", unknown()), ["ended failed"]);

    let (mut rig, _) = Rig::begun(workflow(vec![Step { work, ..limited(limits) }]));
    rig.pass_s(9);
    rig.tell(Event::Started { key: long("a.do.1") });
    assert_eq!(rig.pass_s(3_600), Vec::<String>::new(), "a worker has it");

    let busy = Definition { concurrency: 1, ..workflow(vec![step("0", &[]), limited(limits)]) };
    let (mut rig, _) = Rig::begun(busy);
    rig.pass_s(10);
    assert_eq!(rig.steps(), "0:running a:failed", "for room in the run");
}

#[test]
fn a_signal_that_does_not_come_fails_the_step() {
    let work = Work::Wait { signal: "approved".into() };
    let retry = Retry { attempts: 1, ..Retry::default() };
    let gate = Step { work, retry, ..limited(Limits { run: seconds(60), ..Limits::default() }) };
    let (mut rig, _) = Rig::begun(workflow(vec![gate]));
    assert_eq!(rig.pass_s(60), ["ended failed"]);
    rig.tell(signal("1", "approved", Value::Null));
    assert_eq!(rig.steps(), "a:failed");
}

#[test]
fn the_run_has_limits_of_its_own() {
    let definition = Definition { timeout: seconds(100), wait: seconds(10), ..workflow(vec![step("a", &[])]) };
    let mut rig = Rig::new(definition.clone());
    assert_eq!(rig.pass_s(10), ["ended failed"], "nobody began it");
    let (mut rig, _) = Rig::begun(definition.clone());
    assert_eq!(rig.pass_s(99), Vec::<String>::new());
    assert_eq!(rig.pass_s(1), ["stop a.do.1"]);
    assert_eq!(rig.end("a.do.1", unknown()), ["ended failed"], "not cancelled");
    let (mut rig, _) = Rig::begun(Definition { timeout: None, ..definition });
    assert_eq!(rig.pass(RUN_LIMIT), ["stop a.do.1"]);
}

#[test]
fn time_that_goes_back_moves_nothing() {
    let (mut rig, _) = Rig::begun(workflow(vec![limited(Limits { run: seconds(10), ..Limits::default() })]));
    rig.pass_s(5);
    rig.now = Timestamp::ZERO;
    rig.tell(Event::Time);
    assert_eq!(rig.run.state().seen, Timestamp::from_millis(5_000));
    assert_eq!(rig.pass_s(10), ["stop a.do.1"]);
}

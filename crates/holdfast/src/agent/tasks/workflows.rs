//! Workflows of the file in the words of the plane.

use std::collections::BTreeMap;

use holdfast_config::{
    Config, ForEach, HttpCall, Items, OVERLAPS, PARAMETER_KINDS, STEP_KINDS, StepWork, TRIGGERS, Undo, spelling,
};
use holdfast_policy::flow::Parameter;
use holdfast_policy::schedule::Missed;
use holdfast_policy::time::millis;
use holdfast_tasks::definition::{Call, Each, Given, Made, Step, Work, Workflow};

use super::value;

pub(super) fn workflow(config: &Config, w: &holdfast_config::Workflow) -> Workflow {
    Workflow {
        name: w.name.clone(),
        parameters: w.parameters.iter().map(|(name, parameter)| (name.clone(), given(parameter))).collect(),
        schedule: w.schedule.iter().map(|pattern| pattern.text.clone()).collect(),
        timezone: w.timezone.clone(),
        missed: match w.missed {
            Missed::None => Made::None,
            Missed::Latest => Made::Latest,
            Missed::All { max } => Made::All(max),
        },
        overlap: spelling(OVERLAPS, &w.overlap).to_owned(),
        timeout_ms: millis(w.timeout),
        wait_ms: w.wait.map(millis),
        concurrency: w.concurrency,
        priority: w.priority,
        keep_ms: millis(w.keep),
        rounds: w.rounds,
        round_delay_ms: millis(w.round_delay),
        steps: w.steps.values().map(|step| self::step(config, step)).collect(),
    }
}

fn given(parameter: &Parameter) -> Given {
    let kind = spelling(PARAMETER_KINDS, &parameter.kind).to_owned();
    Given { kind, default: parameter.default.as_ref().map(json) }
}

fn json(value: &holdfast_policy::flow::Value) -> serde_json::Value {
    serde_json::from_str(&value.to_string()).unwrap_or_default()
}

fn step(config: &Config, s: &holdfast_config::Step) -> Step {
    let backoff = s.retry.backoff;
    Step {
        name: s.name.clone(),
        after: s.after.iter().cloned().collect(),
        when: s.when.clone(),
        trigger: spelling(TRIGGERS, &s.trigger).to_owned(),
        each: s.for_each.as_ref().map(each),
        work: work(config, &s.work),
        env: s.env.iter().map(|(name, v)| (name.clone(), value(v))).collect(),
        workdir: Some(s.workdir.clone()),
        user: s.user.clone(),
        attempts: s.retry.attempts,
        base_ms: millis(backoff.base),
        factor: backoff.factor,
        max_ms: millis(backoff.max),
        jitter: backoff.jitter,
        terminal: s.terminal.clone(),
        limit_wait_ms: s.limits.wait.map(millis),
        limit_run_ms: s.limits.run.map(millis),
        limit_total_ms: s.limits.total.map(millis),
        limit_heartbeat_ms: s.limits.heartbeat.map(millis),
        pool: s.pool.clone(),
        priority: s.priority,
        undo: s.undo.as_ref().map(|undo| match undo {
            Undo::Command(argv) => Work::Command(argv.clone()),
            Undo::Http(call) => Work::Http(http(call)),
        }),
        kind: s.kind.map(|kind| spelling(STEP_KINDS, &kind).to_owned()),
    }
}

fn each(each: &ForEach) -> Each {
    let (from, list) = match &each.items {
        Items::Reference(reference) => (Some(reference.clone()), Vec::new()),
        Items::List(items) => (None, items.clone()),
    };
    Each { from, list, width: each.width, items_max: each.items_max, allow_failed: each.allow_failed }
}

fn work(config: &Config, work: &StepWork) -> Work {
    match work {
        StepWork::Command(argv) => Work::Command(argv.clone()),
        StepWork::Http(call) => Work::Http(http(call)),
        StepWork::Send(send) => Work::Send {
            queue: config.queues.get(&send.queue).map_or_else(|| send.queue.clone(), |queue| queue.sqs_name()),
            body: send.body.clone(),
            group: send.group.clone(),
            wait_for_worker: send.wait_for_worker,
        },
        StepWork::Wait(signal) => Work::Wait(signal.clone()),
        StepWork::Sleep(time) => Work::SleepMs(millis(*time)),
        StepWork::Run(run) => {
            let parameters: BTreeMap<_, _> = run.parameters.iter().map(|(name, v)| (name.clone(), json(v))).collect();
            Work::Run { workflow: run.workflow.clone(), parameters }
        }
    }
}

fn http(call: &HttpCall) -> Call {
    Call {
        url: call.url.clone(),
        method: call.method.to_owned(),
        headers: call.headers.iter().map(|(name, v)| (name.clone(), value(v))).collect(),
        body: call.body.clone(),
    }
}

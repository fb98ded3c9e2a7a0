//! The routes of runs.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use axum::{Json, Router};
use holdfast_policy::Timestamp;
use holdfast_policy::flow::{self, Event, Key, Phase, Run, StepState, Verb};
use holdfast_policy::schedule::rfc3339;
use serde::Deserialize;

use super::forward::forward;
use super::{
    AuditInfo, By, Operate, PoolInfo, RUNS_SHOWN_MAX, Retry, RunDetail, RunInfo, ScheduleInfo, Schedules, Signal,
    StepInfo, Submit, SubmitDone, TryInfo,
};
use crate::clock::Clock;
use crate::control::routes::Answer;
use crate::error::{Error, Result};
use crate::flow::declared::Work;
use crate::flow::stored::{AttemptRow, Filter, RunRow};
use crate::flow::value::{from_json, to_json};
use crate::flow::{read_log, state, typed};
use crate::plane::Plane;

pub(crate) fn router(plane: &Plane) -> Router<Plane> {
    Router::new()
        .route("/v1/runs", get(list).post(submit))
        .route("/v1/runs/{id}", get(show))
        .route("/v1/runs/{id}/log", get(log))
        .route("/v1/runs/{id}/signal", post(signal))
        .route("/v1/runs/{id}/cancel", post(cancel))
        .route("/v1/runs/{id}/pause", post(pause))
        .route("/v1/runs/{id}/resume", post(resume))
        .route("/v1/runs/{id}/retry", post(retry))
        .route("/v1/runs/{id}/operate", post(operate))
        .route("/v1/schedules", get(schedules))
        .route("/v1/schedules/resume", post(resume_schedules))
        .route("/v1/pools", get(pools))
        .layer(from_fn_with_state(plane.clone(), forward))
}

async fn submit(State(plane): State<Plane>, Json(wish): Json<Submit>) -> Answer<SubmitDone> {
    let submitted = plane.flows.submit(&wish.workflow, values(wish.parameters), wish.key).await?;
    Ok(Json(SubmitDone { run: submitted.id, duplicate: !submitted.fresh }))
}

fn values(json: BTreeMap<String, serde_json::Value>) -> BTreeMap<String, flow::Value> {
    json.into_iter().map(|(name, value)| (name, from_json(value))).collect()
}

#[derive(Deserialize)]
struct Look {
    workflow: Option<String>,
    status: Option<String>,
    many: Option<u32>,
}

async fn list(State(plane): State<Plane>, Query(look): Query<Look>) -> Answer<Vec<RunInfo>> {
    let many = look.many.unwrap_or(20).min(RUNS_SHOWN_MAX);
    let filter = Filter { workflow: look.workflow, status: look.status, many };
    let clock = plane.desk.store.clock();
    Ok(Json(plane.desk.store.runs(filter).await?.into_iter().map(|row| info(row, clock)).collect()))
}

fn info(row: RunRow, clock: &Clock) -> RunInfo {
    RunInfo {
        id: row.id,
        workflow: row.workflow,
        status: row.status,
        over: row.over,
        created_wall_ms: clock.wall(row.created),
        ended_wall_ms: row.ended.map(|at| clock.wall(at)),
        nominal: row.nominal.map(rfc3339),
        parent: row.parent,
        key: row.key.and_then(|key| key.strip_prefix("key:").map(str::to_owned)),
        error: row.error,
        output: row.output.and_then(|text| serde_json::from_str(&text).ok()),
    }
}

async fn show(State(plane): State<Plane>, Path(id): Path<String>) -> Answer<RunDetail> {
    let row = plane.desk.store.flow_run(&id).await?;
    let attempts = plane.desk.store.run_attempts(&id).await?;
    let pinned = plane.flows.pinned(&row.definition).await?;
    let stored = state::decode(&row.state)?;
    let clock = plane.desk.store.clock();
    let run = Run::from_state(pinned.machine.clone(), stored.clone())
        .map_err(|why| Error::RunRefuses { run: id, reason: why.to_string() })?;
    let tries: Vec<TryInfo> = attempts.into_iter().filter_map(|row| tried(row, clock)).collect();
    let mut steps = Vec::with_capacity(stored.steps.len());
    for (declared, state) in pinned.declared.steps.iter().zip(&stored.steps) {
        steps.push(StepInfo {
            name: declared.name.clone(),
            after: declared.after.clone(),
            kind: kind(&declared.work).to_owned(),
            status: run.step_status(&declared.name).map_or("waiting", flow::StepStatus::name).to_owned(),
            attempts: tries.iter().filter(|tried| tried.step == declared.name).count(),
            items: declared.each.as_ref().map(|_| items(state)),
            retry_wall_ms: retry_at(state).map(|at| clock.wall(millis(at))),
            output: state.output.as_ref().map(to_json),
            error: state.error.clone().or_else(|| latest_error(state)),
        });
    }
    let audit = stored.audit.iter().map(|word| AuditInfo {
        at_wall_ms: clock.wall(millis(word.at)),
        by: word.by.clone(),
        what: word.what.clone(),
        reason: word.reason.clone(),
    });
    Ok(Json(RunDetail {
        saga: pinned.machine.is_saga(),
        parameters: stored.parameters.iter().map(|(name, value)| (name.clone(), to_json(value))).collect(),
        round: stored.round,
        steps: in_order(steps),
        attempts: tries,
        signals: stored.signals.iter().map(|(name, waiting)| (name.clone(), waiting.len())).collect(),
        audit: audit.collect(),
        now_wall_ms: clock.wall(clock.now()),
        run: info(row, clock),
    }))
}

fn millis(at: Timestamp) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

fn kind(work: &Work) -> &'static str {
    match work {
        Work::Command(_) => "command",
        Work::Http(_) => "http",
        Work::Send { .. } => "send",
        Work::Wait(_) => "wait",
        Work::SleepMs(_) => "sleep",
        Work::Run { .. } => "run",
    }
}

fn items(state: &StepState) -> (usize, usize, u32) {
    let all = state.values.as_ref().map_or(0, Vec::len);
    (all, state.items.iter().filter(|item| item.action.phase == Phase::Done).count(), state.failed)
}

fn retry_at(state: &StepState) -> Option<Timestamp> {
    let calls = state.items.iter().flat_map(|item| [&item.action, &item.undo]);
    let times = calls.filter_map(|call| match call.phase {
        Phase::Retrying { at } => Some(at),
        _ => None,
    });
    times.min()
}

/// Of what is not over.
fn latest_error(state: &StepState) -> Option<String> {
    let live = state.live.iter().filter_map(|item| state.items.get(*item as usize));
    live.flat_map(|item| [&item.undo, &item.action]).find_map(|call| call.error.clone())
}

/// Each step after those that it depends on; else by name.
fn in_order(steps: Vec<StepInfo>) -> Vec<StepInfo> {
    let mut left = steps;
    let mut sorted: Vec<StepInfo> = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let ready = |step: &StepInfo| step.after.iter().all(|need| sorted.iter().any(|done| done.name == *need));
        let next = left.iter().position(ready).unwrap_or(0);
        sorted.push(left.remove(next));
    }
    sorted
}

fn tried(row: AttemptRow, clock: &Clock) -> Option<TryInfo> {
    let key: Key = format!("{}/{}", row.barrier, row.attempt).parse().ok()?;
    Some(TryInfo {
        step: key.step,
        item: key.item,
        operation: key.operation.name().to_owned(),
        round: key.round,
        attempt: key.attempt,
        began_wall_ms: clock.wall(row.began),
        ended_wall_ms: row.ended.map(|at| clock.wall(at)),
        outcome: row.outcome,
        words: row.words,
        output: row.output,
    })
}

#[derive(Deserialize)]
struct Which {
    step: String,
    item: Option<u32>,
    operation: Option<String>,
    attempt: Option<u32>,
}

/// What an attempt printed: the latest, unless it is said which.
async fn log(State(plane): State<Plane>, Path(id): Path<String>, Query(which): Query<Which>) -> Answer<TryInfo> {
    let row = plane.desk.store.flow_run(&id).await?;
    let clock = plane.desk.store.clock();
    let attempts = plane.desk.store.run_attempts(&row.id).await?;
    let wanted = |key: &Key| {
        key.step == which.step
            && which.item.is_none_or(|item| key.item == item)
            && which.operation.as_deref().is_none_or(|operation| key.operation.name() == operation)
            && which.attempt.is_none_or(|attempt| key.attempt == attempt)
    };
    let found = attempts.into_iter().rev().find_map(|row| {
        let key: Key = format!("{}/{}", row.barrier, row.attempt).parse().ok()?;
        wanted(&key).then_some((key, row))
    });
    let none = || Error::RunRefuses { run: id.clone(), reason: format!("step `{}` has no such attempt", which.step) };
    let (key, row) = found.ok_or_else(none)?;
    let all = read_log(plane.flows.files(), &key);
    let mut tried = tried(row, clock).ok_or_else(none)?;
    tried.output = all.or(tried.output);
    Ok(Json(tried))
}

async fn signal(State(plane): State<Plane>, Path(id): Path<String>, Json(signal): Json<Signal>) -> Answer<()> {
    let event = Event::Signal { id: signal.id, name: signal.name, data: from_json(signal.data) };
    Ok(Json(plane.flows.tell(&id, event).await?))
}

async fn cancel(State(plane): State<Plane>, Path(id): Path<String>, Json(By { by }): Json<By>) -> Answer<()> {
    Ok(Json(plane.flows.tell(&id, Event::Cancel { by }).await?))
}

async fn pause(State(plane): State<Plane>, Path(id): Path<String>, Json(By { by }): Json<By>) -> Answer<()> {
    Ok(Json(plane.flows.tell(&id, Event::Pause { by }).await?))
}

async fn resume(State(plane): State<Plane>, Path(id): Path<String>, Json(By { by }): Json<By>) -> Answer<()> {
    Ok(Json(plane.flows.tell(&id, Event::Resume { by }).await?))
}

async fn retry(State(plane): State<Plane>, Path(id): Path<String>, Json(wish): Json<Retry>) -> Answer<()> {
    let row = plane.desk.store.flow_run(&id).await?;
    let parameters = match wish.parameters {
        None => None,
        Some(given) => Some(typed(&plane.flows.pinned(&row.definition).await?.declared, values(given))?),
    };
    let event = Event::Rerun { from: wish.from, parameters, by: wish.by };
    Ok(Json(plane.flows.rerun(&id, event).await?))
}

async fn operate(State(plane): State<Plane>, Path(id): Path<String>, Json(wish): Json<Operate>) -> Answer<()> {
    let verb = verb(&id, &wish)?;
    let Operate { step, item, reason, by, .. } = wish;
    Ok(Json(plane.flows.tell(&id, Event::Operator { step, item, verb, by, reason }).await?))
}

fn verb(run: &str, wish: &Operate) -> Result<Verb> {
    match wish.verb.as_str() {
        "retry" => Ok(Verb::Retry),
        "skip" => Ok(Verb::Skip),
        "done" => Ok(Verb::MarkDone { output: from_json(wish.output.clone()) }),
        "failed" => Ok(Verb::MarkFailed),
        other => {
            Err(Error::RunRefuses { run: run.to_owned(), reason: format!("nobody knows how to `{other}` a step") })
        }
    }
}

async fn schedules(State(plane): State<Plane>) -> Answer<Schedules> {
    let definition = plane.definition();
    let planned = plane.flows.planned();
    let scheduled = definition.workflows.values().filter(|workflow| !workflow.schedule.is_empty());
    let schedules = scheduled.map(|workflow| {
        let known = planned.iter().find(|planned| planned.workflow == workflow.name);
        ScheduleInfo {
            workflow: workflow.name.clone(),
            patterns: workflow.schedule.clone(),
            timezone: workflow.timezone.clone(),
            watermark: known.map(|known| known.watermark.clone()),
            next: known.and_then(|known| known.next.clone()),
        }
    });
    Ok(Json(Schedules { clock_off_s: plane.flows.paused_by_clock(), schedules: schedules.collect() }))
}

async fn resume_schedules(State(plane): State<Plane>) -> Answer<()> {
    plane.flows.resume_schedules();
    Ok(Json(()))
}

async fn pools(State(plane): State<Plane>) -> Answer<Vec<PoolInfo>> {
    let told = |(name, (slots, held, waiting))| PoolInfo { name, slots, held, waiting };
    Ok(Json(plane.flows.pool_counts().into_iter().map(told).collect()))
}

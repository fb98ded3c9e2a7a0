use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::expr::{Expr, Template};
use super::*;
use crate::backoff::Backoff;
use crate::rng::Rng;
use crate::{Timestamp, Transition};

mod checklist;
mod limits;
mod operators;
mod plain;
mod problems;

mod simulation;
mod slots;

/// A call with a body, retried after 1, 2, 4 … s.
fn step(name: &str, after: &[&str]) -> Step {
    let (base, max) = (Duration::from_secs(1), Duration::from_secs(60));
    Step {
        name: name.into(),
        after: after.iter().map(|name| (*name).to_owned()).collect(),
        when: None,
        trigger: Trigger::AllOk,
        each: None,
        work: call(name),
        retry: Retry { attempts: 3, backoff: Backoff { base, factor: 2.0, max, jitter: 0.0 } },
        limits: Limits::default(),
        pool: None,
        priority: None,
        undo: None,
        kind: None,
    }
}

fn call(body: &str) -> Work {
    let (url, body) = (Template::literal("http://pay/"), Some(Template::parse(body).unwrap()));
    Work::Http { url, method: "POST".into(), headers: BTreeMap::new(), body }
}

fn undoable(name: &str, after: &[&str]) -> Step {
    Step { undo: Some(call("undo")), ..step(name, after) }
}

fn of_kind(kind: Kind, name: &str, after: &[&str]) -> Step {
    Step { kind: Some(kind), ..step(name, after) }
}

fn each(items: &[&str], width: u32, allow_failed: u32) -> Option<Each> {
    let items = Items::List(items.iter().map(|item| Template::literal(item)).collect());
    Some(Each { items, width, items_max: 1_000, allow_failed })
}

fn workflow(steps: Vec<Step>) -> Definition {
    Definition { name: "w".into(), steps, concurrency: 16, ..Definition::default() }
}

/// `reserve` and `charge` can be undone, `ship` is the pivot, `mail` comes after it.
fn transfer() -> Definition {
    let ship = of_kind(Kind::Pivot, "ship", &["charge"]);
    workflow(vec![undoable("reserve", &[]), undoable("charge", &["reserve"]), ship, step("mail", &["ship"])])
}

fn done() -> Outcome {
    Outcome::Success { output: Value::Null }
}

fn gives(output: Value) -> Outcome {
    Outcome::Success { output }
}

fn fails() -> Outcome {
    Outcome::Retryable { error: "try later".into() }
}

fn business() -> Outcome {
    Outcome::Business { error: "no money".into() }
}

fn unknown() -> Outcome {
    Outcome::Unknown { error: "cut off".into() }
}

/// One run, told events by hand; actions are shown as short lines.
struct Rig {
    run: Run,
    rng: Rng,
    now: Timestamp,
    starts: Vec<Start>,
}

impl Rig {
    fn new(definition: Definition) -> Rig {
        Rig::with(definition, BTreeMap::new())
    }

    fn with(definition: Definition, parameters: BTreeMap<String, Value>) -> Rig {
        let submission = Submission { run: "r".into(), parameters, nominal: None };
        let run = Run::new(Arc::new(definition), submission, Timestamp::ZERO);
        let run = run.unwrap_or_else(|why| panic!("{why}"));
        Rig { run, rng: Rng::from_seed(1), now: Timestamp::ZERO, starts: Vec::new() }
    }

    fn begun(definition: Definition) -> (Rig, Vec<String>) {
        let mut rig = Rig::new(definition);
        let actions = rig.tell(Event::Begin);
        (rig, actions)
    }

    fn tell(&mut self, event: Event) -> Vec<String> {
        self.run.handle(self.now, event, &mut self.rng);
        self.shown()
    }

    fn shown(&mut self) -> Vec<String> {
        let actions: Vec<Action> = std::iter::from_fn(|| self.run.poll_action()).collect();
        actions.into_iter().map(|action| self.show(action)).collect()
    }

    fn show(&mut self, action: Action) -> String {
        match action {
            Action::AcquireSlot { key, pool, priority } => format!("acquire {pool} {} at {priority}", short(&key)),
            Action::HoldSlot { key, pool } => format!("hold {pool} {}", short(&key)),
            Action::ReleaseSlot { key, pool } => format!("release {pool} {}", short(&key)),
            Action::Start(start) => {
                let line = format!("{} {}", if start.again { "again" } else { "start" }, short(&start.key));
                self.starts.push(*start);
                line
            }
            Action::Stop { key, .. } => format!("stop {}", short(&key)),
            Action::Page { key, .. } => format!("page {}", key.as_ref().map_or("run".into(), short)),
            Action::Ended { status, .. } => format!("ended {}", status.name()),
        }
    }

    /// Later by so much; deadlines on the way are not told.
    fn pass(&mut self, duration: Duration) -> Vec<String> {
        self.now = self.now + duration;
        self.tell(Event::Time)
    }

    fn pass_s(&mut self, seconds: u64) -> Vec<String> {
        self.pass(Duration::from_secs(seconds))
    }

    /// To the next deadline, told at that very moment.
    fn until_deadline(&mut self) -> Vec<String> {
        self.now = self.run.next_deadline().expect("it waits for time");
        self.tell(Event::Time)
    }

    fn end(&mut self, key: &str, outcome: Outcome) -> Vec<String> {
        self.tell(Event::Ended { key: long(key), outcome })
    }

    /// The machine dies; what was stored is loaded again.
    fn crash(&mut self) -> Vec<String> {
        let definition = Arc::new(self.run.definition().clone());
        let state = self.run.state().clone();
        self.run = Run::from_state(definition, state).unwrap_or_else(|why| panic!("{why}"));
        self.run.recover(self.now);
        self.shown()
    }

    fn status(&self) -> &'static str {
        self.run.status().name()
    }

    /// `name:status` of every step.
    fn steps(&self) -> String {
        let names = self.run.definition().steps.iter().map(|step| step.name.as_str());
        let lines = names.map(|name| format!("{name}:{}", self.run.step_status(name).map_or("?", StepStatus::name)));
        lines.collect::<Vec<_>>().join(" ")
    }

    fn last_body(&self) -> String {
        match &self.starts.last().expect("something was started").job {
            Job::Http { body: Some(body), .. } => body.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn notes(&mut self) -> Vec<Transition> {
        self.run.take_notes()
    }

    /// What the machine said about the last event: it was told in vain.
    fn was_ignored(&mut self) -> bool {
        self.notes().iter().any(|note| matches!(note.to, "ignored" | "refused"))
    }
}

/// `a.do.1`, with `[2]` after the step for a child and `2:` before it for a later round.
fn short(key: &Key) -> String {
    let round = if key.round == 1 { String::new() } else { format!("{}:", key.round) };
    let item = if key.item == 0 { String::new() } else { format!("[{}]", key.item) };
    format!("{round}{}{item}.{}.{}", key.step, key.operation.name(), key.attempt)
}

fn long(text: &str) -> Key {
    let (round, rest) = text.split_once(':').map_or((1, text), |(round, rest)| (round.parse().unwrap(), rest));
    let parts: Vec<&str> = rest.split('.').collect();
    let (step, item) = parts[0].trim_end_matches(']').split_once('[').unwrap_or((parts[0], "0"));
    let operation = if parts[1] == "do" { Operation::Do } else { Operation::Undo };
    let (item, attempt) = (item.parse().unwrap(), parts[2].parse().unwrap());
    Key { run: "r".into(), round, step: step.into(), item, operation, attempt }
}

fn by(who: &str) -> String {
    who.to_owned()
}

fn operator(step: &str, verb: Verb, reason: &str) -> Event {
    Event::Operator { step: step.into(), item: 0, verb, by: by("ann"), reason: reason.into() }
}

fn signal(id: &str, name: &str, data: Value) -> Event {
    Event::Signal { id: id.into(), name: name.into(), data }
}

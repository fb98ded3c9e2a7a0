//! Runs and schedules on a store of their own, with a clock that only tests move.

use std::path::Path;

use super::declared::{Made, Step, Work};
use super::stored::{Filter, Keep, NewRun};
use super::*;
use crate::sqlite::Sqlite;

mod schedules;

/// A plane without its sockets.
struct Rig {
    dir: tempfile::TempDir,
    store: Sqlite,
    flows: Flows,
    definition: watch::Sender<Arc<Definition>>,
    closing: watch::Sender<bool>,
}

impl Rig {
    async fn new(workflows: Vec<Workflow>) -> Rig {
        let dir = tempfile::tempdir().expect("a directory");
        Rig::open(dir, workflows).await
    }

    async fn open(dir: tempfile::TempDir, workflows: Vec<Workflow>) -> Rig {
        let file = dir.path().join("tasks.db");
        let opened = tokio::task::spawn_blocking(move || Sqlite::open_by(&file, 64 << 20, || 0)).await;
        let store = opened.expect("no panic").expect("opened");
        let workflows = workflows.into_iter().map(|w| (w.name.clone(), w)).collect();
        let definition = watch::Sender::new(Arc::new(Definition { workflows, ..Definition::default() }));
        let closing = watch::Sender::new(false);
        let nothing = Path::new("/nonexistent").to_owned();
        let flows = Flows::new(Ground {
            desk: Desk::open(Arc::new(store.clone())),
            exe: Arc::new(nothing.clone()),
            work: Arc::new(nothing),
            files: dir.path().join("flow"),
            definition: definition.subscribe(),
            closing: closing.subscribe(),
        });
        Rig { dir, store, flows, definition, closing }
    }

    /// The process dies, and another one goes on.
    async fn again(self) -> Rig {
        let workflows = self.definition.borrow().workflows.values().cloned().collect();
        self.closing.send_replace(true);
        self.store.close();
        Rig::open(self.dir, workflows).await
    }

    /// `ID status` of all runs, the oldest first.
    async fn runs(&self) -> Vec<String> {
        let rows = self.store.runs(Filter { many: 1_000, ..Filter::default() }).await.expect("read");
        rows.iter().rev().map(|row| format!("{} {}", row.id, row.status)).collect()
    }

    async fn until_runs(&self, wanted: &[&str]) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.runs().await != wanted {
            assert!(tokio::time::Instant::now() < deadline, "{:?}, not {wanted:?}", self.runs().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// One step that waits for the signal `go`.
fn waits(name: &str) -> Workflow {
    let step = Step { name: "s".into(), work: Work::Wait("go".into()), attempts: 1, ..Step::default() };
    Workflow { name: name.into(), concurrency: 16, keep_ms: 3_600_000, steps: vec![step], ..Workflow::default() }
}

fn go() -> Event {
    Event::Signal { id: "one".into(), name: "go".into(), data: flow::Value::Bool(true) }
}

fn pinned(workflow: &Workflow) -> Arc<Pinned> {
    Arc::new(Pinned::new(workflow.clone()).expect("it can run"))
}

fn new(workflow: &Workflow) -> NewRun {
    NewRun {
        pinned: pinned(workflow),
        parameters: BTreeMap::new(),
        key: None,
        parent: None,
        nominal: None,
        held: false,
    }
}

#[tokio::test]
async fn a_run_goes_on_in_the_next_process_with_the_definition_it_began_with() {
    let rig = Rig::new(vec![waits("w")]).await;
    rig.flows.begin();
    let run = rig.flows.submit("w", BTreeMap::new(), None).await.expect("taken").id;
    rig.until_runs(&["w-1 running"]).await;
    let other = Workflow { steps: vec![Step { name: "other".into(), ..waits("w").steps.remove(0) }], ..waits("w") };
    let workflows = BTreeMap::from([("w".to_owned(), other)]);
    rig.definition.send_replace(Arc::new(Definition { workflows, ..Definition::default() }));
    let rig = rig.again().await;
    rig.flows.begin();
    rig.until_runs(&["w-1 running"]).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while rig.flows.tell(&run, go()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "nobody leads it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.until_runs(&["w-1 succeeded"]).await;
    let row = rig.store.flow_run(&run).await.expect("there");
    assert_eq!(row.output.as_deref(), Some("true"));
    assert!(matches!(rig.flows.tell(&run, go()).await, Err(Error::RunRefuses { .. })));
}

#[tokio::test]
async fn a_key_is_one_run_and_only_of_its_parameters() {
    let parameter = declared::Given { kind: "integer".into(), default: Some(serde_json::json!(1)) };
    let workflow = Workflow { parameters: [("n".to_owned(), parameter)].into(), ..waits("w") };
    let rig = Rig::new(vec![workflow]).await;
    let submit = async |n: &str| {
        let parameters = BTreeMap::from([("n".to_owned(), flow::Value::from(n))]);
        rig.flows.submit("w", parameters, Some("k".into())).await
    };
    let first = submit("7").await.expect("taken");
    let again = submit("7").await.expect("the same");
    assert!(first.fresh && !again.fresh && first.id == again.id);
    assert!(matches!(submit("8").await, Err(Error::RunKeyReused { .. })));
    assert!(matches!(submit("x").await, Err(Error::Parameters { .. })));
    assert!(matches!(rig.flows.submit("v", BTreeMap::new(), None).await, Err(Error::NoWorkflow { .. })));
    assert_eq!(rig.runs().await.len(), 1);
}

#[tokio::test]
async fn a_state_is_replaced_only_by_who_has_seen_it() {
    let rig = Rig::new(vec![waits("w")]).await;
    let id = rig.store.submit_run(new(&waits("w"))).await.expect("stored").id;
    let row = rig.store.flow_run(&id).await.expect("there");
    let keep = |was, version| Keep {
        id: id.clone(),
        was,
        version,
        state: row.state.clone(),
        status: "running",
        over_ms: None,
        output: None,
        error: None,
        notes: Vec::new(),
    };
    assert!(rig.store.keep_run(keep(0, 1)).await.expect("asked"));
    assert!(!rig.store.keep_run(keep(0, 1)).await.expect("asked"), "a second leader is told that it is none");
    assert!(rig.store.keep_run(keep(1, 2)).await.expect("asked"));
}

#[tokio::test]
async fn ended_runs_are_kept_as_long_as_they_are_to_be() {
    let rig = Rig::new(vec![waits("w")]).await;
    rig.flows.begin();
    let run = rig.flows.submit("w", BTreeMap::new(), None).await.expect("taken").id;
    rig.flows.tell(&run, Event::Cancel { by: "ann".into() }).await.expect("cancelled");
    rig.until_runs(&["w-1 cancelled"]).await;
    rig.store.clock().advance(3_599_000);
    assert!(rig.store.sweep_runs().await.expect("swept").is_empty());
    rig.store.clock().advance(2_000);
    assert_eq!(rig.store.sweep_runs().await.expect("swept"), std::slice::from_ref(&run));
    assert!(matches!(rig.store.flow_run(&run).await, Err(Error::NoRun { .. })));
}

#[tokio::test]
async fn what_cannot_run_is_refused_when_it_is_told() {
    let https = Work::Http(declared::Call { url: "https://x/".into(), method: "GET".into(), ..Default::default() });
    let step = |work: Work| Step { name: "s".into(), work, ..Step::default() };
    let bad = [
        Workflow { steps: vec![step(https)], ..waits("w") },
        Workflow { steps: vec![Step { after: vec!["s".into()], ..step(Work::SleepMs(1)) }], ..waits("w") },
        Workflow { steps: vec![Step { when: Some("1 >".into()), ..step(Work::SleepMs(1)) }], ..waits("w") },
        Workflow { schedule: vec!["@daily".into()], timezone: "Nowhere/Land".into(), ..waits("w") },
    ];
    for workflow in bad {
        let workflows = BTreeMap::from([("w".to_owned(), workflow)]);
        let error = check(&Definition { workflows, ..Definition::default() }).expect_err("refused");
        assert_eq!(error.code(), "HF0821", "{error}");
    }
}

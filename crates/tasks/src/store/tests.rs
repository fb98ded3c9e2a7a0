//! One suite for all engines.

use std::collections::BTreeMap;

use holdfast_policy::queue::Report;

use super::*;
use crate::clock::Clock;
use crate::postgres::fixture::Server;
use crate::postgres::{self, Postgres};
use crate::queue::{Acknowledged, DeadLetter, DeadLetterOf, Delivery, MoveState, New, Retry, Settled};

mod model;

/// Each case on each engine.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Engine::Sqlite).await;
            })*
        }

        mod on_postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Engine::Postgres).await;
            })*
        }
    };
}

cases! {
    what_was_received_is_hidden_and_comes_again,
    a_late_receipt_deletes_nothing_that_somebody_else_has,
    a_receipt_that_ran_out_still_deletes_unless_that_is_asked_strictly,
    nothing_confirmed_is_forgotten_by_the_next_process,
    a_message_is_buried_instead_of_received_once_more,
    a_worker_says_what_becomes_of_its_message,
    a_late_report_is_refused,
    without_dead_letters_what_must_not_be_tried_is_set_aside,
    messages_of_a_group_stay_in_order_and_block_only_their_group,
    the_same_message_within_five_minutes_is_one,
    an_idempotency_key_is_one_message_and_not_another,
    a_bad_entry_takes_no_other_with_it,
    delays_are_kept_however_long,
    messages_expire_and_are_swept,
    a_purge_takes_what_was_there_and_nothing_later,
    a_queue_is_made_once_and_its_name_rests_after_it,
    a_dead_letter_queue_must_be_there_and_want_them,
    dead_letters_go_back_to_where_they_came_from,
    an_answer_that_nobody_hears_charges_nobody,
}

#[derive(Clone, Copy, Debug)]
enum Engine {
    Sqlite,
    Postgres,
}

/// Where an engine keeps its things.
enum Ground {
    Dir(tempfile::TempDir),
    Server(Arc<Server>, String),
}

struct Place {
    ground: Ground,
    clock: Clock,
    store: Arc<dyn Store>,
}

impl Place {
    async fn new(on: Engine, queues: &[(&str, Spec)]) -> Place {
        let ground = match on {
            Engine::Sqlite => Ground::Dir(tempfile::tempdir().expect("a directory")),
            Engine::Postgres => {
                let started = tokio::task::spawn_blocking(|| {
                    let server = Server::shared();
                    let database = server.database();
                    (server, database)
                });
                let (server, database) = started.await.expect("no panic");
                Ground::Server(server, database)
            }
        };
        let (store, clock) = open(&ground).await;
        for (name, spec) in queues {
            store.create(name, spec.clone(), BTreeMap::new()).await.expect("a queue");
        }
        Place { ground, clock, store }
    }

    /// Another process, after the first one died.
    async fn again(self) -> Place {
        self.store.close();
        let (store, clock) = open(&self.ground).await;
        Place { ground: self.ground, clock, store }
    }

    async fn send(&self, queue: &str, bodies: &[&str]) {
        let messages = bodies.iter().map(|body| New { body: (*body).to_owned(), ..New::default() }).collect();
        for answer in self.store.send(queue, messages).await.expect("sent") {
            answer.expect("taken");
        }
    }

    async fn receive(&self, queue: &str, many: u32) -> Vec<Delivery> {
        self.store.receive(queue, many, None).await.expect("received").deliveries
    }

    async fn bodies(&self, queue: &str, many: u32) -> Vec<String> {
        self.receive(queue, many).await.into_iter().map(|d| d.body).collect()
    }

    async fn delete(&self, queue: &str, delivery: &Delivery) -> Result<Acknowledged> {
        let answers = self.store.acknowledge(queue, vec![delivery.receipt.clone()], false).await.expect("asked");
        answers.into_iter().next().expect("an answer")
    }

    fn advance(&self, ms: i64) {
        self.clock.advance(ms);
    }

    async fn counts(&self, queue: &str) -> (u64, u64, u64) {
        let counts = self.store.counts(queue).await.expect("counted");
        (counts.visible, counts.in_flight, counts.delayed)
    }
}

/// When time begins in tests, and stands still.
const BEGINNING: i64 = 1_795_651_200_000;

async fn open(ground: &Ground) -> (Arc<dyn Store>, Clock) {
    match ground {
        Ground::Dir(dir) => {
            let file = dir.path().join("tasks.db");
            let opened = tokio::task::spawn_blocking(move || Sqlite::open_by(&file, 64 << 20, || 0));
            let store = opened.await.expect("no panic").expect("opened");
            let clock = store.clock().clone();
            (Arc::new(store), clock)
        }
        Ground::Server(server, database) => {
            let clock = Clock::new(BEGINNING, || 0);
            let url = server.url(database);
            let place = postgres::Place { url: &url, password: None, ca: None, schema: "holdfast", plane: "one" };
            let store = Postgres::open_by(place, clock.clone(), true).await.expect("opened");
            (Arc::new(store), clock)
        }
    }
}

fn dead(queue: &str, receives_max: u32) -> Spec {
    Spec { dead_letter: Some(DeadLetter { queue: queue.into(), receives_max }), ..Spec::default() }
}

fn fifo() -> Spec {
    Spec { fifo: true, content_based_deduplication: true, ..Spec::default() }
}

fn in_group(group: &str, body: &str) -> New {
    New { body: body.into(), group: Some(group.into()), ..New::default() }
}

async fn what_was_received_is_hidden_and_comes_again(on: Engine) {
    let place = Place::new(on, &[("q", Spec::default())]).await;
    place.send("q", &["a", "b", "c"]).await;
    assert_eq!(place.bodies("q", 2).await, ["a", "b"]);
    assert_eq!(place.bodies("q", 10).await, ["c"]);
    assert_eq!(place.bodies("q", 10).await, [""; 0]);
    assert_eq!(place.counts("q").await, (0, 3, 0));
    place.advance(30_000);
    assert_eq!(place.counts("q").await, (3, 0, 0));
    let again = place.receive("q", 10).await;
    assert_eq!(again.iter().map(|d| (d.body.as_str(), d.receives)).collect::<Vec<_>>(), [("a", 2), ("b", 2), ("c", 2)]);
}

async fn a_late_receipt_deletes_nothing_that_somebody_else_has(on: Engine) {
    let place = Place::new(on, &[("q", Spec::default())]).await;
    place.send("q", &["a"]).await;
    let first = place.receive("q", 1).await.remove(0);
    place.advance(30_000);
    let second = place.receive("q", 1).await.remove(0);
    assert_eq!(place.delete("q", &first).await.expect("no error"), Acknowledged::Stale);
    assert_eq!(place.counts("q").await, (0, 1, 0), "the second receive still has it");
    assert_eq!(place.delete("q", &second).await.expect("no error"), Acknowledged::Deleted);
    assert_eq!(place.delete("q", &second).await.expect("twice is no error"), Acknowledged::Stale);
    assert_eq!(place.counts("q").await, (0, 0, 0));
}

async fn a_receipt_that_ran_out_still_deletes_unless_that_is_asked_strictly(on: Engine) {
    let place = Place::new(on, &[("q", Spec::default())]).await;
    place.send("q", &["a", "b"]).await;
    let both = place.receive("q", 2).await;
    place.advance(30_001);
    let strict = place.store.acknowledge("q", vec![both[0].receipt.clone()], true).await.expect("asked").remove(0);
    assert!(matches!(strict, Err(Error::Receipt { .. })), "{strict:?}");
    assert_eq!(place.delete("q", &both[1]).await.expect("no error"), Acknowledged::Deleted);
    assert_eq!(place.counts("q").await, (1, 0, 0));
}

async fn nothing_confirmed_is_forgotten_by_the_next_process(on: Engine) {
    let place = Place::new(on, &[("q", Spec::default())]).await;
    place.send("q", &["a", "b", "c"]).await;
    let first = place.receive("q", 1).await.remove(0);
    let place = place.again().await;
    assert_eq!(place.bodies("q", 10).await, ["b", "c"], "what is held stays held");
    assert_eq!(place.delete("q", &first).await.expect("a receipt outlives the process"), Acknowledged::Deleted);
    place.advance(30_000);
    assert_eq!(place.bodies("q", 10).await, ["b", "c"]);
}

async fn a_message_is_buried_instead_of_received_once_more(on: Engine) {
    let place = Place::new(on, &[("dead", Spec::default()), ("q", dead("dead", 2))]).await;
    place.send("q", &["a"]).await;
    for receives in 1..=2 {
        assert_eq!(place.receive("q", 1).await[0].receives, receives);
        place.advance(30_000);
    }
    let third = place.store.receive("q", 1, None).await.expect("received");
    assert_eq!((third.deliveries.len(), third.buried_in), (0, vec!["dead".to_owned()]));
    let letter = place.receive("dead", 1).await.remove(0);
    let story = letter.buried.expect("its story");
    assert_eq!((letter.body.as_str(), letter.receives, story.source.as_str()), ("a", 1, "q"));
    assert_eq!(story.reason, "receives");
    assert_eq!(place.counts("q").await, (0, 0, 0));
}

async fn a_worker_says_what_becomes_of_its_message(on: Engine) {
    let retry = Some(Retry { base_ms: 1_000, factor: 2.0, max_ms: 60_000, jitter: 0.0 });
    let place =
        Place::new(on, &[("dead", Spec::default()), ("q", Spec { retry, crashes_max: 2, ..dead("dead", 100) })]).await;
    let report = async |report, words: &str| {
        let delivery = place.receive("q", 1).await.remove(0);
        place.store.report("q", &delivery.receipt, report, words).await.expect("taken")
    };
    place.send("q", &["a"]).await;
    let now = place.clock.now();
    let Settled::Again { due } = report(Report::Retry, "busy").await else { panic!("not again") };
    assert!((1_000..2_000).contains(&(due - now)), "{}", due - now);
    assert_eq!(place.bodies("q", 1).await, [""; 0], "not before its time");
    place.advance(1_000);
    assert!(matches!(report(Report::Crashed, "signal 9").await, Settled::Again { .. }));
    place.advance(2_000);
    assert_eq!(report(Report::Crashed, "signal 11").await, Settled::Buried { queue: "dead".into() });
    let story = place.receive("dead", 1).await.remove(0).buried.expect("its story");
    assert_eq!((story.reason.as_str(), story.error.as_deref()), ("poison", Some("signal 11")));
    place.send("q", &["b"]).await;
    assert_eq!(report(Report::Dead, "no such customer").await, Settled::Buried { queue: "dead".into() });
}

async fn a_late_report_is_refused(on: Engine) {
    let place = Place::new(on, &[("q", Spec::default())]).await;
    place.send("q", &["a"]).await;
    let delivery = place.receive("q", 1).await.remove(0);
    place.advance(30_000);
    let late = place.store.report("q", &delivery.receipt, Report::Retry, "late").await;
    assert!(matches!(late, Err(Error::NotInFlight)), "{late:?}");
    assert_eq!(place.receive("q", 1).await[0].failures, 0, "it charges nothing");
}

async fn without_dead_letters_what_must_not_be_tried_is_set_aside(on: Engine) {
    let place = Place::new(on, &[("q", Spec::default())]).await;
    place.send("q", &["a"]).await;
    let delivery = place.receive("q", 1).await.remove(0);
    let settled = place.store.report("q", &delivery.receipt, Report::Dead, "never").await.expect("taken");
    assert_eq!(settled, Settled::Quarantined);
    place.advance(1_000_000_000 % 300_000_000);
    assert_eq!(place.bodies("q", 1).await, [""; 0]);
    assert_eq!(place.counts("q").await, (0, 0, 1));
    let peeked = place.store.peek("q", 10).await.expect("looked").remove(0);
    assert_eq!((peeked.due, peeked.error.as_deref()), (None, Some("never")));
}

async fn messages_of_a_group_stay_in_order_and_block_only_their_group(on: Engine) {
    let place = Place::new(on, &[("q.fifo", fifo())]).await;
    let messages = vec![in_group("x", "x1"), in_group("x", "x2"), in_group("y", "y1"), in_group("x", "x3")];
    place.store.send("q.fifo", messages).await.expect("sent");
    let first = place.receive("q.fifo", 1).await.remove(0);
    assert_eq!(first.body, "x1");
    assert_eq!(place.bodies("q.fifo", 10).await, ["y1"], "x is blocked by x1");
    place.advance(1);
    place.delete("q.fifo", &first).await.expect("deleted");
    assert_eq!(place.bodies("q.fifo", 10).await, ["x2", "x3"]);
    place.advance(30_000);
    let again = place.receive("q.fifo", 10).await;
    assert_eq!(again.iter().map(|d| d.body.as_str()).collect::<Vec<_>>(), ["y1", "x2", "x3"]);
    let late = place.delete("q.fifo", &first).await;
    assert_eq!(late.expect("deleted before"), Acknowledged::Stale);
    place.advance(30_000);
    let expired = place.delete("q.fifo", &again[1]).await;
    assert!(matches!(expired, Err(Error::Receipt { .. })), "{expired:?}");
}

async fn the_same_message_within_five_minutes_is_one(on: Engine) {
    let place = Place::new(on, &[("q.fifo", fifo())]).await;
    let send = async |body: &str| {
        place.store.send("q.fifo", vec![in_group("g", body)]).await.expect("sent").remove(0).expect("taken")
    };
    let first = send("a").await;
    let second = send("a").await;
    assert_eq!((second.message, second.sequence, second.duplicate), (first.message, first.sequence, true));
    let delivery = place.receive("q.fifo", 10).await.remove(0);
    place.delete("q.fifo", &delivery).await.expect("deleted");
    assert!(send("a").await.duplicate, "the window outlives the message");
    place.advance(300_000);
    assert!(!send("a").await.duplicate);
}

async fn an_idempotency_key_is_one_message_and_not_another(on: Engine) {
    let place = Place::new(on, &[("q", Spec::default())]).await;
    let send = async |body: &str| {
        let message = New { body: body.into(), idempotency: Some("order-7".into()), ..New::default() };
        place.store.send("q", vec![message]).await.expect("sent").remove(0)
    };
    let first = send("a").await.expect("taken");
    assert_eq!(send("a").await.expect("the same").message, first.message);
    assert!(matches!(send("b").await, Err(Error::KeyReused { .. })));
    assert_eq!(place.counts("q").await, (1, 0, 0));
}

async fn a_bad_entry_takes_no_other_with_it(on: Engine) {
    let place = Place::new(on, &[("q.fifo", fifo())]).await;
    let none = New { body: "no group".into(), ..New::default() };
    let answers = place.store.send("q.fifo", vec![in_group("g", "a"), none, in_group("g", "b")]).await.expect("sent");
    assert!(matches!(answers[1], Err(Error::Missing { .. })));
    assert_eq!(place.bodies("q.fifo", 10).await, ["a", "b"]);
    assert_eq!(place.counts("q.fifo").await, (0, 2, 0), "counted is what was taken");
}

async fn delays_are_kept_however_long(on: Engine) {
    let place = Place::new(on, &[("q", Spec { delay_ms: 5_000, ..Spec::default() })]).await;
    place.send("q", &["later"]).await;
    let day = New { body: "tomorrow".into(), delay_ms: Some(26 * 3_600_000), ..New::default() };
    let now = New { body: "now".into(), delay_ms: Some(0), ..New::default() };
    place.store.send("q", vec![day, now]).await.expect("sent");
    assert_eq!(place.counts("q").await, (1, 0, 2));
    assert_eq!(place.bodies("q", 10).await, ["now"]);
    let waiting = place.store.receive("q", 10, None).await.expect("received");
    assert!(waiting.next_due.is_some_and(|due| due - place.clock.now() <= 5_000));
    place.advance(5_000);
    assert_eq!(place.bodies("q", 10).await, ["later"]);
    place.advance(26 * 3_600_000);
    assert!(place.bodies("q", 10).await.contains(&"tomorrow".to_owned()));
}

async fn messages_expire_and_are_swept(on: Engine) {
    let place = Place::new(on, &[("q", Spec { retention_ms: 60_000, ..Spec::default() })]).await;
    place.send("q", &["a", "b"]).await;
    place.receive("q", 1).await;
    place.advance(60_000);
    assert_eq!(place.bodies("q", 10).await, [""; 0], "what has expired is not handed out");
    place.send("q", &["c"]).await;
    place.store.expire("q", 0).await.expect("swept");
    assert_eq!(place.counts("q").await, (1, 0, 0));
}

async fn a_purge_takes_what_was_there_and_nothing_later(on: Engine) {
    let place = Place::new(on, &[("q", Spec::default())]).await;
    place.send("q", &["a", "b"]).await;
    let held = place.receive("q", 1).await.remove(0);
    place.store.purge("q").await.expect("purged");
    assert!(matches!(place.store.purge("q").await, Err(Error::PurgedRecently { .. })));
    place.send("q", &["c"]).await;
    assert_eq!(place.counts("q").await, (1, 0, 0));
    assert_eq!(place.delete("q", &held).await.expect("no error"), Acknowledged::Stale);
    place.advance(60_000);
    assert_eq!(place.bodies("q", 10).await, ["c"]);
    while place.store.sweep().await.expect("swept") {}
    assert_eq!(place.store.peek("q", 10).await.expect("looked").len(), 1);
}

async fn a_queue_is_made_once_and_its_name_rests_after_it(on: Engine) {
    let place = Place::new(on, &[("q", Spec::default())]).await;
    let create = async |spec: Spec| place.store.create("q", spec, BTreeMap::new()).await;
    create(Spec::default()).await.expect("the same again");
    let other = create(Spec { visibility_ms: 1, ..Spec::default() }).await;
    assert!(matches!(other, Err(Error::QueueExists { .. })), "{other:?}");
    place.send("q", &["a"]).await;
    place.store.delete("q").await.expect("deleted");
    assert!(matches!(place.store.receive("q", 1, None).await, Err(Error::NoQueue { .. })));
    assert!(matches!(create(Spec::default()).await, Err(Error::DeletedRecently { .. })));
    place.advance(60_000);
    create(Spec::default()).await.expect("free again");
    assert_eq!(place.counts("q").await, (0, 0, 0), "nothing of the one before");
}

async fn a_dead_letter_queue_must_be_there_and_want_them(on: Engine) {
    let none = Spec { dead_letter_of: DeadLetterOf::None, ..Spec::default() };
    let place = Place::new(on, &[("refuses", none), ("some.fifo", fifo())]).await;
    for queue in ["missing", "refuses", "some.fifo", "q"] {
        let made = place.store.create("q", dead(queue, 1), BTreeMap::new()).await;
        assert!(matches!(made, Err(Error::Invalid { .. })), "{queue}: {made:?}");
    }
}

async fn dead_letters_go_back_to_where_they_came_from(on: Engine) {
    let place = Place::new(on, &[("dead", Spec::default()), ("a", dead("dead", 1)), ("b", dead("dead", 1))]).await;
    for queue in ["a", "b"] {
        place.send(queue, &[queue, queue]).await;
        place.receive(queue, 10).await;
    }
    place.advance(30_000);
    for queue in ["a", "b"] {
        assert_eq!(place.bodies(queue, 10).await, [""; 0]);
    }
    assert_eq!(place.counts("dead").await, (4, 0, 0));
    let task = place.store.start_move("dead", None, None).await.expect("begun");
    let second = place.store.start_move("dead", None, None).await;
    assert!(matches!(second, Err(Error::MoveRuns { .. })), "{second:?}");
    assert_eq!(place.store.step_move(&task.handle, 3).await.expect("a step").many, 3);
    let place = place.again().await;
    let left = place.store.running_moves(10).await.expect("asked").remove(0);
    assert_eq!((left.moved, left.to_move), (3, 4), "the next process goes on");
    let last = place.store.step_move(&task.handle, 3).await.expect("a step");
    assert_eq!((last.many, last.state), (1, MoveState::Completed));
    assert_eq!(place.bodies("a", 10).await, ["a", "a"]);
    assert_eq!(place.bodies("b", 10).await, ["b", "b"]);
    assert_eq!(place.counts("dead").await, (0, 0, 0));
}

async fn an_answer_that_nobody_hears_charges_nobody(on: Engine) {
    let place = Place::new(on, &[("q", Spec::default())]).await;
    place.send("q", &["a"]).await;
    let mut asking = place.store.receive("q", 1, None);
    let polled = std::future::poll_fn(|context| std::task::Poll::Ready(asking.as_mut().poll(context).is_pending()));
    assert!(polled.await, "the operation waits for the writer");
    drop(asking);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let again = place.receive("q", 1).await;
        if let Some(delivery) = again.first() {
            assert_eq!(delivery.receives, 1);
            return;
        }
        assert!(std::time::Instant::now() < until, "it was never given back");
    }
}

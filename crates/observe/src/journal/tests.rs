//! The journal through its handle.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use holdfast_host::event::Event;
use holdfast_policy::availability::Tally;

use super::{Batch, EventQuery, IncidentQuery, Journal, Limits};

const WAIT: Duration = Duration::from_secs(20);

fn open(dir: &Path) -> Journal {
    let (journal, error) = Journal::open(dir, "n1", Limits::default());
    assert!(error.is_none(), "{error:?}");
    journal
}

/// An event of the shim of `instance` at `ms` after boot.
fn at(ms: u64, seq: u64, instance: &str, from: &str, to: &str, reason: &str) -> Event {
    let mut event = Event::now("n1", &format!("shim/{instance}"), "1.1", &format!("instance/{instance}"));
    event.boot_ns = ms * 1_000_000;
    event.seq = seq;
    event.change(from, to, reason)
}

/// Of a ring from its beginning.
fn ring(events: Vec<Event>) -> Batch {
    Batch { events, ..Batch::default() }
}

async fn all(journal: &Journal) -> Vec<super::Row> {
    assert!(journal.flush(WAIT).await);
    journal.events(EventQuery::default()).await.unwrap()
}

#[tokio::test]
async fn a_ring_copied_twice_is_stored_once_and_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let events: Vec<Event> = (1..=5).map(|n| at(n, n, "web-1", "a", "b", &format!("r{n}"))).collect();
    journal.append_batch(ring(events[..3].to_vec())).await.unwrap();
    assert_eq!(journal.acked("n1", "shim/web-1").await.unwrap(), 3);
    journal.append_batch(ring(events.clone())).await.unwrap();
    journal.close();
    let journal = open(dir.path());
    journal.append_batch(ring(events)).await.unwrap();
    assert_eq!(all(&journal).await.len(), 5);
    assert_eq!(journal.acked("n1", "shim/web-1").await.unwrap(), 5);
    assert_eq!(journal.acked("n1", "shim/web-9").await.unwrap(), 0);
}

#[tokio::test]
async fn a_source_that_begins_anew_in_a_new_life_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    journal.append_batch(ring(vec![at(1, 90, "web-1", "a", "b", "old ring")])).await.unwrap();
    let mut fresh = at(2, 1, "web-1", "a", "b", "new ring");
    fresh.incarnation = "2.1".into();
    journal.append_batch(ring(vec![fresh])).await.unwrap();
    assert_eq!(journal.acked("n1", "shim/web-1").await.unwrap(), 1);
    assert_eq!(all(&journal).await.len(), 2);
}

#[tokio::test]
async fn appended_events_get_numbers_and_can_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for (service, reason) in [("web-1", "x"), ("web-2", "y"), ("web-admin-1", "z"), ("webs-1", "w")] {
        journal.append(Event { seq: 0, ..at(5, 0, service, "a", "b", reason) }.with("load", 0.5));
    }
    let rows = all(&journal).await;
    assert!(rows.iter().all(|r| r.event.seq == 1 && r.event.inputs == [("load".to_owned(), "0.5".to_owned())]));
    let of = |query: EventQuery| journal.events(query);
    let web = of(EventQuery { service: Some("web".into()), ..EventQuery::default() }).await.unwrap();
    let reasons: Vec<&str> = web.iter().map(|r| r.event.reason.as_str()).collect();
    assert_eq!(reasons, ["x", "y"], "neither web-admin-1 nor webs-1");
    let one = of(EventQuery { subject: Some("instance/web-2".into()), ..EventQuery::default() }).await.unwrap();
    assert_eq!(one.len(), 1);
    let newest = of(EventQuery { limit: 1, ..EventQuery::default() }).await.unwrap();
    assert_eq!(newest[0].event.reason, "w");
    let none = of(EventQuery { since_wall_ms: Some(u64::MAX / 4), ..EventQuery::default() }).await.unwrap();
    assert!(none.is_empty());
}

#[tokio::test]
async fn a_crash_loop_is_told_a_few_times_and_then_counted() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for n in 0..100 {
        journal.append(at(n * 1000, 2 * n + 1, "db-1", "running", "exited", "exit code 1"));
        journal.append(at(n * 1000 + 1, 2 * n + 2, "db-1", "exited", "starting", "restart"));
    }
    let rows = all(&journal).await;
    assert_eq!(rows.len(), 6, "three of each");
    assert_eq!(rows.iter().map(|r| r.repeats + 1).sum::<u64>(), 200);
    assert_eq!(journal.acked("n1", "shim/db-1").await.unwrap(), 200);
}

#[tokio::test]
async fn an_incident_is_kept_from_the_kill_until_ready_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    journal.set_services(BTreeMap::from([("web".into(), 3)]));
    journal.append(at(1000, 1, "web-2", "ready", "exited", "killed by SIGKILL"));
    journal.append(at(1001, 2, "web-2", "exited", "starting", "restart at once"));
    journal.requests_failed("web", 4);
    journal.requests_failed("other", 9);
    assert!(journal.flush(WAIT).await);
    assert_eq!(journal.open_incidents(), 1);
    journal.close();

    let journal = open(dir.path());
    journal.append(at(1250, 3, "web-2", "starting", "ready", "probe passed"));
    assert!(journal.flush(WAIT).await);
    assert_eq!(journal.open_incidents(), 0);
    let incidents = journal.incidents(IncidentQuery::default()).await.unwrap();
    let incident = &incidents[0];
    assert_eq!(incident.short_id(), "I-000001");
    assert_eq!((incident.outcome.as_str(), incident.failed_requests), ("recovered", 4));
    assert_eq!((incident.acted_ms(), incident.recovered_ms()), (Some(1.0), Some(250.0)));
    assert_eq!(incident.key, "n1:shim/web-2:1.1:1");
    for id in ["I-000001", "1", &incident.key] {
        assert_eq!(journal.incident(id).await.unwrap().as_ref(), Some(incident), "{id}");
    }
    let chain =
        journal.events(EventQuery { incident: Some(incident.key.clone()), ..EventQuery::default() }).await.unwrap();
    assert_eq!(chain.len(), 3, "its events, the one that closed it included");
}

#[tokio::test]
async fn all_instances_down_are_one_incident() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    journal.set_services(BTreeMap::from([("web".into(), 2)]));
    journal.append(at(1000, 1, "web-1", "ready", "unready", "probe timed out"));
    journal.append(at(1100, 1, "web-2", "ready", "unready", "probe timed out"));
    assert!(journal.flush(WAIT).await);
    let open = journal.incidents(IncidentQuery { open_only: true, ..IncidentQuery::default() }).await.unwrap();
    assert_eq!(open.len(), 1);
    assert!(open[0].common_cause && open[0].subject == "service/web");
    let shown = journal.incidents(IncidentQuery::default()).await.unwrap();
    assert_eq!(shown.len(), 1, "merged ones are not listed");
}

#[tokio::test]
async fn what_does_not_fit_is_counted_and_never_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let sent = 3 * super::QUEUE_MAX as u64;
    for n in 1..=sent {
        journal.append(at(n, n, "web-1", "a", "b", &n.to_string()));
    }
    // The queue may be full of events still; what overflowed is told with the next batch.
    let wait_told = async {
        while !journal.flush(WAIT).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT, wait_told).await.unwrap();
    journal.append(at(sent + 1, sent + 1, "web-1", "a", "b", "after"));
    assert!(journal.flush(WAIT).await);
    let stored = journal.read(|db| {
        Ok(db.query_row("SELECT count(*) FROM events WHERE source <> 'journal'", [], |r| r.get::<_, i64>(0))?)
    });
    assert_eq!(stored.await.unwrap() as u64 + journal.events_lost(), sent + 1);
    if journal.events_lost() > 0 {
        let rows =
            journal.events(EventQuery { subject: Some("journal".into()), ..EventQuery::default() }).await.unwrap();
        let told: u64 = rows.iter().map(|r| r.event.inputs[0].1.parse::<u64>().unwrap()).sum();
        assert_eq!(told, journal.events_lost());
    }
}

#[tokio::test]
async fn a_damaged_or_newer_file_is_left_alone_and_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(super::FILE);
    std::fs::write(&file, vec![7u8; 9000]).unwrap();
    let (journal, error) = Journal::open(dir.path(), "n1", Limits::default());
    assert_eq!(error.unwrap().code(), "HF0403");
    journal.append(at(1, 1, "web-1", "a", "b", "x"));
    assert!(journal.append_batch(ring(vec![at(2, 2, "web-1", "a", "b", "x")])).await.is_err());
    assert!(journal.events(EventQuery::default()).await.is_err());
    journal.close();
    assert_eq!(std::fs::read(&file).unwrap(), vec![7u8; 9000]);
}

#[tokio::test]
async fn it_stays_within_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = 4 << 20;
    let (journal, _) = Journal::open(dir.path(), "n1", Limits { days: 30, bytes });
    let padding = "x".repeat(800);
    for round in 0..40u64 {
        let events = (1..=500).map(|n| at(n, round * 500 + n, "web-1", "a", "b", &format!("{round} {n} {padding}")));
        journal.append_batch(ring(events.collect())).await.unwrap();
    }
    assert!(journal.flush(WAIT).await);
    let used = journal
        .read(|db| {
            let number = |p: &str| db.query_row(&format!("PRAGMA {p}"), [], |r| r.get::<_, i64>(0));
            Ok((number("page_count")? - number("freelist_count")?) * number("page_size")?)
        })
        .await
        .unwrap();
    // Limits are enforced every 5,000 changes (10,000 of them are about 5 MiB here).
    assert!(used < 2 * bytes as i64 + (6 << 20), "{used} bytes used; 20,000 events would be about 20 MiB");
    let rows = journal.events(EventQuery { limit: 1, ..EventQuery::default() }).await.unwrap();
    assert!(rows[0].event.reason.starts_with("39 500 "), "the newest is kept");
}

#[tokio::test]
async fn old_rows_go_and_minutes_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let now = holdfast_host::clock::wall_ms();
    let minute = |n: u64| now - n * 60_000;
    for n in 1..=10 {
        journal.add_minute("web", minute(n), Tally { good: 90, ready_seconds: 30, ..Tally::default() });
        journal.add_minute("web", minute(n), Tally { good: 9, failed: 1, ready_seconds: 30, ..Tally::default() });
    }
    assert!(journal.flush(WAIT).await);
    let windows = journal.availability("web", now, true, Some(0.98)).await.unwrap();
    let hour = &windows[0];
    assert_eq!((hour.window.as_str(), hour.requests, hour.failed), ("1h", 1000, 10));
    assert_eq!(hour.ratio, Some(0.99));
    assert!((hour.budget_left.unwrap() - 0.5).abs() < 1e-9);
    assert!(hour.unknown_seconds <= 60, "{hour:?}");
    let seconds = journal.availability("web", now, false, None).await.unwrap();
    assert_eq!((seconds[1].ratio, seconds[1].basis.as_str()), (Some(1.0), "ready_seconds"));
    assert_eq!(journal.availability("none", now, true, None).await.unwrap()[2].ratio, None);

    let stale = Event { wall_ms: now - 40 * 86_400_000, ..at(1, 1, "web-1", "a", "b", "stale") };
    journal.append_batch(ring(vec![stale, at(2, 2, "web-1", "a", "b", "fresh")])).await.unwrap();
    let super::Shared { store: Ok(store), .. } = &*journal.shared else { panic!("open") };
    store.write(move |db| Ok(super::rows::trim(db, now - 30 * 86_400_000, 1 << 30)?)).await.unwrap();
    let rows = all(&journal).await;
    assert_eq!(rows.iter().map(|r| r.event.reason.as_str()).collect::<Vec<_>>(), ["fresh"]);
}

/// As a full disk: the file may not grow.
async fn set_full(journal: &Journal, full: bool) {
    let super::Shared { store: Ok(store), .. } = &*journal.shared else { panic!("open") };
    let pages = if full { 1 } else { 1 << 20 };
    store.write(move |db| Ok(db.query_row(&format!("PRAGMA max_page_count={pages}"), [], |_| Ok(()))?)).await.unwrap();
}

#[tokio::test]
async fn what_a_full_disk_kept_out_is_copied_again_in_order_and_what_was_overwritten_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let padding = "x".repeat(8000);
    let event = |n: u64, life: &str| Event {
        incarnation: life.into(),
        ..at(n, n, "web-1", "a", "b", &format!("{n} {padding}"))
    };
    let batch = |after, lost, events: Vec<Event>| journal.append_batch(Batch { events, after, lost });
    batch(0, 0, vec![event(1, "1.1")]).await.unwrap();
    set_full(&journal, true).await;
    let events: Vec<Event> = (2..40).map(|n| event(n, "1.2")).collect();
    assert!(matches!(batch(1, 0, events.clone()).await, Err(super::Error::NotStored)));
    // An event of no ring is counted, however often storing is tried again.
    journal.append(Event { reason: padding.clone(), ..at(1, 1, "web-2", "a", "b", "") });
    assert!(!journal.flush(WAIT).await);
    assert!(batch(1, 0, events.clone()).await.is_err());
    assert!(journal.failure().is_some());
    set_full(&journal, false).await;
    let later = batch(39, 0, vec![event(40, "1.3")]).await;
    assert!(later.unwrap_err().is_passing(), "it would leave a gap");
    assert_eq!(journal.acked("n1", "shim/web-1").await.unwrap(), 1);
    batch(1, 0, [events, vec![event(40, "1.3")]].concat()).await.unwrap();
    // Copied again from an older place, over several lives, and then with what was overwritten before it was read.
    batch(5, 0, (6..40).map(|n| event(n, "1.2")).chain([event(40, "1.3")]).collect()).await.unwrap();
    batch(40, 7, vec![event(48, "1.3")]).await.unwrap();
    let rows = all(&journal).await;
    let of_ring: Vec<u64> = rows.iter().filter(|r| r.event.source == "shim/web-1").map(|r| r.event.seq).collect();
    assert_eq!(of_ring, (1..=40).chain([48]).collect::<Vec<_>>());
    let lost: Vec<&str> = rows.iter().filter(|r| r.event.to == "lost").map(|r| r.event.reason.as_str()).collect();
    assert_eq!(lost, ["lost 1", "lost 7 of shim/web-1"]);
    assert_eq!((journal.events_lost(), journal.failure()), (8, None));
}

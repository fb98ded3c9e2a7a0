//! Each firing becomes a run once, in whichever process.

use super::*;

/// 2026-11-26, 00:00 UTC.
const MIDNIGHT_S: i64 = 1_795_651_200;
const HOUR_S: i64 = 3_600;

fn hourly(overlap: &str, missed: Made) -> Workflow {
    Workflow { schedule: vec!["0 * * * *".into()], overlap: overlap.into(), missed, ..waits("w") }
}

impl Rig {
    async fn look(&self, at: i64) {
        let workflow = self.definition.borrow().workflows["w"].clone();
        self.flows.fire_due(&workflow, at).await.expect("looked at");
    }

    async fn nominal(&self) -> Vec<i64> {
        let rows = self.store.runs(Filter { many: 1_000, ..Filter::default() }).await.expect("read");
        rows.iter().rev().filter_map(|row| Some((row.nominal? - MIDNIGHT_S) / HOUR_S)).collect()
    }
}

#[tokio::test]
async fn a_firing_is_a_run_once_and_what_was_missed_is_made_up_for_by_the_latest() {
    let rig = Rig::new(vec![hourly("allow", Made::Latest)]).await;
    rig.look(MIDNIGHT_S + 60).await;
    assert!(rig.nominal().await.is_empty(), "a new schedule has nothing to make up for");
    for at in [HOUR_S - 1, HOUR_S, HOUR_S, HOUR_S + 1, 2 * HOUR_S + 5] {
        rig.look(MIDNIGHT_S + at).await;
    }
    assert_eq!(rig.nominal().await, [1, 2]);
    assert_eq!(rig.flows.planned()[0].next.as_deref(), Some("2026-11-26T03:00:00Z"));
    let rig = rig.again().await;
    rig.look(MIDNIGHT_S + 2 * HOUR_S + 6).await;
    assert_eq!(rig.nominal().await, [1, 2], "the next process does not begin it again");
    rig.look(MIDNIGHT_S + 9 * HOUR_S + 600).await;
    assert_eq!(rig.nominal().await, [1, 2, 9]);
    // The clock goes back: nothing of the past is due again.
    rig.look(MIDNIGHT_S + HOUR_S).await;
    rig.look(MIDNIGHT_S + 9 * HOUR_S + 601).await;
    assert_eq!(rig.nominal().await, [1, 2, 9]);
}

#[tokio::test]
async fn what_was_missed_is_left_out_or_made_up_for_as_the_file_says() {
    for (missed, made) in [(Made::None, vec![]), (Made::All(3), vec![7, 8, 9]), (Made::Latest, vec![9])] {
        let rig = Rig::new(vec![hourly("allow", missed)]).await;
        rig.look(MIDNIGHT_S + 60).await;
        rig.look(MIDNIGHT_S + 9 * HOUR_S + 600).await;
        assert_eq!(rig.nominal().await, made, "{missed:?}");
        rig.look(MIDNIGHT_S + 10 * HOUR_S + 1).await;
        assert_eq!(rig.nominal().await.last(), Some(&10), "{missed:?}");
    }
}

#[tokio::test]
async fn a_changed_pattern_begins_anew() {
    let rig = Rig::new(vec![hourly("allow", Made::Latest)]).await;
    rig.look(MIDNIGHT_S + 60).await;
    let half = Workflow { schedule: vec!["30 * * * *".into()], ..hourly("allow", Made::Latest) };
    let workflows = BTreeMap::from([("w".to_owned(), half)]);
    rig.definition.send_replace(Arc::new(Definition { workflows, ..Definition::default() }));
    rig.look(MIDNIGHT_S + 5 * HOUR_S).await;
    assert!(rig.nominal().await.is_empty());
    rig.look(MIDNIGHT_S + 5 * HOUR_S + 1_800).await;
    assert_eq!(rig.nominal().await.len(), 1);
}

#[tokio::test]
async fn runs_that_overlap_are_skipped_queued_or_end_the_one_before() {
    for (rule, then) in [
        ("skip", vec!["w-1 running"]),
        ("queue", vec!["w-1 running", "w-2 queued"]),
        ("cancel", vec!["w-1 cancelled", "w-2 cancelled", "w-3 running"]),
        ("allow", vec!["w-1 running", "w-2 running", "w-3 running"]),
    ] {
        let rig = Rig::new(vec![hourly(rule, Made::Latest)]).await;
        rig.flows.begin();
        rig.look(MIDNIGHT_S + 60).await;
        for hour in 1..=3 {
            rig.look(MIDNIGHT_S + hour * HOUR_S).await;
        }
        rig.until_runs(&then).await;
    }
}

#[tokio::test]
async fn a_queued_firing_begins_when_the_one_before_is_over() {
    let rig = Rig::new(vec![hourly("queue", Made::Latest)]).await;
    rig.flows.begin();
    rig.look(MIDNIGHT_S + 60).await;
    rig.look(MIDNIGHT_S + HOUR_S).await;
    rig.look(MIDNIGHT_S + 2 * HOUR_S).await;
    rig.until_runs(&["w-1 running", "w-2 queued"]).await;
    rig.flows.tell("w-1", go()).await.expect("told");
    rig.until_runs(&["w-1 succeeded", "w-2 running"]).await;
}

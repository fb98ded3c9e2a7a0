//! What the agent keeps in the store, on any engine.

use std::sync::Arc;

use holdfast_cluster::records::{Desired, JobDone, Pause, Records};
use holdfast_cluster::{Error, Op, Store, Txn};

use crate::roles::Site;

pub(crate) async fn generations_rise_strictly_whoever_asks(site: Site) {
    let records = Records::new(site.store.clone());
    assert_eq!(records.next_generation("web-1", 0).await.unwrap(), 1);
    assert_eq!(records.next_generation("web-1", 40).await.unwrap(), 41, "above what lies in the run directory");
    assert_eq!(records.next_generation("web-2", 0).await.unwrap(), 1);
    let askers: Vec<_> = (0..4)
        .map(|_| {
            let records = records.clone();
            tokio::spawn(async move { records.next_generation("web-1", 0).await.unwrap() })
        })
        .collect();
    let mut got = Vec::new();
    for asker in askers {
        got.push(asker.await.unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, [42, 43, 44, 45]);
}

pub(crate) async fn ports_belong_to_one_instance_and_stay(site: Site) {
    let records = Records::new(site.store.clone());
    let any = |_| true;
    let askers: Vec<_> = (1..=4)
        .map(|n| {
            let records = records.clone();
            tokio::spawn(
                async move { records.assign_port(&format!("web-{n}"), 20_000..=20_003, 0, any).await.unwrap() },
            )
        })
        .collect();
    let mut got = Vec::new();
    for asker in askers {
        got.push(asker.await.unwrap());
    }
    got.sort_unstable();
    assert_eq!(got, [20_000, 20_001, 20_002, 20_003]);
    let full = records.assign_port("web-5", 20_000..=20_003, 0, any).await;
    assert_eq!(full.unwrap_err().code(), "HF0414");
    let kept = records.ports().await.unwrap()["web-3"];
    assert_eq!(
        records.assign_port("web-3", 20_000..=20_003, 0, |_| false).await.unwrap(),
        kept,
        "its own is not asked about"
    );
    records.release_port("web-3").await.unwrap();
    assert_eq!(records.assign_port("web-5", 20_000..=20_003, 0, any).await.unwrap(), kept);
    assert_eq!(
        records.assign_port("web-5", 21_000..=21_010, 0, |p| p > 21_004).await.unwrap(),
        21_005,
        "the range moved"
    );
}

pub(crate) async fn a_record_of_a_newer_version_is_refused(site: Site) {
    let store = site.store.clone();
    store.txn(Txn::always([Op::put("/desired", r#"{"version":2,"toml":[]}"#)])).await.unwrap();
    let refused = Records::new(store).desired().await.unwrap_err();
    assert_eq!(refused.code(), "HF0402");
}

/// `reopened` gives the same store after a restart.
pub(crate) async fn records_read_back_across_a_restart(
    store: Arc<dyn Store>,
    reopened: impl Future<Output = Arc<dyn Store>>,
) {
    let records = Records::new(store);
    assert!(records.desired().await.unwrap().is_none());
    let desired = Desired {
        version: 1,
        toml: "[service.web]\n".into(),
        source: "/srv/holdfast.toml".into(),
        node: "n1".into(),
        applied_wall_ms: 5,
    };
    let revision = records.set_desired(&desired, Some(0)).await.unwrap();
    let stale = records.set_desired(&desired, Some(0)).await;
    assert!(matches!(stale, Err(Error::Changed { found, .. }) if found == revision), "{stale:?}");
    records.set_scale("web", Some(5)).await.unwrap();
    let pause = Pause {
        version: 1,
        name: Some("web".into()),
        since_wall_ms: 1,
        until_wall_ms: Some(10),
        reason: "upgrade".into(),
        by: "ann".into(),
    };
    records.pause(&pause).await.unwrap();
    let done = JobDone { version: 1, definition: "abc".into(), finished_wall_ms: 9 };
    records.set_job_done("migrate", &done).await.unwrap();

    let records = Records::new(reopened.await);
    assert_eq!(records.desired().await.unwrap(), Some((desired, revision)));
    assert_eq!(records.scales().await.unwrap().get("web"), Some(&5));
    assert_eq!(records.pauses().await.unwrap(), std::slice::from_ref(&pause));
    assert_eq!(records.job_done("migrate").await.unwrap(), Some(done));
    assert!(pause.covers("web", 9) && !pause.covers("web", 10) && !pause.covers("db", 9));
    assert!(records.resume(Some("web")).await.unwrap() && !records.resume(None).await.unwrap());
    records.set_scale("web", None).await.unwrap();
    assert!(records.scales().await.unwrap().is_empty() && records.pauses().await.unwrap().is_empty());
}

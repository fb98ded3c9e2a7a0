use std::collections::BTreeMap;

use super::*;
use crate::queue::New;

#[tokio::test]
async fn an_operation_that_is_undone_leaves_no_memory_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("tasks.db");
    let opened = tokio::task::spawn_blocking(move || Sqlite::open_by(&file, 64 << 20, || 0)).await;
    let store = opened.expect("no panic").expect("opened");
    store.create("q", Spec::default(), BTreeMap::new()).await.expect("a queue");
    let messages = ["a", "b"].map(|body| New { body: body.into(), ..New::default() });
    store.send("q", messages.to_vec()).await.expect("sent");
    let undone: Result<()> = store
        .write(|work| {
            let received = work.receive("q", 10, None)?;
            assert_eq!(received.deliveries.len(), 2);
            work.change("q", |spec| {
                spec.visibility_ms = 1;
                Ok(())
            })?;
            Err(Error::NotInFlight)
        })
        .await;
    assert!(matches!(undone, Err(Error::NotInFlight)));
    assert_eq!(store.spec("q").await.expect("known").visibility_ms, 30_000);
    let again = store.receive("q", 10, None).await.expect("received");
    assert_eq!(again.deliveries.len(), 2, "fresh messages begin where they did");
}

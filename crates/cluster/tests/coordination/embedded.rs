//! The embedded engine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::embedded::{Embedded, Options};
use holdfast_cluster::{Store, conformance};

use crate::roles::Site;
use crate::{records, roles, seeds};

async fn open(dir: &Path) -> Arc<dyn Store> {
    Arc::new(Embedded::open(dir.join("coord.db"), Options::default()).await.unwrap())
}

async fn site() -> (Site, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Site { store: open(dir.path()).await, ttl: Duration::from_millis(600) }, dir)
}

macro_rules! tests {
    ($($module:ident::$name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let (site, _dir) = site().await;
                crate::$module::$name(site).await;
            }
        )+
    };
}
crate::with_scenes!(tests);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_engine_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conformance::run(open(dir.path()).await, "embedded", Duration::from_millis(300)).await;
}

#[tokio::test]
async fn random_histories_are_those_of_the_model() {
    let dir = tempfile::tempdir().unwrap();
    conformance::random_histories(open(dir.path()).await, "embedded", 0..seeds()).await;
}

#[tokio::test]
async fn the_epoch_rises_above_every_token_found() {
    let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    roles::the_epoch_rises_above_every_token_found(open(dir.path()).await, open(fresh.path()).await).await;
}

#[tokio::test]
async fn records_read_back_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(dir.path().join("coord.db"), Options::default()).await.unwrap();
    let reopened = async {
        embedded.close().await;
        open(dir.path()).await
    };
    records::records_read_back_across_a_restart(Arc::new(embedded.clone()), reopened).await;
}

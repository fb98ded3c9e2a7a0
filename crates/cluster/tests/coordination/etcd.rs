//! The engine on real etcd processes.

mod faults;
mod hostile;
mod secured;
mod upkeep;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cluster::etcd::fixture::{self, Cluster, Spec};
use holdfast_cluster::etcd::{Etcd, Options};
use holdfast_cluster::{Store, conformance};

use tokio::task::JoinSet;

use crate::roles::Site;
use crate::{records, roles, seeds};

/// The shortest time to live that etcd grants with its default heartbeat.
const TTL_MIN: Duration = Duration::from_secs(2);

/// Of roles: renewals of many scenes at once are not as quick as one.
const TTL: Duration = Duration::from_secs(3);

async fn open(options: Options) -> Arc<dyn Store> {
    Arc::new(Etcd::open(options).await.unwrap())
}

/// Checks run one after the other, so the whole suite takes some 15 s on each.
async fn conforms(_running: &Cluster, options: Options, name: &str) {
    conformance::run(open(options).await, name, TTL_MIN).await;
}

macro_rules! list {
    ($($module:ident::$name:ident),+ $(,)?) => {
        fn scenes() -> Vec<(&'static str, Scene)> {
            vec![$((stringify!($name), |site| Box::pin(crate::$module::$name(site)))),+]
        }
    };
}
crate::with_scenes!(list);

type Scene = fn(Site) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// At the same time, each under a prefix of its own: most of them wait for leases, which are long here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scene_plays_on_etcd() {
    let cluster = Cluster::start(Spec::new(1));
    let mut playing = JoinSet::new();
    for (name, scene) in scenes() {
        let options = Options { key_prefix: format!("/{name}/"), ..cluster.options() };
        let site = Site { store: open(options).await, ttl: TTL };
        playing.spawn(async move { (name, tokio::spawn(scene(site)).await) });
    }
    while let Some(played) = playing.join_next().await {
        let (name, result) = played.unwrap();
        assert!(result.is_ok(), "{name}: {result:?}");
        println!("{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_of_each_version_conforms() {
    let mut running = JoinSet::new();
    for binary in fixture::binaries() {
        println!("{}", binary.display());
        let cluster = Cluster::start(Spec { binary, ..Spec::new(1) });
        running.spawn(async move { conforms(&cluster, cluster.options(), "one").await });
    }
    while let Some(conformed) = running.join_next().await {
        conformed.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_conform() {
    let cluster = Cluster::start(Spec::new(3));
    conforms(&cluster, cluster.options(), "three").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_prefix_conforms_and_keeps_others_out() {
    let cluster = Cluster::start(Spec::new(1));
    let options = Options { key_prefix: "/holdfast/shop/".into(), ..cluster.options() };
    conforms(&cluster, options.clone(), "prefixed").await;
    let (ours, all) = (open(options).await, open(cluster.options()).await);
    let theirs = Options { key_prefix: "/holdfast/shop2/".into(), ..cluster.options() };
    let theirs = open(theirs).await;
    let put = |key: &str| holdfast_cluster::Txn::always([holdfast_cluster::Op::put(key, "x")]);
    theirs.txn(put("/not-ours")).await.unwrap();
    ours.txn(put("/ours")).await.unwrap();
    assert!(ours.get("/not-ours".into()).await.unwrap().is_none());
    assert!(ours.list(String::new()).await.unwrap().items.iter().all(|kv| kv.key.starts_with('/')));
    assert!(ours.list("/ours".into()).await.unwrap().items.len() == 1);
    assert!(all.get("/holdfast/shop//ours".into()).await.unwrap().is_some());
    assert!(all.get("/holdfast/shop2//not-ours".into()).await.unwrap().is_some());
}

#[tokio::test]
async fn random_histories_are_those_of_the_model() {
    let cluster = Cluster::start(Spec::new(1));
    conformance::random_histories(open(cluster.options()).await, "etcd", 0..seeds()).await;
}

#[tokio::test]
async fn the_epoch_rises_above_every_token_found() {
    let cluster = Cluster::start(Spec::new(1));
    let fresh = Options { key_prefix: "/fresh/".into(), ..cluster.options() };
    roles::the_epoch_rises_above_every_token_found(open(cluster.options()).await, open(fresh).await).await;
}

#[tokio::test]
async fn records_read_back_across_a_restart() {
    let mut cluster = Cluster::start(Spec::new(1));
    let (store, options) = (open(cluster.options()).await, cluster.options());
    let reopened = async {
        cluster.restart(0);
        open(options).await
    };
    Box::pin(records::records_read_back_across_a_restart(store, reopened)).await;
}

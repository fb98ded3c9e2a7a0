//! Status, members, alarms, defragmenting and copies.

use std::time::Duration;

use holdfast_cluster::etcd::fixture::{self, Cluster, Spec};
use holdfast_cluster::etcd::{Etcd, version_warnings};
use holdfast_cluster::{Error, Event, Op, Store, Txn, epoch};

use crate::roles::soon;

#[tokio::test]
async fn status_tells_of_each_member_what_it_is() {
    for binary in fixture::binaries() {
        let mut cluster = Cluster::start(Spec { binary, ..Spec::new(3) });
        let etcd = Etcd::open(cluster.options()).await.unwrap();
        let revision = etcd.txn(Txn::always([Op::put("/a", "1")])).await.unwrap().revision;
        let all = etcd.status().await;
        let members: Vec<_> = all.iter().map(|s| s.status.as_ref().unwrap()).collect();
        assert_eq!(members.iter().filter(|m| m.is_leader()).count(), 1);
        assert!(members.iter().all(|m| m.cluster_id == members[0].cluster_id && m.leader_id == members[0].leader_id));
        assert!(members.iter().all(|m| m.db_bytes > 0 && m.db_in_use_bytes <= m.db_bytes && m.raft_term > 0));
        assert!(members.iter().any(|m| m.revision >= revision));
        assert!(members.iter().all(|m| m.errors.is_empty() && m.alarms.is_empty() && !m.is_learner));
        let warnings = version_warnings(&members[0].version);
        println!("{} {warnings:?}", members[0].version);
        assert!(holdfast_cluster::etcd::TESTED_VERSIONS.contains(&members[0].version.as_str()), "add it");
        cluster.kill(1);
        let all = soon(etcd.status()).await;
        assert!(all[0].status.is_ok() && all[1].status.is_err() && all[2].status.is_ok());
        assert_eq!(all[1].endpoint, cluster.endpoints()[1]);
    }
}

#[tokio::test]
async fn members_come_and_go() {
    let cluster = Cluster::start(Spec::new(3));
    let etcd = Etcd::open(cluster.options()).await.unwrap();
    let members = etcd.members().await.unwrap();
    let names: Vec<&str> = members.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(
        {
            let mut names = names.clone();
            names.sort_unstable();
            names
        },
        ["m0", "m1", "m2"]
    );
    assert!(members.iter().all(|m| m.client_urls.len() == 1 && m.peer_urls.len() == 1));
    let url = "http://127.0.0.1:1".to_owned();
    let added = soon(async {
        loop {
            // Members that have just started are not taken for healthy at once.
            match etcd.add_member(std::slice::from_ref(&url)).await {
                Ok(added) => return added,
                Err(error) => assert!(error.to_string().contains("unhealthy"), "{error}"),
            }
        }
    })
    .await;
    assert_eq!(added.peer_urls, [url]);
    assert_eq!(etcd.members().await.unwrap().len(), 4);
    soon(etcd.remove_member(added.id)).await.unwrap();
    assert_eq!(etcd.members().await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_full_database_is_named_and_mended() {
    let mut spec = Spec::new(1);
    spec.arguments = vec!["--quota-backend-bytes=2097152".into()];
    let cluster = Cluster::start(spec);
    let etcd = Etcd::open(cluster.options()).await.unwrap();
    let value = vec![b'x'; 256 << 10];
    let mut last = 0;
    let full = loop {
        match etcd.txn(Txn::always([Op::put("/big", value.clone())])).await {
            Ok(outcome) => last = outcome.revision,
            Err(error) => break error,
        }
    };
    assert_eq!(full.code(), "HF0423", "{full}");
    assert!(etcd.get("/big".into()).await.unwrap().is_some(), "reads go on");
    let alarms = etcd.alarms().await.unwrap();
    assert!(alarms.len() == 1 && alarms[0].kind == "NOSPACE", "{alarms:?}");
    let endpoint = cluster.endpoints().remove(0);
    let status = etcd.status().await.remove(0).status.unwrap();
    assert_eq!(status.alarms, alarms);
    etcd.compact(last).await.unwrap();
    soon(async {
        // Compaction goes on after it is acknowledged.
        while etcd.status().await[0].status.as_ref().unwrap().db_bytes >= 1 << 20 {
            etcd.defragment(&endpoint).await.unwrap();
        }
    })
    .await;
    etcd.disarm(&alarms[0]).await.unwrap();
    assert!(etcd.alarms().await.unwrap().is_empty());
    etcd.txn(Txn::always([Op::put("/big", value)])).await.unwrap();
}

#[tokio::test]
async fn a_copy_is_whole_and_can_be_restored() {
    let cluster = Cluster::start(Spec::new(1));
    let etcd = Etcd::open(cluster.options()).await.unwrap();
    etcd.txn(Txn::always([Op::put("/a", vec![b'x'; 500_000])])).await.unwrap();
    let file = cluster.dir().join("copy.db");
    let endpoint = cluster.endpoints().remove(0);
    let bytes = soon(etcd.snapshot(&endpoint, &file)).await.unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().len(), bytes);
    assert!(bytes > 500_000);
    let told = cluster.etcdctl(&["snapshot", "status", file.to_str().unwrap()]);
    assert!(told.contains(','), "{told}");
    let restored = cluster.dir().join("restored");
    cluster.etcdctl(&["snapshot", "restore", file.to_str().unwrap(), "--data-dir", restored.to_str().unwrap()]);
    assert!(restored.join("member/snap/db").is_file());
    let unknown = etcd.snapshot("http://127.0.0.1:1", &file).await.unwrap_err();
    assert_eq!(unknown.code(), "HF0425", "{unknown}");
}

#[tokio::test]
async fn a_restored_copy_is_another_store_until_it_is_followed() {
    let mut cluster = Cluster::start(Spec::new(1));
    let etcd = Etcd::open(cluster.options()).await.unwrap();
    let first = etcd.cluster_id().await.unwrap();
    etcd.follow(first);
    let settle = |id| {
        let etcd = etcd.clone();
        async move { epoch::settle(&etcd, Some(&epoch::name_of(id)), []).await }
    };
    assert_eq!(settle(first).await.unwrap(), 1);
    let file = cluster.dir().join("copy.db");
    soon(etcd.snapshot(&cluster.endpoints().remove(0), &file)).await.unwrap();
    let mut watch = etcd.watch("/a".into(), 0).await.unwrap();
    cluster.restore(0, &file);

    let unavailable = |error: Error| assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    unavailable(etcd.get("/a".into()).await.unwrap_err());
    unavailable(etcd.txn(Txn::always([Op::put("/a", "1")])).await.unwrap_err());
    unavailable(etcd.grant(Duration::from_secs(5)).await.unwrap_err());
    unavailable(etcd.watch("/a".into(), 0).await.unwrap_err());
    unavailable(settle(first).await.unwrap_err());
    assert_eq!(soon(watch.next()).await, Event::Lost);

    let second = etcd.cluster_id().await.unwrap();
    assert_ne!(first, second);
    etcd.follow(second);
    assert_eq!(settle(second).await.unwrap(), 2, "nobody has seen a higher token, and still it is a copy");
    etcd.txn(Txn::always([Op::put("/a", "1")])).await.unwrap();
}

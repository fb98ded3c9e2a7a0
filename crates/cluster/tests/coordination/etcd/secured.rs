//! Certificates, users and passwords.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_cluster::etcd::fixture::{Cluster, Site, Spec, TlsFiles};
use holdfast_cluster::etcd::{Etcd, Login, Options, Secret, Tls};
use holdfast_cluster::{Change, Event, Op, Store, Txn};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, KeyPair,
    SanType,
};

use super::{conforms, open};
use crate::roles::soon;

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(dir.join(format!("{name}.pem")), issuer.pem()).unwrap();
        Authority { issuer, dir: dir.to_owned() }
    }

    /// Paths of a certificate and its key.
    fn sign(&self, name: &str, addresses: &[IpAddr], usages: &[Usage]) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = addresses.iter().map(|ip| SanType::IpAddress(*ip)).collect();
        params.extended_key_usages = usages.to_vec();
        let pair = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&pair, &self.issuer).unwrap();
        let (file, key) = (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")));
        fs::write(&file, certificate.pem()).unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        (file, key)
    }
}

/// Members that want certificates, and what a client that has one needs.
fn secured(members: usize) -> (Cluster, Tls, Authority) {
    let site = Site::take();
    let authority = Authority::new(&site.dir, "ca");
    let ca = site.dir.join("ca.pem");
    let usages = [Usage::ServerAuth, Usage::ClientAuth];
    let (certificate, key) = authority.sign("server", &[site.address.into()], &usages);
    let client = authority.sign("client", &[], &[Usage::ClientAuth]);
    let tls = TlsFiles { ca: ca.clone(), certificate, key };
    let cluster = Cluster::start(Spec { tls: Some(tls), site, ..Spec::new(members) });
    (cluster, Tls { ca: Some(ca), client: Some(client) }, authority)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_certificates_on_both_sides_it_conforms() {
    let (cluster, tls, _) = secured(3);
    conforms(&cluster, Options { tls, ..cluster.options() }, "tls").await;
}

#[tokio::test]
async fn certificates_that_are_not_accepted_are_named_and_nothing_is_sent() {
    let (cluster, good, _) = secured(1);
    let stranger_dir = cluster.dir().join("stranger");
    fs::create_dir(&stranger_dir).unwrap();
    let stranger = Authority::new(&stranger_dir, "stranger");
    let strange_client = stranger.sign("client", &[], &[Usage::ClientAuth]);
    let cases = [
        ("their authority is another one", Tls { ca: Some(stranger_dir.join("stranger.pem")), ..good.clone() }),
        ("we have none", Tls { client: None, ..good.clone() }),
        ("ours is signed by a stranger", Tls { client: Some(strange_client), ..good.clone() }),
    ];
    for (what, tls) in cases {
        let error = soon(Etcd::open(Options { tls, ..cluster.options() })).await.err().expect(what);
        assert_eq!(error.code(), "HF0422", "{what}: {error}");
    }
    let plain = Options::new([cluster.endpoints()[0].replace("https", "http")]);
    let plain = Options { request_timeout: Duration::from_millis(500), ..plain };
    assert!(soon(Etcd::open(plain)).await.is_err(), "no TLS where TLS is spoken");
    assert!(soon(Etcd::open(Options { tls: good, ..cluster.options() })).await.is_ok());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let site = Site::take();
    let authority = Authority::new(&site.dir, "ca");
    let elsewhere = "127.9.9.9".parse().unwrap();
    let (certificate, key) = authority.sign("server", &[elsewhere], &[Usage::ServerAuth, Usage::ClientAuth]);
    let ca = site.dir.join("ca.pem");
    let tls = TlsFiles { ca: ca.clone(), certificate, key };
    let cluster = Cluster::start(Spec { tls: Some(tls), site, ..Spec::new(1) });
    let client = Some(authority.sign("client", &[], &[Usage::ClientAuth]));
    let error =
        soon(Etcd::open(Options { tls: Tls { ca: Some(ca), client }, ..cluster.options() })).await.err().unwrap();
    assert_eq!(error.code(), "HF0422", "{error}");
}

const PASSWORD: &str = "correct horse";

fn login(user: &str, password: &str) -> Option<Login> {
    Some(Login { user: user.into(), password: Secret::new(password) })
}

/// Users `root` and `shop`; `shop` may use `/holdfast/shop/` only.
fn with_users(cluster: &Cluster) {
    cluster.etcdctl(&["user", "add", &format!("root:{PASSWORD}")]);
    cluster.etcdctl(&["user", "grant-role", "root", "root"]);
    cluster.etcdctl(&["role", "add", "shop"]);
    cluster.etcdctl(&["role", "grant-permission", "shop", "readwrite", "--prefix=true", "/holdfast/shop/"]);
    cluster.etcdctl(&["user", "add", &format!("shop:{PASSWORD}")]);
    cluster.etcdctl(&["user", "grant-role", "shop", "shop"]);
    cluster.etcdctl(&["auth", "enable"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_users_it_conforms() {
    let cluster = Cluster::start(Spec::new(1));
    with_users(&cluster);
    conforms(&cluster, Options { login: login("root", PASSWORD), ..cluster.options() }, "users").await;
}

#[tokio::test]
async fn who_is_not_allowed_is_told_so() {
    let cluster = Cluster::start(Spec::new(1));
    with_users(&cluster);
    let cases = [login("shop", "wrong"), login("nobody", PASSWORD), None];
    for login in cases {
        let error = soon(Etcd::open(Options { login: login.clone(), ..cluster.options() })).await.err().unwrap();
        assert_eq!(error.code(), "HF0421", "{login:?}: {error}");
        assert!(!error.to_string().contains("wrong") && !format!("{error:?}").contains(PASSWORD), "{error:?}");
    }
    let outside = Options { login: login("shop", PASSWORD), ..cluster.options() };
    let outside = Etcd::new(outside).unwrap();
    let write = outside.txn(Txn::always([Op::put("/holdfast/other", "x")])).await.unwrap_err();
    assert_eq!(write.code(), "HF0421", "{write}");
    let watch = outside.watch("/holdfast/other".into(), 0).await.unwrap_err();
    assert_eq!(watch.code(), "HF0421", "{watch}");
    let prefixed =
        Options { key_prefix: "/holdfast/shop/".into(), login: login("shop", PASSWORD), ..cluster.options() };
    let store = open(prefixed).await;
    let mut events = store.watch("/a".into(), 0).await.unwrap();
    store.txn(Txn::always([Op::put("/a", "x")])).await.unwrap();
    let Event::Changes { changes, .. } = soon(events.next()).await else { panic!("expected changes") };
    assert!(matches!(&changes[..], [Change::Put(kv)] if kv.key == "/a"), "{changes:?}");
}

#[tokio::test]
async fn a_forgotten_token_is_asked_for_again() {
    let mut cluster = Cluster::start(Spec::new(1));
    with_users(&cluster);
    let etcd = Etcd::open(Options { login: login("root", PASSWORD), ..cluster.options() }).await.unwrap();
    let mut watch = etcd.watch("/a".into(), 0).await.unwrap();
    // Simple tokens live in memory.
    cluster.restart(0);
    let revision = etcd.txn(Txn::always([Op::put("/a", "x")])).await.unwrap().revision;
    let changed = soon(async {
        loop {
            if let Event::Changes { revision, .. } = watch.next().await {
                return revision;
            }
        }
    });
    assert_eq!(changed.await, revision, "the watch logs in again, too");
}

#[tokio::test]
async fn users_that_come_later_and_passwords_without_users_are_no_obstacle() {
    let cluster = Cluster::start(Spec::new(1));
    let etcd = Etcd::open(Options { login: login("root", PASSWORD), ..cluster.options() }).await.unwrap();
    etcd.txn(Txn::always([Op::put("/a", "1")])).await.unwrap();
    with_users(&cluster);
    etcd.txn(Txn::always([Op::put("/a", "2")])).await.unwrap();
    assert_eq!(etcd.get("/a".into()).await.unwrap().unwrap().value, b"2");
}

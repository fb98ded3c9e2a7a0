//! Certificates, files, tokens, and real handshakes over a pipe.

use std::result::Result;
use std::sync::Arc;
use std::time::Duration;

use holdfast_host::clock;
use rcgen::{CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::Store;
use crate::embedded::{self, Embedded};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> u64 {
    clock::wall_ms()
}

fn subject(node: &str) -> Subject {
    Subject { name: dns_name(node, "town").unwrap(), addresses: vec!["10.0.0.1".parse().unwrap()] }
}

fn identity(authority: &Authority, node: &str, from_wall_ms: u64, valid: Duration) -> Identity {
    let request = Request::new().unwrap();
    let issued = authority.issue(&request.request_pem, &subject(node), from_wall_ms, valid).unwrap();
    Identity::load(&authority.ca_pem, &issued.pem, &request.key_pem).unwrap()
}

/// What the client reads, and whom the server saw.
async fn meet(server: &Identity, client: Arc<ClientConfig>, asked: &str) -> Result<Option<Certificate>, String> {
    let (one, other) = tokio::io::duplex(1 << 16);
    let acceptor = TlsAcceptor::from(server_config(server).unwrap());
    let serve = async move {
        let mut stream = acceptor.accept(one).await.map_err(|e| format!("server: {e}"))?;
        let seen = stream.get_ref().1.peer_certificates().and_then(|c| Certificate::read(c.first()?));
        stream.write_all(b"!").await.map_err(|e| e.to_string())?;
        stream.shutdown().await.map_err(|e| e.to_string())?;
        Ok::<_, String>(seen)
    };
    let name = ServerName::try_from(asked.to_owned()).unwrap();
    let call = async move {
        let mut stream = TlsConnector::from(client).connect(name, other).await.map_err(|e| format!("client: {e}"))?;
        stream.read_u8().await.map_err(|e| format!("client read: {e}"))
    };
    let (seen, read) = tokio::join!(serve, call);
    read.and(seen)
}

#[tokio::test]
async fn machines_of_one_authority_know_each_other_by_name() {
    let authority = Authority::create("town", now()).unwrap();
    let (n1, n2) = (identity(&authority, "n1", now(), HOUR), identity(&authority, "n2", now(), HOUR));
    let seen = meet(&n1, client_config(&n2).unwrap(), "n1.town.holdfast").await.unwrap().expect("a certificate");
    assert_eq!(node_of(&seen.names, "town"), Some("n2"));
    assert_eq!(node_of(&seen.names, "village"), None);
    assert_eq!(seen.addresses, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(seen.validity(now()), Validity::Good);
    let other = meet(&n1, client_config(&n2).unwrap(), "n3.town.holdfast").await.unwrap_err();
    assert!(other.contains("not valid for name"), "{other}");
}

#[tokio::test]
async fn strangers_are_refused_on_both_sides() {
    let (ours, theirs) = (Authority::create("town", now()).unwrap(), Authority::create("town", now()).unwrap());
    let (n1, fake) = (identity(&ours, "n1", now(), HOUR), identity(&theirs, "n2", now(), HOUR));
    let called = meet(&fake, client_config(&n1).unwrap(), "n2.town.holdfast").await.unwrap_err();
    assert!(called.contains("client: invalid peer certificate"), "{called}");
    let calls = meet(&n1, client_config(&fake).unwrap(), "n1.town.holdfast").await.unwrap_err();
    assert!(calls.contains("client"), "{calls}");
    // Their own authority does not help them: the client part of it is checked by itself.
    let mut half = Identity::load(&theirs.ca_pem, &identity_pem(&theirs, &fake), &fake.key_pem).unwrap();
    half.ca = n1.ca.clone();
    let calls = meet(&n1, client_config(&half).unwrap(), "n1.town.holdfast").await.unwrap_err();
    assert!(calls.contains("client read"), "refused by the server only: {calls}");
}

fn identity_pem(authority: &Authority, of: &Identity) -> String {
    let request = Request::again(&of.key_pem).unwrap();
    authority.issue(&request.request_pem, &subject("n2"), now(), HOUR).unwrap().pem
}

#[tokio::test]
async fn one_without_a_certificate_gets_in_without_a_name() {
    let authority = Authority::create("town", now()).unwrap();
    let n1 = identity(&authority, "n1", now(), HOUR);
    let seen = meet(&n1, pinned(authority.fingerprint).unwrap(), "127.0.0.1").await.unwrap();
    assert_eq!(seen, None);
    let wrong = meet(&n1, pinned(Fingerprint::of(b"another")).unwrap(), "127.0.0.1").await.unwrap_err();
    assert!(wrong.contains("client: invalid peer certificate"), "{wrong}");
    // The right authority's certificate is public: to show it proves nothing.
    let fake = Authority::create("town", now()).unwrap();
    let mut thief = identity(&fake, "n1", now(), HOUR);
    thief.ca = n1.ca.clone();
    let stolen = meet(&thief, pinned(authority.fingerprint).unwrap(), "127.0.0.1").await.unwrap_err();
    assert!(stolen.contains("client: invalid peer certificate"), "{stolen}");
}

#[tokio::test]
async fn dates_are_told_and_judged_after_the_handshake() {
    let long_ago = now() - 1_000_000_000;
    let authority = Authority::create("town", long_ago).unwrap();
    let (n1, old) = (identity(&authority, "n1", now(), HOUR), identity(&authority, "n2", long_ago, HOUR));
    let seen = meet(&n1, client_config(&old).unwrap(), "n1.town.holdfast").await.unwrap().unwrap();
    assert_eq!(seen.validity(now()), Validity::Expired);
    assert_eq!(seen.validity(seen.not_after_wall_ms - 1), Validity::Good);
    assert_eq!(seen.validity(seen.not_before_wall_ms - 1), Validity::NotYet);
    assert!(seen.half_life_wall_ms() > long_ago && seen.half_life_wall_ms() < seen.not_after_wall_ms);
    meet(&old, client_config(&n1).unwrap(), "n2.town.holdfast").await.unwrap();
    // Who joins has no reason to talk to one whose certificate has run out.
    meet(&old, pinned(authority.fingerprint).unwrap(), "127.0.0.1").await.unwrap_err();
    // Still no stranger passes for an expired machine.
    let fake = identity(&Authority::create("town", long_ago).unwrap(), "n2", long_ago, HOUR);
    meet(&fake, client_config(&n1).unwrap(), "n2.town.holdfast").await.unwrap_err();
}

#[test]
fn nothing_but_the_key_is_taken_from_a_request() {
    let authority = Authority::create("town", now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::new(vec!["n1.town.holdfast".into(), "example.com".into()]).unwrap();
    greedy.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    greedy.subject_alt_names.push(SanType::IpAddress("10.0.0.9".parse().unwrap()));
    let pem = greedy.serialize_request(&key).unwrap().pem().unwrap();
    let issued = authority.issue(&pem, &subject("n2"), now(), HOUR).unwrap();
    assert_eq!(issued.certificate.names, ["n2.town.holdfast"]);
    assert_eq!(issued.certificate.addresses, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    let der = pem::parse(&issued.pem);
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(!parsed.is_ca());
    assert!(issued.certificate.not_after_wall_ms <= now() + 3_600_000);
}

mod pem {
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    pub(super) fn parse(text: &str) -> Vec<u8> {
        CertificateDer::from_pem_slice(text.as_bytes()).unwrap().to_vec()
    }
}

#[test]
fn hostile_requests_are_refused() {
    let authority = Authority::create("town", now()).unwrap();
    let good = Request::new().unwrap().request_pem;
    let lines: Vec<&str> = good.lines().collect();
    // One letter in the signature, which is at the end.
    let mut turned = lines[lines.len() - 2].to_owned();
    let letter = if turned.as_bytes()[4] == b'A' { "B" } else { "A" };
    turned.replace_range(4..5, letter);
    let forged = good.replace(lines[lines.len() - 2], &turned);
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let other_curve = CertificateParams::default().serialize_request(&p384).unwrap().pem().unwrap();
    let own = Request::again(&authority.key_pem).unwrap().request_pem;
    let long = format!("{good}{}", "\n".repeat(REQUEST_BYTES_MAX));
    let cases = ["", "not a request", &authority.ca_pem, &forged, &other_curve, &own, &long];
    for (n, pem) in cases.iter().enumerate() {
        let error = authority.issue(pem, &subject("n2"), now(), HOUR).err().unwrap_or_else(|| panic!("case {n}"));
        assert_eq!(error.code(), "HF0381", "case {n}: {error}");
    }
    assert!(authority.issue(&good, &subject("n2"), now(), HOUR).is_ok());
}

#[test]
fn names_that_cannot_stand_in_a_certificate_are_refused() {
    assert_eq!(dns_name("vm-1.east", "main").unwrap(), "vm-1.east.main.holdfast");
    let long = "a".repeat(64);
    for bad in ["", "N1", "n_1", "n 1", "-n1", "n1-", "a..b", ".a", "*", "n1\0", "ä", &long] {
        assert!(dns_name(bad, "main").is_err(), "{bad}");
        assert!(dns_name("n1", bad).is_err(), "cluster {bad}");
    }
    assert!(dns_name(&[&long[..63]; 4].join("."), "main").is_err(), "longer than a name may be");
    for names in [vec![], vec!["main.holdfast".to_owned()], vec![".main.holdfast".to_owned()]] {
        assert_eq!(node_of(&names, "main"), None, "{names:?}");
    }
}

#[test]
fn files_are_private_and_belong_together() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let files = Files::new(dir.path());
    assert!(files.identity().unwrap().is_none() && files.authority().unwrap().is_none());
    let authority = Authority::create("town", now()).unwrap();
    files.keep_authority(&authority).unwrap();
    assert_eq!(files.authority().unwrap().unwrap().fingerprint, authority.fingerprint);
    let request = Request::new().unwrap();
    let issued = authority.issue(&request.request_pem, &subject("n1"), now(), HOUR).unwrap();
    let before = files.stamp();
    files.keep_joined(&authority.ca_pem, &issued.pem, &request.key_pem).unwrap();
    assert_ne!(files.stamp(), before);
    assert_eq!(files.identity().unwrap().unwrap().certificate, issued.certificate);
    for name in ["ca.pem", "ca.key", "node.pem", "node.key"] {
        let mode = std::fs::metadata(files.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let other = Request::new().unwrap();
    assert!(files.keep_joined(&authority.ca_pem, &issued.pem, &other.key_pem).is_err(), "a key of somebody else");
    std::fs::write(files.path("node.key"), &other.key_pem).unwrap();
    assert_eq!(files.identity().unwrap_err().code(), "HF0376");
    std::fs::write(files.path("ca.key"), &other.key_pem).unwrap();
    assert_eq!(files.authority().err().unwrap().code(), "HF0376");
}

async fn store(dir: &tempfile::TempDir) -> Embedded {
    Embedded::open(dir.path().join("coord.db"), embedded::Options::default()).await.unwrap()
}

fn until(expires_wall_ms: u64) -> Offer {
    Offer { version: 1, digest: String::new(), expires_wall_ms, node: None, by: "test".into() }
}

#[tokio::test]
async fn a_token_is_good_once_and_in_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let token = JoinToken::new(Fingerprint::of(b"ca")).unwrap();
    assert_eq!(token.to_string().parse::<JoinToken>().unwrap(), token);
    assert!(!format!("{token:?}").contains(&token.secret));
    offer(&store, &token, until(1000)).await.unwrap();
    let stored = store.get(format!("{JOIN}{}", token.id)).await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&stored.value).contains(&token.secret), "only its hash is stored");
    let wrong = JoinToken::new(token.fingerprint).unwrap();
    for (id, secret) in [(&*token.id, &*wrong.secret), (&wrong.id, &token.secret), ("", ""), ("../desired", "x")] {
        assert_eq!(redeem(&store, id, secret, "n2", 10).await.unwrap_err().code(), "HF0379", "{id}");
    }
    assert!(redeem(&store, &token.id, &token.secret, "n2", 10).await.is_ok(), "wrong guesses do not use it up");
    assert!(redeem(&store, &token.id, &token.secret, "n2", 11).await.is_err(), "twice");
    offer(&store, &token, until(1000)).await.unwrap();
    let late = redeem(&store, &token.id, &token.secret, "n2", 1000).await.unwrap_err();
    assert!(late.to_string().contains("expired"), "{late}");
    offer(&store, &token, Offer { node: Some("n3".into()), ..until(1000) }).await.unwrap();
    let other = redeem(&store, &token.id, &token.secret, "n2", 10).await.unwrap_err();
    assert!(other.to_string().contains("another machine"), "{other}");
    assert!(redeem(&store, &token.id, &token.secret, "n3", 10).await.is_ok());
    for bad in ["", "hf1", "hf1.a.b.c", "hf2.000000000000.00.00", &token.to_string()[1..]] {
        assert!(bad.parse::<JoinToken>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn who_was_removed_or_replaced_is_not_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir).await;
    let authority = Authority::create("town", now()).unwrap();
    let (one, two) = (identity(&authority, "n1", now(), HOUR), identity(&authority, "n1", now(), HOUR));
    assert!(may_renew(&store, "n1", &one.certificate).await.is_err());
    keep_issued(&store, "n1", &one.certificate, "n1").await.unwrap();
    may_renew(&store, "n1", &one.certificate).await.unwrap();
    assert!(may_renew(&store, "n1", &two.certificate).await.is_err());
    assert!(take_renewal(&store, "n1", 5).await.is_err());
    allow_renewal(&store, "n1", 10, "test").await.unwrap();
    take_renewal(&store, "n1", 5).await.unwrap();
    assert!(take_renewal(&store, "n1", 5).await.is_err(), "once");
    allow_renewal(&store, "n1", 10, "test").await.unwrap();
    assert!(take_renewal(&store, "n1", 10).await.is_err(), "in its time");
    assert_eq!(claim(&store, "n1", &two.certificate, "n1", false, now()).await.unwrap_err().code(), "HF0384");
    claim(&store, "n1", &one.certificate, "n1", false, now()).await.unwrap();
    claim(&store, "n1", &two.certificate, "n1", true, now()).await.unwrap();
    claim(&store, "n1", &one.certificate, "n1", false, now() + 7_200_000).await.unwrap();
    proclaim(&store, authority.fingerprint).await.unwrap();
    proclaim(&store, authority.fingerprint).await.unwrap();
    assert_eq!(proclaim(&store, Fingerprint::of(b"two")).await.unwrap_err().code(), "HF0377");
}

//! Who may call itself which machine: tokens, certificates, strangers, and dates.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_cluster::authority::{Authority, Files, Identity, Request, Subject, client_config, pinned};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::town::Town;
use crate::rate::Rate;
use crate::site::{Ran, Site, kill};

fn join(site: &Site, token: &str, from: &str, more: &[&str]) -> Ran {
    let mut args = vec!["cluster", "join", token, "--from", from];
    args.extend(more);
    site.run(&args)
}

fn refused(ran: &Ran, code: &str) {
    assert!(ran.code != 0 && ran.stderr.contains(code), "{code} expected:\n{}{}", ran.stdout, ran.stderr);
}

#[test]
fn a_machine_joins_once_with_a_good_token_and_others_do_not() {
    let town = Town::start(2, "fast");
    assert_eq!((town.warnings(0), town.warnings(1)), ("[]".into(), "[]".into()));
    refused(&town.sites[0].run(&["cluster", "init"]), "HF0377");
    refused(&town.sites[1].run(&["cluster", "init"]), "HF0377");
    let (token, from) = town.token(&[]);
    refused(&join(&town.sites[1], &token, &from, &[]), "HF0377");

    let new = town.another("n3");
    refused(&join(&new, &format!("{token}0"), &from, &[]), "HF0379");
    let (head, fingerprint) = token.rsplit_once('.').expect("four parts");
    let last = if fingerprint.ends_with('0') { "1" } else { "0" };
    let stranger = format!("{head}.{}{last}", &fingerprint[..63]);
    refused(&join(&new, &stranger, &from, &[]), "HF0380");
    assert!(!new.data().join("tls/node.pem").exists(), "nothing is left of what failed");
    let joined = join(&new, &token, &from, &[]);
    assert_eq!(joined.code, 0, "a token survives what never reached its issuer: {}", joined.stderr);

    // From here on each failure counts; five are let through.
    let late = town.another("n4");
    refused(&join(&late, &token, &from, &[]), "HF0379");
    let (short, _) = town.token(&["--valid", "1ms"]);
    refused(&join(&late, &short, &from, &[]), "HF0379");
    let (thief, _) = town.token(&[]);
    refused(&join(&town.twin(1), &thief, &from, &[]), "HF0384");
    let (bound, _) = town.token(&["--for", "n9"]);
    refused(&join(&late, &bound, &from, &[]), "HF0379");
    let guess = bound.replace(&bound[17..49], &"0".repeat(32));
    refused(&join(&late, &guess, &from, &[]), "HF0379");
    let (good, _) = town.token(&[]);
    refused(&join(&late, &good, &from, &[]), "HF0383");
    let log = town.sites[0].agent_log();
    assert!(log.contains("certified") && log.contains("n3"), "{log}");
    assert!(!log.contains(&token[17..49]), "no secret is in the log");
}

/// Answers as an agent without certificates would.
struct Impostor {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Impostor {
    fn start(addr: SocketAddr, name: &str) -> Impostor {
        let deadline = Instant::now() + Duration::from_secs(10);
        let listener = loop {
            match TcpListener::bind(addr) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "{addr}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        listener.set_nonblocking(true).expect("a socket");
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (ends, heard, name) = (stop.clone(), asked.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                heard.store(true, Ordering::Relaxed);
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(format!("holdfast-link 1 {name}\n").as_bytes());
            }
        });
        Impostor { stop, asked, thread: Some(thread) }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

fn state(town: &Town, node: &str) -> Value {
    town.sites[0].api("/v1/status")["nodes"][node]["state"].clone()
}

#[test]
fn a_stranger_cannot_make_a_dead_machine_look_alive() {
    for (certificates, believed) in [(Some("90d"), "lost"), (None, "suspect")] {
        let mut town = Town::with(2, "fast", certificates);
        let link = town.link(1);
        town.kill_machine(1);
        let impostor = Impostor::start(link, "n2");
        town.sites[0].wait_for("n2's lease to run out", || {
            state(&town, "n2") != "ready" && {
                let alive = town.etcd.etcdctl(&["get", "--prefix", "--keys-only", "/holdfast/town/alive/n2"]);
                alive.trim().is_empty()
            }
        });
        // Two looks later.
        let after = Instant::now() + Duration::from_secs(2);
        town.sites[0].wait_for("what n1 makes of it", || Instant::now() >= after && state(&town, "n2") == believed);
        assert!(impostor.asked.load(Ordering::Relaxed), "it was asked");
    }
}

/// Status and body of one request over TLS.
fn call(addr: SocketAddr, config: Arc<ClientConfig>, path: &str) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(addr).await.map_err(|e| e.to_string())?;
        let name = ServerName::try_from("n1.town.holdfast").expect("a name");
        let mut stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| e.to_string())?;
        let text = format!("GET {path} HTTP/1.1\r\nhost: n1\r\nconnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.map_err(|e| e.to_string())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
        Ok(answer)
    })
}

#[test]
fn only_machines_of_the_cluster_are_answered() {
    let town = Town::start(2, "fast");
    let link = town.link(0);
    let files = |n: usize| Files::new(&town.sites[n].data());
    let member = files(1).identity().expect("readable").expect("it has joined");
    let good = call(link, client_config(&member).expect("TLS"), "/v1/hello").expect("an answer");
    assert!(good.starts_with("HTTP/1.1 200") && good.contains("\"n1\""), "{good}");
    for path in ["/v1/hello", "/v1/ask/vip/10.0.0.1", "/v1/renew"] {
        let nameless = call(link, pinned(member.fingerprint).expect("TLS"), path).expect("an answer");
        assert!(!nameless.starts_with("HTTP/1.1 200"), "{path}: {nameless}");
    }
    let strange = Authority::create("town", holdfast_host::clock::wall_ms()).expect("an authority");
    let request = Request::new().expect("a key");
    let subject = Subject { name: "n2.town.holdfast".into(), addresses: Vec::new() };
    let now = holdfast_host::clock::wall_ms();
    let issued = strange.issue(&request.request_pem, &subject, now, Duration::from_secs(60)).expect("a certificate");
    let ca = std::fs::read_to_string(files(0).path("ca.pem")).expect("readable");
    // With our authority's certificate beside it, so that only our agent can be the one that refuses.
    let fake = Identity::load(&ca, &issued.pem, &request.key_pem).expect("an identity");
    let turned_away = call(link, client_config(&fake).expect("TLS"), "/v1/hello").expect_err("no answer");
    assert!(turned_away.contains("alert"), "{turned_away}");
    // What the API of the Unix socket can do is not to be had without a key, not even by machines.
    for path in ["/v1/status", "/v1/desired", "/metrics"] {
        let answer = call(link, client_config(&member).expect("TLS"), path).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
    }
}

#[test]
fn who_has_a_key_may_what_its_role_says_from_elsewhere() {
    let town = Town::start(2, "fast");
    town.apply(0, &town.web(2));
    town.wait_ready(2);
    let desk = town.another("desk");
    let remote = format!("https://{}", town.link(1));
    let key = |name: &str, role: &str| {
        let text = town.sites[0].ok(&["key", "add", name, "--role", role]);
        let file = desk.path().join(name);
        std::fs::write(&file, &text).expect("writable");
        // The agent that is asked hears of it from the store.
        town.sites[1].wait_for("the key to be known", || town.sites[1].run(&["key", "list"]).stdout.contains(name));
        file.to_string_lossy().into_owned()
    };
    let (looks, works) = (key("looks", "read"), key("works", "operate"));
    let ask = |file: &str, args: &[&str]| {
        let mut all = vec!["--remote", &remote, "--key", file];
        all.extend(args);
        desk.run(&all)
    };
    let status = ask(&looks, &["status", "--json"]);
    assert!(status.code == 0 && status.stdout.contains("web-1"), "{}{}", status.stdout, status.stderr);
    refused(&ask(&looks, &["scale", "web=3"]), "HF0389");
    refused(&ask(&looks, &["key", "list"]), "HF0389");
    refused(&ask(&works, &["key", "add", "more", "--role", "admin"]), "HF0389");
    let scaled = ask(&works, &["scale", "web=3"]);
    assert_eq!(scaled.code, 0, "{}", scaled.stderr);
    town.wait_ready(3);
    refused(&ask(&works, &["down"]), "HF0389");
    assert_eq!(town.ready(), 3, "and nothing was stopped");

    let secret = std::fs::read_to_string(&works).expect("readable");
    let forged = desk.path().join("forged");
    std::fs::write(&forged, secret.replace("hfk1.works", "hfk1.looks")).expect("writable");
    refused(&ask(&forged.to_string_lossy(), &["status"]), "HF0389");
    town.sites[0].ok(&["key", "remove", "works"]);
    town.sites[1].wait_for("it to be good no more", || ask(&works, &["status"]).stderr.contains("HF0389"));
    let log = town.sites[1].agent_log();
    assert!(log.contains("key works") && log.contains("/v1/scale") && log.contains("403"), "{log}");
    assert!(!log.contains(&secret[12..40]), "no secret is in the log");
}

#[test]
fn certificates_that_run_out_move_and_stop_nothing_and_one_command_mends_it() {
    let town = Town::with(3, "fast", Some("20s"));
    town.apply(0, &town.web(3));
    town.wait_ready(3);
    let before = town.pids();
    let key = town.sites[0].data().join("tls/ca.key");
    let away = key.with_extension("away");
    std::fs::rename(&key, &away).expect("the key can be moved");
    let rate = Rate::start(town.port, town.port, 200);
    for n in 0..3 {
        town.sites[n].wait_for("its certificate to run out", || town.warnings(n).contains("HF0382"));
    }
    // Longer than lease and grace, and with another leader, who knows nobody by an answer.
    let leader = town.leader();
    kill(town.sites[leader].pid_of_agent(), "KILL");
    let until = Instant::now() + Duration::from_secs(10);
    town.sites[0].wait_for("the time to pass", || Instant::now() >= until && town.has_leader());
    assert_eq!(town.pids(), before, "nothing was restarted or moved");
    let listed = town.sites[0].run(&["node", "list"]).stdout;
    assert!(listed.contains("expired") && !listed.contains("lost"), "{listed}");

    std::fs::rename(&away, &key).expect("the key can be moved back");
    town.sites[0].wait_for("the authority to renew its own", || !town.warnings(0).contains("HF0382"));
    assert!(town.warnings(1).contains("HF0382"), "nobody else is renewed unasked: {}", town.warnings(1));
    town.sites[0].ok(&["cluster", "renew", "n2"]);
    town.sites[2].ok(&["cluster", "renew"]);
    for n in 0..3 {
        town.sites[n].wait_for("all to be sure again", || town.warnings(n) == "[]" && town.all_proved(&town.sites[n]));
    }
    rate.let_pass(100);
    rate.finish().none_failed();
    assert_eq!(town.pids(), before);
    town.sites[1].ok(&["scale", "web=4"]);
    town.wait_ready(4);
}

fn serial(town: &Town, n: usize) -> String {
    town.sites[n].api("/v1/cluster")["serial"].to_string()
}

#[test]
fn certificates_are_renewed_at_half_their_life_and_nobody_notices() {
    let town = Town::with(2, "fast", Some("10s"));
    for n in 0..2 {
        for _ in 0..2 {
            let (old, began) = (serial(&town, n), Instant::now());
            town.sites[n].wait_for("another certificate", || {
                let status = town.sites[0].api("/v1/status");
                assert!(!status["warnings"].to_string().contains("HF0382"), "none runs out: {status:#}");
                for node in ["n1", "n2"] {
                    assert_ne!(status["nodes"][node]["state"], "lost", "{status:#}");
                }
                let now = serial(&town, n);
                now != old && now != "null"
            });
            assert!(began.elapsed() < Duration::from_secs(10), "before the old one ran out");
        }
    }
    town.sites[0].wait_for("all to be sure", || town.all_proved(&town.sites[0]) && town.all_proved(&town.sites[1]));
}

#[test]
fn a_cluster_that_runs_gets_certificates_without_a_restart() {
    let town = Town::with(2, "fast", None);
    town.apply(0, &town.web(2));
    town.wait_ready(2);
    assert!(town.warnings(0).contains("HF0375"), "{}", town.warnings(0));
    let before = town.pids();
    let agents = [town.sites[0].pid_of_agent(), town.sites[1].pid_of_agent()];
    town.sites[0].ok(&["cluster", "init"]);
    let ready = || (0..2).all(|n| !town.sites[n].run(&["node", "list"]).stdout.contains("suspect"));
    town.sites[0].wait_for("n2 to see that there is an authority", || ready() && town.warnings(1).contains("join"));
    town.join(&town.sites[1]);
    for n in 0..2 {
        town.sites[n].wait_for("all to be sure", || town.warnings(n) == "[]" && town.all_proved(&town.sites[n]));
    }
    assert_eq!(town.pids(), before);
    assert_eq!([town.sites[0].pid_of_agent(), town.sites[1].pid_of_agent()], agents);
}

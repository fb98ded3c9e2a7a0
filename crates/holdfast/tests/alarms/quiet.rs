//! The promise: on a machine without an idle core, with stalls of 200 ms and lost packets, a healthy site is left alone;
//! and what is not healthy is found all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::conditions::{Counts, Loss, Saturation, Stalls, in_a_namespace, real_time};
use crate::proof::{Evidence, size};
use crate::rate::{Rate, Summary};
use crate::site::{PATIENCE, Site, free_port, kill};
use crate::watcher::{Cast, Findings, Watcher, cast, victims};

const NAME: &str = "quiet::a_healthy_site_on_a_starved_machine_is_left_alone";

/// Wall time under these conditions: in the test lane, and in the proof.
const MINUTES: (u64, u64) = (5, 30);

/// Service, and how many GETs a second go to it. One of them is nearly idle: there a single slow answer has no others
/// beside it.
const SERVICES: [(&str, u32); 4] = [("web", 80), ("plain", 60), ("fast", 40), ("asked", 2)];

/// Probes of every kind: as a user has them who names nothing but the question, and fast ones.
fn text(ports: &[u16]) -> String {
    let mut text = String::from(
        r#"
[service.web]
command  = ["{origin}", "{port}"]
replicas = 2
ready    = { http = "/healthz" }
live     = { http = "/healthz" }

[service.plain]
command  = ["{origin}", "{port}"]
replicas = 2
ready    = { tcp = true }
live     = { tcp = true }

[service.fast]
command  = ["{origin}", "{port}"]
replicas = 2
ready    = { http = "/healthz", every = "100ms" }
live     = { tcp = true, every = "500ms" }

[service.asked]
command  = ["{origin}", "{port}"]
replicas = 2
ready    = { command = ["curl", "-fsS", "-o", "/dev/null", "http://127.0.0.1:{port}/healthz"] }
live     = { command = ["curl", "-fsS", "-o", "/dev/null", "http://127.0.0.1:{port}/healthz"] }
"#,
    );
    for ((service, _), port) in SERVICES.iter().zip(ports) {
        text += &format!("\n[balancer.{service}]\nlisten = \"127.0.0.1:{port}\"\nservice = \"{service}\"\n");
    }
    text
}

fn ids() -> Vec<String> {
    SERVICES.iter().flat_map(|(service, _)| [format!("{service}-1"), format!("{service}-2")]).collect()
}

#[test]
fn a_healthy_site_on_a_starved_machine_is_left_alone() {
    let no_loss = match in_a_namespace(NAME) {
        Ok(Some(inside)) => {
            // Its own result lines would be counted as another test.
            let all = String::from_utf8_lossy(&inside.stdout).into_owned() + &String::from_utf8_lossy(&inside.stderr);
            all.lines().filter(|l| !l.starts_with("test ") && !l.starts_with("running")).for_each(|l| println!("{l}"));
            assert!(inside.status.success(), "the run inside the namespace failed, see above");
            return;
        }
        Ok(None) => None,
        Err(reason) => Some(reason),
    };
    if let Some(reason) = &no_loss {
        println!("no packets are lost in this run: {reason}");
    }
    let ports: Vec<u16> = SERVICES.iter().map(|_| free_port()).collect();
    let site = Arc::new(Site::new(&text(&ports)));
    site.up();
    Starved::begin(&site, &ports, no_loss).run();
}

fn rates(site: &Site, ports: &[u16]) -> Vec<Rate> {
    let rate = |((service, per_second), port): (&(&str, u32), &u16)| {
        Rate::start(*port, site.port_of(&format!("{service}-2")), *per_second)
    };
    SERVICES.iter().zip(ports).map(rate).collect()
}

/// A site under all conditions.
struct Starved<'a> {
    site: &'a Arc<Site>,
    ports: &'a [u16],
    cast: Cast,
    rates: Vec<Rate>,
    no_loss: Option<String>,
    loss: Option<Loss>,
    real_time: bool,
    stalls: Stalls,
    _saturation: Saturation,
}

impl<'a> Starved<'a> {
    fn begin(site: &'a Arc<Site>, ports: &'a [u16], no_loss: Option<String>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (ids, real_time) = (ids(), real_time());
        let cast = cast(site, &ids.iter().map(String::as_str).collect::<Vec<_>>());
        if !real_time {
            println!("no core is taken away in this run: real-time priority is refused; stalls are by SIGSTOP alone");
        }
        let rates = rates(site, ports);
        let instance_ports: Vec<u16> = ids.iter().map(|id| site.port_of(id)).collect();
        let loss = no_loss.is_none().then(|| Loss::one_percent(&instance_ports));
        let saturation = Saturation::begin(cores);
        let stalls = Stalls::begin(victims(&cast), cores, real_time);
        Starved { site, ports, cast, rates, no_loss, loss, real_time, stalls, _saturation: saturation }
    }

    fn run(mut self) {
        let time = Duration::from_secs(60 * size(MINUTES.0, MINUTES.1));
        let mut ticks = (0, 0);
        Saturation::busy_share(&mut ticks);
        let watcher = Watcher::begin(self.site, self.cast.clone());
        hold_for(time);
        let quiet = watcher.finish();
        let busy = Saturation::busy_share(&mut ticks);
        let counts = self.stalls.counts();
        let packets = self.loss.as_ref().map(Loss::counts);
        let summaries: Vec<Summary> = std::mem::take(&mut self.rates).into_iter().map(Rate::finish).collect();
        let rates = rates(self.site, self.ports);
        let found = self.faults_are_found();
        drop(rates);
        let Starved { site, no_loss, loss, real_time, stalls, .. } = self;
        drop(stalls);
        loss.into_iter().for_each(Loss::end);
        let mut evidence = Evidence::new("false-alarms", NAME);
        evidence.condition("stalls", stalls_in_words(counts, real_time));
        evidence.condition("loss", no_loss.unwrap_or_else(|| "1 % of the packets of probes and requests".into()));
        tell(&mut evidence, time, &quiet, busy, packets, &summaries);
        found.tell(&mut evidence);
        evidence.tell();
        println!("{} transitions in the log: {:#?}", quiet.said.len(), quiet.said);
        let story = || format!("{quiet:#?}\n{}\n{}", site.agent_log(), site.plane_log());
        assert_eq!(quiet.alarms(), 0, "{}", story());
        assert!(quiet.said.is_empty(), "a decision about a healthy site: {}", story());
        // The conditions were there.
        assert!(busy > 0.98, "{busy} of the machine was busy");
        assert!(counts.cores + counts.pinned + counts.stopped >= time.as_secs() as u32 / 4, "{counts:?}");
        assert!(packets.is_none_or(|(seen, lost)| lost * 200 > seen && lost * 50 < seen), "{packets:?}");
        assert!(quiet.looks > time.as_secs() as u32, "{} looks at the status", quiet.looks);
        found.all();
    }

    /// The same judgement under the same conditions, now with something to judge.
    fn faults_are_found(&self) -> Found {
        let hung = self.watch_while(
            |pid, watcher| {
                kill(pid, "STOP");
                self.until("a stopped instance to be out of the rotation", || !self.is_in_rotation("web-1"));
                let found = Instant::now();
                // On a machine this busy a watcher that looks every 20 ms is late too.
                self.until("the watcher to see it", || watcher.has_seen_out());
                kill(pid, "CONT");
                found
            },
            "web-1",
        );
        let deaf = self.loss.as_ref().map(|loss| {
            self.watch_while(
                |pid, _| {
                    // Its liveness fails, and the others of its service are well: it is restarted.
                    loss.blackhole(self.site.port_of("fast-1"));
                    self.until("an instance that nothing reaches to be restarted", || !crate::site::alive(pid));
                    Instant::now()
                },
                "fast-1",
            )
        });
        let killed = self.watch_while(
            |pid, _| {
                kill(pid, "KILL");
                self.until("another process", || self.site.child_of("plain-1").is_some_and(|now| now != pid));
                Instant::now()
            },
            "plain-1",
        );
        Found { hung, deaf, killed }
    }

    /// `fault` tells when it was met.
    fn watch_while(&self, fault: impl FnOnce(u32, &Watcher) -> Instant, id: &str) -> (Findings, Duration) {
        let pid = self.site.child_of(id).expect("it runs");
        let watcher = Watcher::begin(self.site, Cast::from([(pid, id.to_owned())]));
        let began = Instant::now();
        let took = fault(pid, &watcher).duration_since(began);
        hold_for(Duration::from_secs(1));
        (watcher.finish(), took)
    }

    fn is_in_rotation(&self, id: &str) -> bool {
        let status = self.site.api("/v1/status");
        let all = status["balancers"]["web"]["endpoints"].as_array().cloned().unwrap_or_default();
        all.is_empty() || all.iter().any(|e| e["instance"] == id && e["state"] == "ready")
    }

    fn until(&self, what: &str, condition: impl FnMut() -> bool) {
        self.site.wait_for(what, condition);
    }
}

/// Findings about an instance after a fault, and when it was met.
struct Found {
    hung: (Findings, Duration),
    deaf: Option<(Findings, Duration)>,
    killed: (Findings, Duration),
}

impl Found {
    fn tell(&self, evidence: &mut Evidence) {
        let mut row = |what: &str, (found, took): &(Findings, Duration)| {
            let told = format!("{} alarms, {} ms", found.alarms(), took.as_millis());
            evidence.figure(&format!("afterwards, same conditions: {what}"), "found", told);
        };
        row("SIGSTOP", &self.hung);
        row("kill -9", &self.killed);
        self.deaf.iter().for_each(|deaf| row("unreachable until restarted", deaf));
    }

    fn all(&self) {
        let (hung, killed) = (&self.hung.0, &self.killed.0);
        assert!(!hung.out.is_empty() && !hung.said.is_empty() && hung.ended.is_empty(), "{hung:#?}");
        assert!(killed.restarts > 0 && !killed.ended.is_empty() && !killed.incidents.is_empty(), "{killed:#?}");
        if let Some((deaf, _)) = &self.deaf {
            assert!(!deaf.out.is_empty() && !deaf.ended.is_empty() && !deaf.incidents.is_empty(), "{deaf:#?}");
        }
    }
}

fn stalls_in_words(counts: Counts, real_time: bool) -> String {
    let Counts { cores, pinned, stopped } = counts;
    let words = format!("{stopped} of parts of holdfast by SIGSTOP");
    match real_time {
        true => format!("{cores} of one or all cores and {pinned} of a single process by real-time priority, {words}"),
        false => words + "; real-time priority was refused",
    }
}

fn tell(
    evidence: &mut Evidence,
    time: Duration,
    quiet: &Findings,
    busy: f64,
    packets: Option<(u64, u64)>,
    summaries: &[Summary],
) {
    evidence.figure("minutes", MINUTES.1, time.as_secs() / 60);
    evidence.figure("ejections", 0, quiet.ejected.len());
    evidence.figure("restarts", 0, quiet.restarts.max(quiet.ended.len() as u64));
    evidence.figure("looks at which an endpoint was kept from requests", 0, quiet.out.len());
    evidence.figure("looks (one in 20 ms) at which a waiting GET might be repeated elsewhere", "-", quiet.silent);
    evidence.figure("incidents", 0, quiet.incidents.len());
    evidence.figure("transitions of any kind", 0, quiet.said.len());
    evidence.figure("share of the machine that was busy", "> 0.98", format!("{busy:.3}"));
    if let Some((seen, lost)) = packets {
        evidence.figure("packets lost", "1 %", format!("{lost} of {seen}"));
    }
    let (sent, failed) = summaries.iter().fold((0, 0), |(s, f), one| (s + one.sent, f + one.failures.len()));
    evidence.figure("GETs that failed", "-", format!("{failed} of {sent}"));
    let slowest = summaries.iter().map(Summary::max).max().unwrap_or_default();
    evidence.figure("slowest GET, ms", "-", slowest.as_millis());
    for one in summaries {
        let p99 = one.quantile(0.99).as_millis();
        println!("{} GETs, p99 {p99} ms, failed: {:#?}", one.sent, one.failures.iter().take(20).collect::<Vec<_>>());
    }
}

fn hold_for(time: Duration) {
    assert!(time < PATIENCE * 60, "a watch of {time:?}");
    std::thread::sleep(time);
}

//! Random kills of everything that holdfast is made of and of what it keeps up, checked from outside: by what the
//! instances themselves write down, by `/proc`, and by the list of who was killed.

mod field;
mod gaps;
mod killer;
pub(crate) mod ledger;
mod records;
mod watch;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::disk::SmallDisk;
use crate::proof::{self, Evidence};
use crate::site::{PATIENCE, Site, free_port, get};
use field::Field;
use gaps::{Explainer, Gap, Policy};
use killer::{Killer, Role};
use records::Records;
use watch::{Seen, Watch};

const WEB: Policy = Policy { delay_ms: 100, max_ms: 500, fenced: false };
const API: Policy = Policy { delay_ms: 200, max_ms: 1000, fenced: false };
/// Fenced: it may not run without an agent that renews its lease, and never twice.
const SOLE: Policy = Policy { delay_ms: 100, max_ms: 500, fenced: true };
const IDS: [(&str, Policy); 6] =
    [("web-1", WEB), ("web-2", WEB), ("web-3", WEB), ("api-1", API), ("api-2", API), ("sole-1", SOLE)];
const PLANES: [&str; 2] = ["_balancer-1", "_balancer-2"];

fn service(name: &str, replicas: u32, policy: Policy) -> String {
    let Policy { delay_ms, max_ms, fenced } = policy;
    format!(
        r#"
[service.{name}]
command  = ["{{origin}}", "{{port}}"]
replicas = {replicas}
fenced   = {fenced}
env      = {{ ORIGIN_LEDGER = "{{dir}}/ledger-{{instance}}" }}
restart  = {{ when = "always", delay = "{delay_ms}ms", max = "{max_ms}ms", reset = "1s" }}
ready    = {{ http = "/healthz", every = "200ms" }}
"#
    )
}

fn text(port: u16) -> String {
    let services = service("web", 3, WEB) + &service("api", 2, API) + &service("sole", 1, SOLE);
    format!("{services}\n[balancer.public]\nlisten = \"127.0.0.1:{port}\"\nservice = \"web\"\n")
}

/// A system that is being killed, and everything that is noted of it.
struct Torture {
    site: Site,
    port: u16,
    killer: Killer,
    records: Records,
    watch: Watch,
    seed: u64,
}

impl Torture {
    fn begin(site: Site, port: u16) -> Torture {
        let seed = std::env::var("HOLDFAST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or_else(|| ledger::boot_ms() ^ (u64::from(std::process::id()) << 32));
        println!("seed {seed}: repeat with HOLDFAST_SEED={seed}");
        site.up();
        let watch = Watch::start(&site, port);
        let (killer, records) = (Killer::new(seed), Records::default());
        let torture = Torture { site, port, killer, records, watch, seed };
        torture.wait_well("before the first kill");
        torture
    }

    /// Until so many processes were killed in all.
    fn kill_up_to(&mut self, count: usize) {
        while self.killer.log.len() < count {
            self.kill_once();
        }
    }

    fn kill_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.kill_once();
        }
    }

    /// When it was.
    fn end_one(&mut self, id: &str) -> u64 {
        let at = ledger::boot_ms();
        self.killer.end_instance(&Field::look(&self.site), id);
        self.records.collect(&self.site);
        at
    }

    /// The agent's own word on the end of an instance is in no ring: without space it is counted, and that is told when there is.
    fn wait_told_or_lost(&self, id: &str, at_ms: u64) {
        let what =
            format!("the journal to tell the end of {id} at {at_ms}, or that it lost it\n{:#?}", self.last_kills());
        self.site.wait_for(&what, || {
            let rows = records::journal(&self.site).expect("the journal can be read");
            let mut later = rows.iter().filter(|row| row.last_ms + 1 >= at_ms);
            later.any(|row| row.is_loss() || row.is_exit_of(id))
        });
    }

    fn kill_once(&mut self) {
        self.killer.strike(&self.site);
        self.records.collect(&self.site);
        match self.killer.rng.below(10) {
            // Into the middle of the recovery from the last one.
            0..3 => self.pace(0..60),
            3..8 => self.pace(50..600),
            _ => self.wait_well("between kills"),
        }
    }

    fn pace(&mut self, ms: std::ops::Range<u64>) {
        pace_for(Duration::from_millis(ms.start + self.killer.rng.below(ms.end - ms.start)));
    }

    fn wait_well(&self, when: &str) {
        let services = [("web", 3), ("api", 2), ("sole", 1)];
        self.site.wait_for(
            &format!("everything to be ready {when}; seed {}\n{:#?}", self.seed, self.last_kills()),
            || {
                let planes = self.site.api("/v1/status")["balancers"]["public"]["processes"] == PLANES.len();
                planes && services.iter().all(|(name, count)| self.site.all_ready(name, *count))
            },
        );
    }

    fn last_kills(&self) -> &[killer::Kill] {
        let log = &self.killer.log;
        &log[log.len().saturating_sub(10)..]
    }

    /// Exactly one of everything, and nothing else.
    fn wait_complete(&self) {
        self.site.wait_for("exactly one of everything", || {
            let field = Field::look(&self.site);
            let ids = IDS.iter().map(|(id, _)| *id);
            let shims = ids.clone().chain(PLANES).chain(["_agent-1"]);
            field.others.is_empty()
                && field.guarded_agent().is_some()
                && field.instances.keys().map(String::as_str).eq(sorted(ids))
                && field.planes.keys().map(String::as_str).eq(PLANES)
                && field.shims.keys().map(String::as_str).eq(sorted(shims))
        });
        self.site.wait_for("no zombie", || field::zombies(&self.site).is_empty());
    }

    /// Until the journal tells what the shims have on record, or for as long as that may take.
    fn wait_told(&self) -> Vec<records::Told> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows = records::journal(&self.site).expect("the journal can be read");
            if self.records.journal_disagreements(&kept(), &self.killer.log, &rows).is_empty()
                || Instant::now() > deadline
            {
                return rows;
            }
            pace_for(Duration::from_millis(100));
        }
    }

    fn end(mut self, name: &'static str) -> Ended {
        self.wait_well("after the last kill");
        self.wait_complete();
        for _ in 0..50 {
            assert_eq!(get(self.port, "/").expect("the balancer answers").0, 200);
        }
        self.records.collect(&self.site);
        let rows = self.wait_told();
        let ledgers: BTreeMap<String, _> = IDS
            .iter()
            .map(|(id, _)| {
                let path = self.site.path().join(format!("ledger-{id}"));
                let lives = ledger::lives(&path).unwrap_or_else(|why| panic!("{id}: {why}; seed {}", self.seed));
                ((*id).to_owned(), lives)
            })
            .collect();
        let seen = self.watch.end();
        let cgroups = field::cgroups(&Field::look(&self.site));
        self.site.ok(&["down"]);
        assert!(cgroups.as_ref().is_none_or(|dir| !dir.exists()), "cgroups were left in {cgroups:?}");
        assert_eq!(self.site.living(), [], "something was left behind; seed {}", self.seed);
        let ended = Ended {
            kills: self.killer.log,
            records: self.records,
            rows,
            ledgers,
            seen,
            seed: self.seed,
            evidence: Evidence::new("chaos", name),
        };
        drop(self.site);
        ended
    }
}

/// Everything that runs under a shim of the agent's.
fn kept() -> Vec<String> {
    IDS.iter().map(|(id, _)| *id).chain(PLANES).map(str::to_owned).collect()
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names
}

fn pace_for(time: Duration) {
    std::thread::sleep(time);
}

/// A system that is down: what is left to compare.
struct Ended {
    kills: Vec<killer::Kill>,
    records: Records,
    rows: Vec<records::Told>,
    ledgers: BTreeMap<String, Vec<ledger::Life>>,
    seen: Seen,
    seed: u64,
    evidence: Evidence,
}

impl Ended {
    fn gaps(&self) -> Vec<Gap> {
        let runs = |id: &str, generation: u64| self.records.highest_run(id, generation);
        let explainer = Explainer { kills: &self.kills, seen: &self.seen, runs: &runs };
        IDS.iter().flat_map(|(id, policy)| explainer.gaps(id, *policy, &self.ledgers[*id])).collect()
    }

    fn judge(mut self, under: &str) {
        let gaps = self.gaps();
        let too_long: Vec<String> = gaps.iter().filter(|g| g.ms > g.allowed_ms).map(|g| format!("{g:?}")).collect();
        let runs = |id: &str, generation: u64| self.records.highest_run(id, generation);
        let absences = Explainer { kills: &self.kills, seen: &self.seen, runs: &runs }.unexplained_absences();
        let wrong = self.records.disagreements(&self.kills, &self.ledgers);
        let journal = self.records.journal_disagreements(&kept(), &self.kills, &self.rows);
        let untold = records::untold_shims(&self.kills, &self.rows);
        self.tell(under, &gaps, [&too_long, &absences, &wrong, &journal]);
        let found: Vec<String> = [too_long, absences, wrong, journal, untold].concat();
        assert!(found.is_empty(), "seed {}:\n{}\nkills: {:#?}", self.seed, found.join("\n"), self.kills);
    }

    /// `under` says what made it harder.
    fn tell(&mut self, under: &str, gaps: &[Gap], wrong: [&[String]; 4]) {
        let of = |role: Role| self.kills.iter().filter(|k| k.role == role).count();
        let lives: usize = self.ledgers.values().map(Vec::len).sum();
        let worst = |replaced: bool| {
            let of_it = gaps.iter().filter(|g| g.is_replaced() == replaced && !g.id.starts_with("sole"));
            format!("{} ms", of_it.map(Gap::own_ms).max().unwrap_or(0))
        };
        let roles = [Role::Instance, Role::Shim, Role::Plane, Role::Agent].map(|role| of(role).to_string());
        let figures = [
            (
                "processes killed (instances, shims, balancer processes, agents)",
                "-",
                format!("{} ({})", self.kills.len(), roles.join(", ")),
            ),
            ("lives in the ledgers that overlap another", "0", format!("0 of {lives}")),
            ("gaps that policy does not explain", "0", format!("{} of {}", wrong[0].len(), gaps.len())),
            ("longest gap after a kill of the instance, beyond its back-off", "-", worst(false)),
            ("longest gap after a kill of its shim, beyond back-off and absence of the agent", "-", worst(true)),
            (
                "absences of the agent that its policy does not explain",
                "0",
                format!("{} of {}", wrong[1].len(), self.seen.away.len()),
            ),
            ("deaths with a missing or wrong record", "0", format!("{} of {}", wrong[2].len(), self.records.len())),
            ("endings that the journal tells too seldom or too often", "0", wrong[3].len().to_string()),
            ("GETs meanwhile that failed", "-", format!("{} of {}", self.seen.failed, self.seen.requests)),
        ];
        let evidence = &mut self.evidence;
        evidence.condition("seed", self.seed);
        for (what, wanted, measured) in figures {
            println!("{under}{what}: {measured}");
            evidence.figure(&format!("{under}{what}"), wanted, measured);
        }
        evidence.tell();
    }
}

#[test]
fn random_kills_leave_no_overlap_and_no_gap_that_policy_does_not_explain() {
    let port = free_port();
    let mut torture = Torture::begin(Site::new(&text(port)), port);
    torture.kill_up_to(proof::size(25, 200));
    torture.end("random_kills_leave_no_overlap").judge("");
}

#[test]
fn random_kills_on_a_full_disk_lose_no_exit_and_start_everything_again() {
    let port = free_port();
    let site = Site::new(&text(port));
    // Unmounted after the site has stopped everything, because locals go in reverse order.
    let Some(disk) = SmallDisk::mount(&site.data()) else { return };
    let mut torture = Torture::begin(site, port);
    torture.kill_up_to(proof::size(5, 70));
    disk.fill();
    torture.kill_for(proof::size(Duration::from_secs(10), Duration::from_secs(60)));
    torture.wait_well("on the full disk");
    let told_of = torture.end_one("web-1");
    torture.wait_well("on the full disk, once more");
    disk.empty();
    torture.wait_told_or_lost("web-1", told_of);
    let killed = torture.killer.log.len();
    torture.kill_up_to((killed + 5).max(proof::size(25, 200)));
    torture.end("random_kills_on_a_full_disk").judge("disk full: ");
}

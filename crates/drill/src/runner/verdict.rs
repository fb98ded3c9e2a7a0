//! From what was seen to the report.

use std::time::Duration;

use holdfast_config::Fault;
use holdfast_host::clock;
use holdfast_policy::drill::{Blast, Kept as Told, Measured, Miss, judge};
use holdfast_policy::{Incarnation, Timestamp};

use super::observe::Course;
use super::{Phase, Runner, Scene};
use crate::aim::Blow;
use crate::error::DrillError;
use crate::prober::queue::Kept;
use crate::prober::{End, Record, millis, summarize};
use crate::report::Report;
use crate::spec::blast;
use crate::system::{Incident, Status, within};
use crate::watcher::{Outside, Watcher};

/// An incident's last time is journaled a moment after the status shows it.
const INCIDENT_LIMIT: Duration = Duration::from_secs(5);
const INCIDENT_EVERY: Duration = Duration::from_millis(50);

impl Runner {
    pub(super) async fn report(
        &self,
        scene: Scene<'_>,
        watcher: Option<Watcher>,
        seen: Course,
    ) -> Result<Report, DrillError> {
        let incidents = self.incidents(&scene, &seen).await;
        let Scene { spec, aim, before, prober, .. } = scene;
        let counts = prober.counts();
        let finish = move || (prober.finish(), watcher.map(Watcher::finish));
        let ended = tokio::task::spawn_blocking(finish).await;
        let ((records, kept), outside) = ended.map_err(|e| DrillError::Prober(e.into()))?;

        let injected = seen.injected;
        let window: Vec<Record> = records.into_iter().filter(|r| r.done >= injected).collect();
        let summary = summarize(&window);
        let in_flight = |r: &&Record| r.sent <= injected && !r.end.is_good();
        let failed_in_flight = window.iter().filter(in_flight).count() as u64;
        let forgiven = if spec.forgives_in_flight { failed_in_flight } else { 0 };

        let from_probes = from_probes(spec.drill.fault, kept.as_ref(), &window);
        let detected = incidents.iter().map(|i| i.detected).min().or(from_probes.0);
        let ready = incidents.iter().all(|i| i.ready.is_some());
        let from_incident = incidents.iter().filter_map(|i| i.ready).max().filter(|_| ready);
        let steady = seen.steady_since.filter(|_| incidents.is_empty());
        let recovered = from_incident.or(from_probes.1).or(steady);
        let recovered_from = match (from_incident, from_probes.1) {
            (Some(_), _) => "incident",
            (None, Some(_)) => "probes",
            (None, None) => "status",
        };
        let restarts =
            seen.after.as_ref().map_or(0, |after| restarts(&before, after, &spoken_for(&aim.blow, &aim.target, spec)));

        let measured = Measured {
            detected: detected.map(|at| at.since(injected)),
            recovered: recovered.map(|at| at.since(seen.last_blow)),
            rotated_out: seen.rotated_out.map(|at| at.since(injected)),
            requests: summary.requests,
            failed: summary.failed - forgiven,
            p99: Some(Duration::from_secs_f64(summary.p99_ms / 1e3)),
            restarts,
            kept: kept.as_ref().map(|k| Told {
                confirmed: k.confirmed,
                lost: k.lost,
                twice: k.twice,
                longest: Duration::from_secs_f64(k.done_max_ms / 1e3),
            }),
            undone: seen.undone,
            steady: seen.steady_since.is_some(),
            stopped: seen.stopped,
        };
        let mut misses = judge(&spec.goals, &measured);
        if spec.drill.fault == Fault::Poison && kept.as_ref().is_some_and(|k| k.dead_letters == 0) {
            misses.push(Miss::NotBuried);
        }
        let ago = clock::now().since(injected).as_millis() as u64;
        let report = Report {
            name: spec.drill.name.clone(),
            fault: spec.drill.fault.name(),
            target: aim.target.clone(),
            detected_ms: measured.detected.map(millis),
            recovered_ms: measured.recovered.map(millis),
            recovered_from: recovered.map(|_| recovered_from),
            rotated_out_ms: measured.rotated_out.map(millis),
            requests: summary.requests,
            failed: summary.failed,
            failed_in_flight,
            p50_ms: summary.p50_ms,
            p99_ms: summary.p99_ms,
            p999_ms: summary.p999_ms,
            max_ms: summary.max_ms,
            outage_ms: summary.outage_ms,
            sent_late_ms: summary.sent_late_ms,
            restarts,
            kept,
            outside: outside.map_or(Outside::default(), |o| o.since(injected)),
            injected_boot_ns: injected.as_nanos(),
            injected_wall_ms: clock::wall_ms().saturating_sub(ago),
            undone: seen.undone,
            stopped: seen.stopped.map(|s| s.to_string()),
            refused: Vec::new(),
            passed: misses.is_empty(),
            why_not: misses.iter().map(Miss::to_string).collect(),
        };
        self.tell(spec, &aim, Phase::Over, Duration::ZERO, counts);
        Ok(report)
    }

    /// Those of the struck subjects, once each is over or the time for it has passed.
    async fn incidents(&self, scene: &Scene<'_>, seen: &Course) -> Vec<Incident> {
        let last = clock::now() + INCIDENT_LIMIT;
        loop {
            let mut found = Vec::new();
            for subject in &scene.aim.subjects {
                let asked = within("read the incidents", self.setup.system.incidents(subject, seen.injected))
                    .await
                    .unwrap_or_default();
                found.extend(asked.into_iter().filter(|i| i.detected >= seen.injected));
            }
            let over = !found.is_empty() && found.iter().all(|i| i.ready.is_some());
            // A fault that nothing had to detect leaves no incident; a little patience is enough then.
            let patience = if found.is_empty() { INCIDENT_LIMIT * 4 / 5 } else { Duration::ZERO };
            if over || clock::now() + patience >= last {
                return found;
            }
            tokio::time::sleep(INCIDENT_EVERY).await;
        }
    }
}

/// When the probes of a queue showed that something is wrong, and when they showed that it is well: what was struck is tried
/// again and over, or sends are refused and taken again. Nothing of it is known of other drills.
fn from_probes(fault: Fault, kept: Option<&Kept>, window: &[Record]) -> (Option<Timestamp>, Option<Timestamp>) {
    let Some(kept) = kept else { return (None, None) };
    match fault {
        Fault::TasksDiskFull => {
            let refused = || window.iter().filter(|r| matches!(r.end, End::Refused(_)));
            let last = refused().map(|r| r.done).max();
            let taken = window.iter().filter(|r| r.end.is_good() && Some(r.done) > last).map(|r| r.done).min();
            (refused().map(|r| r.done).min(), taken.filter(|_| last.is_some()))
        }
        _ => (kept.struck_again, kept.struck_settled),
    }
}

/// What may be restarted without counting: what the drill itself killed, or hung long enough to be replaced.
fn spoken_for(blow: &Blow, target: &str, spec: &crate::spec::Spec) -> Option<String> {
    let takes_down = matches!(blow, Blow::Kill(_) | Blow::KillAgain(..) | Blow::Stop(_));
    (takes_down && blast(spec.drill.fault) != Blast::Service).then(|| target.to_owned())
}

/// Restarts between the two, of everything but `except`.
fn restarts(before: &Status, after: &Status, except: &Option<String>) -> u32 {
    let lives = |status: &Status| -> Vec<(String, Incarnation)> {
        let instances = status.services.iter().flat_map(|s| &s.instances).map(|i| (i.id.to_string(), i.incarnation));
        let planes = status.planes.iter().chain(status.tasks.iter().map(|t| &t.plane));
        instances.chain(planes.map(|p| (p.id.to_string(), p.incarnation))).collect()
    };
    let earlier: std::collections::BTreeMap<String, Incarnation> = lives(before).into_iter().collect();
    let counted = lives(after).into_iter().filter(|(id, _)| Some(id) != except.as_ref());
    counted.filter_map(|(id, now)| Some(between(*earlier.get(&id)?, now))).sum()
}

fn between(earlier: Incarnation, now: Incarnation) -> u32 {
    match now.generation == earlier.generation {
        true => now.run.saturating_sub(earlier.run),
        // Another shim: at least the one restart that this took.
        false => now.run.max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{Instance, ReadyBy, Service};
    use holdfast_policy::InstanceId;

    fn status(lives: &[(&str, u64, u32)]) -> Status {
        let instance = |(id, generation, run): &(&str, u64, u32)| Instance {
            id: id.parse::<InstanceId>().unwrap(),
            incarnation: Incarnation { generation: *generation, run: *run },
            state: "ready".into(),
            process: None,
            shim: None,
            endpoint: None,
            ready_by: ReadyBy::Tcp,
            session_dir: None,
        };
        let instances: Vec<Instance> = lives.iter().map(instance).collect();
        let desired = instances.len() as u32;
        let service = Service { name: "web".into(), desired, min_available: 1, after: vec![], instances };
        Status { services: vec![service], ..Status::default() }
    }

    #[test]
    fn restarts_are_counted_by_run_and_by_shim_and_not_for_the_struck_one() {
        let before = status(&[("web-1", 4, 1), ("web-2", 5, 2), ("web-3", 6, 1)]);
        let after = status(&[("web-1", 4, 3), ("web-2", 9, 1), ("web-3", 6, 1), ("web-4", 10, 1)]);
        assert_eq!(restarts(&before, &before, &None), 0);
        assert_eq!(restarts(&before, &after, &None), 3);
        assert_eq!(restarts(&before, &after, &Some("web-1".into())), 1);
    }
}

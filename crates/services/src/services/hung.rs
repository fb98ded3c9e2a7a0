//! Hung or busy: looks at the processes of instances on which requests wait, and tells what it sees.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_host::clock;
use holdfast_host::process::{self, Table};
use holdfast_policy::hung::{Sample, Verdict, Watch};
use holdfast_policy::{Incarnation, InstanceId, Timestamp};
use tokio::sync::{mpsc, watch};

use super::Endpoints;
use crate::supervisor::{EndpointState, Event};

/// How often the processes of an instance are looked at that is stopped or on which requests wait.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it is looked for requests that wait, while none did. What a shim tells of a stopped child wakes at once.
const IDLE_EVERY: Duration = Duration::from_millis(100);
/// This watcher being later than that voids what it saw: the machine is short of CPU, not the instance hung.
const LATE: Duration = Duration::from_millis(150);

/// The binary connects this with the balancers' shared table.
pub trait Waiting: Send + Sync + 'static {
    /// Instances that have owed an answer for longer than usual.
    fn waiting(&self) -> Vec<InstanceId>;

    /// Told on every look while it waits, and once with `Unknown` when it does not wait any more.
    fn tell(&self, instance: &InstanceId, verdict: Verdict);
}

struct Seen {
    incarnation: Incarnation,
    watch: Watch,
    cpu: Option<(u64, Timestamp)>,
    told: Verdict,
}

/// Runs on its own thread until the agent's event queue is gone.
pub(crate) fn start(
    hook: Arc<dyn Waiting>,
    endpoints: watch::Receiver<Endpoints>,
    events: mpsc::Sender<Event>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new().name("hung".into()).spawn(move || runtime.block_on(run(&*hook, endpoints, &events)))?;
    Ok(())
}

async fn run(hook: &dyn Waiting, mut endpoints: watch::Receiver<Endpoints>, events: &mpsc::Sender<Event>) {
    let mut seen: BTreeMap<InstanceId, Seen> = BTreeMap::new();
    let mut last = clock::now();
    let mut every = IDLE_EVERY;
    while !events.is_closed() {
        if let Ok(Err(_gone)) = tokio::time::timeout(every, endpoints.changed()).await {
            return;
        }
        let now = clock::now();
        let late = now.since(last) > every + LATE;
        last = now;
        every = if look(hook, &endpoints, events, &mut seen, late) { LOOK_EVERY } else { IDLE_EVERY };
    }
}

/// True while there is somebody to look at.
fn look(
    hook: &dyn Waiting,
    endpoints: &watch::Receiver<Endpoints>,
    events: &mpsc::Sender<Event>,
    seen: &mut BTreeMap<InstanceId, Seen>,
    late: bool,
) -> bool {
    let stopped = stopped(endpoints);
    let mut waiting = hook.waiting();
    waiting.extend(stopped.iter().filter(|(_, ready)| **ready).map(|(id, _)| id.clone()));
    waiting.sort();
    waiting.dedup();
    seen.retain(|id, _| {
        // What was said of a stopped one stands until it goes on, though nobody is sent there any more.
        let stays = waiting.contains(id) || stopped.contains_key(id);
        if !stays {
            hook.tell(id, Verdict::Unknown);
        }
        stays
    });
    if waiting.is_empty() {
        return false;
    }
    let table = Table::read();
    for id in waiting {
        let Some((incarnation, pid)) = endpoints.borrow().get(&id).and_then(|e| Some((e.incarnation, e.pid?))) else {
            continue;
        };
        let entry = seen.entry(id.clone()).or_insert_with(|| fresh(incarnation));
        if entry.incarnation != incarnation || late {
            *entry = fresh(incarnation);
        }
        let Some(sample) = sample(&table, pid, &mut entry.cpu) else { continue };
        let verdict = entry.watch.sample(sample);
        hook.tell(&id, verdict);
        if verdict != entry.told {
            entry.told = verdict;
            let _ = events.try_send(Event::Verdict { instance: id, incarnation, verdict });
        }
    }
    true
}

/// Instances whose child itself is stopped, as its shim told, so that no request has to wait to find out; and whether requests
/// are sent there.
fn stopped(endpoints: &watch::Receiver<Endpoints>) -> BTreeMap<InstanceId, bool> {
    let table = endpoints.borrow();
    let stopped = table.iter().filter(|(_, e)| e.stopped);
    stopped.map(|(id, e)| (id.clone(), e.state == EndpointState::Ready)).collect()
}

fn fresh(incarnation: Incarnation) -> Seen {
    Seen { incarnation, watch: Watch::default(), cpu: None, told: Verdict::Unknown }
}

/// Of all processes in the child's session. `None` when there is nothing to compare with yet, unless it is stopped.
fn sample(table: &Table, pid: u32, last: &mut Option<(u64, Timestamp)>) -> Option<Sample> {
    let session = i32::try_from(pid).ok()?;
    let (mut stopped, mut runnable, mut any) = (true, false, false);
    for stat in table.session(session).filter(|s| !s.is_zombie()) {
        any = true;
        stopped &= matches!(stat.state, 'T' | 't');
        runnable |= matches!(stat.state, 'R' | 'D');
    }
    let (ticks, now) = (table.session_cpu_ticks(session), clock::now());
    let before = last.replace((ticks, now));
    if !any {
        return None;
    }
    let (cpu, elapsed) = match before {
        Some((then, at)) => (process::ticks(ticks.saturating_sub(then)), now.since(at)),
        None if stopped => (Duration::ZERO, Duration::ZERO),
        None => return None,
    };
    Some(Sample { stopped, runnable, cpu, elapsed })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    /// Looks at one process until `is_meant`, and gives the verdict on that look.
    fn wait_verdict(pid: i32, is_meant: fn(&Sample) -> bool) -> Verdict {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut last = None;
        loop {
            // Tests share a session with their runner, so only this process is looked at.
            let stat = process::stat(pid).unwrap();
            let before = last.replace(stat.cpu_ticks).unwrap_or(stat.cpu_ticks);
            let sample = Sample {
                stopped: matches!(stat.state, 'T' | 't'),
                runnable: matches!(stat.state, 'R' | 'D'),
                cpu: process::ticks(stat.cpu_ticks.saturating_sub(before)),
                elapsed: LOOK_EVERY,
            };
            if is_meant(&sample) {
                return Watch::default().sample(sample);
            }
            assert!(Instant::now() < deadline, "{sample:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_stopped_child_is_told_from_a_spinning_one() {
        let mut spin = Command::new("/bin/sh").args(["-c", "while :; do :; done"]).process_group(0).spawn().unwrap();
        let who = process::identity(i32::try_from(spin.id()).unwrap()).unwrap();
        assert_eq!(wait_verdict(who.pid, |s| !s.cpu.is_zero()), Verdict::Busy);
        process::signal(who, 19).unwrap();
        assert_eq!(wait_verdict(who.pid, |s| s.stopped), Verdict::Stopped);
        process::signal(who, 9).unwrap();
        spin.wait().unwrap();
    }
}

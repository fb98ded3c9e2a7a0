//! A system small enough to see through: real backend processes that are restarted when they exit, probed,
//! and balanced with retries. It stands in for holdfast so that drills are tested by themselves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_drill::system::{
    Answer, Balancer, Incident, Inject, Instance, Plane, PlaneFault, PlaneFaultKind, Process, ReadyBy, Rotation,
    Service, Status, System, TasksOrder, Unanswered,
};
use holdfast_drill::{Access, Progress, Runner, Setup};
use holdfast_host::{clock, process};
use holdfast_policy::{Incarnation, InstanceId, Timestamp};

/// A backend that has not answered by then is tried no longer; the request moves on.
const FIRST_BYTE: Duration = Duration::from_millis(150);

pub(crate) struct Village {
    pub(crate) listen: SocketAddr,
    /// Every request is answered 503.
    pub(crate) broken: AtomicBool,
    pub(crate) fault: Mutex<Option<PlaneFault>>,
    pub(crate) paused: AtomicBool,
    stop: AtomicBool,
    next: AtomicUsize,
    houses: Vec<House>,
    agent: Mutex<Child>,
    incidents: Mutex<Vec<Incident>>,
}

struct House {
    id: InstanceId,
    addr: SocketAddr,
    child: Mutex<Child>,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    ready: bool,
    since: Timestamp,
    run: u32,
    process: Process,
}

pub(crate) fn again(role: &str) -> Command {
    // Its own session, as holdfast's instances have: the kernel continues a stopped group whose last parent in the
    // session dies, and would do the guard's work.
    let mut command = Command::new("setsid");
    let exe = std::env::current_exe().unwrap();
    command.arg(exe).args(["--exact", "role", "--nocapture"]).env("DRILL_ROLE", role).stdout(Stdio::null());
    command
}

fn identity(child: &Child) -> Process {
    process::identity(child.id() as i32).unwrap()
}

impl House {
    fn spawn(addr: SocketAddr) -> Child {
        // The write end stays with this process, so the backend ends when it does.
        again("backend").env("DRILL_PORT", addr.port().to_string()).stdin(Stdio::piped()).spawn().unwrap()
    }

    fn answers(&self) -> bool {
        ask(self.addr, "/", FIRST_BYTE).is_some()
    }

    fn set(&self, ready: bool) -> bool {
        let mut state = self.state.lock().unwrap();
        let changed = state.ready != ready;
        if changed {
            (state.ready, state.since) = (ready, clock::now());
        }
        changed
    }
}

/// The whole answer, if it comes in time.
fn ask(addr: SocketAddr, path: &str, limit: Duration) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&addr, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: village\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

/// How often it looks, and how slow it is made to be.
fn hold_for(time: Duration) {
    std::thread::sleep(time);
}

fn agent_process() -> Child {
    let quiet = Stdio::null;
    Command::new("sleep").arg("60").stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn().unwrap()
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Village {
    pub(crate) fn found(houses: u32) -> Arc<Village> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let house = |n| {
            let addr = free_port();
            let child = House::spawn(addr);
            let state = State { ready: false, since: clock::now(), run: 1, process: identity(&child) };
            House { id: InstanceId::new("web", n), addr, child: Mutex::new(child), state: Mutex::new(state) }
        };
        let village = Arc::new(Village {
            listen: listener.local_addr().unwrap(),
            broken: AtomicBool::new(false),
            fault: Mutex::new(None),
            paused: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            houses: (1..=houses).map(house).collect(),
            agent: Mutex::new(agent_process()),
            incidents: Mutex::new(Vec::new()),
        });
        for n in 0..village.houses.len() {
            let village = Arc::clone(&village);
            std::thread::spawn(move || village.keep_up(n));
        }
        let serving = Arc::clone(&village);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let village = Arc::clone(&serving);
                std::thread::spawn(move || village.serve(stream));
            }
        });
        village.wait_until("all houses ready", |v| v.houses.iter().all(|h| h.state.lock().unwrap().ready));
        village
    }

    pub(crate) fn wait_until(&self, what: &str, condition: impl Fn(&Village) -> bool) {
        let last = clock::now() + Duration::from_secs(20);
        while !condition(self) {
            assert!(clock::now() < last, "never: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn process(&self, n: usize) -> Process {
        self.houses[n].state.lock().unwrap().process
    }

    pub(crate) fn processes(&self) -> Vec<Process> {
        (0..self.houses.len()).map(|n| self.process(n)).collect()
    }

    pub(crate) fn open_incident(&self, subject: &str) {
        let incident = Incident { subject: subject.into(), detected: clock::now(), ..Incident::default() };
        self.incidents.lock().unwrap().push(incident);
    }

    fn keep_up(&self, n: usize) {
        let house = &self.houses[n];
        while !self.stop.load(Relaxed) {
            let mut child = house.child.lock().unwrap();
            let exited = !self.stop.load(Relaxed) && child.try_wait().unwrap().is_some();
            if exited {
                self.lost(house);
                *child = House::spawn(house.addr);
                let mut state = house.state.lock().unwrap();
                state.run += 1;
                state.process = identity(&child);
            }
            drop(child);
            if !exited && house.answers() {
                if house.set(true) {
                    self.back(house);
                }
            } else if !exited && process::is_alive(self.process(n)) {
                self.lost(house);
            }
            let mut agent = self.agent.lock().unwrap();
            // Looked at under the lock: who stops the village kills the agent after it.
            if n == 0 && !self.stop.load(Relaxed) && agent.try_wait().unwrap().is_some() {
                *agent = agent_process();
            }
            drop(agent);
            hold_for(Duration::from_millis(5));
        }
    }

    fn lost(&self, house: &House) {
        house.set(false);
        let subject = house.id.to_string();
        let mut incidents = self.incidents.lock().unwrap();
        let is_open = incidents.iter().any(|i| i.subject == subject && i.ready.is_none());
        // The first start is no incident.
        if !is_open && house.state.lock().unwrap().since > Timestamp::ZERO {
            incidents.push(Incident { subject, detected: clock::now(), ..Incident::default() });
        }
    }

    fn back(&self, house: &House) {
        let subject = house.id.to_string();
        let mut incidents = self.incidents.lock().unwrap();
        for incident in incidents.iter_mut().filter(|i| i.subject == subject && i.ready.is_none()) {
            incident.ready = Some(clock::now());
        }
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut head = Vec::new();
        let mut chunk = [0u8; 2048];
        while let Ok(n @ 1..) = stream.read(&mut chunk) {
            head.extend_from_slice(&chunk[..n]);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                let answer = self.answer().unwrap_or_else(|| b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec());
                // The backend's answer says `connection: close`; so does ours.
                stream.write_all(&answer).ok();
                return;
            }
        }
    }

    fn answer(&self) -> Option<Vec<u8>> {
        if self.broken.load(Relaxed) {
            return None;
        }
        for _ in 0..self.houses.len() * 2 {
            let house = &self.houses[self.next.fetch_add(1, Relaxed) % self.houses.len()];
            if !house.state.lock().unwrap().ready {
                continue;
            }
            let fault = self.fault.lock().unwrap().clone();
            if let Some(PlaneFault { kind: PlaneFaultKind::Latency(time), instance, .. }) = fault
                && instance.as_deref() == Some(house.id.to_string().as_str())
            {
                hold_for(time);
            }
            if let Some(answer) = ask(house.addr, "/", FIRST_BYTE) {
                return Some(answer);
            }
            self.lost(house);
        }
        None
    }

    fn snapshot(&self) -> Status {
        let instances: Vec<Instance> = self.houses.iter().map(|h| self.instance(h)).collect();
        let rotation = |h: &House| {
            let state = *h.state.lock().unwrap();
            Rotation { instance: h.id.clone(), in_rotation: state.ready, since: Some(state.since) }
        };
        let open =
            self.incidents.lock().unwrap().iter().filter(|i| i.ready.is_none()).map(|i| i.subject.clone()).collect();
        let here = process::identity(std::process::id() as i32).unwrap();
        let plane = |n| Plane {
            id: InstanceId::new("_balancer", n),
            incarnation: Incarnation { generation: 1, run: 1 },
            ready: true,
            process: here,
            control: PathBuf::from(format!("plane-{n}")),
        };
        Status {
            agent: process::identity(self.agent.lock().unwrap().id() as i32),
            services: vec![Service {
                name: "web".into(),
                desired: u32::try_from(instances.len()).unwrap(),
                min_available: 1,
                after: vec![],
                instances,
            }],
            balancers: vec![Balancer {
                name: "public".into(),
                service: "web".into(),
                listen: vec![self.listen],
                endpoints: self.houses.iter().map(rotation).collect(),
            }],
            planes: vec![plane(1), plane(2)],
            tasks: None,
            open_incidents: open,
            pauses: self.paused.load(Relaxed).then(|| "all".to_owned()).into_iter().collect(),
        }
    }

    fn instance(&self, house: &House) -> Instance {
        let state = *house.state.lock().unwrap();
        Instance {
            id: house.id.clone(),
            incarnation: Incarnation { generation: 1, run: state.run },
            state: if state.ready { "ready" } else { "starting" }.into(),
            process: Some(state.process),
            shim: None,
            endpoint: Some(house.addr),
            ready_by: ReadyBy::Http { path: "/".into(), status: (200, 399) },
            session_dir: None,
        }
    }
}

impl Drop for Village {
    fn drop(&mut self) {
        self.agent.lock().unwrap().kill().ok();
    }
}

/// The village as its drills see it. Its backends end with it.
pub(crate) struct Mayor(pub(crate) Arc<Village>);

impl Drop for Mayor {
    fn drop(&mut self) {
        self.0.stop.store(true, Relaxed);
        for house in &self.0.houses {
            let mut child = house.child.lock().unwrap();
            child.kill().ok();
            child.wait().ok();
        }
        let mut agent = self.0.agent.lock().unwrap();
        agent.kill().ok();
        agent.wait().ok();
    }
}

impl System for Village {
    fn status(&self) -> Answer<'_, Status> {
        Box::pin(async { Ok(self.snapshot()) })
    }
    fn incidents<'a>(&'a self, subject: &'a str, since: Timestamp) -> Answer<'a, Vec<Incident>> {
        let all = self.incidents.lock().unwrap();
        let found = all.iter().filter(|i| i.subject == subject && i.detected >= since).cloned().collect();
        Box::pin(async { Ok(found) })
    }
}

impl Inject for Village {
    fn inject<'a>(&'a self, _: &'a Path, fault: &'a PlaneFault) -> Answer<'a, ()> {
        *self.fault.lock().unwrap() = Some(fault.clone());
        Box::pin(async { Ok(()) })
    }
    fn open<'a>(&'a self, _: &'a Path, _: &'a str, _: &'a TasksOrder) -> Answer<'a, ()> {
        Box::pin(async { Err(Unanswered::new("open a queue", "the village has none")) })
    }
    fn close<'a>(&'a self, _: &'a Path, _: &'a str) -> Answer<'a, ()> {
        Box::pin(async { Err(Unanswered::new("close a queue", "the village has none")) })
    }
    fn clear<'a>(&'a self, _: &'a Path, id: &'a str) -> Answer<'a, ()> {
        let mut fault = self.fault.lock().unwrap();
        if fault.as_ref().is_some_and(|f| f.id == id) {
            *fault = None;
        }
        Box::pin(async { Ok(()) })
    }
}

/// What a test works with; the directory goes with it.
pub(crate) struct Place {
    pub(crate) village: Arc<Village>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) interrupted: Arc<AtomicBool>,
    _mayor: Mayor,
}

impl Place {
    pub(crate) fn of(houses: u32) -> Place {
        let village = Village::found(houses);
        let dir = tempfile::tempdir().unwrap();
        Place { _mayor: Mayor(Arc::clone(&village)), village, dir, interrupted: Arc::default() }
    }

    pub(crate) fn runner(&self, progress: impl Fn(&Progress) + Send + Sync + 'static) -> Runner {
        Runner::new(setup(&self.village, self.dir.path(), &self.interrupted, progress))
    }
}

pub(crate) fn setup(
    village: &Arc<Village>,
    dir: &Path,
    interrupted: &Arc<AtomicBool>,
    progress: impl Fn(&Progress) + Send + Sync + 'static,
) -> Setup {
    let exe = std::env::current_exe().unwrap();
    let guard = ["env", "DRILL_ROLE=guard", exe.to_str().unwrap(), "--exact", "role", "--nocapture"];
    Setup {
        system: Arc::clone(village) as Arc<dyn System>,
        inject: Arc::clone(village) as Arc<dyn Inject>,
        dir: dir.to_path_buf(),
        guard: guard.map(Into::into).to_vec(),
        access: Access::Open,
        interrupted: Arc::clone(interrupted),
        progress: Box::new(progress),
    }
}

pub(crate) fn spec(
    fault: holdfast_config::Fault,
    change: impl FnOnce(&mut holdfast_config::Drill),
) -> holdfast_drill::Spec {
    let mut drill = holdfast_config::Drill {
        name: fault.name().to_owned(),
        fault,
        target: Some("web".into()),
        hold: Duration::from_secs(1),
        rate: 50,
        balancer: None,
        path: "/".into(),
        targets: holdfast_config::Targets { failed: Some(0), ..Default::default() },
        latency: Duration::from_millis(100),
        share: 1.0,
        busy_path: Some("/burn?ms={ms}".into()),
        count: 1,
    };
    change(&mut drill);
    holdfast_drill::Spec::declared(&drill)
}

pub(crate) fn state(process: Process) -> char {
    process::stat(process.pid).filter(|s| s.start_ticks == process.start_ticks).map_or('-', |s| s.state)
}

//! The running system as a drill sees it: read through the agent's API, never from inside the agent,
//! because a drill must outlive what it kills.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

pub use holdfast_host::process::Identity as Process;
use holdfast_policy::{Incarnation, InstanceId, Timestamp};
use serde::{Deserialize, Serialize};

/// What a [`System`] or an [`Inject`] answers.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Unanswered>> + Send + 'a>>;

/// A question to the system that got no answer, such as any while the agent is being restarted.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {operation}: {because}")]
pub struct Unanswered {
    pub operation: &'static str,
    pub because: String,
}

impl Unanswered {
    pub fn new(operation: &'static str, because: impl ToString) -> Self {
        Unanswered { operation, because: because.to_string() }
    }
}

/// The longest that one answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// `answer` within its limit.
pub(crate) async fn within<T>(operation: &'static str, answer: Answer<'_, T>) -> Result<T, Unanswered> {
    match tokio::time::timeout(ANSWER_LIMIT, answer).await {
        Ok(answered) => answered,
        Err(_) => Err(Unanswered::new(operation, format!("there was no answer for {} s", ANSWER_LIMIT.as_secs()))),
    }
}

/// The running system. The binary implements it over the agent's API.
pub trait System: Send + Sync {
    /// Everything as it is now.
    fn status(&self) -> Answer<'_, Status>;
    /// Incidents on `subject` (`web-2`, `web`, `_balancer-1`, `_agent-1`) detected at `since` or later.
    fn incidents<'a>(&'a self, subject: &'a str, since: Timestamp) -> Answer<'a, Vec<Incident>>;
}

/// Faults that a data plane makes itself, and what they need. The binary implements it over the planes' control sockets.
pub trait Inject: Send + Sync {
    /// Sets `fault` in the process whose control directory is `control`; the same id again replaces it.
    /// The process drops it by itself at `fault.until`.
    fn inject<'a>(&'a self, control: &'a Path, fault: &'a PlaneFault) -> Answer<'a, ()>;
    /// Removes the fault with this id; not finding it, or the process, is success.
    fn clear<'a>(&'a self, control: &'a Path, id: &'a str) -> Answer<'a, ()>;
    /// Makes the queues of a drill in the plane of tasks, or changes what was asked for; it ends by itself.
    fn open<'a>(&'a self, control: &'a Path, id: &'a str, order: &'a TasksOrder) -> Answer<'a, ()>;
    /// Removes them; not finding them is success.
    fn close<'a>(&'a self, control: &'a Path, id: &'a str) -> Answer<'a, ()>;
}

/// What a drill asks of the plane of tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TasksOrder {
    /// Whose places work on the drill's messages.
    pub worker: Option<String>,
    /// Its store refuses what a full disk would.
    pub full: bool,
    pub until_boot_ns: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The agent's own process; absent while it is down.
    pub agent: Option<Process>,
    pub services: Vec<Service>,
    pub balancers: Vec<Balancer>,
    pub planes: Vec<Plane>,
    /// Absent where the file has nothing for it, or its process is down.
    pub tasks: Option<Tasks>,
    /// Subjects of the incidents that are open; a kind in front (`instance/web-2`) is ignored.
    pub open_incidents: Vec<String>,
    /// Scopes that are paused; `all` for everything.
    pub pauses: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    /// Instances wanted ready; 0 for a job that completed.
    pub desired: u32,
    pub min_available: u32,
    /// Names of the services it comes after.
    pub after: Vec<String>,
    pub instances: Vec<Instance>,
}

#[derive(Clone, Debug)]
pub struct Instance {
    pub id: InstanceId,
    pub incarnation: Incarnation,
    /// `ready` when it is.
    pub state: String,
    pub process: Option<Process>,
    pub shim: Option<Process>,
    pub endpoint: Option<SocketAddr>,
    /// How one sees from outside that it is ready.
    pub ready_by: ReadyBy,
    pub session_dir: Option<PathBuf>,
}

/// The readiness probe, as far as an outsider can repeat it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ReadyBy {
    Http {
        path: String,
        status: (u16, u16),
    },
    /// Also for probes by command and by sd_notify: a listening port is what is seen of them.
    #[default]
    Tcp,
}

#[derive(Clone, Debug)]
pub struct Balancer {
    pub name: String,
    pub service: String,
    pub listen: Vec<SocketAddr>,
    pub endpoints: Vec<Rotation>,
}

/// Whether the balancer gives an instance new requests.
#[derive(Clone, Debug)]
pub struct Rotation {
    pub instance: InstanceId,
    pub in_rotation: bool,
    /// When it became so; without it the drill takes the time at which it saw the change.
    pub since: Option<Timestamp>,
}

/// One balancer process.
#[derive(Clone, Debug)]
pub struct Plane {
    /// Such as `_balancer-1`.
    pub id: InstanceId,
    pub incarnation: Incarnation,
    pub ready: bool,
    pub process: Process,
    pub control: PathBuf,
}

/// The plane of tasks.
#[derive(Clone, Debug)]
pub struct Tasks {
    pub plane: Plane,
    /// Where SQS is spoken.
    pub listen: SocketAddr,
    /// Of its queues' URLs.
    pub account: String,
    /// Workers with programs, and how many places each has.
    pub workers: Vec<(String, u32)>,
}

/// Times of one incident; each is absent until it happened.
#[derive(Clone, Debug, Default)]
pub struct Incident {
    pub id: String,
    pub subject: String,
    pub detected: Timestamp,
    pub decided: Option<Timestamp>,
    pub acted: Option<Timestamp>,
    pub ready: Option<Timestamp>,
}

/// A fault made inside a balancer process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlaneFault {
    pub id: String,
    pub balancer: String,
    /// Only answers of this instance are spoiled; `None` spoils all.
    pub instance: Option<String>,
    pub kind: PlaneFaultKind,
    /// Share of requests that are hit, 0..=1.
    pub share: f64,
    /// Boot time in nanoseconds at which the process drops it unasked.
    pub until_boot_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlaneFaultKind {
    /// The answer is held back this much longer.
    Latency(Duration),
    /// Answered with this status instead of being forwarded.
    Errors(u16),
    /// The upstream connection is reset.
    Reset,
    /// Taken and never answered.
    NoAnswer,
}

impl Instance {
    pub fn is_ready(&self) -> bool {
        self.state == "ready"
    }
}

impl Service {
    pub fn ready(&self) -> u32 {
        let ready = self.instances.iter().filter(|i| i.is_ready()).count();
        u32::try_from(ready).unwrap_or(u32::MAX)
    }

    /// All that is wanted is there; a service scaled down to nothing is.
    pub fn is_complete(&self) -> bool {
        self.ready() >= self.desired
    }
}

impl Status {
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|s| s.name == name)
    }

    pub fn instance(&self, id: &InstanceId) -> Option<&Instance> {
        self.service(&id.service)?.instances.iter().find(|i| i.id == *id)
    }

    pub fn balancer(&self, name: &str) -> Option<&Balancer> {
        self.balancers.iter().find(|b| b.name == name)
    }

    /// Instances wanted and not ready, over all services but holdfast's own.
    pub fn lost(&self) -> u32 {
        self.services.iter().filter(|s| !s.name.starts_with('_')).map(|s| s.desired.saturating_sub(s.ready())).sum()
    }
}

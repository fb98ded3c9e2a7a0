//! Queues in PostgreSQL: several planes work on one database at once, and any of them may die.
//!
//! Nothing is true that is not in the tables. What waits for one of the lanes goes into one transaction; the answers come
//! after its commit. A commit whose outcome is not known is answered as not done, so that a client asks again: what may
//! come twice is a message, what may not is nothing. Time is the server's, so that leases mean the same to every plane.

mod batch;
mod catalogue;
mod fifo;
pub mod fixture;
mod flow;
mod lane;
mod look;
mod moves;
mod receive;
mod schema;
mod send;
mod session;
mod settle;
mod sweep;
mod tls;
mod work;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_policy::Timestamp;
use holdfast_policy::backoff::Backoff;
use holdfast_policy::rng::Rng;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use self::batch::{Ask, Said};
use self::lane::Waiting;
use self::session::{Broken, Done, Session, Sessions, Target, Tx};
use crate::clock::{Clock, Millis};
use crate::error::{Error, Result};
use crate::queue::Spec;
use crate::queue::entry::Entry;
use crate::queue::receipt::Sealer;

/// Connections for sends, receives and what follows them: one commits while the others gather.
const LANES: usize = 3;
/// Connections for everything else.
const OTHERS: usize = 4;
/// Operations that wait for a lane; more are told to come again.
const WAITING_MAX: usize = 8_192;
/// From the asking to the answer, with all tries.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// What the catalogue said is not older than this when an operation goes by it without asking.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// Tries after a collision with others.
const COLLISIONS_MAX: u32 = 8;
const AGAIN: Backoff =
    Backoff { base: Duration::from_millis(5), factor: 2.0, max: Duration::from_millis(500), jitter: 0.5 };
/// Of connections.
const CONNECT_AGAIN: Backoff =
    Backoff { base: Duration::from_millis(50), factor: 2.0, max: Duration::from_secs(1), jitter: 0.3 };
/// A plane that begins waits so long for a server that is away; then it ends, and its shim begins another one.
const OPEN_MAX: Duration = Duration::from_secs(20);

/// A handle; clones share everything.
#[derive(Clone)]
pub(crate) struct Postgres(Arc<Shared>);

/// What is opened.
pub(crate) struct Place<'a> {
    pub(crate) url: &'a str,
    pub(crate) password: Option<&'a [u8]>,
    pub(crate) ca: Option<&'a std::path::Path>,
    pub(crate) schema: &'a str,
    /// Who this plane is, over its restarts: programs that it began are under it.
    pub(crate) plane: &'a str,
}

struct Shared {
    target: Target,
    clock: Clock,
    /// Time stands still unless a test moves it.
    frozen: bool,
    sealer: Sealer,
    plane: String,
    cache: Mutex<Cached>,
    asking: mpsc::Sender<Waiting>,
    idle: Mutex<Vec<Session>>,
    places: Sessions,
    /// For drills: since boot, in nanoseconds.
    full_until: AtomicU64,
    closing: watch::Sender<bool>,
}

/// What is known of the catalogue at a version of it.
#[derive(Default)]
struct Cached {
    version: i64,
    checked: Option<Instant>,
    entries: HashMap<String, Arc<Entry>>,
    /// At most so many messages are in flight, and when they were counted.
    in_flight: HashMap<i64, (u32, Instant)>,
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, Cached> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Engine time, when the server's clock shows `server`.
    fn time(&self, server: Millis) -> Millis {
        if !self.frozen {
            self.clock.follow(server);
        }
        self.clock.now()
    }
}

impl Postgres {
    pub(crate) const IS_SHARED: bool = true;

    pub(crate) async fn open(place: Place<'_>) -> Result<Postgres> {
        Postgres::open_by(place, Clock::new(0, crate::clock::boot), false).await
    }

    /// With a clock of the caller's.
    pub(crate) async fn open_by(place: Place<'_>, clock: Clock, frozen: bool) -> Result<Postgres> {
        let target = Target::new(place.url, place.password, place.ca, place.schema)?;
        let secret: [u8; 32] = crate::random("a key")?;
        let session = first(&target).await?;
        let secret = schema::migrate(&session.client, &target.schema, &secret).await?;
        let (asking, waiting) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(Shared {
            target,
            clock,
            frozen,
            sealer: Sealer::new(&secret),
            plane: place.plane.to_owned(),
            cache: Mutex::default(),
            asking,
            idle: Mutex::new(vec![session]),
            places: Arc::new(Semaphore::new(OTHERS)),
            full_until: AtomicU64::new(0),
            closing: watch::Sender::new(false),
        });
        lane::begin(&shared, waiting);
        let store = Postgres(shared);
        // The time is known before anybody asks for it.
        transact!(store, tx => Ok(tx.now))?;
        Ok(store)
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// A server that is away is waited for.
    #[expect(clippy::unused_self, reason = "other engines have one")]
    pub(crate) fn failure(&self) -> Option<String> {
        None
    }

    pub(crate) fn pretend_full(&self, until: Option<Timestamp>) {
        self.0.full_until.store(until.map_or(0, Timestamp::as_nanos), Ordering::Relaxed);
    }

    pub(crate) fn close(&self) {
        self.0.closing.send_replace(true);
        self.0.places.close();
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) async fn spec(&self, queue: &str) -> Result<Arc<Spec>> {
        let known = {
            let cache = self.0.cache();
            let is_new = cache.checked.is_some_and(|at| at.elapsed() < KNOWN_FOR);
            cache.entries.get(queue).filter(|_| is_new).map(|entry| entry.spec.clone())
        };
        if let Some(spec) = known {
            return Ok(spec);
        }
        transact!(self, tx => tx.entry(queue).await.map(|entry| entry.spec.clone()))
    }

    /// Through one of the lanes.
    async fn ask(&self, ask: Ask) -> Result<Said> {
        let is_full = || holdfast_host::clock::now() < Timestamp::from_nanos(self.0.full_until.load(Ordering::Relaxed));
        if matches!(ask, Ask::Send { .. }) && is_full() {
            return Err(Error::Throttled { reason: "the disk is full".into() });
        }
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { ask, reply, until: Instant::now() + ANSWER_MAX };
        self.0.asking.try_send(waiting).map_err(|_| {
            let reason = format!("{WAITING_MAX} operations wait for the database");
            Error::Throttled { reason }
        })?;
        let unknown = || Error::Throttled { reason: "the database did not answer in time".into() };
        match tokio::time::timeout(ANSWER_MAX, answer).await {
            Ok(Ok(said)) => said,
            Ok(Err(_)) | Err(_) => Err(unknown()),
        }
    }
}

async fn first(target: &Target) -> Result<Session> {
    let until = Instant::now() + OPEN_MAX;
    let (mut failed, mut rng) = (0, Rng::from_seed(crate::seed()));
    loop {
        let broken = match target.connect().await {
            Ok(session) => return Ok(session),
            Err(broken) => broken,
        };
        if Instant::now() >= until || matches!(broken, Broken::Refused(_) | Broken::Server(_)) {
            return Err(match broken {
                Broken::Refused(error) => error,
                other => Error::Database { what: "reach it".into(), reason: other.into_error().to_string() },
            });
        }
        tokio::time::sleep(CONNECT_AGAIN.delay(failed, &mut rng)).await;
        failed = failed.saturating_add(1);
    }
}

/// The tries of one transaction that is not in a lane.
struct Tries<'a> {
    shared: &'a Shared,
    until: Instant,
    failed: u32,
    rng: Rng,
    place: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl Tries<'_> {
    fn new(shared: &Shared) -> Tries<'_> {
        let until = Instant::now() + ANSWER_MAX;
        Tries { shared, until, failed: 0, rng: Rng::from_seed(crate::seed()), place: None }
    }

    /// A connection that nobody else has until it is given back.
    async fn session(&mut self) -> Result<Session> {
        let away = |reason: String| Error::Throttled { reason };
        if self.place.is_none() {
            let left = self.until.saturating_duration_since(Instant::now());
            let place = tokio::time::timeout(left, self.shared.places.clone().acquire_owned()).await;
            let place = place.map_err(|_| away("every connection to the database is in use".into()))?;
            self.place = Some(place.map_err(|_| away("the plane ends".into()))?);
        }
        loop {
            let known = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            if let Some(session) = known {
                if !session.client.is_closed() {
                    return Ok(session);
                }
                continue;
            }
            match self.shared.target.connect().await {
                Ok(session) => return Ok(session),
                Err(broken) => self.after(broken).await?,
            }
        }
    }

    /// Waits before the next try; the error when there is none.
    async fn after(&mut self, broken: Broken) -> Result<()> {
        let worth = match &broken {
            Broken::Collided(_) => self.failed < COLLISIONS_MAX,
            Broken::Lost(_) => true,
            Broken::Refused(_) | Broken::NotNow(_) | Broken::Server(_) => false,
        };
        let wait = match &broken {
            Broken::Lost(_) => CONNECT_AGAIN.delay(self.failed, &mut self.rng),
            _ => AGAIN.delay(self.failed, &mut self.rng),
        };
        if !worth || Instant::now() + wait >= self.until {
            return Err(broken.into_error());
        }
        self.failed += 1;
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Gives the connection back, unless it is of no use.
    fn put_back(&self, session: Session) {
        if !*self.shared.closing.borrow() {
            self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        }
    }

    /// After an operation that was not committed.
    async fn undone(&mut self, session: Session, broken: Broken) -> Result<()> {
        if !matches!(broken, Broken::Lost(_)) && session.rollback().await.is_ok() {
            self.put_back(session);
        }
        self.after(broken).await
    }
}

/// Runs `$body` in a transaction, anew when the server wants it, and gives its value after the commit. A commit whose
/// outcome is not known is not tried again.
macro_rules! transact {
    ($store:expr, $tx:ident => $body:expr) => {{
        let shared: &$crate::postgres::Shared = &$store.0;
        let mut tries = $crate::postgres::Tries::new(shared);
        loop {
            let session = match tries.session().await {
                Ok(session) => session,
                Err(error) => break Err(error),
            };
            let done = match session.begin(shared).await {
                Ok(begun) => {
                    #[allow(unused_mut, reason = "some only read")]
                    let mut $tx = begun;
                    let done: $crate::postgres::session::Done<_> = async { $body }.await;
                    match done {
                        Ok(value) => match $tx.commit().await {
                            Ok(()) => Ok(value),
                            Err($crate::postgres::session::Broken::Lost(reason)) => {
                                break Err($crate::error::Error::Throttled { reason });
                            }
                            Err(broken) => Err(broken),
                        },
                        Err(broken) => Err(broken),
                    }
                }
                Err(broken) => Err(broken),
            };
            match done {
                Ok(value) => {
                    tries.put_back(session);
                    break Ok(value);
                }
                Err(broken) => {
                    if let Err(error) = tries.undone(session, broken).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}
use transact;

impl Tx<'_> {
    async fn entry(&self, name: &str) -> Done<Arc<Entry>> {
        self.find(name).await?.ok_or_else(|| Error::NoQueue { queue: name.to_owned() }.into())
    }

    async fn find(&self, name: &str) -> Done<Option<Arc<Entry>>> {
        if self.version.is_some()
            && let Some(entry) = self.shared.cache().entries.get(name)
        {
            return Ok(Some(entry.clone()));
        }
        let Some(row) = self.opt("SELECT number, spec, floor FROM queue WHERE name = $1", &[&name]).await? else {
            return Ok(None);
        };
        let spec = Arc::new(crate::store::spec(row.get(1))?);
        let entry = Arc::new(Entry { number: row.get(0), name: name.to_owned(), spec, floor: row.get(2) });
        let mut cache = self.shared.cache();
        if self.version == Some(cache.version) {
            cache.entries.insert(name.to_owned(), entry.clone());
        }
        Ok(Some(entry))
    }

    /// So many new places, in order.
    async fn places(&self, many: usize) -> Done<Vec<i64>> {
        if many == 0 {
            return Ok(Vec::new());
        }
        let rows = self.rows("SELECT nextval('place') FROM generate_series(1, $1)", &[&(many as i64)]).await?;
        let mut places: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        places.sort_unstable();
        Ok(places)
    }
}

/// PostgreSQL has no text with a zero byte in it.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

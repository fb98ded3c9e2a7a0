//! One connection to the server, and transactions on it. Nothing is kept in the session between two of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row};

use super::schema::why;
use super::tls::Tls;
use super::{Cached, Shared};
use crate::clock::Millis;
use crate::error::{Error, Result};

/// To one server, with all that comes before its first answer; with several in the URL the next one is asked then.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// For an answer, whatever the server does: it waits for a synchronous standby that is away without looking at its own limits.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);
/// What was sent and is not acknowledged by the network: the server is gone.
const SILENT_MAX: Duration = Duration::from_secs(5);
/// Of one statement: one that takes longer holds up whoever waits behind it.
const STATEMENT_MS_MAX: u32 = 15_000;
/// For locks of others, which are held for one commit.
const LOCK_MS_MAX: u32 = 5_000;
/// A plane that hangs with locks in its hands loses them.
const IDLE_MS_MAX: u32 = 20_000;
/// The first with everything that is used here: 13.
const VERSION_MIN: i64 = 130_000;

/// Counters of messages are spread over so many rows for each queue, so that commits do not wait for each other.
const TALLY_SLOTS: i64 = 32;

/// Where the server is, and how it is spoken to.
#[derive(Clone)]
pub(super) struct Target {
    /// One for each server.
    servers: Vec<Config>,
    /// The one that answered last.
    good: Arc<AtomicUsize>,
    tls: Option<Tls>,
    /// As SQL writes it.
    pub(super) schema: String,
}

impl Target {
    /// Plain only where the URL says so, or where nothing leaves the machine.
    pub(super) fn new(url: &str, password: Option<&[u8]>, ca: Option<&Path>, schema: &str) -> Result<Target> {
        let bad = |reason: String| Error::Database { what: "read its URL".into(), reason };
        let mut config: Config = url.parse().map_err(|e: tokio_postgres::Error| bad(why(&e)))?;
        if let Some(password) = password {
            config.password(password);
        }
        if config.get_dbname().is_none() {
            return Err(bad("it names no database".into()));
        }
        if !url.contains("sslmode=") {
            let local = match config.get_hostaddrs() {
                [] => config.get_hosts().iter().all(stays_here),
                addresses => addresses.iter().all(IpAddr::is_loopback),
            };
            config.ssl_mode(if local { SslMode::Disable } else { SslMode::Require });
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(Tls::new(ca)?),
        };
        let servers =
            (0..config.get_hosts().len().max(config.get_hostaddrs().len())).map(|n| alone(&config, n)).collect();
        Ok(Target { servers, good: Arc::default(), tls, schema: format!("\"{}\"", schema.replace('"', "\"\"")) })
    }

    /// To the first server that may be written to. One that is stopped is connected to and says nothing, so each has its own time.
    pub(super) async fn connect(&self) -> Done<Session> {
        let (first, many) = (self.good.load(Ordering::Relaxed), self.servers.len());
        let mut broken = Broken::Lost("the URL names no server".into());
        for n in (first..first + many).map(|n| n % many) {
            let tried = tokio::time::timeout(CONNECT_MAX, self.connect_to(&self.servers[n])).await;
            match tried.unwrap_or_else(|_| Err(silent(CONNECT_MAX))) {
                Ok(session) => {
                    self.good.store(n, Ordering::Relaxed);
                    return Ok(session);
                }
                Err(reason) => broken = reason,
            }
        }
        Err(broken)
    }

    async fn connect_to(&self, server: &Config) -> Done<Session> {
        let (client, driver) = match &self.tls {
            None => {
                let (client, connection) = server.connect(NoTls).await?;
                (client, tokio::spawn(connection).abort_handle())
            }
            Some(tls) => {
                let (client, connection) = server.connect(tls.clone()).await?;
                (client, tokio::spawn(connection).abort_handle())
            }
        };
        let mut session = Session { client, driver, begin: String::new(), epoch: random()? };
        let asked = "SELECT current_setting('server_version_num')::int8";
        let row = session.client.query_typed_one(asked, &[]).await?;
        let version: i64 = row.get(0);
        if version < VERSION_MIN {
            let reason = format!("the server is version {}, 13 is needed", version / 10_000);
            return Err(Error::Database { what: "use it".into(), reason }.into());
        }
        // What is confirmed must be on the disk: no setting of the server or of the role may say otherwise, now or later.
        session.begin = format!(
            "BEGIN; SET LOCAL search_path = {}; SET LOCAL lock_timeout = {LOCK_MS_MAX}; \
             SET LOCAL statement_timeout = {STATEMENT_MS_MAX}; \
             SET LOCAL idle_in_transaction_session_timeout = {IDLE_MS_MAX}; \
             SELECT set_config('synchronous_commit', 'on', true) \
             WHERE current_setting('synchronous_commit') IN ('off', 'local')",
            self.schema
        );
        Ok(session)
    }
}

/// `config` with its server number `n` and no other.
fn alone(config: &Config, n: usize) -> Config {
    let mut one = Config::new();
    match config.get_hosts().get(n) {
        Some(Host::Tcp(name)) => drop(one.host(name)),
        Some(Host::Unix(path)) => drop(one.host_path(path)),
        None => {}
    }
    if let Some(address) = config.get_hostaddrs().get(n) {
        one.hostaddr(*address);
    }
    // One port may stand for all.
    if let Some(port) = config.get_ports().get(n).or(config.get_ports().first()) {
        one.port(*port);
    }
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(database) = config.get_dbname() {
        one.dbname(database);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    one.connect_timeout(CONNECT_MAX).tcp_user_timeout(SILENT_MAX).keepalives_idle(SILENT_MAX);
    one.application_name("holdfast tasks").target_session_attrs(TargetSessionAttrs::ReadWrite);
    one.ssl_mode(config.get_ssl_mode()).ssl_negotiation(config.get_ssl_negotiation());
    one.channel_binding(config.get_channel_binding());
    one
}

fn silent(limit: Duration) -> Broken {
    Broken::Lost(format!("the database did not answer within {} s", limit.as_secs()))
}

/// A connection whose answer did not come is of no use any more: it may come later.
async fn in_time<T>(exchange: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>) -> Done<T> {
    match tokio::time::timeout(EXCHANGE_MAX, exchange).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(silent(EXCHANGE_MAX)),
    }
}

fn stays_here(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()),
    }
}

/// Of an epoch: a receipt that another session gave for the same receive, before a backup was restored, does not fit.
fn random() -> Result<i64> {
    Ok(i64::from_be_bytes(crate::random("an epoch")?) & i64::MAX)
}

pub(super) type Done<T> = std::result::Result<T, Broken>;

/// Why an operation ended before its commit.
#[derive(Debug)]
pub(super) enum Broken {
    /// By a rule of ours; the same again would be refused again.
    Refused(Error),
    /// The server collided with others: worth another try at once.
    Collided(String),
    /// The connection is of no use any more.
    Lost(String),
    /// Worth another try later.
    NotNow(String),
    /// The server understood and refuses.
    Server(String),
}

impl From<Error> for Broken {
    fn from(error: Error) -> Broken {
        Broken::Refused(error)
    }
}

impl From<tokio_postgres::Error> for Broken {
    fn from(error: tokio_postgres::Error) -> Broken {
        let text = why(&error);
        let Some(code) = error.code() else {
            // Not from the server: a connection that broke, or a value that cannot be sent, which would be so again.
            let source = std::error::Error::source(&error);
            return match error.is_closed() || source.is_none_or(|source| source.is::<std::io::Error>()) {
                true => Broken::Lost(text),
                false => Broken::Server(text),
            };
        };
        match code {
            // A unique key that another plane has just written: the next try finds it.
            c if *c == SqlState::T_R_SERIALIZATION_FAILURE
                || *c == SqlState::T_R_DEADLOCK_DETECTED
                || *c == SqlState::LOCK_NOT_AVAILABLE
                || *c == SqlState::UNIQUE_VIOLATION =>
            {
                Broken::Collided(text)
            }
            c if *c == SqlState::READ_ONLY_SQL_TRANSACTION
                || *c == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
                || c.code().starts_with("08")
                || c.code().starts_with("57P") =>
            {
                Broken::Lost(text)
            }
            c if c.code().starts_with("53") || *c == SqlState::QUERY_CANCELED => Broken::NotNow(text),
            c if c.code().starts_with("58") || *c == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => {
                Broken::Lost(text)
            }
            _ => Broken::Server(text),
        }
    }
}

impl Broken {
    /// As whoever asked is told.
    pub(super) fn into_error(self) -> Error {
        match self {
            Broken::Refused(error) => error,
            Broken::Collided(reason) | Broken::Lost(reason) | Broken::NotNow(reason) => Error::Throttled { reason },
            Broken::Server(reason) => Error::Database { what: "do it".into(), reason },
        }
    }
}

pub(super) struct Session {
    pub(super) client: Client,
    driver: AbortHandle,
    begin: String,
    epoch: i64,
}

impl Drop for Session {
    /// The server ends what was not committed when the connection goes.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// A transaction, with the time that it counts by.
    pub(super) async fn begin<'a>(&'a self, shared: &'a Shared) -> Done<Tx<'a>> {
        let asked = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8, version, pg_backend_pid()::int8
                     FROM catalogue";
        let (begun, row) = in_time(async {
            Ok(tokio::join!(self.client.batch_execute(&self.begin), self.client.query_typed_one(asked, &[])))
        })
        .await?;
        begun?;
        let row = row?;
        let version: i64 = row.get(1);
        shared.validate(version);
        Ok(Tx {
            client: &self.client,
            shared,
            now: shared.time(row.get(0)),
            epoch: self.epoch,
            version: Some(version),
            slot: row.get::<_, i64>(2) % TALLY_SLOTS,
            tally: BTreeMap::new(),
        })
    }

    pub(super) async fn rollback(&self) -> Done<()> {
        in_time(self.client.batch_execute("ROLLBACK")).await
    }
}

pub(super) struct Tx<'a> {
    client: &'a Client,
    pub(super) shared: &'a Shared,
    pub(super) now: Millis,
    pub(super) epoch: i64,
    /// Of the catalogue; `None` when it was changed here, and what is read must not be remembered.
    pub(super) version: Option<i64>,
    slot: i64,
    /// How many messages more each queue has.
    tally: BTreeMap<i64, i64>,
}

impl Tx<'_> {
    pub(super) async fn rows(&self, sql: &str, with: &[&dyn Value]) -> Done<Vec<Row>> {
        let typed: Vec<(&(dyn ToSql + Sync), Type)> = with.iter().map(|v| (v.sql(), v.kind())).collect();
        in_time(self.client.query_typed(sql, &typed)).await
    }

    pub(super) async fn one(&self, sql: &str, with: &[&dyn Value]) -> Done<Row> {
        self.opt(sql, with).await?.ok_or_else(|| Broken::Server("a row that must be there is not".into()))
    }

    pub(super) async fn opt(&self, sql: &str, with: &[&dyn Value]) -> Done<Option<Row>> {
        Ok(self.rows(sql, with).await?.into_iter().next())
    }

    /// How many rows it changed.
    pub(super) async fn run(&self, sql: &str, with: &[&dyn Value]) -> Done<u64> {
        let typed: Vec<(&(dyn ToSql + Sync), Type)> = with.iter().map(|v| (v.sql(), v.kind())).collect();
        in_time(self.client.execute_typed(sql, &typed)).await
    }

    /// Until the commit nobody else has the queues in `alone` at all, and nobody has those in `together` alone. Taken in the
    /// order of the numbers, so that nobody waits in a circle; what the catalogue said before must still hold after.
    pub(super) async fn lock(&self, alone: &[i64], together: &[i64]) -> Done<()> {
        let mut wanted: BTreeMap<i64, bool> = together.iter().map(|number| (*number, false)).collect();
        wanted.extend(alone.iter().map(|number| (*number, true)));
        if wanted.is_empty() {
            return Ok(());
        }
        let (numbers, alone): (Vec<i64>, Vec<bool>) = wanted.into_iter().unzip();
        let sql =
            "SELECT CASE WHEN a THEN pg_advisory_xact_lock(k)::text ELSE pg_advisory_xact_lock_shared(k)::text END
                   FROM (SELECT x'686f'::int8 << 40 | n AS k, a FROM unnest($1, $2) u(n, a) ORDER BY n OFFSET 0) s";
        let wanted: [&dyn Value; 2] = [&numbers, &alone];
        let (locked, version) = tokio::join!(self.rows(sql, &wanted), self.one("SELECT version FROM catalogue", &[]));
        locked?;
        let version: i64 = version?.get(0);
        match self.version.is_none_or(|known| known == version) {
            true => Ok(()),
            false => Err(Broken::Collided("a queue was changed meanwhile".into())),
        }
    }

    /// False: another plane does it now.
    pub(super) async fn try_lock(&self, chore: i64) -> Done<bool> {
        Ok(self.one("SELECT pg_try_advisory_xact_lock(x'6863'::int8 << 40 | $1)", &[&chore]).await?.get(0))
    }

    pub(super) fn count(&mut self, queue: i64, by: i64) {
        *self.tally.entry(queue).or_default() += by;
    }

    pub(super) async fn commit(mut self) -> Done<()> {
        let tally = std::mem::take(&mut self.tally);
        let (queues, changes): (Vec<i64>, Vec<i64>) = tally.into_iter().filter(|(_, by)| *by != 0).unzip();
        if !queues.is_empty() {
            let sql = "INSERT INTO tally (queue, slot, messages) SELECT q, $3, n FROM unnest($1, $2) u(q, n) ORDER BY q
                       ON CONFLICT (queue, slot) DO UPDATE SET messages = tally.messages + excluded.messages";
            self.run(sql, &[&queues, &changes, &self.slot]).await?;
        }
        in_time(self.client.batch_execute("COMMIT")).await
    }
}

/// What is sent to the server with its type, so that no statement has to be prepared before.
pub(super) trait Value: Sync {
    fn kind(&self) -> Type;
    fn sql(&self) -> &(dyn ToSql + Sync);
}

macro_rules! values {
    ($($type:ty => $kind:ident),* $(,)?) => {
        $(impl Value for $type {
            fn kind(&self) -> Type {
                Type::$kind
            }

            fn sql(&self) -> &(dyn ToSql + Sync) {
                self
            }
        })*
    };
}

values! {
    i64 => INT8, Option<i64> => INT8, Vec<i64> => INT8_ARRAY, bool => BOOL,
    Vec<bool> => BOOL_ARRAY,
    String => TEXT, &str => TEXT, Option<String> => TEXT, Option<&str> => TEXT,
    Vec<String> => TEXT_ARRAY, Vec<&str> => TEXT_ARRAY, Vec<Option<String>> => TEXT_ARRAY, Vec<Option<&str>> => TEXT_ARRAY,
    Vec<u8> => BYTEA, &[u8] => BYTEA, Vec<Vec<u8>> => BYTEA_ARRAY, Vec<&[u8]> => BYTEA_ARRAY,
    Vec<Option<&[u8]>> => BYTEA_ARRAY,
}

/// How the last operation left what is known of the catalogue.
impl Shared {
    fn validate(&self, version: i64) {
        let mut cache = self.cache();
        // Lower is news as well: after a failover that lost something, or a restore.
        if version != cache.version {
            *cache = Cached { version, ..Cached::default() };
        }
        cache.checked = Some(std::time::Instant::now());
    }
}

pub(super) type Sessions = Arc<tokio::sync::Semaphore>;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;
    use crate::postgres::fixture::Server;

    /// As a primary that is stopped does, and one that waits for a standby that is away.
    #[tokio::test]
    async fn a_server_that_accepts_and_says_nothing_holds_nobody_up() {
        let server = Server::shared();
        let url = server.url(&server.database());
        let mute = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = mute.local_addr().expect("bound").port();
        let (before, after) = url.split_once('@').expect("user@host");
        let target = Target::new(&format!("{before}@127.0.0.1:{port},{after}"), None, None, "holdfast").expect("read");
        let began = Instant::now();
        let session = target.connect().await.expect("the second answers");
        assert!(began.elapsed() < CONNECT_MAX * 2, "{:?}", began.elapsed());
        assert_eq!(target.good.load(Ordering::Relaxed), 1, "it is asked first from now on");
        let waits = session.client.batch_execute("SELECT pg_sleep(60)");
        assert!(matches!(in_time(waits).await, Err(Broken::Lost(_))));
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_unless_the_url_says_otherwise() {
        let mode = |url: &str| {
            Target::new(url, None, None, "holdfast").map(|target| target.servers[0].get_ssl_mode()).expect("read")
        };
        assert_eq!(mode("host=localhost dbname=a"), SslMode::Disable);
        assert_eq!(mode("host=localhost hostaddr=192.0.2.1 dbname=a"), SslMode::Require);
        assert_eq!(mode("host=db dbname=a sslmode=disable"), SslMode::Disable);
    }
}

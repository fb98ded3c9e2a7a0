//! `[tasks]`, `[key.NAME]`, `[queue.NAME]` and `[pool.NAME]`.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_policy::backoff::Backoff;
use toml::de::{DeTable, DeValue};

use crate::keys::{DEAD_LETTER, QUEUE_RETRY, TASKS};
use crate::model::{AccessKey, DeadLetter, Fallback, Permission, Pool, Postgres, Queue, Tasks, Value};
use crate::reader::{Fault, Findings, Reader, unknown_word};

use super::node::socket_addr;

const ACCOUNT_DIGITS: usize = 12;
/// Names of regions are short; this one stands in every ARN.
const REGION_CHARS_MAX: usize = 64;
const ID_CHARS: std::ops::RangeInclusive<usize> = 3..=128;
/// Of SQS.
const QUEUE_NAME_CHARS_MAX: usize = 80;
const TAGS_MAX: usize = 50;
const TAG_NAME_CHARS_MAX: usize = 128;
const TAG_CHARS_MAX: usize = 256;

/// The plane where something needs it: its own table, or a noun that it keeps.
pub(super) fn plane(out: &mut Findings, file: &DeTable<'_>) -> Option<Tasks> {
    let empty = DeTable::new();
    match file.get("tasks").map(|v| (v.span(), v.get_ref())) {
        Some((_, DeValue::Table(table))) => {
            let table = Reader::new(out, "tasks".into(), &TASKS, table);
            return Some(tasks(out, &table));
        }
        Some((span, other)) => out.fault("tasks", span, Fault::kind("a table", other)),
        None => {}
    }
    let named = |noun: &str| file.get(noun).and_then(|v| v.get_ref().as_table()).and_then(|t| t.keys().next());
    let cause = ["queue", "worker", "workflow"].into_iter().find_map(named)?;
    out.spans.stand_in("tasks", cause.span());
    let table = Reader::new(out, "tasks".into(), &TASKS, &empty);
    Some(tasks(out, &table))
}

fn tasks(out: &mut Findings, table: &Reader<'_>) -> Tasks {
    let sure = "the catalogue gives a default";
    Tasks {
        listen: table.form(out, "listen", socket_addr).expect(sure),
        region: table.form(out, "region", region).expect(sure),
        account: table.form(out, "account", account).expect(sure),
        single_node_accepted: table.choice(out, "single_node").is_some(),
        node: table.text(out, "node"),
        postgres: postgres(out, table),
        memory_bytes: table.opt_size(out, "memory").expect(sure),
    }
}

fn postgres(out: &mut Findings, table: &Reader<'_>) -> Option<Postgres> {
    let (password, ca) =
        (super::cluster::secret(out, table, "postgres_password"), table.path_value(out, "postgres_ca"));
    let schema = table.text(out, "postgres_schema").unwrap_or_else(|| "holdfast".into());
    for key in ["postgres_password", "postgres_ca", "postgres_schema"] {
        if table.has(key) && !table.has("postgres") {
            table.wrong(out, key, Fault::value("there is no `postgres` that it is for"));
        }
    }
    let url = table.form(out, "postgres", database)?;
    Some(Postgres { url, password, ca, schema })
}

/// A URL with a host and a database; the password has a key of its own.
fn database(value: &DeValue<'_>) -> Result<String, Fault> {
    let wanted = "postgres://USER@HOST:PORT/DATABASE";
    let text = value.as_str().ok_or_else(|| Fault::kind(wanted, value))?;
    let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    let rest = rest.ok_or_else(|| Fault::value("it must begin with postgres://").hint(format!("write {wanted}")))?;
    let (place, name) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = place.rsplit_once('@').unwrap_or(("", place));
    if user.contains(':') || rest.contains("password=") {
        let fault = Fault::value("a password may not stand in the file");
        return Err(fault.hint("postgres_password = { file = \"/run/secrets/postgres\" }"));
    }
    if user.is_empty() || hosts.is_empty() || name.split('?').next().is_none_or(str::is_empty) {
        return Err(Fault::value("it names no user, no host or no database").hint(format!("write {wanted}")));
    }
    Ok(text.to_owned())
}

fn region(value: &DeValue<'_>) -> Result<String, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("a text", value))?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    match !text.is_empty() && text.len() <= REGION_CHARS_MAX && text.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(Fault::value("small letters, digits and `-`, at most 64")),
    }
}

fn account(value: &DeValue<'_>) -> Result<String, Fault> {
    match value {
        DeValue::String(text) if text.len() == ACCOUNT_DIGITS && text.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(text.to_string())
        }
        DeValue::String(_) => Err(Fault::value("must be 12 digits")),
        DeValue::Integer(n) => {
            Err(Fault::kind("a text of 12 digits", value).hint(format!("write account = \"{:0>12}\"", n.as_str())))
        }
        other => Err(Fault::kind("a text of 12 digits", other)),
    }
}

pub(super) fn key(out: &mut Findings, table: &Reader<'_>, name: &str) -> AccessKey {
    table.require(out, &["id", "secret"]);
    let queues = table.list(out, "queues", pattern);
    let allow = table.list(out, "allow", permission);
    for (key, none) in [("queues", queues.is_empty()), ("allow", allow.is_empty())] {
        if none && table.has(key) && out.is_good(&table.at(key)) {
            table.wrong(out, key, Fault::value("leaves nothing to do").hint(format!("remove `{key}` to allow all")));
        }
    }
    AccessKey {
        name: name.to_owned(),
        id: table.form(out, "id", id).unwrap_or_default(),
        secret: super::cluster::secret(out, table, "secret").unwrap_or_else(|| Value::Env(String::new())),
        queues: if queues.is_empty() { vec!["*".to_owned()] } else { queues },
        allow: if allow.is_empty() { Permission::ALL.into_iter().map(|(_, p)| p).collect() } else { set(allow) },
    }
}

fn set<T: Ord>(items: Vec<T>) -> BTreeSet<T> {
    items.into_iter().collect()
}

fn id(value: &DeValue<'_>) -> Result<String, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("a text", value))?;
    match ID_CHARS.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        true => Ok(text.to_owned()),
        false => Err(Fault::value("must be 3 to 128 letters and digits")),
    }
}

fn pattern(value: &DeValue<'_>) -> Result<String, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("the name of a queue", value))?;
    let stem = text.strip_suffix('*').unwrap_or(text);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match !text.is_empty() && stem.len() <= QUEUE_NAME_CHARS_MAX && stem.bytes().all(plain) {
        true => Ok(text.to_owned()),
        false => Err(Fault::value("not the name of a queue, with or without a `*` at its end")),
    }
}

fn permission(value: &DeValue<'_>) -> Result<Permission, Fault> {
    let names = Permission::ALL.map(|(name, _)| name);
    let text = value.as_str().ok_or_else(|| Fault::kind("\"send\", \"receive\" or \"manage\"", value))?;
    let found = Permission::ALL.into_iter().find(|(name, _)| *name == text);
    found.map(|(_, permission)| permission).ok_or_else(|| unknown_word(text, &names))
}

pub(super) fn queue(out: &mut Findings, table: &Reader<'_>, name: &str) -> Queue {
    let size = table.opt_size(out, "message_size").expect("the catalogue gives a default");
    let queue = Queue {
        name: name.to_owned(),
        fifo: table.boolean(out, "fifo"),
        visibility_timeout: table.duration(out, "visibility_timeout"),
        delay: table.duration(out, "delay"),
        retention: table.duration(out, "retention"),
        message_bytes_max: u32::try_from(size).unwrap_or(u32::MAX),
        wait: table.duration(out, "wait"),
        dead_letter: dead_letter(out, table),
        deduplicate_by_content: table.boolean(out, "deduplicate_by_content"),
        retry: table.inner(out, "retry", &QUEUE_RETRY).map(|retry| backoff(out, &retry)),
        crashes: table.u32(out, "crashes"),
        rate: table.opt_u32(out, "rate"),
        idempotency: table.duration(out, "idempotency"),
        tags: table.form(out, "tags", tags).unwrap_or_default(),
    };
    if queue.deduplicate_by_content && !queue.fifo && out.is_good(&table.at("fifo")) {
        let fault = Fault::value("only a FIFO queue deduplicates").hint("add fifo = true, or remove it");
        table.wrong(out, "deduplicate_by_content", fault);
    }
    let sound = out.is_good(&table.at("delay")) && out.is_good(&table.at("retention"));
    if queue.delay >= queue.retention && sound {
        let fault = Fault::value("a message would be deleted before it is seen").hint("raise `retention`");
        table.wrong(out, "delay", fault);
    }
    queue
}

fn dead_letter(out: &mut Findings, queue: &Reader<'_>) -> Option<DeadLetter> {
    let table = queue.inner(out, "dead_letter", &DEAD_LETTER)?;
    table.require(out, &["queue"]);
    let receives = table.u32(out, "receives");
    Some(DeadLetter { queue: table.text(out, "queue")?, receives })
}

/// Of a table with the keys that `keys::backoff` gives.
pub(super) fn backoff(out: &mut Findings, table: &Reader<'_>) -> Backoff {
    let backoff = Backoff {
        base: table.duration(out, "base"),
        factor: table.number(out, "factor"),
        max: table.duration(out, "max"),
        jitter: table.opt_share(out, "jitter").expect("the catalogue gives a default"),
    };
    if backoff.base > backoff.max && out.is_good(&table.path) {
        table.wrong(out, "base", Fault::value("longer than `max`").hint("raise `max`, or shorten `base`"));
    }
    backoff
}

fn tags(value: &DeValue<'_>) -> Result<BTreeMap<String, String>, Fault> {
    let tags = super::cluster::texts(value, "{ team = \"shop\" }")?;
    if tags.len() > TAGS_MAX {
        return Err(Fault::value("more than 50 tags"));
    }
    let length = |text: &str| text.chars().count();
    let fits = |(name, text): (&String, &String)| {
        (1..=TAG_NAME_CHARS_MAX).contains(&length(name)) && length(text) <= TAG_CHARS_MAX
    };
    match tags.iter().all(fits) {
        true => Ok(tags),
        false => Err(Fault::value("a tag has a name of 1 to 128 characters, and at most 256 characters")),
    }
}

pub(super) fn pool(out: &mut Findings, table: &Reader<'_>, name: &str) -> Pool {
    table.require(out, &["slots"]);
    Pool { name: name.to_owned(), slots: table.opt_u32(out, "slots").unwrap_or(1) }
}

/// `fallback` of a balancer.
pub(super) fn fallback(out: &mut Findings, balancer: &Reader<'_>) -> Option<Fallback> {
    let table = balancer.inner(out, "fallback", &crate::keys::FALLBACK)?;
    table.require(out, &["queue"]);
    let key = table.form(out, "key", header);
    Some(Fallback { queue: table.text(out, "queue")?, key })
}

fn header(value: &DeValue<'_>) -> Result<String, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("the name of a header", value))?;
    if is_header(text) { Ok(text.to_owned()) } else { Err(Fault::value("letters, digits, `-` and `_` alone")) }
}

pub(super) fn is_header(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

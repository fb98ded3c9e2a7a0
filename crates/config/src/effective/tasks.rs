//! `[tasks]`, `[key.NAME]`, `[queue.NAME]`, `[worker.NAME]` and `[pool.NAME]`.

use holdfast_policy::backoff::Backoff;

use crate::keys::{ACCESS_KEY, CONCURRENCY, DEAD_LETTER, POOL, QUEUE, QUEUE_RETRY, TASKS, WORKER, WORKER_HTTP};
use crate::model::{AccessKey, Concurrency, Input, Permission, Pool, Program, Queue, Tasks, Work, Worker};

use super::service::{command, env, path};
use super::{Setting, Settings, duration, list, reference, share, size, text, texts};

pub(crate) fn tasks(tasks: &Tasks) -> Vec<Setting> {
    let mut out = Settings::new(&TASKS);
    out.put("listen", text(tasks.listen.to_string()));
    out.put("region", text(&tasks.region));
    out.put("account", text(&tasks.account));
    out.put_some("node", tasks.node.as_ref(), text);
    if tasks.single_node_accepted {
        out.put("single_node", text("accepted"));
    }
    if let Some(postgres) = &tasks.postgres {
        out.put("postgres", text(&postgres.url));
        out.put_some("postgres_password", postgres.password.as_ref(), reference);
        out.put_some("postgres_ca", postgres.ca.as_ref(), |ca| path(ca));
        out.put("postgres_schema", text(&postgres.schema));
    }
    out.put("memory", size(tasks.memory_bytes));
    out.finish()
}

pub(crate) fn access_key(key: &AccessKey) -> Vec<Setting> {
    let mut out = Settings::new(&ACCESS_KEY);
    out.put("id", text(&key.id));
    out.put("secret", reference(&key.secret));
    out.put_derived("queues", texts(&key.queues), "[\"*\"]");
    let all = list(Permission::ALL.iter().map(|(name, _)| text(name)));
    out.put_derived("allow", list(key.allow.iter().map(|permission| text(permission.name()))), &all);
    out.finish()
}

pub(crate) fn queue(queue: &Queue) -> Vec<Setting> {
    let mut out = Settings::new(&QUEUE);
    out.put("fifo", queue.fifo.to_string());
    out.put("visibility_timeout", duration(queue.visibility_timeout));
    out.put("delay", duration(queue.delay));
    out.put("retention", duration(queue.retention));
    out.put("message_size", size(u64::from(queue.message_bytes_max)));
    out.put("wait", duration(queue.wait));
    out.put("deduplicate_by_content", queue.deduplicate_by_content.to_string());
    out.put("crashes", queue.crashes.to_string());
    out.put_some("rate", queue.rate, |n| n.to_string());
    out.put("idempotency", duration(queue.idempotency));
    if !queue.tags.is_empty() {
        let tags: Vec<String> = queue.tags.iter().map(|(k, v)| format!("{} = {}", text(k), text(v))).collect();
        out.put("tags", format!("{{ {} }}", tags.join(", ")));
    }
    if let Some(dead) = &queue.dead_letter {
        out.table("dead_letter", &DEAD_LETTER);
        out.put("queue", text(&dead.queue));
        out.put("receives", dead.receives.to_string());
    }
    if let Some(retry) = &queue.retry {
        out.table("retry", &QUEUE_RETRY);
        backoff(&mut out, retry);
    }
    out.finish()
}

/// Into a table with the keys that `keys::backoff` gives.
pub(super) fn backoff(out: &mut Settings, backoff: &Backoff) {
    out.put("base", duration(backoff.base));
    out.put("factor", format!("{:?}", backoff.factor));
    out.put("max", duration(backoff.max));
    out.put("jitter", share(backoff.jitter));
}

pub(crate) fn worker(worker: &Worker) -> Vec<Setting> {
    let mut out = Settings::new(&WORKER);
    out.put("queue", text(&worker.queue));
    if let Work::Program(p) = &worker.work {
        program(&mut out, p);
    }
    if let Concurrency::Fixed(n) = worker.concurrency {
        out.put_derived("concurrency", n.to_string(), "1");
    }
    out.put("lease", duration(worker.lease));
    out.put("timeout", duration(worker.timeout));
    if let Work::Http(http) = &worker.work {
        out.table("http", &WORKER_HTTP);
        out.put("service", text(&http.service));
        out.put("path", text(&http.path));
        out.put_derived("timeout", duration(http.timeout), &duration(worker.timeout));
    }
    if let Concurrency::Scaled(scale) = worker.concurrency {
        out.table("concurrency", &CONCURRENCY);
        out.put("min", scale.min.to_string());
        out.put("max", scale.max.to_string());
        out.put("backlog", scale.backlog.to_string());
        out.put("age", duration(scale.age));
    }
    out.finish()
}

fn program(out: &mut Settings, program: &Program) {
    command(out, &program.command);
    program.env.iter().for_each(|(name, value)| env(out, &format!("env.{name}"), name, value));
    out.put("workdir", path(&program.workdir));
    out.put_some("user", program.user.as_ref(), text);
    out.put("input", text(if program.input == Input::Env { "env" } else { "stdin" }));
    let codes = |codes: &[i32]| list(codes.iter().map(i32::to_string));
    out.put_derived("done", codes(&program.done), "[0]");
    out.put_derived("dead", codes(&program.dead), "[65]");
}

pub(crate) fn pool(pool: &Pool) -> Vec<Setting> {
    let mut out = Settings::new(&POOL);
    out.put("slots", pool.slots.to_string());
    out.finish()
}

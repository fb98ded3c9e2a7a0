//! `[tasks]`, `[key.NAME]`, `[queue.NAME]`, `[worker.NAME]`, `[pool.NAME]` and the tables in them.

use super::{Change::*, Default::*, Section, Type::*, key};

pub(crate) static TASKS: Section = Section {
    title: "[tasks]",
    doc: "The plane that keeps queues and workflows. It runs when the file has this table, a queue, a worker or a workflow. AWS SQS is spoken at `listen`: any of its clients works, with the endpoint `http://127.0.0.1:9324`.",
    keys: &[
        key(
            "listen",
            Forms("\"ADDRESS:PORT\""),
            Is("127.0.0.1:9324"),
            Replaces,
            r#""127.0.0.1:9325""#,
            "Where SQS is spoken. Without any `[key.NAME]` every signature is accepted, so it must be loopback then.",
        ),
        key("region", Text, Is("us-east-1"), Replaces, r#""eu-central-1""#, "Region in the ARNs of queues."),
        key(
            "account",
            Forms("text of 12 digits"),
            Is("000000000000"),
            Replaces,
            r#""123456789012""#,
            "Account in the ARNs and URLs of queues.",
        ),
        key(
            "node",
            Text,
            Words("this machine; required in a cluster"),
            Replaces,
            r#""app-1""#,
            "In a cluster: the machine that keeps queues and workflows.",
        ),
        key(
            "single_node",
            Choice(&["accepted"]),
            Words("required in a cluster"),
            Live,
            r#""accepted""#,
            "In a cluster: says that it is known that queues and workflows live on one machine, and stand still while it is lost.",
        ),
        key(
            "postgres",
            Forms("text `postgres://USER@HOST:PORT/DATABASE`; several `HOST:PORT` with commas between them"),
            Words("a file of SQLite in the data directory"),
            Replaces,
            r#""postgres://holdfast@db.example.org:5432/holdfast""#,
            "The PostgreSQL database (version 13 or later) that keeps queues and workflows instead. In a cluster the plane runs on every machine then. With several hosts the one that takes writes is used. Without `?sslmode=disable` the connection is encrypted, except to loopback.",
        ),
        key(
            "postgres_password",
            Forms("{ file = \"PATH\" } or { env = \"NAME\" }"),
            Words("none"),
            Replaces,
            r#"{ file = "/run/secrets/postgres" }"#,
            "The password for `postgres`, as a reference; it may not stand in the file.",
        ),
        key(
            "postgres_ca",
            Path,
            Words("whom the machine trusts"),
            Replaces,
            r#""/etc/holdfast/postgres-ca.pem""#,
            "Certificates of who may have signed that of the server of `postgres`.",
        ),
        key(
            "postgres_schema",
            Text,
            Is("holdfast"),
            Replaces,
            r#""queues""#,
            "The schema in the database of `postgres`; made when it is not there.",
        ),
        key("memory", Size { min: "64MiB", max: "64GiB" }, Is("256MiB"), Replaces, r#""1GiB""#, "Limit of the caches."),
    ],
};

pub(crate) static ACCESS_KEY: Section = Section {
    title: "[key.NAME]",
    doc: "A pair of access key and secret that clients of the queues sign their requests with (AWS Signature 4). As soon as the file has one, no request is accepted without.",
    keys: &[
        key("id", Forms("3 to 128 letters and digits"), Required, Live, r#""SHOPWEB1""#, "The access key id."),
        key(
            "secret",
            Forms("{ file = \"PATH\" } or { env = \"NAME\" }"),
            Required,
            Live,
            r#"{ file = "/run/secrets/queue-key" }"#,
            "The secret access key, as a reference; it may not stand in the file.",
        ),
        key(
            "queues",
            Forms("array of names of queues, `*` at the end stands for any rest"),
            Words("all"),
            Live,
            r#"["orders*", "mail"]"#,
            "The queues that it may use.",
        ),
        key(
            "allow",
            Forms("array of \"send\", \"receive\" and \"manage\""),
            Words("all three"),
            Live,
            r#"["send"]"#,
            "What it may do with them. `receive` includes to delete and to hide messages; `manage` is to make, change, purge and delete queues.",
        ),
    ],
};

pub(crate) static QUEUE: Section = Section {
    title: "[queue.NAME]",
    doc: "Messages that are kept on the disk until somebody is done with them. A receive hides a message for a while; who does not delete it in time gets it again, or another does. What AWS SQS does not have, or has with closer limits, is marked *beyond SQS*.",
    keys: &[
        key(
            "fifo",
            Bool,
            Is("false"),
            Live,
            "true",
            "Messages of a group come in order and one batch at a time. SQS calls such a queue `NAME.fifo`, so another value here is another queue.",
        ),
        key(
            "visibility_timeout",
            Duration { min: "0s", max: "12h" },
            Is("30s"),
            Live,
            r#""2m""#,
            "How long a received message is hidden, unless the receive says otherwise.",
        ),
        key(
            "delay",
            Duration { min: "0s", max: "365d" },
            Is("0s"),
            Live,
            r#""10s""#,
            "How long a new message is hidden. More than 15 minutes is *beyond SQS*.",
        ),
        key(
            "retention",
            Duration { min: "1m", max: "365d" },
            Is("4d"),
            Live,
            r#""14d""#,
            "A message that nobody was done with is deleted after this time. More than 14 days is *beyond SQS*.",
        ),
        key(
            "message_size",
            Size { min: "1KiB", max: "1MiB" },
            Is("1MiB"),
            Live,
            r#""256KiB""#,
            "Largest message, body and attributes together.",
        ),
        key(
            "wait",
            Duration { min: "0s", max: "20s" },
            Is("0s"),
            Live,
            r#""20s""#,
            "How long a receive waits for a message, unless it says otherwise.",
        ),
        key(
            "dead_letter",
            Forms("table"),
            Words("none"),
            Live,
            r#"{ queue = "orders-dead", receives = 5 }"#,
            "Where messages go that were received too often; see below.",
        ),
        key(
            "deduplicate_by_content",
            Bool,
            Is("false"),
            Live,
            "true",
            "With `fifo`: a message with the same body within five minutes is accepted and dropped.",
        ),
        key(
            "retry",
            Forms("table"),
            Words("none: again at once"),
            Live,
            r#"{ base = "1s", max = "15m" }"#,
            "Growing times between redeliveries when a worker asks for another try; see below. *Beyond SQS*.",
        ),
        key(
            "crashes",
            Integer { min: 1, max: 100 },
            Is("3"),
            Live,
            "2",
            "A message whose worker crashed so often goes to the dead letters at once, before it has used up its `receives`; without `dead_letter` it is quarantined. *Beyond SQS*.",
        ),
        key(
            "rate",
            Integer { min: 1, max: 1_000_000 },
            Words("no limit"),
            Live,
            "100",
            "Messages handed out a second. *Beyond SQS*.",
        ),
        key(
            "idempotency",
            Duration { min: "1m", max: "30d" },
            Is("1d"),
            Live,
            r#""7d""#,
            "How long the idempotency key of a message is remembered: the same key with the same message is accepted once, with another message it is an error. *Beyond SQS*.",
        ),
        key("tags", Forms("table of texts"), Words("none"), Live, r#"{ team = "shop" }"#, "Tags, at most 50."),
    ],
};

pub(crate) static DEAD_LETTER: Section = Section {
    title: "dead_letter = { … }",
    doc: "A message that would be received once more than `receives` is moved. It keeps the time at which it was sent, so the other queue should keep messages longer.",
    keys: &[
        key("queue", Text, Required, Live, r#""orders-dead""#, "Another queue of the file, `fifo` as this one is."),
        key("receives", Integer { min: 1, max: 1000 }, Is("10"), Live, "5", "How often a message is handed out."),
    ],
};

pub(crate) static QUEUE_RETRY: Section = Section {
    title: "retry = { … } of a queue",
    doc: "The first redelivery comes after `base`, each further one after `factor` times as long, up to `max`.",
    keys: &super::backoff("15m", "12h"),
};

pub(crate) static WORKER: Section = Section {
    title: "[worker.NAME]",
    doc: "Takes messages from a queue and works on them: by a program for each message, or by a request to a service. Exactly one of `command`, `shell` and `http` says how. A message counts as received only when work on it begins.",
    keys: &[
        key("queue", Text, Required, Live, r#""orders""#, "The queue to take from."),
        key(
            "command",
            Argv,
            Words("required, or `shell` or `http`"),
            Live,
            r#"["./handle-order"]"#,
            "The program and its arguments, started without a shell for each message.",
        ),
        key(
            "shell",
            Text,
            Words("none"),
            Live,
            r#""jq .id | ./handle-order""#,
            "A line for `/bin/sh -c` instead of `command`.",
        ),
        key(
            "http",
            Forms("table"),
            Words("none"),
            Live,
            r#"{ service = "web", path = "/orders" }"#,
            "A request to a service instead of a program; see below.",
        ),
        key(
            "concurrency",
            Forms("1 to 1000, or a table"),
            Words("`1`"),
            Live,
            "4",
            "Messages worked on at once, or how the number follows what waits; see below.",
        ),
        key(
            "lease",
            Duration { min: "1s", max: "12h" },
            Is("30s"),
            Live,
            r#""1m""#,
            "How long a message stays hidden when its worker falls silent. Holdfast extends it at a third of the time while the work goes on.",
        ),
        key(
            "timeout",
            Duration { min: "1s", max: "12h" },
            Is("15m"),
            Live,
            r#""5m""#,
            "An attempt that takes longer is killed, and tried again.",
        ),
        key(
            "env",
            Forms("table of texts, numbers, booleans or references"),
            Words("empty"),
            Live,
            r#"{ MODE = "production", DB_PASSWORD = { file = "/run/secrets/db" } }"#,
            "Environment of the program, as for services.",
        ),
        key("workdir", Path, Words("the directory of the file"), Live, r#""/srv/orders""#, "Working directory."),
        key(
            "user",
            Text,
            Words("the agent's"),
            Live,
            r#""www-data""#,
            "User to run as. Only an agent that runs as root can change it.",
        ),
        key(
            "input",
            Choice(&["stdin", "env"]),
            Is("stdin"),
            Live,
            r#""env""#,
            "How the program gets the body of the message: on its standard input, or in the variable `HOLDFAST_MESSAGE`.",
        ),
        key(
            "done",
            Integers { min: 0, max: 255 },
            Words("`[0]`"),
            Live,
            "[0, 3]",
            "Exit codes after which the message is deleted.",
        ),
        key(
            "dead",
            Integers { min: 0, max: 255 },
            Words("`[65]`"),
            Live,
            "[64, 65]",
            "Exit codes after which it goes to the dead letters at once. Every other code, and death by a signal, is another try.",
        ),
    ],
};

pub(crate) static WORKER_HTTP: Section = Section {
    title: "http = { … } of a worker",
    doc: "The body of the message is posted to an instance of the service. An answer of 2xx means done, 409 dead letter at once, every other answer and none another try.",
    keys: &[
        key("service", Text, Required, Live, r#""web""#, "A service with a port."),
        key("path", Text, Is("/"), Live, r#""/orders""#, "The path to post to."),
        key(
            "timeout",
            Duration { min: "1s", max: "12h" },
            Words("the worker's `timeout`"),
            Live,
            r#""30s""#,
            "Until the whole answer is there; at most the worker's `timeout`.",
        ),
    ],
};

pub(crate) static CONCURRENCY: Section = Section {
    title: "concurrency = { … }",
    doc: "One more message is worked on at a time while more than `backlog` wait for each, or while the oldest has waited longer than `age`; one less when nothing waits.",
    keys: &[
        key("min", Integer { min: 0, max: 1000 }, Is("0"), Live, "1", "At least so many; 0 costs nothing while idle."),
        key("max", Integer { min: 1, max: 1000 }, Required, Live, "20", "At most so many; at least `min`."),
        key("backlog", Integer { min: 1, max: 1_000_000 }, Is("100"), Live, "50", "Waiting messages for each."),
        key("age", Duration { min: "1s", max: "1d" }, Is("30s"), Live, r#""10s""#, "Of the oldest waiting message."),
    ],
};

pub(crate) static POOL: Section = Section {
    title: "[pool.NAME]",
    doc: "Something scarce that steps of several workflows share, such as connections of a database. A step with `pool` waits for a slot, and holds it while it runs.",
    keys: &[key("slots", Integer { min: 1, max: 10_000 }, Required, Live, "4", "Steps that run at once.")],
};

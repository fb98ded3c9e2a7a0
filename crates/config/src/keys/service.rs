//! `[service.NAME]` and the tables in it.

use super::{Change::*, Default::*, Key, Section, Type::*, key};

pub(crate) static SERVICE: Section = Section {
    title: "[service.NAME]",
    doc: "A program to keep running, or a job to run once. `NAME` matches `[a-z][a-z0-9-]*`, has at most 40 characters and does not end in `-` and digits, because `web-2` is the second instance of `web`. In `command`, `shell`, the probes' commands and plain values of `env`, `{port}`, `{host}`, `{service}`, `{instance}` and `{ordinal}` stand for the values of the instance.",
    keys: &[
        key(
            "type",
            Choice(&["service", "job"]),
            Is("service"),
            Replaces,
            r#""job""#,
            "A `service` is kept running. A `job` runs until it has succeeded once for each applied definition.",
        ),
        key(
            "command",
            Argv,
            Words("required, or `shell`"),
            Replaces,
            r#"["python3", "-m", "http.server", "{port}"]"#,
            "The program and its arguments, started without a shell.",
        ),
        key(
            "shell",
            Text,
            Words("none"),
            Replaces,
            r#""sleep 1 && exec ./serve --port $PORT""#,
            "A line for `/bin/sh -c` instead of `command`. `exec` the program at its end, so that signals reach it.",
        ),
        key(
            "replicas",
            Integer { min: 0, max: 1000 },
            Is("1"),
            Live,
            "3",
            "Instances to keep running: `NAME-1`, `NAME-2`, … A job has one.",
        ),
        key(
            "env",
            Forms("table of texts, numbers, booleans or references"),
            Words("empty"),
            Replaces,
            r#"{ MODE = "production", DB_PASSWORD = { file = "/run/secrets/db" } }"#,
            "Environment of the instances. Besides it they get `PORT`, `HOLDFAST_SERVICE`, `HOLDFAST_INSTANCE`, `HOLDFAST_ORDINAL` and `HOLDFAST_INCARNATION`, and of the agent's environment `PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL`, `LANG`, `LC_*`, `TZ`, `TMPDIR` and `TERM`. Give secrets as references.",
        ),
        key(
            "env_files",
            Forms("array of paths"),
            Words("none"),
            Replaces,
            r#"["web.env"]"#,
            "Files of `NAME=value` lines, read each time an instance starts; later ones win, `env` wins over all.",
        ),
        key("workdir", Path, Words("the directory of the file"), Replaces, r#""/srv/web""#, "Working directory."),
        key(
            "user",
            Text,
            Words("the agent's"),
            Replaces,
            r#""www-data""#,
            "User to run as. Only an agent that runs as root can change it.",
        ),
        key("group", Text, Words("the user's"), Replaces, r#""www-data""#, "Group to run as."),
        key(
            "umask",
            Forms("octal text"),
            Words("the agent's"),
            Replaces,
            r#""027""#,
            "File mode bits to take away, in octal.",
        ),
        key(
            "open_files",
            Integer { min: 16, max: 1_048_576 },
            Words("the agent's"),
            Replaces,
            "65536",
            "Limit of open files, soft and hard.",
        ),
        key(
            "host",
            Forms("IP address"),
            Is("127.0.0.1"),
            Replaces,
            r#""127.0.0.1""#,
            "Address the instances listen on, where probes and balancers reach them.",
        ),
        key(
            "port",
            Forms("1 to 65535, \"auto\" or false"),
            Words("\"auto\" where `{port}` or `$PORT` is used, or a probe or balancer needs one; else false"),
            Replaces,
            "8080",
            "With \"auto\" holdfast picks a port from `node.ports` and the instance keeps it. With a number, instance 1 gets this port, instance 2 the next one, and so on.",
        ),
        key(
            "after",
            Forms("array of services, or table of service = \"started\", \"ready\" or \"completed\""),
            Words("none"),
            Live,
            r#"{ db = "ready", migrate = "completed" }"#,
            "Services to wait for before an instance starts for the first time. Named in an array: `completed` for a job, `ready` where the service has a readiness probe, else `started`.",
        ),
        key(
            "restart",
            Forms("\"always\", \"on-failure\", \"never\" or a table"),
            Words("\"always\"; \"on-failure\" for a job"),
            Replaces,
            r#""on-failure""#,
            "When an instance that ended is started again; see below.",
        ),
        key(
            "startup",
            Forms("probe table"),
            Words("none"),
            Live,
            r#"{ tcp = true, within = "30s" }"#,
            "Until it passes, the other probes wait. An instance that has not passed in the time `within` is restarted.",
        ),
        key(
            "ready",
            Forms("probe table"),
            Words("none: ready when started"),
            Live,
            r#"{ http = "/health", every = "500ms" }"#,
            "Decides whether balancers send requests.",
        ),
        key(
            "live",
            Forms("probe table"),
            Words("none"),
            Live,
            r#"{ tcp = true, every = "5s" }"#,
            "Decides whether an instance is restarted. Never more than `max_unavailable` at once, and never all together.",
        ),
        key(
            "stop",
            Forms("table"),
            Words("the defaults below"),
            Replaces,
            r#"{ signal = "TERM", grace = "10s" }"#,
            "How an instance is stopped; see below.",
        ),
        key(
            "min_available",
            Integer { min: 0, max: 1000 },
            Words("`replicas` less `max_unavailable`"),
            Live,
            "2",
            "Ready instances that restarts, replacements and drills by holdfast never go below.",
        ),
        key(
            "max_unavailable",
            Integer { min: 1, max: 1000 },
            Is("1"),
            Live,
            "1",
            "Liveness restarts and planned replacements at the same time.",
        ),
        key(
            "fenced",
            Bool,
            Is("false"),
            Replaces,
            "true",
            "An instance must never run twice, whatever fails: its shim kills it when the agent has not renewed its deadline.",
        ),
        key(
            "standby",
            Forms("table"),
            Words("none"),
            Replaces,
            r#"{ tier = "hot", count = 1 }"#,
            "One active instance and others that stand by; see below.",
        ),
        key(
            "log",
            Forms("table"),
            Words("the defaults below"),
            Replaces,
            r#"{ size = "10MiB", keep = 5 }"#,
            "Output of the instances; see below.",
        ),
        key(
            "on",
            Forms("table of label = text or array of texts"),
            Words("every machine"),
            Live,
            r#"{ zone = ["east", "west"] }"#,
            "In a cluster: labels that a machine must have to run it, each with one of the values. Besides its own labels every machine has `node`, `host`, `rack` and `zone`.",
        ),
        key(
            "apart_from",
            Forms("array of services"),
            Words("none"),
            Live,
            r#"["web"]"#,
            "In a cluster: services that no instance shares a machine with.",
        ),
        key(
            "needs",
            Forms("table"),
            Words("nothing"),
            Live,
            r#"{ cpu_millis = 500, memory = "256MiB" }"#,
            "In a cluster: what an instance reserves of its machine; see below.",
        ),
        key(
            "availability",
            Share,
            Words("none"),
            Live,
            r#""99.9%""#,
            "Declared target, which `status` compares with what was measured.",
        ),
    ],
};

pub(crate) static NEEDS: Section = Section {
    title: "needs = { … }",
    doc: "What an instance reserves of its machine. It decides where instances may go; it is no limit on what they use.",
    keys: &[
        key("cpu_millis", Integer { min: 1, max: 1_000_000 }, Words("none"), Live, "500", "Thousandths of a core."),
        key(
            "memory",
            Size { min: "1MiB", max: "64TiB" },
            Words("none"),
            Live,
            r#""256MiB""#,
            "Memory that it is expected to use.",
        ),
    ],
};

pub(crate) static REFERENCE: Section = Section {
    title: "env.KEY = { … }",
    doc: "A reference instead of a value, resolved on the machine that runs the instance when it starts, and never stored or shown.",
    keys: &[
        key(
            "file",
            Path,
            Words("none"),
            Replaces,
            r#""/run/secrets/db""#,
            "The content of this file, without a newline at its end.",
        ),
        key("env", Text, Words("none"), Replaces, r#""DB_PASSWORD""#, "This variable of the agent's environment."),
    ],
};

pub(crate) static RESTART: Section = Section {
    title: "restart = { … }",
    doc: "The first restart comes at once, the next after `delay`, then each after twice the time up to `max`, with 20 % jitter. Holdfast never gives a service up silently: without `attempts` it goes on for ever, and shows the crash loop.",
    keys: &[
        key(
            "when",
            Choice(&["always", "on-failure", "never"]),
            Words("\"always\"; \"on-failure\" for a job"),
            Replaces,
            r#""on-failure""#,
            "`on-failure` means: ended by a signal or with a code that is no success.",
        ),
        key("delay", Duration { min: "10ms", max: "1h" }, Is("1s"), Replaces, r#""1s""#, "Before the second restart."),
        key(
            "max",
            Duration { min: "10ms", max: "1d" },
            Is("1m"),
            Replaces,
            r#""1m""#,
            "Longest time between restarts; at least `delay`.",
        ),
        key(
            "attempts",
            Integer { min: 1, max: 1_000_000 },
            Words("no limit"),
            Replaces,
            "5",
            "Restarts allowed in the time `within`; after them the instance is `failed` until someone restarts it.",
        ),
        key(
            "within",
            Duration { min: "1s", max: "30d" },
            Is("10m"),
            Replaces,
            r#""10m""#,
            "Time in which `attempts` are counted.",
        ),
        key(
            "reset",
            Duration { min: "1s", max: "1d" },
            Is("1m"),
            Replaces,
            r#""1m""#,
            "Earlier failures are forgotten after it was ready for this long, and for ten times the current delay.",
        ),
        key(
            "success_codes",
            Integers { min: 0, max: 255 },
            Words("0 alone"),
            Replaces,
            "[2]",
            "Exit codes that count as success, besides 0.",
        ),
        key(
            "restart_codes",
            Integers { min: 0, max: 255 },
            Words("none"),
            Replaces,
            "[75]",
            "Exit codes after which it is started again whatever `when` says.",
        ),
        key(
            "stop_codes",
            Integers { min: 0, max: 255 },
            Words("none"),
            Replaces,
            "[78]",
            "Exit codes after which it is never started again, whatever `when` says.",
        ),
    ],
};

/// The probes differ only in how often they ask and whether `within` means anything.
const fn probe(every: &'static str) -> [Key; 9] {
    [
        key(
            "http",
            Text,
            Words("none"),
            Live,
            r#""/health""#,
            "GET this path from the instance. A status in the range `status` passes; any other is an explicit no, a timeout or a refused connection is suspicion.",
        ),
        key(
            "status",
            Forms("\"FIRST-LAST\" or one code, 100 to 599"),
            Is("200-399"),
            Live,
            r#""200-299""#,
            "Status codes that pass, for `http`.",
        ),
        key("tcp", Bool, Words("none"), Live, "true", "Connecting passes."),
        key(
            "command",
            Argv,
            Words("none"),
            Live,
            r#"["pg_isready", "-p", "{port}"]"#,
            "Exit code 0 passes. Runs in `workdir` with `env` and `PORT` of the instance, as the user of the agent.",
        ),
        key(
            "notify",
            Bool,
            Words("none"),
            Replaces,
            "true",
            "The instance itself says so by the sd_notify protocol: `READY=1` for startup and readiness, `WATCHDOG=1` at least once in `every` for liveness.",
        ),
        key(
            "every",
            Duration { min: "10ms", max: "1h" },
            Is(every),
            Live,
            r#""1s""#,
            "From the start of one probe to the next.",
        ),
        key(
            "timeout",
            Duration { min: "1ms", max: "1h" },
            Words("\"1s\", or `every` where that is shorter"),
            Live,
            r#""500ms""#,
            "At most `every`, so that probes never pile up.",
        ),
        key("rise", Integer { min: 1, max: 1000 }, Is("1"), Live, "2", "Passes in a row that count as up."),
        key("fall", Integer { min: 1, max: 1000 }, Is("3"), Live, "3", "Misses in a row that count as down."),
    ]
}

const WITHIN: Key =
    key("within", Duration { min: "100ms", max: "1d" }, Is("1m"), Live, r#""2m""#, "Startup only: time to pass in.");

const fn startup() -> [Key; 10] {
    let [http, status, tcp, command, notify, every, timeout, rise, fall] = probe("500ms");
    [http, status, tcp, command, notify, every, timeout, rise, fall, WITHIN]
}

const EXACTLY_ONE: &str = "Exactly one of `http`, `tcp`, `command` and `notify` says what is asked.";

pub(crate) static STARTUP: Section = Section { title: "startup = { … }", doc: EXACTLY_ONE, keys: &startup() };
pub(crate) static READY: Section = Section { title: "ready = { … }", doc: EXACTLY_ONE, keys: &probe("1s") };
pub(crate) static LIVE: Section = Section { title: "live = { … }", doc: EXACTLY_ONE, keys: &probe("5s") };

pub(crate) static STOP: Section = Section {
    title: "stop = { … }",
    doc: "In this order: leave the balancer, wait for requests in flight, run `command`, send `signal`, wait, kill every process of the instance.",
    keys: &[
        key(
            "signal",
            Forms("name or number of a signal"),
            Is("TERM"),
            Replaces,
            r#""QUIT""#,
            "First signal to the process.",
        ),
        key(
            "grace",
            Duration { min: "0s", max: "1h" },
            Is("10s"),
            Replaces,
            r#""30s""#,
            "From the signal until all is killed.",
        ),
        key(
            "drain",
            Duration { min: "0s", max: "1h" },
            Is("10s"),
            Live,
            r#""10s""#,
            "At most this long for requests in flight after leaving the balancer.",
        ),
        key(
            "command",
            Argv,
            Words("none"),
            Replaces,
            r#"["./before-stop"]"#,
            "Run before the signal, with the environment of the instance, for at most `grace`.",
        ),
    ],
};

pub(crate) static LOG: Section = Section {
    title: "log = { … }",
    doc: "Output of each instance goes to files of its own in the data directory.",
    keys: &[
        key(
            "size",
            Size { min: "64KiB", max: "64GiB" },
            Is("10MiB"),
            Replaces,
            r#""10MiB""#,
            "A file is rotated when it reaches this size.",
        ),
        key(
            "keep",
            Integer { min: 0, max: 1000 },
            Is("5"),
            Replaces,
            "5",
            "Rotated files kept besides the current one.",
        ),
    ],
};

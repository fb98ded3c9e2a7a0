//! Every key a file may hold: the one definition that the reader obeys and the reference is printed from.

mod balancer;
mod cluster;
mod drill;
mod node;
mod service;
mod standby;
mod tasks;
mod workflow;

pub(crate) use balancer::{BALANCER, DNS, EJECT, FALLBACK, LIMITS, RETRY, TIMEOUTS};
pub(crate) use cluster::{CLUSTER, MACHINE};
pub(crate) use drill::DRILL;
pub(crate) use node::NODE;
pub(crate) use service::{LIVE, LOG, NEEDS, READY, REFERENCE, RESTART, SERVICE, STARTUP, STOP};
pub(crate) use standby::{MOUNT, STANDBY};
pub(crate) use tasks::{ACCESS_KEY, CONCURRENCY, DEAD_LETTER, POOL, QUEUE, QUEUE_RETRY, TASKS, WORKER, WORKER_HTTP};
pub(crate) use workflow::{PARAMETER, RUN, SEND, STEP, STEP_HTTP, STEP_LIMITS, STEP_RETRY, UNDO, WAIT, WORKFLOW};

/// What a value looks like, with its range. Texts are as the file spells them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Type {
    Text,
    /// A file or directory; relative to the directory of the file.
    Path,
    Bool,
    Integer {
        min: i64,
        max: i64,
    },
    /// With or without a fraction.
    Number {
        min: i64,
        max: i64,
    },
    /// 0 to 1, as a number or as a percentage.
    Share,
    Duration {
        min: &'static str,
        max: &'static str,
    },
    Size {
        min: &'static str,
        max: &'static str,
    },
    Choice(&'static [&'static str]),
    /// A program and its arguments.
    Argv,
    Integers {
        min: i64,
        max: i64,
    },
    /// Several forms, told in words and read by hand.
    Forms(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Default {
    Required,
    /// Read exactly as if it stood in the file, without quotes.
    Is(&'static str),
    /// Absent, or worked out from other values; told in words.
    Words(&'static str),
}

/// What a change of the key in an applied file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Taken over by what runs.
    Live,
    /// Instances are replaced, one after the other.
    Replaces,
    /// Takes effect when the agent is started again.
    Agent,
}

impl Change {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Change::Live => "live",
            Change::Replaces => "replaces instances",
            Change::Agent => "at the next start of the agent",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Type,
    pub(crate) default: Default,
    pub(crate) change: Change,
    /// A right-hand side that the reader accepts.
    pub(crate) example: &'static str,
    pub(crate) doc: &'static str,
}

pub(crate) const fn key(
    name: &'static str,
    kind: Type,
    default: Default,
    change: Change,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key { name, kind, default, change, example, doc }
}

/// The words of a list, for [`Type::Choice`].
const fn words<T, const N: usize>(all: &'static [(&'static str, T); N]) -> [&'static str; N] {
    let mut words = [""; N];
    let mut i = 0;
    while i < N {
        words[i] = all[i].0;
        i += 1;
    }
    words
}

/// Growing times between tries, in a table of their own; `default` and `longest` are those of `max`.
const fn backoff(default: &'static str, longest: &'static str) -> [Key; 4] {
    use self::Change::Live;
    use self::Default::Is;
    [
        key("base", Type::Duration { min: "10ms", max: longest }, Is("1s"), Live, r#""2s""#, "The first of them."),
        key(
            "factor",
            Type::Number { min: 1, max: 100 },
            Is("2.0"),
            Live,
            "1.5",
            "By which each is longer than the last.",
        ),
        key(
            "max",
            Type::Duration { min: "10ms", max: longest },
            Is(default),
            Live,
            r#""1m""#,
            "The longest of them; at least `base`.",
        ),
        key("jitter", Type::Share, Is("20%"), Live, "0.5", "Share by which each is made longer or shorter at random."),
    ]
}

/// One table of the file.
#[derive(Debug)]
pub(crate) struct Section {
    /// As a reader of the reference knows it: `[service.NAME]`, `restart = { … }`.
    pub(crate) title: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) keys: &'static [Key],
}

impl Section {
    /// The definition of a key that the reader asks for by a literal name.
    pub(crate) fn key(&self, name: &str) -> &'static Key {
        self.keys.iter().find(|k| k.name == name).expect("the reader asks only for keys that the catalogue defines")
    }
}

/// In the order of the reference.
pub(crate) const SECTIONS: [&Section; 41] = [
    &NODE,
    &CLUSTER,
    &MACHINE,
    &SERVICE,
    &REFERENCE,
    &RESTART,
    &STARTUP,
    &READY,
    &LIVE,
    &STOP,
    &LOG,
    &NEEDS,
    &STANDBY,
    &MOUNT,
    &BALANCER,
    &FALLBACK,
    &DNS,
    &RETRY,
    &EJECT,
    &TIMEOUTS,
    &LIMITS,
    &TASKS,
    &ACCESS_KEY,
    &QUEUE,
    &DEAD_LETTER,
    &QUEUE_RETRY,
    &WORKER,
    &WORKER_HTTP,
    &CONCURRENCY,
    &POOL,
    &WORKFLOW,
    &PARAMETER,
    &STEP,
    &STEP_HTTP,
    &SEND,
    &WAIT,
    &RUN,
    &STEP_RETRY,
    &STEP_LIMITS,
    &UNDO,
    &DRILL,
];

/// Tables that stand at the top of a file.
pub(crate) const TOP: [&str; 11] =
    ["node", "cluster", "service", "balancer", "tasks", "key", "queue", "worker", "pool", "workflow", "drill"];

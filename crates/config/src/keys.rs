//! Every key a file may hold: the one definition that the reader obeys and the reference is printed from.

mod balancer;
mod cluster;
mod drill;
mod node;
mod service;
mod standby;

pub(crate) use balancer::{BALANCER, DNS, EJECT, LIMITS, RETRY, TIMEOUTS};
pub(crate) use cluster::{CLUSTER, MACHINE};
pub(crate) use drill::DRILL;
pub(crate) use node::NODE;
pub(crate) use service::{LIVE, LOG, NEEDS, READY, REFERENCE, RESTART, SERVICE, STARTUP, STOP};
pub(crate) use standby::{MOUNT, STANDBY};

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
pub(crate) const SECTIONS: [&Section; 21] = [
    &NODE, &CLUSTER, &MACHINE, &SERVICE, &REFERENCE, &RESTART, &STARTUP, &READY, &LIVE, &STOP, &LOG, &NEEDS, &STANDBY,
    &MOUNT, &BALANCER, &DNS, &RETRY, &EJECT, &TIMEOUTS, &LIMITS, &DRILL,
];

/// Tables that stand at the top of a file.
pub(crate) const TOP: [&str; 5] = ["node", "cluster", "service", "balancer", "drill"];

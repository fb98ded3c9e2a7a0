//! `[node]`.

use super::{Change::*, Default::*, Section, Type::*, key};

pub(crate) static NODE: Section = Section {
    title: "[node]",
    doc: "This machine. The whole table may be left out.",
    keys: &[
        key(
            "name",
            Text,
            Words("the host name"),
            Agent,
            r#""shop-1""#,
            "Name of this machine in status, journal and metrics.",
        ),
        key(
            "zone",
            Text,
            Words("none"),
            Live,
            r#""rack-2""#,
            "Where it stands: machines of one zone may fail together.",
        ),
        key(
            "ports",
            Forms("\"FIRST-LAST\", each 1024 to 65535"),
            Is("20000-29999"),
            Live,
            r#""20000-24999""#,
            "Ports that holdfast assigns to instances. Must lie outside the kernel's ephemeral range, from which any outgoing connection may take a port away. An instance keeps its port when the range changes, as long as it stays inside.",
        ),
        key(
            "metrics",
            Forms("\"ADDRESS:PORT\""),
            Words("the agent's Unix socket only"),
            Agent,
            r#""127.0.0.1:9464""#,
            "Where `/metrics` is served for Prometheus, without authentication.",
        ),
        key(
            "balancer_processes",
            Integer { min: 1, max: 8 },
            Is("2"),
            Live,
            "2",
            "Balancer processes on this machine. They share the listening sockets: with two, one may die or be upgraded unnoticed.",
        ),
        key(
            "balancer_threads",
            Integer { min: 1, max: 256 },
            Words("one for each core"),
            Live,
            "4",
            "Threads of each balancer process. A change replaces the balancer processes one by one.",
        ),
        key(
            "journal_days",
            Integer { min: 1, max: 3650 },
            Is("30"),
            Live,
            "90",
            "Days that events and incidents are kept.",
        ),
        key(
            "journal_size",
            Size { min: "16MiB", max: "64GiB" },
            Is("256MiB"),
            Live,
            r#""1GiB""#,
            "Size at which the oldest of the journal goes even before its time.",
        ),
    ],
};

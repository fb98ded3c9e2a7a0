//! `[balancer.NAME]` and the tables in it.

use super::{Change::*, Default::*, Section, Type::*, key};

pub(crate) static BALANCER: Section = Section {
    title: "[balancer.NAME]",
    doc: "A listener in front of the instances of a service. No change of it touches an open connection.",
    keys: &[
        key(
            "listen",
            Forms("\"ADDRESS:PORT\" or an array of them"),
            Required,
            Live,
            r#""127.0.0.1:8080""#,
            "Where clients connect.",
        ),
        key("service", Text, Required, Live, r#""web""#, "The service to send requests to."),
        key(
            "algorithm",
            Choice(&["p2c", "least-requests", "round-robin"]),
            Is("p2c"),
            Live,
            r#""least-requests""#,
            "`p2c` takes the better of two random instances by latency and requests in flight, and lets failures count against them.",
        ),
        key(
            "retry",
            Forms("boolean or table"),
            Is("true"),
            Live,
            "false",
            "Whether a request that failed is sent again to another instance. Only what is safe to repeat is repeated; see below.",
        ),
        key(
            "eject",
            Forms("boolean or table"),
            Is("true"),
            Live,
            "true",
            "Whether an instance that fails requests is taken out for a while; never the last usable one. See below.",
        ),
        key(
            "slow_start",
            Duration { min: "0s", max: "1h" },
            Is("10s"),
            Live,
            r#""30s""#,
            "The share of a new or returned instance rises over this time; \"0s\" is off.",
        ),
        key(
            "timeouts",
            Forms("table"),
            Words("the defaults below"),
            Live,
            r#"{ first_byte = "30s" }"#,
            "Time limits; see below.",
        ),
        key(
            "limits",
            Forms("table"),
            Words("the defaults below"),
            Live,
            r#"{ body = "10MiB" }"#,
            "Size limits; see below.",
        ),
        key("access_log", Bool, Is("true"), Live, "false", "One line for each request."),
        key(
            "trusted_proxies",
            Forms("array of IP addresses"),
            Words("none"),
            Live,
            r#"["10.0.0.1"]"#,
            "Clients whose `X-Forwarded-*` headers are believed and passed on; from all others they are replaced.",
        ),
        key(
            "availability",
            Share,
            Words("none"),
            Live,
            r#""99.95%""#,
            "Declared target: answered requests as a share of all.",
        ),
    ],
};

pub(crate) static RETRY: Section = Section {
    title: "retry = { … }",
    doc: "A request that never reached an instance is always safe to repeat. One that may have reached it is repeated only if its method is idempotent, and nothing is repeated once the answer has begun.",
    keys: &[
        key(
            "tries",
            Integer { min: 2, max: 10 },
            Is("3"),
            Live,
            "3",
            "Tries of one request, the first included; as many again after each wait for an instance that is started again.",
        ),
        key(
            "budget",
            Share,
            Is("20%"),
            Live,
            r#""20%""#,
            "Retries in flight or waiting, as a share of all requests in flight.",
        ),
        key(
            "budget_min",
            Integer { min: 0, max: 1000 },
            Is("3"),
            Live,
            "3",
            "Retries always allowed at the same time, for each balancer process.",
        ),
        key(
            "statuses",
            Integers { min: 502, max: 504 },
            Words("none"),
            Live,
            "[502, 503]",
            "Answers that are tried again elsewhere for idempotent requests.",
        ),
    ],
};

pub(crate) static EJECT: Section = Section {
    title: "eject = { … }",
    doc: "A refused connection ejects at once.",
    keys: &[
        key(
            "failures",
            Integer { min: 1, max: 1000 },
            Is("3"),
            Live,
            "3",
            "Failed connections or broken answers in a row that eject.",
        ),
        key(
            "gateway_errors",
            Integer { min: 1, max: 1000 },
            Is("5"),
            Live,
            "5",
            "Answers 502, 503 or 504 in a row that eject.",
        ),
        key(
            "base",
            Duration { min: "10ms", max: "1h" },
            Is("1s"),
            Live,
            r#""1s""#,
            "First time out; each following one is twice as long.",
        ),
        key(
            "max",
            Duration { min: "10ms", max: "1d" },
            Is("1m"),
            Live,
            r#""1m""#,
            "Longest time out; at least `base`.",
        ),
    ],
};

pub(crate) static TIMEOUTS: Section = Section {
    title: "timeouts = { … }",
    doc: "Time limits of one request and its connections.",
    keys: &[
        key("connect", Duration { min: "1ms", max: "1m" }, Is("1s"), Live, r#""500ms""#, "To connect to an instance."),
        key(
            "first_byte",
            Duration { min: "1ms", max: "1d" },
            Is("1m"),
            Live,
            r#""30s""#,
            "From the request to the first byte of the answer.",
        ),
        key(
            "idle",
            Duration { min: "1ms", max: "1d" },
            Is("1m"),
            Live,
            r#""1m""#,
            "Without a byte in either direction, while a body or an upgraded connection is open.",
        ),
        key(
            "total",
            Duration { min: "0s", max: "1d" },
            Is("0s"),
            Live,
            r#""2m""#,
            "All tries and the body of the answer; \"0s\" is no limit.",
        ),
        key(
            "request_head",
            Duration { min: "10ms", max: "1h" },
            Is("10s"),
            Live,
            r#""10s""#,
            "For the client to send request line and headers.",
        ),
        key(
            "keep_alive",
            Duration { min: "0s", max: "1d" },
            Is("1m"),
            Live,
            r#""1m""#,
            "Until an idle connection of a client is closed.",
        ),
    ],
};

pub(crate) static LIMITS: Section = Section {
    title: "limits = { … }",
    doc: "What is larger is refused with 431, 413 or 503.",
    keys: &[
        key(
            "connections",
            Integer { min: 1, max: 1_000_000 },
            Is("10000"),
            Live,
            "20000",
            "Connections of clients, for the node.",
        ),
        key(
            "header",
            Size { min: "1KiB", max: "1MiB" },
            Is("32KiB"),
            Live,
            r#""32KiB""#,
            "Request line and headers together.",
        ),
        key("headers", Integer { min: 8, max: 1000 }, Is("100"), Live, "100", "Headers in one message."),
        key("body", Size { min: "1B", max: "64TiB" }, Words("no limit"), Live, r#""10MiB""#, "Body of a request."),
        key(
            "in_flight",
            Integer { min: 1, max: 1_000_000 },
            Words("no limit"),
            Live,
            "100",
            "Requests in flight on one instance; beyond it others are preferred, and when all are full the answer is 503.",
        ),
    ],
};

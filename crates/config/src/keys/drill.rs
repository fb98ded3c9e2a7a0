//! `[drill.NAME]`.

use crate::model::Fault;

use super::{Change::*, Default::*, Section, Type::*, key, words};

const FAULTS: [&str; Fault::ALL.len()] = words(&Fault::ALL);

pub(crate) static DRILL: Section = Section {
    title: "[drill.NAME]",
    doc: "A fault to inject on purpose with `holdfast drill NAME`, and the effect that it may have at most.",
    keys: &[
        key("fault", Choice(&FAULTS), Required, Live, r#""kill""#, "What to do to the target."),
        key(
            "target",
            Text,
            Words("required, except for `balancer-kill`, `balancer-hang` and `agent-kill`"),
            Live,
            r#""web""#,
            "A service (one of its instances is taken) or an instance such as \"web-2\".",
        ),
        key(
            "hold",
            Duration { min: "100ms", max: "1h" },
            Is("10s"),
            Live,
            r#""10s""#,
            "How long a fault that lasts is held.",
        ),
        key(
            "rate",
            Integer { min: 1, max: 10_000 },
            Is("50"),
            Live,
            "100",
            "Requests a second that the prober sends meanwhile.",
        ),
        key(
            "balancer",
            Text,
            Words("the first balancer in front of the target"),
            Live,
            r#""public""#,
            "Where the prober sends them.",
        ),
        key("path", Text, Is("/"), Live, r#""/health""#, "What the prober asks for."),
        key(
            "detect",
            Duration { min: "1ms", max: "1h" },
            Words("not judged"),
            Live,
            r#""500ms""#,
            "Passes if the fault was detected in this time.",
        ),
        key(
            "recover",
            Duration { min: "1ms", max: "1h" },
            Words("not judged"),
            Live,
            r#""5s""#,
            "Passes if all was well again in this time after the fault (after its end, if it is held).",
        ),
        key(
            "failed",
            Integer { min: 0, max: 1_000_000_000 },
            Words("not judged"),
            Live,
            "0",
            "Passes if at most this many requests failed.",
        ),
        key(
            "p99",
            Duration { min: "1ms", max: "1h" },
            Words("not judged"),
            Live,
            r#""100ms""#,
            "Passes if 99 % of the requests were answered in this time.",
        ),
        key(
            "latency",
            Duration { min: "1ms", max: "10m" },
            Is("1s"),
            Live,
            r#""2s""#,
            "Time added to each answer, for `latency`.",
        ),
        key(
            "share",
            Share,
            Is("100%"),
            Live,
            r#""50%""#,
            "Share of the answers that are hit, for `latency`, `errors`, `reset` and `no-answer`.",
        ),
        key(
            "busy_path",
            Text,
            Words("required for `busy`"),
            Live,
            r#""/burn?seconds=10""#,
            "Path of the target whose request keeps a CPU busy, for `busy`.",
        ),
    ],
};

//! `[workflow.NAME]`, `[workflow.NAME.step.STEP]` and the tables in them.

use crate::model::{OVERLAPS, PARAMETER_KINDS, STEP_KINDS, TRIGGERS};

use super::{Change::*, Default::*, Key, Section, Type::*, key, words};

const OVERLAP: [&str; OVERLAPS.len()] = words(&OVERLAPS);
const PARAMETER_KIND: [&str; PARAMETER_KINDS.len()] = words(&PARAMETER_KINDS);
const TRIGGER: [&str; TRIGGERS.len()] = words(&TRIGGERS);
const STEP_KIND: [&str; STEP_KINDS.len()] = words(&STEP_KINDS);

pub(crate) static WORKFLOW: Section = Section {
    title: "[workflow.NAME]",
    doc: "Steps that run in an order, started by hand, by a schedule or by another workflow. A run keeps the definition that it began with. Texts of steps may hold references: `${parameters.NAME}`, `${steps.STEP.output}` and parts of it as `${steps.STEP.output.a.b}`, `${steps.STEP.error}`, `${item}` with `for_each`, `${run.id}`, `${run.nominal}`, the time for which a run was scheduled (RFC 3339, UTC), and `${run.round}` of a saga. `$${` stands for `${`.",
    keys: &[
        key(
            "step",
            Forms("a table for each step"),
            Required,
            Live,
            r#"{ load = { command = ["./load"] } }"#,
            "The steps, mostly written as tables of their own: `[workflow.NAME.step.STEP]`.",
        ),
        key(
            "parameters",
            Forms("a table for each parameter"),
            Words("none"),
            Live,
            r#"{ day = { type = "date" } }"#,
            "What a run is given; see below.",
        ),
        key(
            "schedule",
            Forms(
                "five fields of cron, \"@hourly\", \"@daily\", \"@weekly\", \"@monthly\" or \"@yearly\", or an array of them",
            ),
            Words("none"),
            Live,
            r#"["0 2 * * *", "30 12 * * sun"]"#,
            "When a run is started: minute, hour, day of the month, month, day of the week.",
        ),
        key(
            "timezone",
            Forms("name of the IANA database"),
            Is("UTC"),
            Live,
            r#""Europe/Berlin""#,
            "In which the schedule is meant.",
        ),
        key(
            "missed",
            Choice(&["none", "latest", "all"]),
            Is("latest"),
            Live,
            r#""all""#,
            "Which runs are made up for whose time passed while holdfast was down.",
        ),
        key(
            "missed_max",
            Integer { min: 1, max: 1000 },
            Is("10"),
            Live,
            "24",
            "With `missed = \"all\"`: at most so many, the latest ones.",
        ),
        key(
            "overlap",
            Choice(&OVERLAP),
            Is("skip"),
            Live,
            r#""queue""#,
            "What becomes of a scheduled run while an earlier one is not over: it is left out, waits, cancels the earlier one, or runs beside it.",
        ),
        key(
            "timeout",
            Duration { min: "1s", max: "365d" },
            Is("7d"),
            Live,
            r#""1h""#,
            "A run that takes longer is ended as failed.",
        ),
        key(
            "wait",
            Duration { min: "1s", max: "30d" },
            Words("no limit but `timeout`"),
            Live,
            r#""10m""#,
            "A run whose first step has not begun after this time is ended as failed.",
        ),
        key("concurrency", Integer { min: 1, max: 1000 }, Is("16"), Live, "4", "Steps of one run that run at once."),
        key(
            "priority",
            Integer { min: -100, max: 100 },
            Is("0"),
            Live,
            "10",
            "Which steps get a free slot first: those with the higher number.",
        ),
        key(
            "keep",
            Duration { min: "1h", max: "3650d" },
            Is("30d"),
            Live,
            r#""90d""#,
            "How long the history of an ended run is kept.",
        ),
        key(
            "rounds",
            Integer { min: 0, max: 10 },
            Is("0"),
            Live,
            "3",
            "Of a saga: how often the whole is run again after it was rolled back.",
        ),
        key(
            "round_delay",
            Duration { min: "0s", max: "30d" },
            Is("1m"),
            Live,
            r#""10m""#,
            "Of a saga: time between the end of a roll-back and the next round.",
        ),
    ],
};

pub(crate) static PARAMETER: Section = Section {
    title: "parameters.KEY = { … }",
    doc: "A value that is given to a run and stands in texts as `${parameters.KEY}`. A workflow with a schedule needs a `default` for each.",
    keys: &[
        key(
            "type",
            Choice(&PARAMETER_KIND),
            Is("text"),
            Live,
            r#""integer""#,
            "What is accepted; a date is written as `\"2026-01-31\"`.",
        ),
        key(
            "default",
            Forms("text, number or boolean, as `type` says"),
            Words("none: the run must give it"),
            Live,
            r#""all""#,
            "The value of a run that is not given one.",
        ),
    ],
};

pub(crate) static STEP: Section = Section {
    title: "[workflow.NAME.step.STEP]",
    doc: "Exactly one of `command`, `http`, `send`, `wait`, `sleep` and `run` says what is done. The output of a command is the last line that it printed, if that is JSON, else all that it printed; of a request the body of the answer; of a wait what the signal brought. A command that ends with 0 is done; 65 means failed for good, as does what `terminal` names; after every other code, and death by a signal, it is tried again, after 75 whatever `terminal` says.",
    keys: &[
        key(
            "after",
            Forms("array of steps"),
            Words("none: begins with the run"),
            Live,
            r#"["extract"]"#,
            "Steps that must be over before. The order of the file has no meaning.",
        ),
        key(
            "when",
            Text,
            Words("always"),
            Live,
            r#""${steps.extract.output.count} > 0""#,
            "A condition; where it is false the step is skipped. It knows references, texts in quotes, numbers, `true`, `false` and `null`, `==`, `!=`, `<`, `<=`, `>`, `>=`, `and`, `or`, `not` and parentheses.",
        ),
        key(
            "trigger",
            Choice(&TRIGGER),
            Is("all-ok"),
            Live,
            r#""all-done""#,
            "What the steps in `after` must have come to; with another result the step is skipped.",
        ),
        key(
            "for_each",
            Forms("a reference to a list, or an array of texts"),
            Words("none"),
            Live,
            r#""${steps.extract.output.files}""#,
            "The step is done once for each item, which is `${item}` in its texts.",
        ),
        key("width", Integer { min: 1, max: 100 }, Is("8"), Live, "2", "With `for_each`: items at once."),
        key(
            "items_max",
            Integer { min: 1, max: 10_000 },
            Is("1000"),
            Live,
            "10_000",
            "With `for_each`: more items fail the step.",
        ),
        key(
            "allow_failed",
            Integer { min: 0, max: 10_000 },
            Is("0"),
            Live,
            "5",
            "With `for_each`: so many items may fail without failing the step.",
        ),
        key(
            "command",
            Argv,
            Words("none"),
            Live,
            r#"["./load", "--day", "${parameters.day}"]"#,
            "A program and its arguments. References are replaced inside single arguments, and no shell sees them.",
        ),
        key(
            "env",
            Forms("table of texts, numbers, booleans or references"),
            Words("empty"),
            Live,
            r#"{ DB_PASSWORD = { file = "/run/secrets/db" } }"#,
            "Environment of the programs that the step and its `undo` run.",
        ),
        key("workdir", Path, Words("the directory of the file"), Live, r#""/srv/etl""#, "Their working directory."),
        key(
            "user",
            Text,
            Words("the agent's"),
            Live,
            r#""etl""#,
            "User that they run as. Only an agent that runs as root can change it.",
        ),
        key(
            "http",
            Forms("table"),
            Words("none"),
            Live,
            r#"{ url = "http://127.0.0.1:8080/load" }"#,
            "A request; see below.",
        ),
        key(
            "send",
            Forms("table"),
            Words("none"),
            Live,
            r#"{ queue = "mail", body = "loaded ${parameters.day}" }"#,
            "A message into a queue; see below.",
        ),
        key(
            "wait_for_worker",
            Bool,
            Is("false"),
            Live,
            "true",
            "With `send`: the step is done when a worker is done with the message, and not yet when the queue has it.",
        ),
        key(
            "wait",
            Forms("table"),
            Words("none"),
            Live,
            r#"{ signal = "approved" }"#,
            "Waits until somebody sends the run this signal, and takes no slot meanwhile; see below.",
        ),
        key(
            "sleep",
            Duration { min: "0s", max: "365d" },
            Words("none"),
            Live,
            r#""10m""#,
            "Waits for this time, and takes no slot meanwhile.",
        ),
        key(
            "run",
            Forms("table"),
            Words("none"),
            Live,
            r#"{ workflow = "report", parameters = { day = "${parameters.day}" } }"#,
            "Another workflow, whose end is waited for; see below.",
        ),
        key(
            "retry",
            Forms("table"),
            Words("the defaults below"),
            Live,
            r#"{ attempts = 5, base = "10s" }"#,
            "How often and when it is tried again; see below.",
        ),
        key(
            "terminal",
            Integers { min: 0, max: 255 },
            Words("none"),
            Live,
            "[64, 78]",
            "Exit codes of the command after which it is not tried again.",
        ),
        key("limits", Forms("table"), Words("none"), Live, r#"{ run = "10m" }"#, "Limits of time; see below."),
        key("pool", Text, Words("none"), Live, r#""db""#, "The pool of which it needs a slot."),
        key("priority", Integer { min: -100, max: 100 }, Words("the workflow's"), Live, "10", "As for the workflow."),
        key(
            "undo",
            Forms("table"),
            Words("none"),
            Live,
            r#"{ command = ["./unload", "${steps.load.output.id}"] }"#,
            "Takes back what the step has done, and makes the workflow a saga: when a step fails for good, the steps that were done are undone, the last one first. See below.",
        ),
        key(
            "kind",
            Choice(&STEP_KIND),
            Words(
                "\"compensable\" with `undo`, and for `wait` and `sleep` that come before everything retriable; else \"retriable\"",
            ),
            Live,
            r#""pivot""#,
            "Of a saga. `compensable` steps can be undone, or leave nothing to undo; they come before the `pivot`, after which the saga only goes forward; `retriable` steps come after it, and succeed when they are tried often enough.",
        ),
    ],
};

pub(crate) static STEP_HTTP: Section = Section {
    title: "http = { … } of a step",
    doc: "An answer of 2xx means done, 409 failed for good, 425 still running (asked again later), every other answer and none another try.",
    keys: &[
        key(
            "url",
            Forms("\"http://…\" or \"https://…\""),
            Required,
            Live,
            r#""http://127.0.0.1:8080/load/${parameters.day}""#,
            "Where to. What stands for a reference is put in as it is, so it must be fit for a URL.",
        ),
        key(
            "method",
            Choice(&["GET", "POST", "PUT", "PATCH", "DELETE"]),
            Is("POST"),
            Live,
            r#""PUT""#,
            "The method of the request.",
        ),
        key(
            "headers",
            Forms("table of texts or references"),
            Words("none"),
            Live,
            r#"{ Authorization = { file = "/run/secrets/token" } }"#,
            "Headers to send. Give secrets as references, as in `env`.",
        ),
        key("body", Text, Words("none"), Live, r#""{\"day\": \"${parameters.day}\"}""#, "Body of the request."),
    ],
};

pub(crate) static SEND: Section = Section {
    title: "send = { … }",
    doc: "The message has the step and the run as its idempotency key, so it is in the queue once, whatever fails.",
    keys: &[
        key("queue", Text, Required, Live, r#""mail""#, "A queue of the file."),
        key("body", Text, Required, Live, r#""${steps.extract.output}""#, "The message."),
        key(
            "group",
            Text,
            Words("the id of the run"),
            Live,
            r#""${parameters.day}""#,
            "Message group, where the queue is `fifo`.",
        ),
    ],
};

pub(crate) static WAIT: Section = Section {
    title: "wait = { … }",
    doc: "A signal that comes before the step begins is kept for it.",
    keys: &[key(
        "signal",
        Forms("up to 64 letters, digits, `-`, `_` and `.`"),
        Required,
        Live,
        r#""approved""#,
        "The name of the signal.",
    )],
};

pub(crate) static RUN: Section = Section {
    title: "run = { … }",
    doc: "The step succeeds when the other run does, and is cancelled with it.",
    keys: &[
        key(
            "workflow",
            Text,
            Required,
            Live,
            r#""report""#,
            "A workflow of the file that does not lead back to this one.",
        ),
        key(
            "parameters",
            Forms("table of texts, numbers and booleans"),
            Words("none"),
            Live,
            r#"{ day = "${parameters.day}" }"#,
            "Its parameters; those without a default are required.",
        ),
    ],
};

const ATTEMPTS: Key = key(
    "attempts",
    Integer { min: 1, max: 1000 },
    Words("`3`; `1` for `wait`, `sleep` and `run`"),
    Live,
    "5",
    "How often it is tried, the first time included.",
);

const fn step_retry() -> [Key; 5] {
    let [base, factor, max, jitter] = super::backoff("5m", "1d");
    [ATTEMPTS, base, factor, max, jitter]
}

pub(crate) static STEP_RETRY: Section = Section {
    title: "retry = { … } of a step",
    doc: "The second try comes after `base`, each further one after `factor` times as long, up to `max`.",
    keys: &step_retry(),
};

pub(crate) static STEP_LIMITS: Section = Section {
    title: "limits = { … } of a step",
    doc: "Each is counted on its own, and all end with the `timeout` of the run.",
    keys: &[
        limit("wait", r#""5m""#, "From ready to started; what did not get a slot by then has failed."),
        limit("run", r#""10m""#, "One attempt; a longer one is ended and tried again."),
        limit("total", r#""1h""#, "All attempts together, with the times between them."),
        limit(
            "heartbeat",
            r#""30s""#,
            "An attempt of a `command` that is silent for so long is ended and tried again.",
        ),
    ],
};

const fn limit(name: &'static str, example: &'static str, doc: &'static str) -> Key {
    key(name, Duration { min: "1s", max: "365d" }, Words("none"), Live, example, doc)
}

pub(crate) static UNDO: Section = Section {
    title: "undo = { … }",
    doc: "Exactly one of `command` and `http`. It must do nothing where there is nothing to undo, and is tried until it succeeds; when it fails again and again, the run is `stuck` and told. In its texts `${steps.STEP.output}` of its own step is known too.",
    keys: &[
        key(
            "command",
            Argv,
            Words("none"),
            Live,
            r#"["./unload"]"#,
            "A program and its arguments, run with `env`, `workdir` and `user` of the step.",
        ),
        key(
            "http",
            Forms("table"),
            Words("none"),
            Live,
            r#"{ url = "http://127.0.0.1:8080/unload" }"#,
            "A request, with the keys of `http` of a step.",
        ),
    ],
};

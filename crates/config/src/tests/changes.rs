//! `show` and `plan`: true, readable, and without secrets.

use expect_test::expect;

use crate::reference::{EXAMPLE, EXAMPLE_TASKS};
use crate::*;

use super::good;

#[test]
fn what_is_shown_reads_back_as_the_same_configuration() {
    for example in [EXAMPLE, EXAMPLE_TASKS] {
        let config = good(example).config;
        assert_eq!(good(&show(&config)).config, config);
    }
    let odd = good(
        r#"
        [service.a]
        shell = "echo \"$HOME\" \\ \t 'x' é; exec sleep {port}"
        umask = "7"
        stop = { signal = 40, command = ["a b", ""] }
        live = { notify = true }
        startup = { command = ["x"] }
        env = { N = 1.50, T = true, V = { env = "OTHER" } }
        port = 9000
        [balancer.b]
        listen = "0.0.0.0:0"
        service = "a"
        retry = false
        eject = false
        availability = 0.9995
        [drill.d]
        fault = "busy"
        target = "a-1"
        busy_path = "/burn"
        p99 = "1m1s1ms"
        "#,
    )
    .config;
    assert_eq!(good(&show(&odd)).config, odd);
}

#[test]
fn queues_and_workflows_read_back_with_everything_that_they_may_hold() {
    let odd = good(
        r#"
        [cluster]
        etcd = ["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"]
        [tasks]
        listen = "[::]:9000"
        region = "eu-central-1"
        account = "123456789012"
        node = "box"
        single_node = "accepted"
        [key.all]
        id = "ALL"
        secret = { file = "/run/secrets/all" }
        [queue.mail]
        delay = "30d"
        retention = "365d"
        message_size = "1KiB"
        visibility_timeout = "0s"
        dead_letter = { queue = "graves" }
        retry = { base = "10ms", factor = 1.5, max = "12h", jitter = 0 }
        idempotency = "30d"
        tags = { "a b" = "\"x\"", c = "" }
        [queue.graves]
        retention = "365d"
        [worker.shell]
        queue = "mail"
        shell = "jq . | ./handle"
        input = "env"
        done = [0, 3]
        dead = []
        concurrency = { min = 1, max = 2, age = "1m" }
        [worker.http]
        queue = "mail"
        http = { service = "web" }
        [service.web]
        command = ["web", "{port}"]
        [pool.db]
        slots = 3
        [workflow.sub]
        parameters = { n = { type = "number", default = 3 }, on = { type = "bool", default = false }, i = { type = "integer" } }
        wait = "1m"
        step.a = { sleep = "0s", priority = -100 }
        [workflow.w]
        schedule = ["@hourly", "*/5 1-3 * jan,feb mon"]
        missed = "all"
        missed_max = 3
        overlap = "allow"
        priority = -5
        rounds = 1
        round_delay = "0s"
        [workflow.w.step.a]
        command = ["a", "${run.id}"]
        env = { T = { env = "TOKEN" } }
        undo = { command = ["undo"] }
        pool = "db"
        terminal = [1, 2]
        limits = { wait = "1s", run = "2s", total = "3s", heartbeat = "1s" }
        [workflow.w.step.b]
        after = ["a"]
        for_each = ["x", "${steps.a.output.b}"]
        width = 1
        items_max = 2
        allow_failed = 1
        http = { url = "https://a/${item}", method = "PUT", headers = { Authorization = { file = "/t" }, X-A = "1" }, body = "b" }
        undo = { http = { url = "http://a/${item}" } }
        [workflow.w.step.c]
        after = ["a", "b"]
        wait = { signal = "go.on" }
        [workflow.w.step.d]
        after = ["c"]
        run = { workflow = "sub", parameters = { i = 3, n = 1.5, on = true } }
        retry = { attempts = 2, base = "1m", max = "1h" }
        "#,
    )
    .config;
    assert_eq!(good(&show(&odd)).config, odd);
    let kinds: Vec<_> =
        odd.workflows["w"].steps.values().map(|step| spelling(STEP_KINDS, &step.kind.unwrap())).collect();
    assert_eq!(kinds, ["compensable", "compensable", "compensable", "retriable"]);
}

const OLD: &str = r#"
[service.web]
command = ["web", "--token", "s3cret-arg", "{port}"]
replicas = 2
env = { MODE = "blue", API_TOKEN = "s3cret-old" }
ready = { http = "/" }
[service.api]
command = ["api"]
replicas = 2
[service.old]
command = ["old"]
[balancer.public]
listen = "127.0.0.1:8080"
service = "web"
"#;

const NEW: &str = r#"
[node]
metrics = "127.0.0.1:9464"
[service.web]
command = ["web", "--token", "s3cret-arg", "{port}"]
replicas = 2
env = { MODE = "green", API_TOKEN = "s3cret-new" }
ready = { http = "/", every = "500ms" }
[service.api]
command = ["api"]
replicas = 4
[service.jobs]
command = ["jobs", "--db", "postgres://app:s3cret-url@db/app"]
fenced = true
[balancer.public]
listen = "127.0.0.1:8080"
service = "web"
retry = false
"#;

#[test]
fn a_plan_tells_what_will_happen_and_hides_secrets() {
    let (old, new) = (good(OLD).config, good(NEW).config);
    let text = render_plan(&plan(Some(&old), &new), false);
    expect![[r#"
        - service.old  stops 1 instance

        ~ service.web  replaces 2 instances, one after the other
            env.API_TOKEN  "(hidden)" -> changed
            env.MODE       "blue" -> "green"
            ready.every    "1s" -> "500ms"
            ready.timeout  "1s" -> "500ms"

        * service.api  starts 2 more, 4 in all
            replicas       2 -> 4
            min_available  1 -> 3

        + service.jobs  starts 1 instance
            command  ["jobs", "--db", "***"]
            workdir  "/etc/shop"
            fenced   true

        ~ balancer.public  live, nothing is restarted
            retry             false
            retry.tries       3 -> none
            retry.budget      "20%" -> none
            retry.budget_min  3 -> none

        ! node  takes effect when the agent is started again
            metrics  "127.0.0.1:9464"

        Plan: 1 to add, 1 to replace, 1 to scale, 1 to update live, 1 to remove, 1 at the next start of the agent.
    "#]]
    .assert_eq(&text);
    assert!(plan(Some(&new), &new).is_empty());
    assert_eq!(render_plan(&plan(Some(&new), &new), false), "Nothing to change.\n");
    assert_eq!(plan(None, &new).changes.len(), 4);
}

#[test]
fn secrets_are_in_no_shown_form() {
    let loaded = good(NEW);
    let shown = [
        show(&loaded.config),
        render(&loaded.warnings, &loaded.source, true, 80),
        to_json(&loaded.warnings, &loaded.source).to_string(),
        render_plan(&plan(None, &loaded.config), false),
        format!("{:?}", plan(Some(&good(OLD).config), &loaded.config)),
        format!("{:?}", loaded.config.services["web"].env),
        format!("{:?}", loaded.source),
    ];
    for text in shown {
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert!(loaded.warnings.iter().any(|w| w.code == code::PLAIN_SECRET));
}

#[test]
fn a_plan_tells_what_becomes_of_queues_and_workflows() {
    let old = good(EXAMPLE_TASKS).config;
    let changed = EXAMPLE_TASKS
        .replace("memory = \"512MiB\"", "memory = \"1GiB\"")
        .replace("rate        = 50\n", "")
        .replace("concurrency = 4\n", "concurrency = { max = 8 }\n")
        .replace("attempts = 5", "attempts = 7")
        .replace("[pool.warehouse]\nslots = 2", "[pool.warehouse]\nslots = 3")
        .replace(
            "[queue.mail-dead]\nretention = \"30d\"",
            "[queue.mail-dead]\nretention = \"30d\"\n[queue.new]\nfifo = true",
        );
    let (start, _) = changed.split_once("[workflow.book]").unwrap();
    let new = good(start).config;
    expect![[r#"
        - workflow.book  removed

        - workflow.book.step.approve  removed

        - workflow.book.step.confirm  removed

        - workflow.book.step.flight  removed

        - workflow.book.step.pay  removed

        ~ tasks  replaced
            memory  "512MiB" -> "1GiB"

        + queue.new  added
            fifo  true

        ~ pool.warehouse  live, nothing is restarted
            slots  2 -> 3

        ~ queue.mail  live, nothing is restarted
            rate  50 -> none

        ~ worker.mail  live, nothing is restarted
            concurrency.min      0
            concurrency.max      8
            concurrency.backlog  100
            concurrency.age      "30s"
            concurrency          4 -> none

        ~ workflow.report.step.extract  live, nothing is restarted
            retry.attempts  5 -> 7

        Plan: 1 to add, 1 to replace, 4 to update live, 5 to remove.
    "#]]
    .assert_eq(&render_plan(&plan(Some(&old), &new), false));
}

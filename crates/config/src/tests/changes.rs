//! `show` and `plan`: true, readable, and without secrets.

use expect_test::expect;

use crate::reference::EXAMPLE;
use crate::*;

use super::good;

#[test]
fn what_is_shown_reads_back_as_the_same_configuration() {
    let config = good(EXAMPLE).config;
    let again = good(&show(&config)).config;
    assert_eq!(again, config);
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

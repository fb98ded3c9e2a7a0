//! Workers: programs and services that get messages, and what their ends mean.

use super::*;

fn lines(site: &Site, file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(site.path().join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn site(worker: &str) -> Site {
    let port = free_port();
    let site = Site::new(&format!(
        "[tasks]\nlisten = \"127.0.0.1:{port}\"\n\
         [queue.mail]\ndead_letter = {{ queue = \"dead\", receives = 3 }}\n\
         retry = {{ base = \"100ms\", factor = 2.0, max = \"1s\", jitter = 0.0 }}\n[queue.dead]\n\
         [worker.mailer]\nqueue = \"mail\"\n{worker}"
    ));
    site.up();
    site
}

#[test]
fn exit_codes_say_what_becomes_of_a_message() {
    let site = site(
        r#"concurrency = 4
shell = '''
read -r line
echo "$line $HOLDFAST_RECEIVES" >> {dir}/seen
case "$line" in
  good) exit 0 ;;
  never) echo "no such customer"; exit 65 ;;
  later) [ "$HOLDFAST_RECEIVES" = 2 ] || exit 75 ;;
  crash) kill -KILL $$ ;;
  *) echo "out of order"; exit 1 ;;
esac
'''
"#,
    );
    for body in ["good", "never", "later", "crash", "broken"] {
        site.ok(&["queue", "send", "mail", body]);
    }
    site.wait_for("three dead letters and nothing else", || {
        queue(&site, "dead")["visible"] == 3
            && queue(&site, "mail")["visible"] == 0
            && queue(&site, "mail")["in_flight"] == 0
    });
    let mut seen = lines(&site, "seen");
    seen.sort();
    let want = [
        "broken 1", "broken 2", "broken 3", "crash 1", "crash 2", "crash 3", "good 1", "later 1", "later 2", "never 1",
    ];
    assert_eq!(seen, want);
    let dead = site.ok(&["queue", "peek", "dead"]);
    for reason in [
        "(refused): exit code 65: no such customer",
        "(poison): killed by SIGKILL",
        "(receives): exit code 1: out of order",
    ] {
        assert!(dead.contains(reason), "{reason}\n{dead}");
    }
    let attempts = site.ok(&["worker", "attempts", "mailer"]);
    assert!(attempts.contains("crashed") && attempts.contains("done"), "{attempts}");
}

#[test]
fn a_program_outlives_the_plane_that_started_it_and_runs_once() {
    let site = site(
        r#"lease = "5s"
shell = '''
read -r line
echo "begin $line" >> {dir}/seen
while [ ! -e {dir}/go ]; do sleep 0.05; done
echo "end $line" >> {dir}/seen
'''
"#,
    );
    site.ok(&["queue", "send", "mail", "slow"]);
    site.wait_for("the program", || lines(&site, "seen") == ["begin slow"]);
    let before = site.pid("_tasks-1");
    kill(before, "KILL");
    site.wait_for("the next plane", || {
        site.instance("_tasks-1")["pid"].as_u64().is_some_and(|pid| pid != u64::from(before))
    });
    std::fs::write(site.path().join("go"), "").expect("written");
    site.wait_for("the message to be done", || {
        let q = queue(&site, "mail");
        lines(&site, "seen").len() == 2 && q["visible"] == 0 && q["in_flight"] == 0
    });
    assert_eq!(lines(&site, "seen"), ["begin slow", "end slow"], "it was started once");
    assert!(site.ok(&["worker", "attempts", "mailer"]).contains("done"));
}

#[test]
fn a_program_that_works_longer_than_its_lease_keeps_its_message() {
    let site = site("lease = \"1s\"\nshell = \"sleep 4; echo x >> {dir}/seen\"\nconcurrency = 2\n");
    site.ok(&["queue", "send", "mail", "long"]);
    site.wait_for("it to be done", || {
        let q = queue(&site, "mail");
        !lines(&site, "seen").is_empty() && q["visible"] == 0 && q["in_flight"] == 0
    });
    assert_eq!(lines(&site, "seen").len(), 1);
}

#[test]
fn a_program_that_hangs_is_ended_and_tried_again() {
    let site = site(
        "timeout = \"1s\"\nshell = \"echo $HOLDFAST_RECEIVES >> {dir}/seen; [ $HOLDFAST_RECEIVES = 2 ] || sleep 600\"\n",
    );
    site.ok(&["queue", "send", "mail", "hang"]);
    site.wait_for("the second try to be done", || {
        let q = queue(&site, "mail");
        lines(&site, "seen") == ["1", "2"] && q["visible"] == 0 && q["in_flight"] == 0
    });
}

#[test]
fn nothing_that_a_worker_runs_outlives_down() {
    let site = site("command = [\"sleep\", \"987\"]\n");
    site.ok(&["queue", "send", "mail", "x"]);
    site.wait_for("the program", || site.living().iter().any(|(_, text)| text.contains("/work/")));
    site.ok(&["down"]);
    site.wait_for("all of it to be gone", || site.living().is_empty());
}

#[test]
fn a_service_is_asked_when_it_is_there_and_not_before() {
    let port = free_port();
    let site = Site::new(&format!(
        "[tasks]\nlisten = \"127.0.0.1:{port}\"\n[queue.orders]\n\
         [worker.deliver]\nqueue = \"orders\"\nhttp = {{ service = \"shop\", path = \"/order\" }}\n\
         [service.shop]\ncommand = [\"{{origin}}\", \"{{port}}\"]\nport = \"auto\"\nready = {{ http = \"/\" }}\nreplicas = 0\n"
    ));
    site.up();
    site.ok(&["queue", "send", "orders", "one"]);
    assert_eq!(queue(&site, "orders")["visible"], 1);
    site.ok(&["scale", "shop=1"]);
    site.wait_ready("shop-1");
    site.wait_for("the order to be delivered", || {
        let q = queue(&site, "orders");
        q["visible"] == 0 && q["in_flight"] == 0
    });
    let attempts = site.ok(&["worker", "attempts", "deliver", "--output"]);
    assert!(attempts.contains("try 1") && attempts.contains("200 OK"), "{attempts}");
}

#[test]
fn a_crew_works_on_one_message_of_a_group_at_a_time() {
    let port = free_port();
    let site = Site::new(&format!(
        "[tasks]\nlisten = \"127.0.0.1:{port}\"\n[queue.orders]\nfifo = true\ndeduplicate_by_content = true\n\
         [worker.deliver]\nqueue = \"orders\"\nconcurrency = 8\ninput = \"env\"\n\
         shell = \"mkdir {{dir}}/$HOLDFAST_GROUP || exit 1; echo $HOLDFAST_MESSAGE >> {{dir}}/seen; sleep 0.02; rmdir {{dir}}/$HOLDFAST_GROUP\"\n"
    ));
    site.up();
    let mut sqs = Sqs::new(port);
    let url = sqs.url("orders.fifo");
    for n in 0..6 {
        let entry = |group: &str| json!({ "Id": group, "MessageBody": format!("{group}{n}"), "MessageGroupId": group });
        sqs.ok("SendMessageBatch", &json!({ "QueueUrl": url, "Entries": [entry("a"), entry("b"), entry("c")] }));
    }
    site.wait_for("all of them", || lines(&site, "seen").len() >= 18 && queue(&site, "orders.fifo")["in_flight"] == 0);
    let seen = lines(&site, "seen");
    for group in ["a", "b", "c"] {
        let of: Vec<&String> = seen.iter().filter(|line| line.starts_with(group)).collect();
        let want: Vec<String> = (0..6).map(|n| format!("{group}{n}")).collect();
        assert_eq!(of, want.iter().collect::<Vec<_>>(), "in order, once, and never two at a time");
    }
}

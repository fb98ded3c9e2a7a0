//! Steps of workflows: programs, signals, queues, runs below runs.

use super::*;

#[test]
fn outputs_go_from_step_to_step_and_conditions_choose() {
    let site = site(
        r#"
[workflow.report]
parameters = { day = { type = "date" }, copies = { type = "integer", default = 2 } }
[workflow.report.step.count]
command = ["sh", "-c", "echo counting; echo '{\"rows\": 7}'"]
[workflow.report.step.files]
command = ["sh", "-c", "printf '[\"a\", \"b\", \"c\"]' > $HOLDFAST_OUTPUT; echo noise"]
[workflow.report.step.copy]
after = ["files"]
for_each = "${steps.files.output}"
command = ["sh", "-c", "echo $1 $HOLDFAST_ITEM >> {dir}/copied; echo \"copied $1\"", "copy", "${item}"]
[workflow.report.step.write]
after = ["count", "copy"]
command = ["sh", "-c", "echo \"$1\" > {dir}/written", "write", "${parameters.day} ${steps.count.output.rows} ${parameters.copies} ${steps.copy.output}"]
[workflow.report.step.never]
after = ["count"]
when = "${steps.count.output.rows} > 100"
command = ["touch", "{dir}/never"]
"#,
    );
    let text = site.ok(&["run", "report", "--param", "day=2026-11-26", "--param", "copies=3", "--wait"]);
    assert!(text.contains("succeeded") && text.contains("skipped"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert_eq!(lines(&site, "written"), [r#"2026-11-26 7 3 ["copied a","copied b","copied c"]"#]);
    let mut copied = lines(&site, "copied");
    copied.sort();
    assert_eq!(copied, ["a 0", "b 1", "c 2"]);
    assert!(!site.path().join("never").exists());
    let listed = site.ok(&["runs", "list"]);
    assert!(listed.contains("report-1"), "{listed}");
    assert_eq!(site.ok(&["runs", "logs", "report-1", "copy", "--item", "1"]), "copied b\n");
    site.ok(&["runs", "show", "report-1", "--svg", "gantt.svg"]);
    assert!(std::fs::read_to_string(site.path().join("gantt.svg")).expect("written").contains("<svg"));
    for (args, words) in [
        (vec!["run", "nothing"], "HF0820"),
        (vec!["run", "report"], "HF0824"),
        (vec!["run", "report", "--param", "day=tomorrow"], "HF0824"),
        (vec!["run", "report", "--param", "day=2026-11-26", "--param", "copies=many"], "HF0824"),
        (vec!["runs", "show", "report-77"], "HF0822"),
        (vec!["runs", "cancel", "report-1"], "HF0823"),
    ] {
        let ran = site.run(&args);
        assert!(ran.code != 0 && ran.stderr.contains(words), "{args:?}: {} {}", ran.code, ran.stderr);
    }
}

#[test]
fn a_key_begins_one_run_and_refuses_another() {
    let site = site(
        "[workflow.w]\nparameters = { n = { type = \"integer\", default = 1 } }\n[workflow.w.step.s]\ncommand = [\"true\"]\n",
    );
    let first = begin(&site, &["w", "--idempotency-key", "k"]);
    assert_eq!(begin(&site, &["w", "--idempotency-key", "k"]), first);
    let other = site.run(&["run", "w", "--idempotency-key", "k", "--param", "n=2"]);
    assert!(other.code == 5 && other.stderr.contains("HF0825"), "{}", other.stderr);
    assert_ne!(begin(&site, &["w"]), first);
}

#[test]
fn exit_codes_decide_about_another_try_and_a_rerun_begins_where_it_failed() {
    let site = site(
        r#"
[workflow.w]
[workflow.w.step.first]
command = ["sh", "-c", "echo first >> {dir}/seen"]
[workflow.w.step.flaky]
after = ["first"]
retry = { attempts = 4, base = "100ms", factor = 1.0, jitter = 0.0 }
command = ["sh", "-c", "echo flaky $HOLDFAST_ATTEMPT $HOLDFAST_KEY >> {dir}/seen; [ $HOLDFAST_ATTEMPT = 3 ]"]
[workflow.w.step.refuses]
after = ["flaky"]
retry = { attempts = 4, base = "100ms" }
terminal = [7]
command = ["sh", "-c", "echo refuses >> {dir}/seen; [ -e {dir}/mended ] || { echo no paper; exit 7; }"]
"#,
    );
    let ran = site.run(&["run", "w", "--wait"]);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("exit code 7: no paper"), "{}", ran.stdout);
    let flaky = |n: u32| format!("flaky {n} w-1/1/flaky/0/do");
    let all = ["first".to_owned(), flaky(1), flaky(2), flaky(3), "refuses".to_owned()];
    assert_eq!(lines(&site, "seen"), all);
    std::fs::write(site.path().join("mended"), "").expect("written");
    site.ok(&["runs", "retry", "w-1"]);
    wait_for_status(&site, "w-1", "succeeded");
    assert_eq!(lines(&site, "seen").len(), all.len() + 1, "only what failed ran again");
}

#[test]
fn programs_outlive_the_plane_and_run_once() {
    let site = site(
        r#"
[workflow.w]
[workflow.w.step.slow]
command = ["sh", "-c", "echo begin >> {dir}/seen; while [ ! -e {dir}/go ]; do sleep 0.05; done; echo end >> {dir}/seen; echo 5"]
[workflow.w.step.after]
after = ["slow"]
command = ["sh", "-c", "echo after $0 >> {dir}/seen", "${steps.slow.output}"]
[workflow.w.step.signalled]
wait = { signal = "approved" }
"#,
    );
    let run = begin(&site, &["w"]);
    site.wait_for("the program", || lines(&site, "seen") == ["begin"]);
    kill_plane(&site);
    site.ok(&["runs", "signal", &run, "approved", "--data", "{\"by\": \"ann\"}"]);
    std::fs::write(site.path().join("go"), "").expect("written");
    wait_for_status(&site, &run, "succeeded");
    assert_eq!(lines(&site, "seen"), ["begin", "end", "after 5"], "each ran once");
    assert_eq!(step(&site, &run, "signalled")["output"]["by"], "ann");
    assert_eq!(step(&site, &run, "slow")["attempts"], 1);
}

#[test]
fn a_run_waits_for_its_approval_and_can_be_cancelled_instead() {
    let site = site(
        r#"
[workflow.w]
[workflow.w.step.ask]
wait = { signal = "approved" }
[workflow.w.step.act]
after = ["ask"]
command = ["sh", "-c", "echo acted; sleep 600"]
"#,
    );
    let (first, second) = (begin(&site, &["w"]), begin(&site, &["w"]));
    site.wait_for("both to wait", || {
        [&first, &second].iter().all(|run| step(&site, run, "ask")["status"] == "running")
    });
    site.ok(&["runs", "signal", &first, "approved"]);
    site.wait_for("the step after it", || step(&site, &first, "act")["status"] == "running");
    assert_eq!(step(&site, &second, "act")["status"], "waiting");
    for run in [&first, &second] {
        site.ok(&["runs", "cancel", run]);
        wait_for_status(&site, run, "cancelled");
    }
    site.wait_for("its program to be gone", || !site.living().iter().any(|(_, text)| text.contains("sleep 600")));
}

#[test]
fn slots_of_a_pool_are_never_exceeded_and_a_paused_run_begins_nothing() {
    let site = site(
        r#"
[pool.one]
slots = 1
[workflow.w]
[workflow.w.step.s]
pool = "one"
command = ["sh", "-c", "mkdir {dir}/held || exit 66; sleep 0.3; rmdir {dir}/held"]
retry = { attempts = 1 }
[workflow.w.step.t]
after = ["s"]
command = ["true"]
"#,
    );
    let runs: Vec<String> = (0..4).map(|_| begin(&site, &["w"])).collect();
    site.ok(&["runs", "pause", &runs[3]]);
    for run in &runs[..3] {
        wait_for_status(&site, run, "succeeded");
    }
    assert_eq!(status(&site, &runs[3]), "paused");
    assert_eq!(step(&site, &runs[3], "t")["status"], "waiting");
    site.ok(&["runs", "resume", &runs[3]]);
    wait_for_status(&site, &runs[3], "succeeded");
}

#[test]
fn a_step_waits_for_a_worker_and_for_a_run_below_it() {
    let site = site(
        r#"
[queue.mail]
dead_letter = { queue = "dead", receives = 1 }
[queue.dead]
[worker.mailer]
queue = "mail"
shell = "read -r line; echo $line >> {dir}/mailed; [ \"$line\" != bad ] || exit 65"
[workflow.outer]
[workflow.outer.step.mail]
send = { queue = "mail", body = "to ${run.id}" }
wait_for_worker = true
[workflow.outer.step.below]
after = ["mail"]
run = { workflow = "inner", parameters = { n = "${run.id}" } }
[workflow.outer.step.bad]
after = ["below"]
send = { queue = "mail", body = "bad" }
wait_for_worker = true
[workflow.inner]
parameters = { n = { type = "text" } }
[workflow.inner.step.s]
command = ["sh", "-c", "echo \"$0\"", "got ${parameters.n}"]
"#,
    );
    let run = begin(&site, &["outer"]);
    wait_for_status(&site, &run, "failed");
    assert_eq!(step(&site, &run, "below")["output"], format!("got {run}"));
    let bad = step(&site, &run, "bad");
    assert!(bad["error"].as_str().unwrap_or_default().contains("dead letters (refused)"), "{bad}");
    assert_eq!(lines(&site, "mailed"), [format!("to {run}"), "bad".to_owned()]);
}

#[test]
fn who_is_cancelled_takes_the_run_below_along() {
    let site = site(
        r#"
[workflow.outer]
[workflow.outer.step.below]
run = { workflow = "inner" }
[workflow.inner]
[workflow.inner.step.s]
command = ["sh", "-c", "echo begun >> {dir}/seen; exec sleep 654"]
"#,
    );
    let run = begin(&site, &["outer"]);
    site.wait_for("the program", || lines(&site, "seen") == ["begun"]);
    kill_plane(&site);
    site.ok(&["runs", "cancel", &run]);
    wait_for_status(&site, &run, "cancelled");
    assert_eq!(status(&site, "inner-2"), "cancelled");
    assert_eq!(show(&site, "inner-2")["run"]["parent"], run);
    site.wait_for("its program to be gone", || !site.living().iter().any(|(_, text)| text.contains("sleep 654")));
    assert_eq!(lines(&site, "seen"), ["begun"]);
}

#[test]
fn limits_end_a_program_that_hangs_and_one_that_says_nothing() {
    let site = site(
        r#"
[workflow.w]
[workflow.w.step.hangs]
limits = { run = "1s" }
retry = { attempts = 2, base = "50ms" }
command = ["sh", "-c", "echo $HOLDFAST_ATTEMPT >> {dir}/hangs; exec sleep 600"]
[workflow.w.step.beats]
limits = { heartbeat = "2s" }
command = ["sh", "-c", "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.5; done"]
"#,
    );
    let ran = site.run(&["run", "w", "--wait"]);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(lines(&site, "hangs"), ["1", "2"]);
    assert!(ran.stdout.contains("it did not end within its limit"), "{}", ran.stdout);
    assert_eq!(step(&site, "w-1", "beats")["status"], "done");
}

#[test]
fn schedules_are_shown_and_what_cannot_run_is_refused_before_it_does() {
    let site = site("[workflow.w]\nschedule = \"0 3 * * *\"\n[workflow.w.step.s]\ncommand = [\"true\"]\n");
    site.wait_for("the schedule", || site.ok(&["runs", "schedules"]).contains("T03:00:00Z"));
    assert_eq!(site.ok(&["runs", "schedules", "resume"]), "schedules go on\n");
    let before = std::fs::read_to_string(site.path().join("holdfast.toml")).expect("read");
    site.write(&before.replace("command = [\"true\"]", "http = { url = \"https://localhost/\" }"));
    let ran = site.run(&["up", "-d"]);
    assert!(ran.code != 0 && ran.stderr.contains("HF0821") && ran.stderr.contains("https"), "{}", ran.stderr);
    assert!(site.ok(&["run", "w", "--wait"]).contains("succeeded"), "what was in force still is");
}

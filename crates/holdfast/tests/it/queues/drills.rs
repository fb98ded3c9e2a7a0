//! Drills of the plane of tasks and of workers, through the real binary. What they promise is checked beside them: messages
//! of users, and the program that works on them.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Every one starts a shell; the drill is to meet mail, not to wait for it.
const BETWEEN_MAIL: Duration = Duration::from_millis(250);

const DRILLS: &str = r#"
[drill.plane-dies]
fault   = "tasks-kill"
recover = "5s"
failed  = 0
lost    = 0
twice   = 0

[drill.disk-is-full]
fault   = "tasks-disk-full"
hold    = "1s"
detect  = "500ms"
lost    = 0
twice   = 0

[drill.plane-hangs]
fault   = "tasks-hang"
hold    = "1s"
lost    = 0
twice   = 0

[drill.programs-die]
fault   = "worker-kill"
target  = "mailer"
count   = 2
recover = "10s"
failed  = 0
lost    = 0
twice   = 0
done    = "20s"

[drill.program-hangs]
fault   = "worker-hang"
target  = "mailer"
hold    = "2s"
lost    = 0
twice   = 0

[drill.poisoned]
fault   = "poison"
target  = "mailer"
recover = "15s"
lost    = 0
twice   = 0
done    = "20s"
"#;

fn site(tasks: &str) -> (Site, u16) {
    let port = free_port();
    let site = Site::new(&format!(
        "[tasks]\nlisten = \"127.0.0.1:{port}\"\n{tasks}\
         [queue.mail]\ndead_letter = {{ queue = \"dead\", receives = 5 }}\n\
         retry = {{ base = \"100ms\", factor = 2.0, max = \"1s\", jitter = 0.0 }}\n[queue.dead]\n\
         [worker.mailer]\nqueue = \"mail\"\nconcurrency = 3\ninput = \"env\"\n\
         shell = \"echo $HOLDFAST_MESSAGE >> {{dir}}/seen\"\n{DRILLS}"
    ));
    std::fs::write(site.path().join("secret"), "a secret of these tests").expect("written");
    site.up();
    (site, port)
}

fn drilled(site: &Site, name: &str) -> Value {
    let out = site.run(&["drill", name, "--json"]);
    let report: Value =
        serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {} {}", out.stdout, out.stderr));
    let drill = report["drills"][0].clone();
    println!("{drill}");
    assert_eq!((out.code, &drill["passed"]), (0, &Value::Bool(true)), "{drill:#} {}", out.stderr);
    assert!(drill["kept"]["confirmed"].as_u64() > Some(0) && drill["undone"] == true, "{drill:#}");
    drill
}

fn hold_for(time: Duration) {
    std::thread::sleep(time);
}

/// The sender ends also when an assertion fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Sends numbered messages as a user would, while `during` goes on; every one that was confirmed was worked on once.
fn with_mail(site: &Site, during: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let confirmed = std::thread::scope(|threads| {
        let sender = threads.spawn(|| {
            let mut confirmed = Vec::new();
            for n in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let body = format!("mail-{n}");
                if site.run(&["queue", "send", "mail", &body]).code == 0 {
                    confirmed.push(body);
                }
                hold_for(BETWEEN_MAIL);
            }
            confirmed
        });
        let ends = Ends(&stop);
        during();
        drop(ends);
        sender.join().expect("no panic")
    });
    let seen = || {
        let text = std::fs::read_to_string(site.path().join("seen")).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    site.wait_for("all mail", || confirmed.iter().all(|body| seen().contains(body)));
    let mut all = seen();
    all.sort();
    let many = all.len();
    all.dedup();
    assert_eq!(all.len(), many, "none twice");
    assert!(all.iter().all(|line| line.starts_with("mail-")), "no probe ever came to the user's program: {all:?}");
    assert!(confirmed.len() > 5, "there was mail");
    assert_eq!(queue(site, "dead")["visible"], 0, "nobody's message was charged");
    let all: Value = serde_json::from_str(&site.ok(&["queue", "list", "--json"])).expect("JSON");
    let left: Vec<&Value> = all.as_array().into_iter().flatten().filter(|q| q["declared"] == false).collect();
    assert!(left.is_empty(), "no queue of a drill is left: {left:?}");
}

#[test]
fn the_plane_is_drilled_and_nothing_confirmed_is_lost() {
    let (site, _) = site("");
    with_mail(&site, || {
        let killed = drilled(&site, "plane-dies");
        assert_eq!(killed["target"], "_tasks-1");
        assert_eq!(killed["recovered_from"], "incident");
        let full = drilled(&site, "disk-is-full");
        assert!(full["failed"].as_u64() > Some(10), "sends were refused meanwhile: {full:#}");
        assert_eq!(full["recovered_from"], "probes");
        drilled(&site, "plane-hangs");
    });
}

#[test]
fn workers_are_drilled_on_messages_of_the_drill_alone() {
    let (site, _) = site("");
    with_mail(&site, || {
        let killed = drilled(&site, "programs-die");
        assert_eq!(killed["kept"]["again"], 2, "{killed:#}");
        let hung = drilled(&site, "program-hangs");
        assert!(hung["recovered_ms"].as_f64() > Some(2_000.0), "it was held: {hung:#}");
        let poisoned = drilled(&site, "poisoned");
        assert_eq!((&poisoned["kept"]["dead_letters"], &poisoned["kept"]["lost"]), (&1.into(), &0.into()));
    });
}

#[test]
fn a_drill_signs_where_the_file_has_keys() {
    let (site, port) =
        site("[key.drills]\nid = \"DRILLKEY\"\nsecret = { file = \"{dir}/secret\" }\nqueues = [\"_drill-*\"]\n");
    drilled(&site, "plane-dies");
    let asked = Sqs::new(port).ask("ListQueues", &json!({}));
    assert!(matches!(asked, Err(Failed::Refused(_))), "nobody else came in: {asked:?}");
}

//! Sagas: all of it, or what was done is undone, the last first.

use super::participant::{Asked, Participant};
use super::*;

fn saga(participant: &Participant, rest: &str) -> Site {
    let call =
        |path: &str| format!("http = {{ url = \"http://127.0.0.1:{}/{path}\", method = \"POST\" }}", participant.port);
    let step = |name: &str, after: &str| {
        format!(
            "[workflow.transfer.step.{name}]\nafter = [{after}]\nretry = {{ attempts = 3, base = \"100ms\", factor = 1.0 }}\n{}\n",
            call(name)
        )
    };
    let undoable = |name: &str, after: &str| {
        format!("{}[workflow.transfer.step.{name}.undo]\n{}\n", step(name, after), call(&format!("undo-{name}")))
    };
    site(&format!(
        "[workflow.transfer]\n{rest}{}{}{}kind = \"pivot\"\n{}",
        undoable("reserve", ""),
        undoable("charge", "\"reserve\""),
        step("ship", "\"charge\""),
        step("mail", "\"ship\""),
    ))
}

fn keys(asked: &[Asked], path: &str) -> Vec<String> {
    asked.iter().filter(|asked| asked.path == path).map(|asked| asked.key.clone()).collect()
}

#[test]
fn a_saga_whose_third_step_is_refused_is_undone_in_reverse() {
    // The answer of the charge is lost once, and the undo of the reservation fails once.
    let participant = Participant::new(&[("/ship", &[409]), ("/charge", &[0, 200]), ("/undo-reserve", &[503, 200])]);
    let site = saga(&participant, "");
    let ran = site.run(&["run", "transfer", "--wait"]);
    assert!(ran.code == 1 && ran.stdout.contains("rolled-back"), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(participant.paths(), ["/reserve", "/charge", "/ship", "/undo-charge", "/undo-reserve"]);
    let asked = participant.asked().clone();
    let run = "transfer-1";
    assert_eq!(keys(&asked, "/charge"), vec![format!("{run}/1/charge/0/do"); 2], "a repetition has the same key");
    assert_eq!(keys(&asked, "/undo-charge"), [format!("{run}/1/charge/0/undo")]);
    assert_eq!(keys(&asked, "/undo-reserve"), vec![format!("{run}/1/reserve/0/undo"); 2]);
    assert!(asked.iter().all(|a| (a.operation == "undo") == a.path.starts_with("/undo")), "{asked:?}");
    for (name, wanted) in [("reserve", "undone"), ("charge", "undone"), ("ship", "failed"), ("mail", "cancelled")] {
        assert_eq!(step(&site, run, name)["status"], wanted, "{name}");
    }
}

#[test]
fn what_comes_after_the_pivot_is_stuck_until_somebody_helps() {
    let participant = Participant::new(&[("/mail", &[500])]);
    let site = saga(&participant, "");
    let run = begin(&site, &["transfer"]);
    wait_for_status(&site, &run, "stuck");
    let refused = site.run(&["runs", "cancel", &run]);
    assert!(refused.code == 5 && refused.stderr.contains("pivot"), "{}", refused.stderr);
    participant.set("/mail", &[200]);
    // Between two tries only: an attempt that is under way is not overruled.
    site.wait_for("the word to be taken", || {
        let skipped = site.run(&["runs", "done", &run, "mail", "--reason", "sent by hand"]);
        skipped.code == 0 || status(&site, &run) == "succeeded"
    });
    wait_for_status(&site, &run, "succeeded");
    assert_eq!(keys(&participant.asked(), "/ship").len(), 1);
}

#[test]
fn a_saga_survives_the_death_of_the_plane_between_its_calls() {
    let participant = Participant::new(&[("/charge", &[425, 425, 200]), ("/ship", &[409])]);
    let site = saga(&participant, "");
    let run = begin(&site, &["transfer"]);
    site.wait_for("the charge to be under way", || keys(&participant.asked(), "/charge").len() == 1);
    kill_plane(&site);
    wait_for_status(&site, &run, "rolled-back");
    let asked = participant.asked().clone();
    assert_eq!(keys(&asked, "/reserve").len(), 1, "what was done is not asked for again");
    assert!(keys(&asked, "/charge").iter().all(|key| *key == format!("{run}/1/charge/0/do")), "{asked:?}");
    assert_eq!(participant.paths(), ["/reserve", "/charge", "/ship", "/undo-charge", "/undo-reserve"]);
}

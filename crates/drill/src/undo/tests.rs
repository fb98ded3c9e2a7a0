//! The journal survives crashes, is done once, and never reaches a stranger.

use std::process::Command;
use std::sync::Mutex;

use holdfast_host::{clock, process};

use super::*;
use crate::system::{Answer, PlaneFault, Unanswered};

/// Notes what it was asked to clear; fails for one control directory.
#[derive(Default)]
struct Noting {
    cleared: Mutex<Vec<String>>,
    deaf: Option<PathBuf>,
}

impl Inject for Noting {
    fn inject<'a>(&'a self, _: &'a Path, _: &'a PlaneFault) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }
    fn clear<'a>(&'a self, control: &'a Path, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            if self.deaf.as_deref() == Some(control) {
                return Err(Unanswered::new("clear a fault", "nobody listens"));
            }
            self.cleared.lock().unwrap().push(id.to_owned());
            Ok(())
        })
    }
    fn open<'a>(&'a self, _: &'a Path, id: &'a str, order: &'a TasksOrder) -> Answer<'a, ()> {
        self.cleared.lock().unwrap().push(format!("{id} full {}", order.full));
        Box::pin(async { Ok(()) })
    }
    fn close<'a>(&'a self, _: &'a Path, _: &'a str) -> Answer<'a, ()> {
        Box::pin(async { Err(Unanswered::new("close a queue", "an undo never does")) })
    }
}

fn clear(control: &str, fault: &str) -> Undo {
    Undo::Clear { control: control.into(), fault: fault.into() }
}

#[tokio::test]
async fn a_plane_that_pretends_to_be_full_is_given_room() {
    let dir = tempfile::tempdir().unwrap();
    let room = Undo::Room { control: "tasks".into(), drill: "17".into(), until_boot_ns: 9 };
    Journal::of(dir.path()).intend(room).unwrap();
    let inject = Noting::default();
    assert_eq!(replay(dir.path(), &inject).await.unwrap(), Undone { done: 1, failed: vec![] });
    assert_eq!(*inject.cleared.lock().unwrap(), vec!["17 full false"]);
}

#[tokio::test]
async fn what_was_intended_is_done_once_and_the_journal_goes() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::of(dir.path());
    assert_eq!(journal.intend(clear("a", "one")).unwrap(), 1);
    assert_eq!(journal.intend(clear("b", "two")).unwrap(), 2);
    let inject = Noting::default();
    assert_eq!(replay(dir.path(), &inject).await.unwrap(), Undone { done: 2, failed: vec![] });
    assert_eq!(replay(dir.path(), &inject).await.unwrap(), Undone::default());
    assert_eq!(*inject.cleared.lock().unwrap(), vec!["one", "two"]);
    assert!(!dir.path().join(JOURNAL).exists());
}

#[tokio::test]
async fn what_fails_stays_and_is_done_later() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::of(dir.path());
    journal.intend(clear("deaf", "one")).unwrap();
    journal.intend(clear("fine", "two")).unwrap();
    let half = Noting { deaf: Some("deaf".into()), ..Noting::default() };
    let undone = replay(dir.path(), &half).await.unwrap();
    assert_eq!((undone.done, undone.failed.len()), (1, 1));
    let whole = Noting::default();
    assert_eq!(replay(dir.path(), &whole).await.unwrap().done, 1);
    assert_eq!(*whole.cleared.lock().unwrap(), vec!["one"]);
}

#[tokio::test]
async fn a_torn_line_and_one_of_a_later_version_hide_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::of(dir.path());
    journal.intend(clear("a", "one")).unwrap();
    let mut file = OpenOptions::new().append(true).open(dir.path().join(JOURNAL)).unwrap();
    writeln!(file, r#"{{"version":9,"id":7,"undo":{{"unheard-of":1}}}}"#).unwrap();
    write!(file, r#"{{"version":1,"id":8,"undo":{{"cle"#).unwrap();
    journal.intend(clear("a", "two")).unwrap();
    let pending: Vec<Undo> = journal.pending().unwrap().into_iter().map(|(_, u)| u).collect();
    assert_eq!(pending, vec![clear("a", "one"), clear("a", "two")]);
}

#[tokio::test]
async fn while_a_drill_is_under_way_replay_leaves_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DrillLock::take(dir.path()).unwrap().unwrap();
    Journal::of(dir.path()).intend(clear("a", "one")).unwrap();
    let inject = Noting::default();
    assert_eq!(replay(dir.path(), &inject).await.unwrap(), Undone::default());
    drop(lock);
    assert_eq!(replay(dir.path(), &inject).await.unwrap().done, 1);
}

#[tokio::test]
async fn a_stranger_under_the_old_number_is_left_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let real = process::identity(child.id() as i32).unwrap();
    session::stop(real).unwrap();
    let here = || clock::boot_id().to_owned();
    let journal = Journal::of(dir.path());
    journal
        .intend(Undo::Continue { leader: Process { start_ticks: real.start_ticks - 1, ..real }, boot_id: here() })
        .unwrap();
    journal.intend(Undo::Continue { leader: real, boot_id: "earlier boot".into() }).unwrap();
    assert_eq!(replay(dir.path(), &Noting::default()).await.unwrap().done, 2);
    assert_eq!(process::stat(real.pid).unwrap().state, 'T');
    journal.intend(Undo::Continue { leader: real, boot_id: here() }).unwrap();
    replay(dir.path(), &Noting::default()).await.unwrap();
    assert_ne!(process::stat(real.pid).unwrap().state, 'T');
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_directory_that_never_saw_a_drill_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let drills = dir.path().join("drill");
    assert_eq!(replay(&drills, &Noting::default()).await.unwrap(), Undone::default());
    assert!(!drills.exists());
}

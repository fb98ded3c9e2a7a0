//! What cannot be started stays visible, with code and hint; a full disk costs log lines, not the service.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_host::process;
use holdfast_host::shim::{Phase, Spec, Value};

use crate::bed::{Bed, eventually, read, sh, until};

#[tokio::test]
async fn what_cannot_start_says_why_and_is_tried_again() {
    let none = || Some(PathBuf::from("/nonexistent/dir"));
    let not_executable = tempfile::NamedTempFile::new().unwrap();
    fs::write(not_executable.path(), "#!/bin/sh\n").unwrap();
    fs::set_permissions(not_executable.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let no_format = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    fs::write(&no_format, "neither\n").unwrap();
    fs::set_permissions(&no_format, fs::Permissions::from_mode(0o755)).unwrap();
    let program = |path: &str| Spec { argv: vec![path.into()], ..Spec::default() };
    let cases = [
        ("HF0201", "no-such-program", program("no-such-program-here")),
        ("HF0201", "does not exist", program("/nonexistent/program")),
        ("HF0201", "not a program", program(no_format.to_str().unwrap())),
        ("HF0205", "ermission denied", program(not_executable.path().to_str().unwrap())),
        ("HF0202", "/nonexistent/dir", Spec { env_files: none().into_iter().collect(), ..sh("true") }),
        ("HF0202", "/nonexistent/dir", Spec { env: vec![("S".into(), Value::File(none().unwrap()))], ..sh("true") }),
        ("HF0203", "/nonexistent/dir", Spec { workdir: none(), ..sh("true") }),
        ("HF0204", "no-such-user", Spec { user: Some("no-such-user".into()), ..sh("true") }),
        ("HF0214", "open files", Spec { open_files: Some(u64::MAX / 2), ..sh("true") }),
    ];
    for (code, text, spec) in cases {
        let (_bed, mut client) = Bed::start(spec).await;
        let state = until(&mut client, code, |s| s.error.is_some()).await;
        let error = state.error.unwrap();
        assert!(error.code == code && error.text.contains(text) && error.hint.is_some(), "{code}: {error:?}");
        assert!(
            state.phase == Phase::Backoff && state.failures == 1 && state.reason.contains(text),
            "{code}: {}",
            state.reason
        );
        assert_eq!((state.child, state.incarnation.run), (None, 0));
    }
}

#[tokio::test]
async fn a_program_that_appears_later_is_started_by_itself() {
    let mut bed = Bed::new();
    let program = bed.path("late");
    let mut spec = Spec { argv: vec![program.to_str().unwrap().into()], ..Spec::default() };
    spec.restart.base_ms = 50;
    bed.launch(spec);
    let mut client = bed.client().await;
    until(&mut client, "a failed start", |s| s.error.is_some()).await;
    let fresh = bed.path("fresh");
    fs::write(&fresh, "#!/bin/sh\nexec sleep 600\n").unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&fresh, &program).unwrap();
    let state = until(&mut client, "started", |s| s.child.is_some()).await;
    assert_eq!(state.error, None);
}

/// A tmpfs of one MiB; `None` (with the reason printed) when it may not be mounted here.
struct SmallDisk {
    root: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let root = tempfile::tempdir().unwrap();
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "holdfast-test"]).arg(root.path()).status();
        if status.is_ok_and(|s| s.success()) {
            return Some(SmallDisk { root });
        }
        eprintln!("skipped: mounting a tmpfs needs root");
        None
    }

    fn fill(&self) {
        use std::io::Write;
        let mut file = fs::File::create(self.root.path().join("ballast")).unwrap();
        while file.write_all(&[b'x'; 4096]).is_ok() {}
        while file.write_all(b"x").is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.root.path().join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.root.path()).status();
    }
}

#[tokio::test]
async fn on_a_full_disk_restarts_and_exit_codes_go_on() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut bed = Bed::within(tempfile::tempdir_in(disk.root.path()).unwrap());
    let trigger = tempfile::tempdir().unwrap();
    let script = format!(
        "echo begin; while ! test -e {0}/$HOLDFAST_INCARNATION; do echo {1}; sleep 0.01; done; exit 9",
        trigger.path().display(),
        "y".repeat(200)
    );
    let mut spec = sh(&script);
    (spec.restart.base_ms, spec.restart.max_ms) = (10, 20);
    bed.launch(spec);
    let mut client = bed.client().await;
    until(&mut client, "started", |s| s.child.is_some()).await;
    eventually("it logs", || read(&bed.dir.log()).contains("begin"));
    disk.fill();
    for run in 1..=5 {
        until(&mut client, "the next run", |s| s.incarnation.run == run && s.child.is_some()).await;
        fs::write(trigger.path().join(format!("1.{run}")), "").unwrap();
    }
    until(&mut client, "the sixth run", |s| s.incarnation.run == 6 && s.child.is_some()).await;
    until(&mut client, "lines are dropped", |s| s.log_lines_dropped > 3).await;
    let codes: Vec<_> = bed.dir.read_exits().iter().map(|e| (e.incarnation.run, e.code)).collect();
    assert_eq!(codes, (1..=5).map(|run| (run, Some(9))).collect::<Vec<_>>());
    assert!(bed.dir.read_state().unwrap().incarnation.run >= 5, "the state file was reserved too");

    // Even the death of the shim is overcome: its successor needs no space either.
    bed.kill_shim();
    let absence = holdfast_host::shim::absent(bed.dir.path()).unwrap().unwrap();
    assert!(absence.kill_orphans(crate::bed::LIMIT).unwrap().is_empty());
    let (generation, dir) = (absence.generation + 1, bed.dir.clone());
    let spec = Spec { generation, ..dir.read_spec().unwrap() };
    drop(absence);
    bed.launch(spec);
    let mut client = bed.client().await;
    until(&mut client, "the second generation", |s| s.incarnation.generation == 2 && s.child.is_some()).await;
    until(&mut client, "it drops lines too", |s| s.log_lines_dropped > 0).await;
    disk.empty();
    eventually("the log says what was lost", || read(&bed.dir.log()).contains("log lines were dropped"));
    assert!(process::is_alive(client.state().child.unwrap()));
}

#[tokio::test]
async fn a_damaged_state_file_is_no_obstacle() {
    let (bed, mut client) = Bed::start(sh("exec sleep 600")).await;
    until(&mut client, "started", |s| s.child.is_some()).await;
    bed.kill_shim();
    for content in ["", "{", "\0\0\0\0"] {
        fs::write(bed.dir.state(), content).unwrap();
        assert!(bed.dir.read_state().is_none());
    }
    let absence = holdfast_host::shim::absent(bed.dir.path()).unwrap().unwrap();
    assert_eq!(absence.generation, 1);
    assert_eq!(absence.orphans().len(), 1, "found by its mark");
    assert!(absence.kill_orphans(crate::bed::LIMIT).unwrap().is_empty());
}

#[test]
fn a_spec_of_a_newer_version_is_refused() {
    let bed = Bed::new();
    let spec = Spec { version: 99, generation: 1, ..sh("true") };
    bed.dir.write_spec(&spec).unwrap();
    let error = holdfast_host::shim::launch(crate::bed::exe(), Path::new(bed.dir.path()), 1).unwrap_err();
    assert_eq!(error.code(), "HF0211");
}

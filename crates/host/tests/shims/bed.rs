//! One instance directory with its shim; everything is killed when the bed is dropped.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_host::process::{self, Identity};
use holdfast_host::shim::{self, Answer, Body, Client, ClientError, Dir, Spec, State};
use holdfast_policy::Incarnation;

/// A loaded machine is slow; a test that waits for this long has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Bed {
    pub(crate) root: tempfile::TempDir,
    pub(crate) dir: Dir,
    pub(crate) shim: Option<Identity>,
}

pub(crate) fn exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_holdfast-shim"))
}

pub(crate) fn sh(script: &str) -> Spec {
    Spec { argv: vec!["sh".into(), "-c".into(), script.into()], ..Spec::default() }
}

impl Bed {
    pub(crate) fn new() -> Bed {
        Bed::within(tempfile::tempdir().unwrap())
    }

    pub(crate) fn within(root: tempfile::TempDir) -> Bed {
        let dir = Dir::new(root.path().join("run/web-1"));
        Bed { root, dir, shim: None }
    }

    /// Writes the spec (as web-1, generation 1 unless given) and launches its shim.
    pub(crate) fn launch(&mut self, spec: Spec) {
        let generation = spec.generation.max(1);
        let spec = Spec { instance: "web-1".into(), node: "here".into(), generation, ..spec };
        self.dir.write_spec(&spec).unwrap();
        self.shim = Some(shim::launch(exe(), self.dir.path(), generation).unwrap());
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.dir.path(), LIMIT).await.unwrap()
    }

    pub(crate) async fn start(spec: Spec) -> (Bed, Client) {
        let mut bed = Bed::new();
        bed.launch(spec);
        let client = bed.client().await;
        (bed, client)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn kill_shim(&self) {
        let shim = self.shim.unwrap();
        process::signal(shim, libc::SIGKILL).unwrap();
        eventually("the shim is gone", || !process::is_alive(shim));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let Some(shim) = self.shim else { return };
        let _ = process::signal(shim, libc::SIGKILL);
        let deadline = Instant::now() + LIMIT;
        while process::is_alive(shim) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Ok(Some(absence)) = shim::absent(self.dir.path()) {
            let _ = absence.kill_orphans(LIMIT);
        }
    }
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The first state that meets the condition.
pub(crate) async fn until(client: &mut Client, what: &str, condition: impl Fn(&State) -> bool) -> State {
    let wait = async {
        let mut state = client.state();
        while !condition(&state) {
            state = client.next_state().await.unwrap_or_else(|| panic!("connection closed before: {what}"));
        }
        state
    };
    match tokio::time::timeout(LIMIT, wait).await {
        Ok(state) => state,
        Err(_) => panic!("not within {LIMIT:?}: {what}; state {:#?}", client.state()),
    }
}

pub(crate) async fn ask(client: &Client, body: Body) -> Result<Answer, ClientError> {
    client.request(body, LIMIT).await
}

pub(crate) fn stop(incarnation: Incarnation) -> Body {
    Body::Stop { incarnation, reason: "test".into(), grace_ms: None }
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

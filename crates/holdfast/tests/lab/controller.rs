//! What the power of machines hangs on, for commands that fence or reboot: reached through a socket in the file system, so that no
//! cut of the network keeps it away.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::town::{MACHINES, Town, name};

pub(crate) struct Controller<'a> {
    town: &'a Town,
    stop: AtomicBool,
    switched_off: Mutex<Vec<usize>>,
}

impl<'a> Controller<'a> {
    pub(crate) fn socket(town: &Town) -> PathBuf {
        town.lab.dir().join("controller")
    }

    /// It listens while `work` runs.
    pub(crate) fn during(town: &'a Town, work: impl FnOnce(&Controller<'a>)) {
        let controller = Controller { town, stop: AtomicBool::new(false), switched_off: Mutex::default() };
        let path = Controller::socket(town);
        let listener = UnixListener::bind(&path).expect("a socket of the controller");
        std::thread::scope(|scope| {
            scope.spawn(|| controller.serve(&listener));
            let told = catch_unwind(AssertUnwindSafe(|| work(&controller)));
            controller.stop.store(true, Ordering::Relaxed);
            let _ = UnixStream::connect(&path);
            told.unwrap_or_else(|panic| resume_unwind(panic));
        });
    }

    /// Which machines lost their power through it, in order.
    pub(crate) fn switched_off(&self) -> Vec<usize> {
        self.switched_off.lock().expect("no panic").clone()
    }

    fn serve(&self, listener: &UnixListener) {
        for stream in listener.incoming() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let _ = stream.and_then(|stream| self.answer(stream));
        }
    }

    /// `/off/db-1@node2,…`, as `HOLDFAST_FENCE` names them, or `/reboot/node2`; it answers when that is done.
    fn answer(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut line = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default();
        let (what, whom) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        for member in whom.split(',') {
            let node = member.split_once('@').map_or(member, |(_, node)| node);
            let Some(n) = (0..MACHINES).find(|n| name(*n) == node) else { continue };
            self.town.lab.machine(n).kill_all().expect("power off");
            self.switched_off.lock().expect("no panic").push(n);
            if what == "reboot" {
                self.town.lab.machine(n).boot().expect("boot");
                // As its init system does.
                let up = self.town.lab.machine(n).spawn(&self.town.typed(n, &["up", "-d"]), &[]);
                up.expect("it starts").wait(crate::town::PATIENCE).expect("it ends");
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    }
}

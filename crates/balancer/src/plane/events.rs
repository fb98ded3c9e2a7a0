//! Transitions on their way to the journal: a ring file of this process, written off the request path.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use holdfast_host::event::Event;
use holdfast_host::lock::Lock;
use holdfast_host::ring::EventRing;

use crate::core::Happened;

/// Transitions waiting for the disk.
const QUEUE: usize = 256;

/// Beside `events` of the shim, which has one writer too.
pub(super) const FILE: &str = "plane.events";

struct Writer {
    path: PathBuf,
    node: String,
    source: String,
    open: Option<(Lock, EventRing)>,
}

pub(super) fn start(dir: &Path, node: &str, source: &str) -> io::Result<SyncSender<Happened>> {
    let (queue, happened) = sync_channel(QUEUE);
    let writer = Writer { path: dir.join(FILE), node: node.into(), source: source.into(), open: None };
    std::thread::Builder::new().name("events".into()).spawn(move || writer.run(&happened))?;
    Ok(queue)
}

impl Writer {
    fn run(mut self, happened: &Receiver<Happened>) {
        for h in happened {
            let mut event =
                Event::now(&self.node, &self.source, std::process::id(), &h.subject).change(h.from, h.to, h.reason);
            for (name, value) in h.inputs {
                event = event.with(name, value);
            }
            if let Err(error) = self.write(event) {
                tracing::warn!(path = %self.path.display(), %error, "event not written");
            }
        }
    }

    /// A ring has one writer: while a draining process of the same directory still has it, events are in the log only.
    fn write(&mut self, event: Event) -> io::Result<()> {
        if self.open.is_none() {
            let lock = Lock::try_take(&self.path.with_extension("lock"))?;
            let lock = lock.ok_or_else(|| io::Error::new(io::ErrorKind::WouldBlock, "another process writes it"))?;
            self.open = Some((lock, EventRing::open(&self.path)?));
        }
        match &mut self.open {
            Some((_, ring)) => ring.append(event).map(|_| ()),
            None => Ok(()),
        }
    }
}

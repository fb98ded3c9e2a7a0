//! A process that is stopped for moments, again and again: all of it stands still, as on a machine that starves.

use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{Error, Result};

/// Lasts until it is dropped, or the process has ended.
pub struct Stalls {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) fn start(pid: u32, length: Duration, every: Duration) -> Result<Stalls> {
    let fail = |why: &str| Error::failed(format!("stall process {pid}"), why);
    let target = Pid::from_raw(pid.cast_signed()).ok_or_else(|| fail("no pid"))?;
    if length >= every {
        return Err(fail("stalls as long as the time between their starts"));
    }
    // The number may be given to another process when this one ends; its start time is not.
    let born = born(pid).ok_or_else(|| fail("it has ended"))?;
    let (end, ended) = mpsc::channel::<()>();
    let over = move |wait| !matches!(ended.recv_timeout(wait), Err(RecvTimeoutError::Timeout));
    let thread = thread::spawn(move || {
        let signal = |signal| is_alive(pid, &born) && kill_process(target, signal).is_ok();
        loop {
            let stopped = signal(Signal::STOP);
            let last = over(length) || !stopped;
            signal(Signal::CONT);
            if last || over(every - length) {
                return;
            }
        }
    });
    Ok(Stalls { end: Some(end), thread: Some(thread) })
}

fn is_alive(pid: u32, start: &str) -> bool {
    born(pid).is_some_and(|now| now == start)
}

/// When it began, in ticks since boot.
fn born(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = text.get(text.rfind(')')? + 2..)?;
    after_name.split_whitespace().nth(19).map(str::to_owned)
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! A lane is a list of steps: each runs to its end or its deadline, a failure does not stop the next,
//! and the list at the end says what failed.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a running step looks at its deadline and at Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// From SIGTERM to SIGKILL for a step that is out of time.
const GRACE: Duration = Duration::from_secs(5);

/// How long the last lines of a command that has ended may take to arrive.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Lines read ahead of the terminal.
const LINES_WAITING: usize = 1024;

#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

pub(crate) struct Lane {
    began: Instant,
    done: Vec<(String, Duration, Outcome)>,
    pub(crate) counts: Counts,
    interrupted: Arc<AtomicBool>,
}

impl Lane {
    pub(crate) fn new() -> Result<Lane> {
        Ok(Lane { began: Instant::now(), done: Vec::new(), counts: Counts::default(), interrupted: on_interrupt()? })
    }

    /// Runs a step of our own.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        self.begin(name);
        let began = Instant::now();
        let outcome = match work() {
            Ok(()) => Outcome::Passed,
            Err(error) => {
                self.counts.failed += 1;
                Outcome::Failed(format!("{error:#}"))
            }
        };
        self.end(name, began, outcome);
    }

    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        self.begin(name);
        self.end(name, Instant::now(), Outcome::Skipped(why.to_owned()));
    }

    /// Runs a command with its output on the terminal.
    pub(crate) fn run(&mut self, name: &str, command: Command, limit: Duration) {
        let interrupted = self.interrupted.clone();
        self.step(name, || finish(command, limit, &interrupted, |_| {}));
    }

    /// Runs `cargo test` and adds up its results.
    pub(crate) fn tests(&mut self, name: &str, command: Command, limit: Duration) {
        let interrupted = self.interrupted.clone();
        let mut counts = Counts::default();
        self.step(name, || finish(command, limit, &interrupted, |line| add_result(&mut counts, line)));
        self.counts.passed += counts.passed;
        // `step` has counted a failed step as one; what its tests say is nearer.
        self.counts.failed += counts.failed.saturating_sub(1);
    }

    fn begin(&self, name: &str) {
        println!("\n==> {name}");
    }

    fn end(&mut self, name: &str, began: Instant, outcome: Outcome) {
        let took = began.elapsed();
        match &outcome {
            Outcome::Passed => println!("    {name}: done in {:.1} s", took.as_secs_f64()),
            Outcome::Skipped(why) => println!("    {name}: skipped: {why}"),
            Outcome::Failed(why) => println!("    {name}: FAILED after {:.1} s: {why}", took.as_secs_f64()),
        }
        self.done.push((name.to_owned(), took, outcome));
    }

    /// Prints the steps with their times, every failure, and last the closing line: tests that passed, and tests
    /// and steps that failed. An error when a step failed.
    pub(crate) fn close(self) -> Result<()> {
        println!("\nstep                           time  result");
        for (name, took, outcome) in &self.done {
            let result = match outcome {
                Outcome::Passed => "passed".to_owned(),
                Outcome::Skipped(why) => format!("skipped: {why}"),
                Outcome::Failed(why) => format!("FAILED: {}", why.lines().next().unwrap_or_default()),
            };
            println!("{name:<26} {:>6.1} s  {result}", took.as_secs_f64());
        }
        println!("{:<26} {:>6.1} s", "in all", self.began.elapsed().as_secs_f64());
        println!("\n{} passed, {} failed", self.counts.passed, self.counts.failed);
        io::stdout().flush()?;
        if self.counts.failed == 0 { Ok(()) } else { Err(Shown.into()) }
    }
}

/// A failure that has been printed already.
#[derive(Debug)]
pub(crate) struct Shown;

impl std::error::Error for Shown {}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("steps failed, see above")
    }
}

/// A command as one would type it.
pub(crate) fn typed(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Set by Ctrl-C or SIGTERM; the steps look at it.
pub(crate) fn on_interrupt() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, flag.clone()).context("cannot listen for signals")?;
    }
    Ok(flag)
}

/// Runs a command in a process group of its own, shows its output, hands each line of stdout on, and
/// ends the whole group at the deadline or on Ctrl-C. Does not wait for the end of stdout: a stray
/// grandchild that holds it open must not hold the lane.
fn finish(mut command: Command, limit: Duration, interrupted: &AtomicBool, mut line: impl FnMut(&str)) -> Result<()> {
    let shown = typed(&command);
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let lines = read_lines(child.stdout.take().context("no stdout")?);
    let deadline = Instant::now() + limit;
    let mut show = |text: &str| {
        println!("{text}");
        line(text);
    };
    let status = loop {
        match lines.recv_timeout(LOOK_EVERY) {
            Ok(text) => show(&text),
            Err(RecvTimeoutError::Disconnected) => thread::sleep(LOOK_EVERY),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let stop = interrupted.load(Ordering::Relaxed);
        if stop || Instant::now() > deadline {
            kill_group(&mut child)?;
            bail!(
                "{}",
                if stop { "interrupted".to_owned() } else { format!("not finished within {} s", limit.as_secs()) }
            );
        }
    };
    while let Ok(text) = lines.recv_timeout(LAST_LINES) {
        show(&text);
    }
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

pub(crate) fn read_lines(out: ChildStdout) -> Receiver<String> {
    let (send, lines) = mpsc::sync_channel(LINES_WAITING);
    thread::spawn(move || {
        for text in BufReader::new(out).lines().map_while(Result::ok) {
            if send.send(text).is_err() {
                return;
            }
        }
    });
    lines
}

fn kill_group(child: &mut Child) -> Result<()> {
    let group = format!("-{}", child.id());
    signal("TERM", &group);
    let deadline = Instant::now() + GRACE;
    while child.try_wait()?.is_none() && Instant::now() < deadline {
        thread::sleep(LOOK_EVERY);
    }
    signal("KILL", &group);
    child.wait()?;
    Ok(())
}

/// The shell's own `kill`: a bare machine has no other. A process that is gone is no error.
pub(crate) fn signal(name: &str, target: &str) {
    let _ = Command::new("/bin/sh").args(["-c", &format!("kill -s {name} -- {target}")]).stderr(Stdio::null()).status();
}

/// `test result: ok. 12 passed; 0 failed; …`
fn add_result(counts: &mut Counts, line: &str) {
    let Some(rest) = line.strip_prefix("test result: ") else { return };
    let number = |word: &str| -> u64 {
        let words: Vec<&str> = rest.split([' ', ';', '.']).filter(|w| !w.is_empty()).collect();
        let pair = words.windows(2).find(|pair| pair[1] == word);
        pair.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
    };
    counts.passed += number("passed");
    counts.failed += number("failed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added() {
        let mut counts = Counts::default();
        add_result(
            &mut counts,
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        add_result(&mut counts, "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured");
        add_result(&mut counts, "running 3 tests");
        assert_eq!(counts, Counts { passed: 15, failed: 2 });
    }

    #[test]
    fn a_step_out_of_time_is_ended_with_its_children() {
        let flag = AtomicBool::new(false);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 60 & wait"]);
        let began = Instant::now();
        let error = finish(command, Duration::from_millis(200), &flag, |_| {}).expect_err("it takes a minute");
        assert!(error.to_string().contains("not finished within"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn output_is_handed_on_and_the_exit_code_judged() {
        let flag = AtomicBool::new(false);
        let mut lines = Vec::new();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo one; echo two; exit 3"]);
        let error =
            finish(command, Duration::from_secs(20), &flag, |l| lines.push(l.to_owned())).expect_err("exit code 3");
        assert_eq!(lines, ["one", "two"]);
        assert!(error.to_string().contains('3'), "{error}");
    }
}

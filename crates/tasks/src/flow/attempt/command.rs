//! A step that is a program: a job under a shim of its own, named by its attempt, so that it is found again and never begun twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use holdfast_host::job::{self, Status, TOKEN_BYTES_MAX};
use holdfast_host::shim::Value;
use holdfast_policy::flow::{Event, Key, Outcome, Start};
use ring::digest;
use tokio::time::Instant;

use super::{Case, Ended, outputs};
use crate::definition::EnvValue;

/// First look at a program's result, and the longest time between two.
const LOOK_FIRST: Duration = Duration::from_millis(3);
const LOOK_MAX: Duration = Duration::from_millis(100);
/// The machine ends a program at its limit; its shim does, a little later, when no plane is there.
const DEADLINE_LATER: Duration = Duration::from_secs(10);
/// A program is begun anew by the machine before it has run this long.
const DEADLINE_MAX: Duration = Duration::from_secs(366 * 86_400);
/// Of what is printed.
const PRINTED_BYTES_MAX: u64 = 64 * 1024;
const WORDS_MAX: usize = 500;
/// Of a token that is a hash: `f-` and 64 digits.
const HASHED_LEN: usize = 66;

pub(super) struct Program<'a> {
    pub(super) argv: &'a [String],
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) workdir: Option<&'a str>,
    pub(super) user: Option<&'a str>,
}

/// Names the job: the key itself where its characters and its length allow it.
pub(in crate::flow) fn token(key: &Key) -> String {
    let plain = format!("f.{}", key.to_string().replace('/', "."));
    // Without a dot in the names themselves no two keys look the same.
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if plain.len() <= TOKEN_BYTES_MAX && key.run.bytes().chain(key.step.bytes()).all(known) {
        return plain;
    }
    let hash = digest::digest(&digest::SHA256, key.to_string().as_bytes());
    format!("f-{}", hash.as_ref().iter().map(|b| format!("{b:02x}")).collect::<String>())
}

/// Workers of queues have jobs beside ours; a worker cannot be called so that its tokens begin like this.
pub(super) fn is_token(name: &str) -> bool {
    name.starts_with("f.") || (name.starts_with("f-") && name.len() == HASHED_LEN)
}

pub(super) async fn run(case: &Case<'_>, start: &Start, program: &Program<'_>) -> Ended {
    let ground = &case.flows.0.ground;
    if let Err(error) = holdfast_host::files::create_dir(&outputs::dir(ground, &case.key.run)) {
        return Ended::of(Outcome::Retryable { error: format!("no place for its output: {error}") });
    }
    let job = job(case, start, program);
    if let Err(error) = job.start(&ground.exe, &ground.work).await {
        return Ended::of(Outcome::Retryable { error: error.to_string() });
    }
    collect(case, start.heartbeat).await
}

fn job(case: &Case<'_>, start: &Start, program: &Program<'_>) -> job::Job {
    let key = case.key;
    let mut env: Vec<(String, Value)> =
        program.env.iter().map(|(name, text)| (name.clone(), Value::Plain(text.clone()))).collect();
    env.extend(case.step.env.iter().filter_map(|(name, value)| match value {
        EnvValue::Plain(_) => None,
        EnvValue::File(path) => Some((name.clone(), Value::File(path.clone()))),
        EnvValue::Env(from) => Some((name.clone(), Value::Env(from.clone()))),
    }));
    let mut put = |name: &str, value: String| env.push((name.to_owned(), Value::Plain(value)));
    put("HOLDFAST_RUN", key.run.clone());
    put("HOLDFAST_WORKFLOW", case.pinned.declared.name.clone());
    put("HOLDFAST_STEP", key.step.clone());
    put("HOLDFAST_ITEM", key.item.to_string());
    put("HOLDFAST_ATTEMPT", key.attempt.to_string());
    put("HOLDFAST_ROUND", key.round.to_string());
    put("HOLDFAST_OPERATION", super::operation(key).to_owned());
    put("HOLDFAST_KEY", key.barrier());
    // Another user cannot reach into the data directory: what it gives, it prints.
    if program.user.is_none() {
        put("HOLDFAST_OUTPUT", outputs::output_file(&case.flows.0.ground, key).display().to_string());
    }
    let limit = start.run_limit.unwrap_or(DEADLINE_MAX).min(DEADLINE_MAX);
    job::Job {
        argv: program.argv.to_vec(),
        env,
        workdir: program.workdir.map(Into::into),
        user: program.user.map(str::to_owned),
        deadline: limit + DEADLINE_LATER,
        output_bytes_max: PRINTED_BYTES_MAX,
        owner: format!("run/{}/{}", key.run, key.step),
        token: token(key),
        ..job::Job::default()
    }
}

/// Until it is over. When it is to end, it is killed, and its end says so.
pub(super) async fn collect(case: &Case<'_>, heartbeat: Option<Duration>) -> Ended {
    let (work, token) = (case.flows.0.ground.work.clone(), token(case.key));
    let mut pulse = heartbeat.map(|silence| Pulse::new(case, &token, silence));
    let (mut wait, mut cancelled) = (LOOK_FIRST, false);
    loop {
        if case.is_stopped() && !cancelled {
            match job::Job::cancel(&work, &token).await {
                Ok(()) => cancelled = true,
                Err(error) => tracing::warn!(token, %error, "a program is told to end again"),
            }
        }
        let (root, name) = (work.clone(), token.clone());
        match tokio::task::spawn_blocking(move || job::Job::collect(&root, &name)).await {
            Ok(Ok(Status::Running)) => {}
            Ok(Ok(Status::Done(outcome))) => return judged(case, &outcome),
            Ok(Ok(Status::NotStarted(failure))) => return Ended::of(Outcome::Retryable { error: failure.text }),
            Ok(Ok(Status::Lost)) => return Ended::of(Outcome::Unknown { error: "nobody saw its end".into() }),
            Ok(Ok(Status::Unknown)) => return Ended::of(Outcome::Retryable { error: "it was not started".into() }),
            Ok(Err(error)) => tracing::warn!(token, %error, "a program is looked for again"),
            Err(error) => return Ended::of(Outcome::Unknown { error: error.to_string() }),
        }
        if let Some(pulse) = &mut pulse {
            pulse.look(case);
        }
        match case.is_stopped() {
            true => tokio::time::sleep(wait).await,
            false => drop(tokio::time::timeout(wait, case.until_stopped()).await),
        }
        wait = (wait * 3 / 2).min(LOOK_MAX);
    }
}

fn judged(case: &Case<'_>, outcome: &job::Outcome) -> Ended {
    let ground = &case.flows.0.ground;
    let output = outputs::keep_log(ground, case.key, &outcome.output);
    let printed = String::from_utf8_lossy(&outcome.output);
    let last: String = printed.trim_end().lines().last().unwrap_or_default().chars().take(WORDS_MAX).collect();
    let said = |error: String| if last.is_empty() { error } else { format!("{error}: {last}") };
    let judged = match outcome.code {
        Some(code) if !outcome.timed_out => {
            let value = outputs::of_program(ground, case.key, &outcome.output);
            Outcome::of_exit(code, &case.step.terminal, value)
        }
        _ => Outcome::Unknown { error: outcome.text() },
    };
    let outcome = match judged {
        Outcome::Retryable { error } => Outcome::Retryable { error: said(error) },
        Outcome::Terminal { error } => Outcome::Terminal { error: said(error) },
        Outcome::Business { error } => Outcome::Business { error: said(error) },
        Outcome::Unknown { error } => Outcome::Unknown { error: said(error) },
        other => other,
    };
    Ended { outcome, output }
}

/// A program that prints, or writes into its output, lives.
struct Pulse {
    files: [std::path::PathBuf; 2],
    seen: [Option<(SystemTime, u64)>; 2],
    every: Duration,
    told: Instant,
}

impl Pulse {
    fn new(case: &Case<'_>, token: &str, silence: Duration) -> Pulse {
        let ground = &case.flows.0.ground;
        let log = ground.work.join(token).join(Path::new("log/current"));
        let files = [log, outputs::output_file(ground, case.key)];
        // Each beat is stored: some within the time that is allowed are enough.
        Pulse { files, seen: [None, None], every: silence / 4, told: Instant::now() }
    }

    fn look(&mut self, case: &Case<'_>) {
        if self.told.elapsed() < self.every {
            return;
        }
        let look = |path: &std::path::PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        let now = [look(&self.files[0]), look(&self.files[1])];
        if now != self.seen {
            self.seen = now;
            case.tell(Event::Heartbeat { key: case.key.clone() });
        }
        self.told = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_short_plain_and_different() {
        let token = |text: &str| super::token(&text.parse().expect("a key"));
        assert_eq!(token("nightly-7/1/copy/3/undo/2"), "f.nightly-7.1.copy.3.undo.2");
        let long = format!("{}-7/1/{}/0/do/1", "w".repeat(60), "s".repeat(60));
        let (first, second) = (token(&long), token(&long.replace("do/1", "do/2")));
        assert_ne!(first, second);
        for token in [first, second, token("r.1/1/s/0/do/1")] {
            assert!(token.len() <= TOKEN_BYTES_MAX && token.starts_with("f-") && is_token(&token), "{token}");
        }
    }
}

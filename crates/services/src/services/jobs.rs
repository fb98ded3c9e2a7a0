//! Commands on the edges of redundant services, as jobs under shims of their own: a restarted agent finds their
//! results, and no name runs twice.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_host::job::{Job as HostJob, Status};
use holdfast_host::shim::Dir;
use holdfast_host::shim::Value;
use tokio::sync::mpsc;

use super::launch;
use crate::supervisor::{Edge, Event, Job};

/// First look at a job's result, and the longest time between two.
const LOOK_FIRST: Duration = Duration::from_millis(3);
const LOOK_MAX: Duration = Duration::from_millis(200);
/// Kept of a command's output, which is told when it fails.
const OUTPUT_BYTES_MAX: u64 = 16 * 1024;

#[derive(Clone)]
pub(crate) struct Jobs {
    root: Arc<PathBuf>,
    run_dir: Arc<PathBuf>,
    exe: Arc<PathBuf>,
    results: mpsc::Sender<Event>,
}

impl Jobs {
    pub(crate) fn new(data_dir: &Path, exe: PathBuf, results: mpsc::Sender<Event>) -> Jobs {
        let (root, run_dir) = (Arc::new(data_dir.join("jobs")), Arc::new(data_dir.join("run")));
        Jobs { root, run_dir, exe: Arc::new(exe), results }
    }

    pub(crate) fn start(&self, job: Job) {
        let jobs = self.clone();
        tokio::spawn(async move {
            let (success, detail) = jobs.run(&job).await;
            jobs.sweep(&job);
            let event = Event::JobEnded { instance: job.instance.clone(), name: job.name.clone(), success, detail };
            let _ = jobs.results.send(event).await;
        });
    }

    async fn run(&self, job: &Job) -> (bool, String) {
        if let Err(error) = self.host_job(job).start(&self.exe, &self.root).await {
            return (false, error.to_string());
        }
        let mut wait = LOOK_FIRST;
        loop {
            tokio::time::sleep(wait).await;
            wait = (wait * 3 / 2).min(LOOK_MAX);
            let (root, name) = (self.root.clone(), job.name.clone());
            let status = tokio::task::spawn_blocking(move || HostJob::collect(&root, &name)).await;
            match status {
                Ok(Ok(Status::Running | Status::Unknown)) => {}
                Ok(Ok(Status::Done(outcome))) => return (outcome.success(), outcome.words()),
                Ok(Ok(Status::NotStarted(failure))) => return (false, failure.text),
                Ok(Ok(Status::Lost)) => return (false, "nobody saw its end".into()),
                Ok(Err(error)) => return (false, error.to_string()),
                Err(error) => return (false, error.to_string()),
            }
        }
    }

    fn host_job(&self, job: &Job) -> HostJob {
        let (definition, instance) = (&*job.definition, &job.instance);
        let fill = |text: &String| launch::fill(text, definition, instance, job.port);
        let mut env = launch::environment(definition, instance, job.port);
        let dir = Dir::new(self.run_dir.join(instance.to_string()));
        let mut put = |name: &str, value: String| env.push((name.to_owned(), Value::Plain(value)));
        put("HOLDFAST_EDGE", job.edge.name().into());
        put("HOLDFAST_TOKEN_FILE", dir.token().display().to_string());
        if let Some(token) = job.token {
            put("HOLDFAST_TOKEN", token.to_string());
        }
        if job.edge == Edge::Fence {
            put("HOLDFAST_FENCE", job.fence.clone());
        }
        if job.edge.is_own() {
            let argv = [self.exe.display().to_string(), format!("__{}", job.edge.name())].into_iter();
            return HostJob {
                argv: argv.chain(job.argv.iter().cloned()).collect(),
                deadline: job.timeout,
                output_bytes_max: OUTPUT_BYTES_MAX,
                owner: format!("{}/{instance}", job.edge.name()),
                token: job.name.clone(),
                ..HostJob::default()
            };
        }
        HostJob {
            argv: job.argv.iter().map(fill).collect(),
            env,
            workdir: Some(definition.service.workdir.clone()),
            user: definition.service.user.clone(),
            deadline: job.timeout,
            output_bytes_max: OUTPUT_BYTES_MAX,
            owner: format!("{}/{instance}", job.edge.name()),
            token: job.name.clone(),
            ..HostJob::default()
        }
    }

    /// Results of earlier names of the same edge: nobody asks for them any more. Of this one it is kept, for an agent
    /// that dies before it has heard of it.
    fn sweep(&self, job: &Job) {
        let stem = format!("{}-{}-", job.instance, job.edge.name());
        for entry in std::fs::read_dir(&*self.root).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Tries of the same token stay: a restarted agent goes through them in order.
            let same = name.rsplit_once('-').map(|(s, _)| s) == job.name.rsplit_once('-').map(|(s, _)| s);
            let same_token = same && !job.edge.is_repeated();
            if name.starts_with(&stem) && name != job.name && !same_token {
                let _ = HostJob::forget(&self.root, &name);
            }
        }
    }
}

//! `holdfast doctor`: what about this machine or this data directory will hurt, with evidence and what to do.

mod cluster;

use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_cluster::authority::{Files, Validity};
use serde::Serialize;

use super::{Common, print_json, print_text};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::layout::Layout;
use crate::terminal::{Style, width, wrap};

/// Above this, a restart waits noticeably for its exit record.
const FSYNC_SLOW: Duration = Duration::from_millis(50);
const FSYNC_TRIES: u32 = 5;
/// A balancer process needs two descriptors a connection.
const OPEN_FILES_MIN: u64 = 4096;
/// Journal and logs of a small site.
const DISK_FREE_MIN: u64 = 256 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Bad,
    Warning,
    Good,
}

#[derive(Debug, Serialize)]
struct Finding {
    id: &'static str,
    verdict: Verdict,
    evidence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Finding {
    fn good(id: &'static str, evidence: impl Into<String>) -> Self {
        Finding { id, verdict: Verdict::Good, evidence: evidence.into(), fix: None }
    }

    fn warning(id: &'static str, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { id, verdict: Verdict::Warning, evidence: evidence.into(), fix: Some(fix.into()) }
    }

    fn bad(id: &'static str, evidence: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding { id, verdict: Verdict::Bad, evidence: evidence.into(), fix: Some(fix.into()) }
    }
}

pub(super) async fn run(common: &Common) -> Result<Exit, Failure> {
    let layout = common.layout()?;
    let mut findings = vec![
        agent(&layout).await,
        file(common),
        data_dir(&layout),
        fsync(&layout),
        disk(&layout),
        open_files(),
        process_control(),
        ephemeral_ports(common),
        clock(),
    ];
    findings.extend(certificate(common, &layout));
    if let Ok(loaded) = holdfast_config::Config::load(&common.file) {
        findings.extend(cluster::findings(&loaded.config).await);
    }
    findings.sort_by_key(|f| f.verdict);
    let worst = findings.first().map_or(Verdict::Good, |f| f.verdict);
    if common.json {
        print_json(&serde_json::json!({ "findings": findings }))?;
    } else {
        print_text(&render(&findings, Style::stdout(), width()));
    }
    Ok(match worst {
        Verdict::Good => Exit::Ok,
        Verdict::Warning => Exit::Degraded,
        Verdict::Bad => Exit::Failed,
    })
}

/// Where evidence begins: behind the verdict and the name.
const COLUMN: usize = 21;

fn render(findings: &[Finding], style: Style, width: usize) -> String {
    let mut text = String::new();
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Good => style.green("good   "),
            Verdict::Warning => style.yellow("warning"),
            Verdict::Bad => style.red("bad    "),
        };
        let evidence = wrap(&finding.evidence, COLUMN, COLUMN, width);
        text.push_str(&format!("{verdict}  {:<11} {evidence}\n", finding.id));
        if let Some(fix) = &finding.fix {
            let fix = wrap(fix, COLUMN + 5, COLUMN + 5, width);
            text.push_str(&format!("{:COLUMN$}{} {fix}\n", "", style.cyan("fix:")));
        }
    }
    text
}

async fn agent(layout: &Layout) -> Finding {
    if Client::new(layout).alive().await {
        return Finding::good("agent", format!("answers on {}", layout.socket().display()));
    }
    if std::os::unix::net::UnixStream::connect(layout.socket()).is_ok() {
        return Finding::bad(
            "agent",
            "takes connections but does not answer",
            "holdfast logs _agent; then kill it: its shim starts another",
        );
    }
    Finding::warning("agent", "none runs for this directory", "holdfast up -d")
}

fn file(common: &Common) -> Finding {
    if let Err(error) = std::fs::metadata(&common.file) {
        return Finding::bad("file", format!("{}: {error}", common.file.display()), "name it: -f FILE");
    }
    match holdfast_config::Config::load(&common.file) {
        Ok(loaded) if loaded.warnings.iter().any(|d| d.severity == holdfast_config::Severity::Warning) => {
            Finding::warning("file", format!("{} has warnings", common.file.display()), "holdfast check")
        }
        Ok(_) => Finding::good("file", format!("{} is valid", common.file.display())),
        Err(_) => Finding::bad("file", format!("{} is not valid", common.file.display()), "holdfast check"),
    }
}

fn data_dir(layout: &Layout) -> Finding {
    use std::os::unix::fs::PermissionsExt;
    let dir = &layout.data_dir;
    match std::fs::metadata(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::warning("data-dir", format!("{} is not there yet", dir.display()), "holdfast up -d makes it")
        }
        Err(error) => Finding::bad("data-dir", format!("{}: {error}", dir.display()), "choose another: --data-dir DIR"),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Finding::warning(
            "data-dir",
            format!("{} can be read by others", dir.display()),
            format!("chmod 700 {}", dir.display()),
        ),
        Ok(_) => Finding::good("data-dir", format!("{} is private", dir.display())),
    }
}

fn fsync(layout: &Layout) -> Finding {
    match slowest_sync(&layout.data_dir) {
        Err(error) => {
            Finding::bad("fsync", format!("cannot write: {error}"), "make the data directory writable, or free space")
        }
        Ok(took) if took > FSYNC_SLOW => Finding::warning(
            "fsync",
            format!("slowest of {FSYNC_TRIES} took {} ms", took.as_millis()),
            "put the data directory on a faster disk, away from databases",
        ),
        Ok(took) => Finding::good("fsync", format!("slowest of {FSYNC_TRIES} took {} us", took.as_micros())),
    }
}

fn slowest_sync(dir: &Path) -> std::io::Result<Duration> {
    let dir = if dir.exists() { dir } else { Path::new(".") };
    let path = dir.join(format!(".doctor-{}", std::process::id()));
    let measure = || {
        let mut slowest = Duration::ZERO;
        for n in 0..FSYNC_TRIES {
            let began = Instant::now();
            std::fs::write(&path, n.to_string())?;
            std::fs::File::open(&path)?.sync_all()?;
            slowest = slowest.max(began.elapsed());
        }
        Ok(slowest)
    };
    let result = measure();
    let _ = std::fs::remove_file(&path);
    result
}

fn disk(layout: &Layout) -> Finding {
    let dir = if layout.data_dir.exists() { layout.data_dir.as_path() } else { Path::new(".") };
    match rustix::fs::statvfs(dir) {
        Err(error) => Finding::warning("disk", format!("cannot look: {error}"), "df -h"),
        Ok(fs) => {
            let free = fs.f_bavail.saturating_mul(fs.f_frsize);
            let evidence = format!("{} MiB free", free >> 20);
            if free < DISK_FREE_MIN {
                Finding::bad("disk", evidence, "free some space; restarts go on, the journal does not")
            } else {
                Finding::good("disk", evidence)
            }
        }
    }
}

fn open_files() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    match limit {
        Some(n) if n < OPEN_FILES_MIN => Finding::warning(
            "open-files",
            format!("limit is {n}: about {} balanced connections a process", n / 2),
            "ulimit -n 65536 before up, or LimitNOFILE= in the unit",
        ),
        Some(n) => Finding::good("open-files", format!("limit is {n}")),
        None => Finding::good("open-files", "no limit"),
    }
}

/// Without a writable cgroup, stray processes are found by session, parent and environment instead.
fn process_control() -> Finding {
    match holdfast_host::cgroup::Tree::detect() {
        Some(_) => Finding::good("cgroup", "a v2 tree is writable: every stop is complete"),
        None => Finding::warning(
            "cgroup",
            "no writable cgroup v2 tree: what leaves its session is found by its parent and environment only",
            "run as root, or delegate a cgroup (systemd: Delegate=yes)",
        ),
    }
}

fn ephemeral_ports(common: &Common) -> Finding {
    let Ok(text) = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range") else {
        return Finding::warning("ports", "cannot read ip_local_port_range", "mount /proc");
    };
    let mut bounds = text.split_whitespace().filter_map(|n| n.parse::<u16>().ok());
    let (Some(low), Some(high)) = (bounds.next(), bounds.next()) else {
        return Finding::warning("ports", "cannot read ip_local_port_range", "mount /proc");
    };
    let Ok(loaded) = holdfast_config::Config::load(&common.file) else {
        return Finding::good("ports", format!("ephemeral ports are {low}-{high}"));
    };
    let ours = &loaded.config.node.ports;
    let (first, last) = (ours.start(), ours.end());
    if *first <= high && *last >= low {
        return Finding::bad(
            "ports",
            format!("{first}-{last} overlaps the ephemeral ports {low}-{high}"),
            "change [node] ports",
        );
    }
    Finding::good("ports", format!("{first}-{last} lies outside the ephemeral ports {low}-{high}"))
}

/// Only of a machine of a cluster.
fn certificate(common: &Common, layout: &Layout) -> Option<Finding> {
    holdfast_config::Config::load(&common.file).ok()?.config.cluster?;
    let now = holdfast_host::clock::wall_ms();
    Some(match Files::new(&layout.data_dir).identity() {
        Err(error) => Finding::bad("links", error.to_string(), "holdfast explain HF0376"),
        Ok(None) => Finding::warning(
            "links",
            "this machine does not prove to others who it is (HF0375)",
            "holdfast cluster init, once for the cluster; on the others holdfast cluster join",
        ),
        Ok(Some(identity)) => match identity.certificate.validity(now) {
            Validity::Good => {
                let days = identity.certificate.not_after_wall_ms.saturating_sub(now) / (24 * 3_600_000);
                Finding::good("links", format!("certificate of this machine is valid for {days} more days"))
            }
            Validity::Expired => {
                Finding::bad("links", "this machine's certificate has expired", "holdfast cluster renew")
            }
            Validity::NotYet => Finding::bad("links", "this machine's certificate is not valid yet", "set the clock"),
        },
    })
}

fn clock() -> Finding {
    let source =
        std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource").unwrap_or_default();
    let source = source.trim();
    match source {
        "" => Finding::good("clock", "clock source unknown; decisions use CLOCK_BOOTTIME"),
        "jiffies" | "refined-jiffies" => {
            Finding::warning("clock", format!("source is {source}: coarse"), "boot with a better clock source")
        }
        other => Finding::good("clock", format!("source is {other}")),
    }
}

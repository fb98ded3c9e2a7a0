//! `holdfast status`: one screen, worst first, with the command to go on with.

use std::io::IsTerminal;
use std::time::Duration;

use holdfast_observe::availability::Window;
use holdfast_observe::status::{Balancer, Instance, Pause, Service, State, Status, worst_first};

use super::{Common, print_json, print_text};
use crate::failure::{Exit, Failure};
use crate::terminal::{Style, human, plural, table, width};

const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Home, and clear what was below.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) async fn run(common: &Common, watch: bool) -> Result<Exit, Failure> {
    let client = common.client()?;
    let mut first = true;
    loop {
        let status: Status = client.get("/v1/status").await?;
        if common.json {
            print_json(&status)?;
        } else {
            let before = match (watch, std::io::stdout().is_terminal()) {
                (true, true) => CLEAR,
                (true, false) if !first => "\n",
                _ => "",
            };
            print_text(&format!("{before}{}", render(&status, Style::stdout(), width())));
            first = false;
        }
        if !watch {
            return Ok(verdict(&status));
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// 0 all ready, 3 something is short, 4 something is down.
fn verdict(status: &Status) -> Exit {
    let down = status.services.values().any(|s| s.desired > 0 && s.ready == 0 && s.kind != "job");
    let short = status.services.values().any(|s| s.ready < s.desired);
    match (down, short) {
        (true, _) => Exit::Unhealthy,
        (_, true) => Exit::Degraded,
        _ => Exit::Ok,
    }
}

pub(super) fn render(status: &Status, style: Style, width: usize) -> String {
    let mut text = String::new();
    for pause in &status.pauses {
        text.push_str(&style.yellow(&pause_line(pause)));
        text.push('\n');
    }
    for warning in &status.warnings {
        text.push_str(&format!("{} {} [{}]\n", style.yellow("warning:"), warning.message, warning.code));
    }
    text.push_str(&headline(status, style));
    if !status.services.is_empty() {
        text.push('\n');
        text.push_str(&instances(status, style, width));
    }
    let redundant = redundant(status, style);
    if !redundant.is_empty() {
        text.push('\n');
        text.push_str(&redundant);
    }
    if !status.balancers.is_empty() {
        text.push('\n');
        text.push_str(&balancers(status, style, width));
    }
    if status.balancers.values().any(|b| !b.virtual_ips.is_empty()) {
        text.push('\n');
        text.push_str(&virtual_ips(status, style, width));
    }
    if let Some(next) = next(status) {
        text.push_str(&format!("\n{} {next}\n", style.cyan("next:")));
    }
    text
}

fn pause_line(pause: &Pause) -> String {
    let what = pause.name.as_deref().unwrap_or("everything");
    let until = pause.until_wall_ms.map_or_else(String::new, |until| {
        let left = until.saturating_sub(holdfast_host::clock::wall_ms());
        format!(" for {} more", human(Duration::from_millis(left)))
    });
    format!("paused: {what}{until} by {}: {} (nothing is acted on)", pause.by, pause.reason)
}

fn headline(status: &Status, style: Style) -> String {
    let desired: u32 = status.services.values().map(|s| s.desired).sum();
    let ready: u32 = status.services.values().map(|s| s.ready.min(s.desired)).sum();
    let state = match verdict(status) {
        Exit::Ok => style.green("ready"),
        Exit::Degraded => style.yellow("degraded"),
        _ => style.red("down"),
    };
    let incidents = match status.incidents_open {
        0 => String::new(),
        n => format!("; {}", plural(usize::try_from(n).unwrap_or(usize::MAX), "open incident")),
    };
    format!(
        "{state}: {ready} of {}, {}; revision {}, agent up {}{incidents}\n",
        plural(desired as usize, "instance"),
        plural(status.balancers.len(), "balancer"),
        status.agent.revision,
        human(Duration::from_millis(status.agent.uptime_ms)),
    )
}

fn instances(status: &Status, style: Style, width: usize) -> String {
    let several = !status.nodes.is_empty();
    let mut names = vec!["INSTANCE", "STATE", "FOR", "RESTARTS", "PID", "ENDPOINT", "WHY"];
    if several {
        names.insert(1, "NODE");
    }
    let mut rows = vec![header(&names, style)];
    for (name, service, instances) in worst_first(&status.services) {
        for instance in &instances {
            let mut cells = row(instance, service, style);
            if several {
                cells.insert(1, instance.node.clone().unwrap_or_else(|| "-".into()));
            }
            rows.push(cells);
        }
        if instances.is_empty() {
            let mut cells = vec![
                name.to_owned(),
                style.dim("none"),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                format!("{} wanted", service.desired),
            ];
            if several {
                cells.insert(1, String::new());
            }
            rows.push(cells);
        }
    }
    table(&rows, width)
}

/// Whether it can take over, and how old its data is.
fn standby(instance: &Instance) -> String {
    let age = instance.data_age_ms.map(|ms| format!("data {} old", human(Duration::from_millis(ms))));
    let dry = instance.dry_start.map(|passed| format!("dry start {}", if passed { "passed" } else { "failed" }));
    instance.unable.clone().into_iter().chain(age).chain(dry).collect::<Vec<_>>().join("; ")
}

/// One line for each redundant service: who is active, and what the last takeover cost beside what is declared.
fn redundant(status: &Status, style: Style) -> String {
    let mut text = String::new();
    for (name, standby) in status.services.iter().filter_map(|(name, s)| Some((name, s.standby.as_ref()?))) {
        let ms = |ms: u64| human(Duration::from_millis(ms));
        let active = standby.active.clone().unwrap_or_else(|| style.red("nobody"));
        let token = standby.token.as_ref().map_or(String::new(), |t| format!(", token {t}"));
        text.push_str(&format!("{name}: {active} is active ({} standby{token})", standby.tier));
        if let Some(t) = &standby.takeover {
            let judge = |measured: u64, declared: Option<u64>| match declared {
                Some(limit) if measured > limit => style.red(&format!("{} of {}", ms(measured), ms(limit))),
                Some(limit) => format!("{} of {}", ms(measured), ms(limit)),
                None => ms(measured),
            };
            let what = if t.planned { "switchover" } else { "failover" };
            let rpo = t.rpo_ms.map_or(String::new(), |rpo| format!(", rpo {}", judge(rpo, standby.rpo_ms)));
            let rto = judge(t.rto_ms, standby.rto_ms);
            text.push_str(&format!("; {what} from {} {} ago: rto {rto}{rpo}", t.from, ms(t.ago_ms)));
        }
        if let Some(trouble) = &standby.trouble {
            text.push_str(&format!("; {}", style.red(trouble)));
        }
        text.push('\n');
    }
    text
}

fn header(names: &[&str], style: Style) -> Vec<String> {
    names.iter().map(|name| style.dim(name)).collect()
}

fn row(instance: &Instance, service: &Service, style: Style) -> Vec<String> {
    let why = match instance.state {
        State::Ready | State::Completed => String::new(),
        State::Standby => standby(instance),
        _ => instance
            .next
            .clone()
            .or_else(|| instance.reason.clone())
            .or_else(|| service.reason.clone())
            .unwrap_or_default(),
    };
    vec![
        instance.id.clone(),
        paint(style, instance.state),
        human(Duration::from_millis(instance.since_ms)),
        instance.restarts.to_string(),
        instance.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
        instance.endpoint.clone().unwrap_or_else(|| "-".into()),
        why,
    ]
}

pub(super) fn paint(style: Style, state: State) -> String {
    let name = state.name();
    match state {
        State::Ready | State::Standby | State::Completed => style.green(name),
        State::Failed | State::Backoff | State::Unknown => style.red(name),
        State::Stopped => style.dim(name),
        _ => style.yellow(name),
    }
}

fn balancers(status: &Status, style: Style, width: usize) -> String {
    let mut rows = vec![header(&["BALANCER", "LISTEN", "REQUESTS", "FAILED", "1H", "24H", "30D", "ENDPOINTS"], style)];
    for (name, balancer) in &status.balancers {
        let windows = status.availability.get(&balancer.service).map_or(&[][..], Vec::as_slice);
        let mut row =
            vec![name.clone(), balancer.listen.clone(), balancer.requests.to_string(), failed(balancer, style)];
        row.extend((0..3).map(|n| windows.get(n).map_or_else(|| "-".into(), |w| percent(w, style))));
        row.push(endpoints(balancer));
        rows.push(row);
    }
    table(&rows, width)
}

fn virtual_ips(status: &Status, style: Style, width: usize) -> String {
    let names = ["VIRTUAL IP", "HERE", "FOR", "OWNER", "LEASE LEFT", "KERNEL LETS GO IN", "WHY"];
    let mut rows = vec![header(&names, style)];
    let mut all: Vec<_> = status.balancers.values().flat_map(|b| &b.virtual_ips).collect();
    all.sort_by(|a, b| a.address.cmp(&b.address));
    all.dedup_by(|a, b| a.address == b.address);
    let left = |ms: Option<u64>| ms.map_or_else(|| "-".into(), |ms| human(Duration::from_millis(ms)));
    for ip in all {
        let state = match ip.state.as_str() {
            "owned" => style.green(&ip.state),
            "conflict" => style.red(&ip.state),
            "standby" => ip.state.clone(),
            _ => style.yellow(&ip.state),
        };
        rows.push(vec![
            ip.address.clone(),
            state,
            human(Duration::from_millis(ip.since_ms)),
            ip.owner.clone().unwrap_or_else(|| "-".into()),
            left(ip.lease_left_ms),
            left(ip.kernel_left_ms),
            ip.reason.clone().unwrap_or_default(),
        ]);
    }
    table(&rows, width)
}

fn failed(balancer: &Balancer, style: Style) -> String {
    if balancer.failed == 0 { "0".into() } else { style.red(&balancer.failed.to_string()) }
}

/// `3 ready`, or who is not.
fn endpoints(balancer: &Balancer) -> String {
    let ready = balancer.endpoints.iter().filter(|e| e.state == "ready" || e.state == "slow_start").count();
    let others: Vec<String> = balancer
        .endpoints
        .iter()
        .filter(|e| e.state != "ready" && e.state != "slow_start")
        .map(|e| format!("{} {}", e.instance, e.state))
        .collect();
    if others.is_empty() { format!("{ready} ready") } else { format!("{ready} ready; {}", others.join(", ")) }
}

fn percent(window: &Window, style: Style) -> String {
    let Some(ratio) = window.ratio else { return "-".into() };
    // Rounded down: 99.99 must not be shown for less.
    let text = if ratio >= 1.0 { "100%".into() } else { format!("{:.2}%", (ratio * 10_000.0).floor() / 100.0) };
    match window.target {
        Some(target) if ratio < target => style.red(&text),
        _ => text,
    }
}

fn next(status: &Status) -> Option<String> {
    for (_, service, instances) in worst_first(&status.services) {
        if let Some(next) = &service.next {
            return Some(next.clone());
        }
        let worst = instances
            .first()
            .filter(|i| !matches!(i.state, State::Ready | State::Standby | State::Completed | State::Stopped));
        if let Some(worst) = worst {
            return Some(format!("holdfast why {}", worst.id));
        }
    }
    match (status.incidents_open, status.pauses.first()) {
        (_, Some(pause)) => {
            Some(pause.name.as_ref().map_or_else(|| "holdfast resume".into(), |n| format!("holdfast resume {n}")))
        }
        (1.., None) => Some("holdfast incidents".into()),
        _ => None,
    }
}

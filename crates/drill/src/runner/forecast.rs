//! What a dry run says.

use holdfast_config::Fault;
use holdfast_policy::InstanceId;
use holdfast_policy::drill::Refusal;

use crate::aim::{Aim, Blow};
use crate::report::Forecast;
use crate::spec::Spec;
use crate::strike::CRASHES;
use crate::system::{PlaneFaultKind, Status};

pub(super) fn forecast(spec: &Spec, aim: &Aim, status: &Status, reasons: &[Refusal]) -> Forecast {
    let hold = spec.drill.hold.as_secs_f64();
    Forecast {
        name: spec.drill.name.clone(),
        fault: spec.drill.fault.name(),
        target: aim.target.clone(),
        hits: hits(aim, hold),
        expected: expected(spec.drill.fault).to_owned(),
        protected: protected(aim, status),
        undo: undo(&aim.blow, spec.drill.fault, hold),
        refused: reasons.iter().map(Refusal::to_string).collect(),
    }
}

fn hits(aim: &Aim, hold: f64) -> Vec<String> {
    match &aim.blow {
        Blow::Kill(p) => vec![format!("SIGKILL to process {}", p.pid)],
        Blow::KillAgain(id, p) => {
            vec![format!("SIGKILL to process {} and the next {} runs of {id}", p.pid, CRASHES - 1)]
        }
        Blow::KillAll(victims) => victims.iter().map(|p| format!("SIGKILL to process {}", p.pid)).collect(),
        Blow::Victims(many) => {
            vec![format!(
                "{many} programs that work on probes of the drill; never one that works on a message of yours"
            )]
        }
        Blow::Poison => vec!["one probe whose program dies of it each time, in a queue of the drill's own".to_owned()],
        Blow::Fill => vec![format!("sends to every queue are refused for {hold} s, as on a full disk")],
        Blow::Stop(leaders) => {
            leaders.iter().map(|p| format!("SIGSTOP to process {} and its session for {hold} s", p.pid)).collect()
        }
        Blow::Burn { addr, path } => vec![format!("GET http://{addr}{path} for {hold} s")],
        Blow::Spoil { controls, instance, kind } => controls
            .iter()
            .map(|control| {
                let plane = control.file_name().unwrap_or(control.as_os_str()).to_string_lossy();
                format!("{} for {hold} s, in {plane}", spoilt(*kind, instance))
            })
            .collect(),
    }
}

fn spoilt(kind: PlaneFaultKind, instance: &InstanceId) -> String {
    match kind {
        PlaneFaultKind::Latency(late) => format!("answers of {instance} come {} ms later", late.as_millis()),
        PlaneFaultKind::Errors(status) => format!("{status} in place of the answers of {instance}"),
        PlaneFaultKind::Reset => format!("connections to {instance} are reset"),
        PlaneFaultKind::NoAnswer => format!("requests to {instance} are taken and not answered"),
    }
}

fn expected(fault: Fault) -> &'static str {
    match fault {
        Fault::Kill => "its requests move to the others at once; it is started again",
        Fault::Hang => "waiting requests move, it leaves the balancer within 500 ms and returns when it answers",
        Fault::Busy => "requests that wait on it wait; it is neither cut nor restarted",
        Fault::CrashLoop => "back-off grows, the others serve, an incident is open until it stays up",
        Fault::Latency => "requests prefer the others",
        Fault::Errors => "it is ejected after the declared number of errors; those reach clients unless retried",
        Fault::Reset => "GETs are sent again to another; it is ejected",
        Fault::NoAnswer => "GETs without an answer are sent once more to another",
        Fault::DependencyStall => "readiness fails, nothing is restarted, all returns by itself",
        Fault::BalancerKill => "the other balancer process serves; requests in flight on this one are lost",
        Fault::BalancerHang => "new connections go to the other balancer process",
        Fault::ShimKill => "its service process ends or is taken over; it is started again",
        Fault::WorkerKill => "their messages are tried again and done once; the other messages do not notice",
        Fault::WorkerHang => "their messages wait for them; the others are done on the places that are left",
        Fault::Poison => "after the declared number of crashes it is a dead letter; nothing else is charged",
        Fault::TasksKill => "clients wait at the socket; nothing confirmed is lost, what was in flight comes again",
        Fault::TasksHang => "clients wait until it goes on or is restarted",
        Fault::TasksDiskFull => "sends are refused, what was confirmed goes on, all is taken again by itself",
        Fault::AgentKill => "requests go on untouched; a new agent adopts everything",
    }
}

fn protected(aim: &Aim, status: &Status) -> Vec<String> {
    let others = status.services.iter().flat_map(|s| &s.instances).filter(|i| i.is_ready());
    let others = others.map(|i| i.id.clone()).filter(|id| !aim.struck.contains(id));
    let planes = status.planes.iter().map(|p| p.id.clone());
    others.chain(planes).map(|id| id.to_string()).filter(|id| *id != aim.target).collect()
}

fn undo(blow: &Blow, fault: Fault, hold: f64) -> String {
    match blow {
        Blow::Victims(_) if fault == Fault::WorkerHang => {
            format!("SIGCONT after {hold} s, at once when the drill dies or is stopped")
        }
        Blow::Victims(_) | Blow::KillAll(_) | Blow::Poison => "the drill's own queues are removed after it".to_owned(),
        Blow::Fill => format!("taken back after {hold} s, at once when the drill dies or is stopped"),
        Blow::Kill(_) | Blow::KillAgain(..) => "nothing to undo: holdfast starts it again".to_owned(),
        Blow::Burn { .. } => format!("no more such requests after {hold} s"),
        Blow::Stop(_) => format!("SIGCONT after {hold} s, at once when the drill dies or is stopped"),
        Blow::Spoil { .. } => format!("cleared after {hold} s, at once when the drill dies or is stopped"),
    }
}

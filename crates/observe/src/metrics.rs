//! Metrics that everyone shares, in the words of the configuration. Labels are names from the file or from a fixed set,
//! never ids, addresses or URLs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// Prometheus 3 refuses a scrape without a content type that it knows.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// 1 ms to about 16 s: a probe on loopback and one that times out.
const SECONDS: [f64; 15] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

type FloatGauge = Gauge<f64, AtomicU64>;

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($field:ident),+ }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name { $(pub $field: String),+ }

        impl $name {
            pub fn new($($field: impl Into<String>),+) -> Self {
                $name { $($field: $field.into()),+ }
            }
        }
    };
}

labels!(ServiceLabels { service });
labels!(/** `state` is a [`crate::status::State`] name. */ InstanceLabels { service, state });
labels!(/** `reason`: `exit`, `signal`, `oom`, `liveness`, `asked`, `update`. */ RestartLabels { service, reason });
labels!(/** `kind`: `startup`, `ready`, `live`; `result`: `pass`, `fail`, `timeout`, `void`. */ ProbeLabels { service, kind, result });
labels!(ProbeKindLabels { service, kind });
labels!(BalancerLabels { balancer });
labels!(/** `outcome`: `good`, `failed`, `degraded`, `refused`. */ OutcomeLabels { balancer, outcome });
labels!(/** `reason`: `connect`, `transport`, `gateway`, `hang`. */ EjectionLabels { balancer, reason });
labels!(WindowLabels { service, window });
labels!(DrillLabels { drill });

/// Cheap to clone; clones share the values.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    pub service_instances: Family<InstanceLabels, Gauge>,
    pub service_desired_instances: Family<ServiceLabels, Gauge>,
    pub service_availability: Family<WindowLabels, FloatGauge>,
    pub restarts: Family<RestartLabels, Counter>,
    pub probe_results: Family<ProbeLabels, Counter>,
    pub probe_duration: Family<ProbeKindLabels, Histogram>,
    pub balancer_requests: Family<OutcomeLabels, Counter>,
    pub balancer_retries: Family<BalancerLabels, Counter>,
    pub balancer_ejections: Family<EjectionLabels, Counter>,
    pub balancer_requests_in_flight: Family<BalancerLabels, Gauge>,
    pub balancer_processes: Family<BalancerLabels, Gauge>,
    pub balancer_virtual_ips_owned: Family<BalancerLabels, Gauge>,
    pub incidents_open: Gauge,
    pub incidents: Counter,
    pub journal_events_lost: Counter,
    pub pauses: Gauge,
    pub agent_start: FloatGauge,
    pub agent_holds_lease: Gauge,
    pub drill_passed: Family<DrillLabels, Gauge>,
    pub drill_recovery: Family<DrillLabels, FloatGauge>,
}

impl Metrics {
    pub fn new(version: &str) -> Metrics {
        let mut registry = Registry::with_prefix("holdfast");
        registry.register("build", "Version that runs", Info::new([("version", version.to_owned())]));
        let r = &mut registry;
        let seconds = Some(Unit::Seconds);
        let ratio = Some(Unit::Ratios);
        let probe_duration = Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        r.register_with_unit("probe_duration", "Time to the answer of a probe", Unit::Seconds, probe_duration.clone());
        let mut metrics = Metrics {
            service_instances: add(r, "service_instances", "Instances by state", None),
            service_desired_instances: add(r, "service_desired_instances", "Instances that should run", None),
            service_availability: add(r, "service_availability", "Availability over a window", ratio),
            restarts: add(r, "restarts", "Children started again", None),
            probe_results: add(r, "probe_results", "Probes by result", None),
            probe_duration,
            balancer_requests: add(r, "balancer_requests", "Requests by outcome", None),
            balancer_retries: add(r, "balancer_retries", "Tries after the first", None),
            balancer_ejections: add(r, "balancer_ejections", "Instances taken out of rotation", None),
            balancer_requests_in_flight: add(r, "balancer_requests_in_flight", "Requests being answered", None),
            balancer_processes: add(r, "balancer_processes", "Processes that accept", None),
            balancer_virtual_ips_owned: add(
                r,
                "balancer_virtual_ips_owned",
                "Virtual addresses that this node carries",
                None,
            ),
            incidents_open: add(r, "incidents_open", "Incidents not recovered yet", None),
            incidents: add(r, "incidents", "Incidents opened", None),
            journal_events_lost: add(r, "journal_events_lost", "Events that the journal could not keep", None),
            pauses: add(r, "pauses", "Pauses in force: holdfast observes and does not act", None),
            agent_start: add(r, "agent_start_timestamp", "When the agent started, since 1970", seconds.clone()),
            agent_holds_lease: add(r, "agent_holds_lease", "1 while the agent may act", None),
            drill_passed: add(r, "drill_passed", "1 when the last run met its targets", None),
            drill_recovery: add(r, "drill_recovery", "Recovery time of the last run", seconds),
            registry: Arc::default(),
        };
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// Content type and body of `/metrics`.
    pub fn encode(&self) -> (&'static str, String) {
        let mut body = String::new();
        // Writing to a string fails only if a metric's own encoder does; then there is no body to trust.
        if text::encode(&mut body, &self.registry).is_err() {
            body = "# EOF\n".into();
        }
        (CONTENT_TYPE, body)
    }
}

fn add<M>(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> M
where
    M: Default + Clone + prometheus_client::registry::Metric,
{
    let metric = M::default();
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, metric.clone()),
        None => registry.register(name, help, metric.clone()),
    }
    metric
}

/// For totals that are counted elsewhere (in a plane's shared memory). A lower total means that the count began anew; the
/// counter then goes on from where it was.
#[derive(Debug, Default)]
pub struct Follow {
    seen: AtomicU64,
}

impl Follow {
    pub fn update(&self, counter: &Counter, total: u64) {
        let seen = self.seen.swap(total, Ordering::Relaxed);
        counter.inc_by(if total >= seen { total - seen } else { total });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposition_is_openmetrics_in_base_units() {
        let metrics = Metrics::new("1.2.3");
        metrics.service_instances.get_or_create(&InstanceLabels::new("web", "ready")).set(3);
        metrics.restarts.get_or_create(&RestartLabels::new("web", "exit")).inc();
        metrics.probe_duration.get_or_create(&ProbeKindLabels::new("web", "ready")).observe(0.003);
        metrics.balancer_requests.get_or_create(&OutcomeLabels::new("public", "good")).inc_by(7);
        metrics.service_availability.get_or_create(&WindowLabels::new("web", "1h")).set(0.999);
        metrics.incidents_open.set(1);
        let (content_type, body) = metrics.encode();
        assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"));
        for line in [
            "holdfast_build_info{version=\"1.2.3\"} 1",
            "holdfast_service_instances{service=\"web\",state=\"ready\"} 3",
            "# TYPE holdfast_restarts counter",
            "holdfast_restarts_total{service=\"web\",reason=\"exit\"} 1",
            "# UNIT holdfast_probe_duration_seconds seconds",
            "holdfast_probe_duration_seconds_bucket{le=\"0.004\",service=\"web\",kind=\"ready\"} 1",
            "holdfast_balancer_requests_total{balancer=\"public\",outcome=\"good\"} 7",
            "holdfast_service_availability_ratios{service=\"web\",window=\"1h\"} 0.999",
            "holdfast_incidents_open 1",
        ] {
            assert!(body.lines().any(|l| l == line), "{line} is missing in\n{body}");
        }
        assert!(body.ends_with("# EOF\n"));
    }

    #[test]
    fn label_values_are_escaped() {
        let metrics = Metrics::new("a\"b\\c\nd");
        assert!(metrics.encode().1.contains(r#"version="a\"b\\c\nd""#));
    }

    #[test]
    fn a_followed_total_that_begins_anew_does_not_go_back() {
        let (follow, counter) = (Follow::default(), Counter::default());
        for (total, want) in [(5, 5), (9, 9), (2, 11), (2, 11), (3, 12)] {
            follow.update(&counter, total);
            assert_eq!(counter.get(), want);
        }
    }
}

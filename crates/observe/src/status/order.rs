//! Worst first: what needs a person stands on top.

use super::{Instance, Service, State};

/// 0 is worst.
fn instance_rank(state: State) -> u8 {
    match state {
        State::Failed => 0,
        State::Backoff => 1,
        State::Suspect => 2,
        State::Unready => 3,
        State::Unknown => 4,
        State::Pending => 5,
        State::Starting => 6,
        State::Running => 7,
        State::Draining => 8,
        State::Stopping => 9,
        State::Ready => 10,
        State::Standby => 11,
        State::Completed => 12,
        State::Stopped => 13,
    }
}

/// Down, then below its minimum, then short, then complete; within each by its worst instance.
fn service_rank(service: &Service) -> (u8, u8) {
    let completed = service.instances.iter().any(|i| i.state == State::Completed);
    let level = match service {
        s if s.desired == 0 => 4,
        s if s.kind == "job" && completed => 3,
        s if s.ready == 0 => 0,
        s if s.ready < s.min_available => 1,
        s if s.ready < s.desired => 2,
        _ => 3,
    };
    let worst = service.instances.iter().map(|i| instance_rank(i.state)).min().unwrap_or(u8::MAX);
    (level, worst)
}

/// Names of the services and, for each, its instances, both worst first; equal ones by name and ordinal.
pub fn worst_first(services: &std::collections::BTreeMap<String, Service>) -> Vec<(&str, &Service, Vec<&Instance>)> {
    let mut list: Vec<(&str, &Service, Vec<&Instance>)> = services
        .iter()
        .map(|(name, service)| {
            let mut instances: Vec<&Instance> = service.instances.iter().collect();
            instances.sort_by_key(|i| (instance_rank(i.state), ordinal(&i.id)));
            (name.as_str(), service, instances)
        })
        .collect();
    list.sort_by_key(|(name, service, _)| (service_rank(service), *name));
    list
}

/// `web-10` comes after `web-9`.
fn ordinal(id: &str) -> u32 {
    id.rsplit_once('-').and_then(|(_, n)| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn service(desired: u32, min_available: u32, states: &[State]) -> Service {
        let instances = states
            .iter()
            .enumerate()
            .map(|(n, state)| Instance { id: format!("s-{}", n + 1), state: *state, ..Instance::default() })
            .collect();
        let ready = states.iter().filter(|s| **s == State::Ready).count() as u32;
        Service { desired, ready, min_available, instances, ..Service::default() }
    }

    #[test]
    fn the_worst_service_and_instance_come_first() {
        use State::{Backoff, Completed, Failed, Ready, Starting, Stopped};
        let job = Service { kind: "job".into(), ..service(1, 0, &[Completed]) };
        let services = BTreeMap::from([
            ("a-fine".to_owned(), service(2, 1, &[Ready, Ready])),
            ("b-off".to_owned(), service(0, 0, &[Stopped])),
            ("c-short".to_owned(), service(3, 1, &[Ready, Starting, Ready])),
            ("d-down".to_owned(), service(1, 1, &[Failed])),
            ("e-below".to_owned(), service(3, 2, &[Ready, Failed, Backoff])),
            ("f-shorter".to_owned(), service(3, 1, &[Ready, Ready, Backoff])),
            ("g-job".to_owned(), job),
        ]);
        let list = worst_first(&services);
        let names: Vec<&str> = list.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names, ["d-down", "e-below", "f-shorter", "c-short", "a-fine", "g-job", "b-off"]);
        let below: Vec<&str> = list[1].2.iter().map(|i| i.id.as_str()).collect();
        assert_eq!(below, ["s-2", "s-3", "s-1"]);
    }

    #[test]
    fn instances_count_like_people_do() {
        let services = BTreeMap::from([("s".to_owned(), service(12, 1, &[State::Ready; 12]))]);
        let ids: Vec<&str> = worst_first(&services)[0].2.iter().map(|i| i.id.as_str()).collect();
        assert_eq!(ids[1..3], ["s-2", "s-3"]);
        assert_eq!(ids[9], "s-10");
    }
}

//! The figures of all rounds side by side: on the terminal, and as rows for `docs/benchmarks.md`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Name;
use super::case::{CASES, Case, Run, grouped};
use super::limit::Limit;
use super::spread::Spread;
use super::waiting::Row;

/// Through HTTP, in batches of ten.
const LIMIT_SHARE_WANTED: f64 = 0.6;

/// A client that was busier than this may have been what was measured.
const CLIENT_BUSY_MAX: f64 = 0.95;

type Measure = (&'static str, fn(&Run) -> f64);

#[derive(Default)]
pub(super) struct Results {
    /// In the order of the rounds.
    pub(super) runs: BTreeMap<(Case, Name), Vec<Run>>,
    pub(super) limits: Vec<Limit>,
}

impl Results {
    fn spread(&self, case: Case, name: Name, value: impl Fn(&Run) -> f64) -> Option<Spread> {
        let runs = self.runs.get(&(case, name))?;
        Some(Spread::of(&runs.iter().map(value).collect::<Vec<_>>()))
    }

    /// Round by round: ours to that of another.
    fn ratios(&self, case: Case, theirs: &[f64]) -> Option<Spread> {
        let ours = self.runs.get(&(case, Name::Holdfast))?;
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours.rate / theirs).collect();
        (!ratios.is_empty()).then(|| Spread::of(&ratios))
    }

    fn rates(&self, case: Case, name: Name) -> Vec<f64> {
        self.runs.get(&(case, name)).map(|runs| runs.iter().map(|run| run.rate).collect()).unwrap_or_default()
    }

    fn limit(&self, case: Case) -> Vec<f64> {
        self.limits.iter().filter_map(|limit| limit.rates.get(&case).copied()).collect()
    }

    /// The peer with the best median.
    fn best(&self, case: Case) -> Option<Name> {
        let median = |name: &Name| Some((self.spread(case, *name, |run| run.rate)?.median, *name));
        let medians = Name::PEERS.iter().filter_map(median);
        medians.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
    }

    pub(super) fn print(&self, cores: usize) {
        let measured = |case: &Case| Name::ALL.iter().any(|name| self.runs.contains_key(&(*case, *name)));
        for case in CASES.into_iter().filter(measured) {
            println!(
                "\n{:<30} {:>26} {:>18}   CPU s/1,000: server client   busy: server client",
                case.text(),
                "messages/s",
                "holdfast to it"
            );
            for name in Name::ALL {
                let Some(rate) = self.spread(case, name, |run| run.rate) else { continue };
                let ratio = self.ratios(case, &self.rates(case, name)).filter(|_| name != Name::Holdfast);
                let cost = |value: fn(&Run) -> f64| self.spread(case, name, value).map_or(f64::NAN, |s| s.median);
                println!(
                    "{:<30} {:>26} {:>18} {:>21.4} {:>6.4} {:>13.2} {:>6.2}",
                    name.text(),
                    whole(rate),
                    ratio.map_or_else(String::new, |ratio| ratio.text(2)),
                    cost(|run| run.server_cpu),
                    cost(|run| run.client_cpu),
                    cost(|run| run.server_busy),
                    cost(|run| run.client_busy),
                );
                if cost(|run| run.client_busy) > CLIENT_BUSY_MAX * cores as f64 {
                    println!("{:<30} its client had no CPU left: that was measured, not the server", "");
                }
            }
            let limit = self.limit(case);
            if let (Some(ratio), false) = (self.ratios(case, &limit), limit.is_empty()) {
                println!("{:<30} {:>26} {:>18}", "group-commit limit", whole(Spread::of(&limit)), ratio.text(2));
            }
        }
        for (in_flight, rates) in self.appended() {
            println!(
                "append and sync alone, groups of {}: {} messages/s",
                grouped(u64::from(in_flight)),
                whole(Spread::of(&rates))
            );
        }
    }

    fn appended(&self) -> BTreeMap<u32, Vec<f64>> {
        let mut all: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for (in_flight, rate) in self.limits.iter().flat_map(|limit| &limit.append) {
            all.entry(*in_flight).or_default().push(*rate);
        }
        all
    }

    /// What was measured, what is wanted, what was found.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for case in CASES {
            for name in Name::ALL {
                let Some(rate) = self.spread(case, name, |run| run.rate) else { continue };
                let cost = |value: fn(&Run) -> f64| self.spread(case, name, value).map_or(f64::NAN, |s| s.median);
                let (server, client) = (cost(|run| run.server_cpu), cost(|run| run.client_cpu));
                let figure =
                    format!("{}, {}: messages/s; CPU s per 1,000 of server + client", case.text(), name.text());
                rows.push([figure, "-".into(), format!("{}; {server:.3} + {client:.3}", whole(rate))]);
            }
            if let Some((best, ratio)) =
                self.best(case).and_then(|best| Some((best, self.ratios(case, &self.rates(case, best))?)))
            {
                let figure = format!("{}, holdfast / the best of them ({})", case.text(), best.text());
                rows.push([figure, format!(">= {:.1}", case.ratio_wanted()), ratio.text(2)]);
            }
            if let Some(ratio) = self.ratios(case, &self.limit(case)) {
                let limit = whole(Spread::of(&self.limit(case)));
                let figure = format!("{}, holdfast / group commit alone", case.text());
                rows.push([figure, format!(">= {LIMIT_SHARE_WANTED}"), format!("{} of {limit}", ratio.text(2))]);
            }
        }
        rows
    }

    pub(super) fn json(&self) -> Value {
        let mut cases = Map::new();
        for case in CASES {
            let mut programs = Map::new();
            for name in Name::ALL {
                let values: [Measure; 5] = [
                    ("messages_per_second", |run| run.rate),
                    ("server_cpu_s_per_1000", |run| run.server_cpu),
                    ("client_cpu_s_per_1000", |run| run.client_cpu),
                    ("server_cores_busy", |run| run.server_busy),
                    ("client_cores_busy", |run| run.client_busy),
                ];
                let spreads = values.map(|(key, value)| Some((key.to_owned(), self.spread(case, name, value)?.json())));
                let spreads: Map<String, Value> = spreads.into_iter().flatten().collect();
                if !spreads.is_empty() {
                    programs.insert(name.text().into(), spreads.into());
                }
            }
            if !self.limits.is_empty() {
                let limit = json!({"messages_per_second": Spread::of(&self.limit(case)).json()});
                programs.insert("group-commit limit".into(), limit);
            }
            cases.insert(case.text(), programs.into());
        }
        cases.into()
    }
}

/// `12,345 (12,000-12,900)`.
fn whole(spread: Spread) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| grouped(value.round() as u64));
    format!("{median} ({min}-{max})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rate: f64) -> Run {
        Run { rate, server_cpu: 0.05, client_cpu: 0.01, server_busy: 0.9, client_busy: 0.2 }
    }

    #[test]
    fn holdfast_is_compared_with_the_best_peer_and_with_the_limit_within_each_round() {
        let case = CASES[0];
        let mut results = Results::default();
        results.runs.insert((case, Name::Holdfast), vec![run(2_000.0), run(3_000.0), run(4_000.0)]);
        results.runs.insert((case, Name::RabbitMq), vec![run(1_000.0), run(1_000.0), run(4_000.0)]);
        results.runs.insert((case, Name::PgBoss), vec![run(500.0), run(500.0), run(500.0)]);
        for _ in 0..3 {
            results.limits.push(Limit { rates: BTreeMap::from([(case, 5_000.0)]), append: BTreeMap::new() });
        }
        let rows = results.rows();
        let texts: Vec<String> = rows.iter().map(|row| row.join(" | ")).collect();
        assert_eq!(texts.len(), 5, "{texts:?}");
        assert!(texts[0].ends_with("- | 3,000 (2,000-4,000); 0.050 + 0.010"), "{texts:?}");
        assert!(texts[3].contains("(RabbitMQ) | >= 2.0 | 2.00 (1.00-3.00)"), "{texts:?}");
        assert!(texts[4].ends_with(">= 0.6 | 0.60 (0.40-0.80) of 5,000 (5,000-5,000)"), "{texts:?}");
        let json = results.json();
        assert_eq!(json[case.text()]["RabbitMQ"]["messages_per_second"]["median"], 1_000.0);
    }
}

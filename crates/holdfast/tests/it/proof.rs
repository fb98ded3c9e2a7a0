//! Two sizes of each test, and where the figures of the large one go: a line `EVIDENCE {json}` on standard output, and the
//! folder of `HOLDFAST_RESULTS`, from which `cargo xtask prove` fills `docs/benchmarks.md`.

use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::{Map, Value, json};

/// Full counts and times, and the targets are asserted.
pub(crate) fn proving() -> bool {
    std::env::var_os("HOLDFAST_PROVE").is_some()
}

pub(crate) fn size<T>(short: T, full: T) -> T {
    if proving() { full } else { short }
}

/// Figures of one test: what was measured, what is wanted, what was found.
pub(crate) struct Evidence {
    section: &'static str,
    name: &'static str,
    rows: Vec<[String; 3]>,
    conditions: Map<String, Value>,
}

impl Evidence {
    pub(crate) fn new(section: &'static str, name: &'static str) -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let mut evidence = Evidence { section, name, rows: Vec::new(), conditions: Map::new() };
        evidence.condition("load_average_before", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
        evidence.condition("cores", std::thread::available_parallelism().map_or(1, usize::from));
        evidence
    }

    pub(crate) fn condition(&mut self, name: &str, value: impl Into<Value>) {
        self.conditions.insert(name.into(), value.into());
    }

    pub(crate) fn figure(&mut self, what: &str, wanted: impl ToString, measured: impl ToString) {
        self.rows.push([what.into(), wanted.to_string(), measured.to_string()]);
    }

    /// Before anything is asserted: a figure that misses its target is told all the same.
    pub(crate) fn tell(&self) {
        if !proving() {
            return;
        }
        let figures: Map<String, Value> = self.rows.iter().map(|[w, _, m]| (w.clone(), m.clone().into())).collect();
        let (executable, name) = (env!("CARGO_CRATE_NAME"), self.name);
        let command = format!("HOLDFAST_PROVE=1 cargo test -p holdfast --test {executable} {name} -- --nocapture");
        let line = json!({ "name": self.name, "figures": figures, "conditions": self.conditions, "command": command });
        println!("EVIDENCE {line}");
        self.keep();
    }

    /// Several tests may fill one section.
    fn keep(&self) {
        static ONE: Mutex<()> = Mutex::new(());
        let Some(folder) = std::env::var_os("HOLDFAST_RESULTS").map(PathBuf::from) else { return };
        let _one = ONE.lock();
        std::fs::create_dir_all(&folder).expect("the folder of results can be made");
        let file = folder.join(format!("{}.json", self.section));
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let mut value = serde_json::from_str(&text).unwrap_or_else(|_| json!({ "section": self.section, "rows": [] }));
        if let Some(rows) = value["rows"].as_array_mut() {
            rows.extend(self.rows.iter().map(|row| json!(row)));
        }
        std::fs::write(&file, value.to_string()).expect("the folder of results is writable");
    }
}

//! Figures on their way into `docs/benchmarks.md`. A test that measures writes one JSON file into the
//! folder `HOLDFAST_RESULTS`; `prove` puts each into its section between two markers.
//!
//! ```json
//! { "section": "kill-one-of-two", "rows": [["failed GETs", "0", "0"]] }
//! ```
//!
//! A row is: what was measured, what is wanted, what was found.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub(crate) const FOLDER: &str = "HOLDFAST_RESULTS";

const PAGE: &str = "docs/benchmarks.md";

/// Writes every result of the folder into the page; a result without a section there is an error.
pub(crate) fn publish(root: &Path, folder: &Path, stamp: &str) -> Result<usize> {
    let page = root.join(PAGE);
    let mut text = fs::read_to_string(&page).with_context(|| format!("cannot read {PAGE}"))?;
    let mut files: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    for file in &files {
        let shown = file.display();
        let json = fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
        let value: Value = serde_json::from_str(&json).with_context(|| format!("{shown} is not JSON"))?;
        let (section, table) = render(&value).with_context(|| format!("{shown} is no result"))?;
        text = replace(&text, &section, &format!("{table}\n{stamp}\n"))?;
    }
    fs::write(&page, text).with_context(|| format!("cannot write {PAGE}"))?;
    Ok(files.len())
}

fn render(value: &Value) -> Option<(String, String)> {
    if value["bench"] == "balancer" {
        return Some(("balancer".into(), balancer(value)?));
    }
    let section = value["section"].as_str()?.to_owned();
    let mut table = String::from("| figure | wanted | measured |\n|---|---|---|\n");
    for row in value["rows"].as_array()? {
        let cells: Option<Vec<&str>> = row.as_array()?.iter().map(Value::as_str).collect();
        table += &format!("| {} |\n", cells?.join(" | "));
    }
    Some((section, table))
}

fn balancer(value: &Value) -> Option<String> {
    let mut table = String::from("| program | CPU us per request | requests/s | p99 us |\n|---|---|---|---|\n");
    let measures = [("cpu_us_per_request", 2), ("requests_per_second", 0), ("p99_us", 0)];
    let cells = |row: &Value, digits_added: usize| -> Option<String> {
        let mut out = Vec::new();
        for (measure, digits) in measures {
            let spread = &row[measure];
            let (min, median, max) = (spread["min"].as_f64()?, spread["median"].as_f64()?, spread["max"].as_f64()?);
            let digits = digits.max(digits_added);
            out.push(format!("{median:.digits$} ({min:.digits$}-{max:.digits$})"));
        }
        Some(out.join(" | "))
    };
    for (name, row) in value["programs"].as_object()? {
        table += &format!("| {name} | {} |\n", cells(row, 0)?);
    }
    for (name, row) in value["ratios_to"].as_object()? {
        table += &format!("| holdfast / {name} | {} |\n", cells(row, 2)?);
    }
    let conditions = value["conditions"].as_object()?;
    let said: Vec<String> = conditions
        .iter()
        .map(|(name, value)| match value.as_object() {
            Some(inner) => inner.values().filter_map(Value::as_str).collect::<Vec<_>>().join("; "),
            None => format!("{name} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        })
        .collect();
    table += &format!(
        "\nMedian (least-greatest) of {} rounds of {} s. {}.\n",
        value["rounds"],
        value["seconds"],
        said.join(", ")
    );
    Some(table)
}

fn replace(page: &str, section: &str, content: &str) -> Result<String> {
    let (open, close) = (format!("<!-- {section} -->\n"), format!("<!-- /{section} -->"));
    let Some(begin) = page.find(&open).map(|at| at + open.len()) else {
        bail!("{PAGE} has no line `{}`", open.trim());
    };
    let Some(end) = page[begin..].find(&close).map(|at| begin + at) else {
        bail!("{PAGE} has no line `{close}`");
    };
    Ok(format!("{}{content}{}", &page[..begin], &page[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_result_replaces_its_section_and_nothing_else() {
        let page = "# B\n<!-- a -->\nold\n<!-- /a -->\nkeep\n<!-- b -->\n<!-- /b -->\n";
        let (section, table) = render(&json!({"section": "a", "rows": [["failed", "0", "0"]]})).expect("a result");
        let text = replace(page, &section, &table).expect("the section is there");
        assert!(!text.contains("old") && text.contains("| failed | 0 | 0 |") && text.contains("keep\n<!-- b -->"));
        assert_eq!(replace(&text, &section, &table).expect("again"), text);
        assert!(replace(page, "c", "x").is_err());
        assert!(render(&json!({"rows": []})).is_none());
    }

    #[test]
    fn the_balancer_has_a_table_of_its_own() {
        let spread = json!({"min": 0.9, "median": 1.0, "max": 1.1});
        let row = json!({"cpu_us_per_request": spread, "requests_per_second": spread, "p99_us": spread});
        let value = json!({"bench": "balancer", "rounds": 5, "seconds": 10, "programs": {"holdfast": row}, "ratios_to": {"nginx": row},
            "conditions": {"kernel": "6.1", "versions": {"wrk": "wrk 4.1"}}});
        let (_, table) = render(&value).expect("a result");
        assert!(table.contains("| holdfast / nginx | 1.00 (0.90-1.10) | 1.00"), "{table}");
        assert!(table.contains("kernel 6.1") && table.contains("wrk 4.1"), "{table}");
    }
}

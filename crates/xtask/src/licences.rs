//! Licences, sources and banned crates of everything that is linked, by the rules of `deny.toml`. cargo-deny checks the
//! same and more (advisories), but takes many minutes to build; this runs in every lane.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lanes;

struct Rules {
    allowed: Vec<String>,
    banned: Vec<String>,
}

pub(crate) fn check(root: &Path) -> Result<()> {
    let text = fs::read_to_string(root.join("deny.toml")).context("cannot read deny.toml")?;
    let rules = Rules::parse(&text);
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"];
    let out = lanes::cargo(root, &arguments).output().context("cannot run cargo metadata")?;
    if !out.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&out.stderr));
    }
    let metadata: Value = serde_json::from_slice(&out.stdout).context("cargo metadata is not JSON")?;
    let used = resolved(&metadata);
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut faults = Vec::new();
    let mut looked_at = 0;
    for package in packages.iter().filter(|p| used.contains(&p["id"].as_str().unwrap_or_default())) {
        faults.extend(rules.faults(package));
        looked_at += 1;
    }
    for fault in &faults {
        println!("{fault}");
    }
    if looked_at < 2 || !faults.is_empty() {
        bail!("{} of {looked_at} packages break a rule of deny.toml", faults.len());
    }
    println!("{looked_at} packages: licences, sources and bans are as deny.toml wants them");
    Ok(())
}

/// Ids of what is built for the platform; `packages` lists optional dependencies too.
fn resolved(metadata: &Value) -> Vec<&str> {
    let nodes = metadata["resolve"]["nodes"].as_array();
    nodes.into_iter().flatten().filter_map(|node| node["id"].as_str()).collect()
}

impl Rules {
    /// The two lists of deny.toml that matter here; its other keys are for cargo-deny.
    fn parse(text: &str) -> Rules {
        let strings = |text: &str| -> Vec<String> { text.split('"').skip(1).step_by(2).map(str::to_owned).collect() };
        let allow =
            text.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']')).map_or("", |(list, _)| list);
        let deny =
            text.split_once("deny = [").and_then(|(_, rest)| rest.split_once("\n]")).map_or("", |(list, _)| list);
        let banned = deny.split("name = ").skip(1).filter_map(|entry| strings(entry).into_iter().next()).collect();
        Rules { allowed: strings(allow), banned }
    }

    fn faults(&self, package: &Value) -> Vec<String> {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let named = format!("{} {}", text("name"), text("version"));
        let mut faults = Vec::new();
        let source = package["source"].as_str();
        if source.is_some_and(|s| s != "registry+https://github.com/rust-lang/crates.io-index") {
            faults.push(format!("{named} comes from {}", text("source")));
        }
        if self.banned.iter().any(|name| name == text("name")) {
            faults.push(format!("{named} is banned"));
        }
        if !self.allows(text("license")) {
            faults.push(format!("{named} has the licence `{}`", text("license")));
        }
        faults
    }

    /// SPDX: OR binds weaker than AND; `/` is an old way to write OR.
    fn allows(&self, expression: &str) -> bool {
        let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut parser = Parser { rules: self, words: &words, at: 0 };
        let allowed = parser.any();
        allowed && parser.at == words.len()
    }
}

struct Parser<'a> {
    rules: &'a Rules,
    words: &'a [&'a str],
    at: usize,
}

impl Parser<'_> {
    fn any(&mut self) -> bool {
        let mut result = self.all();
        while self.take("OR") {
            result |= self.all();
        }
        result
    }

    fn all(&mut self) -> bool {
        let mut result = self.one();
        while self.take("AND") {
            result &= self.one();
        }
        result
    }

    fn one(&mut self) -> bool {
        if self.take("(") {
            let inner = self.any();
            return self.take(")") && inner;
        }
        let Some(name) = self.words.get(self.at).copied() else { return false };
        self.at += 1;
        let mut licence = name.to_owned();
        if self.take("WITH") {
            licence = format!("{licence} WITH {}", self.words.get(self.at).copied().unwrap_or_default());
            self.at += 1;
        }
        self.rules.allowed.contains(&licence)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules() -> Rules {
        Rules::parse(
            "[licenses]\nallow = [\"MIT\", \"Apache-2.0\", \"Apache-2.0 WITH LLVM-exception\"]\n[bans]\ndeny = [\n    { name = \"openssl\", reason = \"x\" },\n]\n",
        )
    }

    #[test]
    fn expressions() {
        let rules = rules();
        for good in
            ["MIT", "MIT OR GPL-3.0", "MIT/GPL-3.0", "(MIT OR X) AND Apache-2.0", "Apache-2.0 WITH LLVM-exception OR X"]
        {
            assert!(rules.allows(good), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR X) AND Y", "X WITH LLVM-exception", "(MIT", "MIT MIT"] {
            assert!(!rules.allows(bad), "{bad}");
        }
    }

    #[test]
    fn bans_and_sources() {
        let package =
            |name: &str, source: &str| json!({"name": name, "version": "1", "license": "MIT", "source": source});
        let registry = "registry+https://github.com/rust-lang/crates.io-index";
        assert_eq!(rules().faults(&package("serde", registry)), Vec::<String>::new());
        assert_eq!(rules().faults(&package("openssl", registry)), ["openssl 1 is banned"]);
        assert_eq!(rules().faults(&package("serde", "git+https://x")), ["serde 1 comes from git+https://x"]);
    }
}

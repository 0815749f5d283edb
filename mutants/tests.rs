//! Tests that have to fail with a fault, and the model of the protocol with its rules dropped.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Instant;

use entrepot::mutants::{Catcher, VARIABLE};

use super::table::Row;

/// The look at each rule of the model (`tests/model`).
const MODEL_TEST: &str = "worlds::without_any_single_rule_a_property_breaks";

/// Test binaries by the name of their target.
pub(crate) struct Binaries(BTreeMap<String, String>);

fn target(catcher: Catcher) -> Option<(&'static str, &'static str)> {
    match catcher {
        Catcher::Simulator => None,
        Catcher::Unit(test) => Some(("entrepot", test)),
        Catcher::Servers(test) => Some(("it", test)),
    }
}

/// Builds what these need, in the profile of all tests.
pub(crate) fn build<'a>(catchers: impl Iterator<Item = &'a Catcher>) -> Result<Binaries, String> {
    let mut targets: Vec<&str> = catchers.filter_map(|it| Some(target(*it)?.0)).collect();
    targets.sort_unstable();
    targets.dedup();
    let mut binaries = BTreeMap::new();
    for name in targets {
        let which = if name == "it" { vec!["--test", "it"] } else { vec!["--lib"] };
        let cargo = Command::new("cargo")
            .args(["test", "--locked", "--features", "mutants", "--no-run"])
            .args(["--message-format", "json-render-diagnostics"])
            .args(which)
            .stderr(std::process::Stdio::inherit())
            .output()
            .map_err(|error| format!("cargo can't be run: {error}"))?;
        let said = String::from_utf8_lossy(&cargo.stdout);
        let artifacts = said.lines().filter_map(|line| serde_json::from_str(line).ok());
        let mut executable = artifacts.filter_map(|artifact: serde_json::Value| {
            let is_ours = artifact["target"]["name"] == name && artifact["profile"]["test"] == true;
            is_ours.then(|| artifact["executable"].as_str().map(str::to_owned)).flatten()
        });
        let executable =
            executable.next_back().ok_or(format!("the tests of `{name}` don't build"))?;
        binaries.insert(name.to_owned(), executable);
    }
    Ok(Binaries(binaries))
}

impl Binaries {
    /// Does this test fail, with a fault or without? One that doesn't exist is an error.
    pub(crate) fn fails(
        &self,
        catcher: Catcher,
        test: &str,
        fault: Option<&str>,
    ) -> Result<bool, String> {
        let (name, _) = target(catcher).ok_or("no test")?;
        let binary = self.0.get(name).ok_or("it was not built")?;
        let output = Command::new(binary)
            .args(["--exact", test])
            .env_remove(VARIABLE)
            .envs(fault.map(|name| (VARIABLE, name)))
            .output()
            .map_err(|error| format!("{binary} can't be run: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("running 0 tests") {
            return Err(format!("there is no test `{test}`; the list is in src/mutants.rs"));
        }
        Ok(!output.status.success())
    }
}

/// What fails anyway proves nothing.
pub(crate) fn pass_without_a_fault<'a>(
    binaries: &Binaries,
    catchers: impl Iterator<Item = &'a Catcher>,
) -> Result<(), String> {
    let mut tests: Vec<_> = catchers.filter_map(|it| Some((*it, target(*it)?.1))).collect();
    tests.sort_by_key(|(_, test)| *test);
    tests.dedup_by_key(|(_, test)| *test);
    for (catcher, test) in tests {
        if binaries.fails(catcher, test, None)? {
            return Err(format!("`{test}` fails without any fault"));
        }
    }
    Ok(())
}

/// Drops each rule of the protocol's model: a property must break. Those that break are in what the test
/// prints, with the number of steps it takes.
pub(crate) fn rules_of_the_model() -> Result<Vec<Row>, String> {
    const MODEL: [&str; 6] = ["test", "--locked", "--quiet", "--release", "--test", "model"];
    let built = Command::new("cargo").args(MODEL).arg("--no-run").status();
    if !built.is_ok_and(|status| status.success()) {
        return Err("the model does not build".to_owned());
    }
    let began = Instant::now();
    let cargo = Command::new("cargo")
        .args(MODEL)
        .args([MODEL_TEST, "--", "--exact", "--nocapture"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo can't be run: {error}"))?;
    let said = String::from_utf8_lossy(&cargo.stdout);
    let rule = |line: &str| {
        let rest = line.strip_prefix("without ")?;
        let (rule, found) = rest.split_once(": ")?;
        let looked_at =
            found.ends_with("steps deep, not all") || found.ends_with("steps deep, all");
        (!looked_at).then(|| (rule.to_owned(), found.to_owned()))
    };
    let names = |line: &str| Some(line.strip_prefix("without ")?.split_once(": ")?.0.to_owned());
    let all: std::collections::BTreeSet<String> = said.lines().filter_map(names).collect();
    let broken: BTreeMap<String, String> = said.lines().filter_map(rule).collect();
    if all.is_empty() {
        return Err("the model was not looked at".to_owned());
    }
    let took = began.elapsed() / u32::try_from(all.len()).unwrap_or(u32::MAX);
    let row = |name: String| {
        let by = broken.get(&name).map(|found| format!("model: {found}"));
        Row { name: format!("model: without {name}"), by, took }
    };
    Ok(all.into_iter().map(row).collect())
}

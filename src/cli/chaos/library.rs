//! Where scenarios are: `chaos/scenarios` of the current directory, and copies in the program, so that whoever
//! has only the program can run them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};

use super::scenario::Scenario;

/// Looked at first, so that a scenario can be tried out without building the program.
const FOLDER: &str = "chaos/scenarios";

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../chaos/scenarios/", $name, ".toml")))),*]
    };
}

/// All of `chaos/scenarios`.
const BUILT_IN: &[(&str, &str)] = built_in![
    "clock-ahead",
    "demand-moves-on",
    "destroyed-fenced-zombie",
    "everything",
    "flapping-link",
    "flash-sale",
    "flash-sale-one-region",
    "flash-sale-wan",
    "halves",
    "idle-stock-lost",
    "impatient-shoppers",
    "nats-killed",
    "nats-tail-lost",
    "nats-wiped",
    "one-way-cut",
    "payment-provider",
    "postgres-disk-full",
    "postgres-frozen",
    "postgres-killed",
    "region-evacuated",
    "region-frozen",
    "region-killed",
    "third-of-stock-lost",
    "wan-latencies",
];

/// Finds a scenario by its name, or by the path of a file.
pub(super) fn find(name: &str) -> anyhow::Result<Scenario> {
    if Path::new(name).extension().is_some_and(|kind| kind == "toml") {
        let text = std::fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?;
        return Ok(Scenario::parse(name, &text)?);
    }
    let texts = texts(Path::new(FOLDER))?;
    let Some(text) = texts.get(name) else {
        bail!("there is no scenario `{name}`; `entrepot chaos run --list` shows which there are")
    };
    Ok(Scenario::parse(name, text)?)
}

/// Every scenario with its title.
pub(super) fn list() -> anyhow::Result<Vec<(String, String)>> {
    let texts = texts(Path::new(FOLDER))?;
    let titled = texts.into_iter().map(|(name, text)| {
        let title = Scenario::parse(&name, &text)?.title;
        anyhow::Ok((name, title))
    });
    titled.collect()
}

/// The built-in ones, and those of the folder in their place or beside them.
fn texts(folder: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let built_in = BUILT_IN.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let mut texts: BTreeMap<String, String> = built_in.collect();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str());
        if let Some(name) = name.filter(|_| path.extension().is_some_and(|kind| kind == "toml")) {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            drop(texts.insert(name.to_owned(), text));
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_repository_is_well_formed_and_in_the_program() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
        let texts = texts(&folder).unwrap();
        assert!(!texts.is_empty());
        for (name, text) in &texts {
            Scenario::parse(name, text).unwrap_or_else(|error| panic!("{error}"));
            let built_in = BUILT_IN.iter().find(|(known, _)| known == name);
            assert!(built_in.is_some(), "{name} must be named in BUILT_IN");
        }
    }

    #[test]
    fn an_unknown_name_is_told_how_to_find_one() {
        let error = find("volcano").unwrap_err().to_string();
        assert!(error.contains("--list"), "{error}");
    }
}

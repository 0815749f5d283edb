//! Runbooks say what is true of the program: their commands exist, and what exercises them does.

use std::path::Path;

use clap::Parser as _;

use super::Cli;

/// What each has, in this order. Beside it there may be more.
const SECTIONS: [&str; 3] = ["\n## When\n", "\n## The way back\n", "\n## Exercised by\n"];

fn runbooks() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = |file: std::path::PathBuf| {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(file).unwrap())
    };
    files.map(read).collect()
}

/// Command lines between backticks or in `$(…)`, without what the shell does with them.
fn commands(text: &str) -> Vec<Vec<&str>> {
    let begins = |(at, _): &(usize, &str)| text[..*at].ends_with(['`', '(', '\n']);
    let found = text.match_indices("entrepot ").filter(begins);
    let command = |(at, _): (usize, _)| {
        let line = &text[at..];
        let end = line.find(['`', ')', '|', '\\', '\n']).unwrap_or(line.len());
        line[..end].split_whitespace().collect()
    };
    found.map(command).collect()
}

#[test]
fn the_commands_of_runbooks_are_those_of_the_program() {
    let mut seen = 0;
    for (name, text) in runbooks() {
        for command in commands(&text) {
            let parsed = Cli::try_parse_from(&command);
            assert!(parsed.is_ok(), "{name}: {command:?}: {}", parsed.unwrap_err());
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn a_command_that_there_is_not_would_be_found() {
    let found =
        commands("`entrepot fly` and $(entrepot token --role admin) or `entrepot reconcile | jq`");
    assert_eq!(
        found,
        [
            vec!["entrepot", "fly"],
            vec!["entrepot", "token", "--role", "admin"],
            vec!["entrepot", "reconcile"]
        ]
    );
    assert!(Cli::try_parse_from(&found[0]).is_err() && Cli::try_parse_from(&found[1]).is_ok());
}

#[test]
fn every_runbook_says_when_how_back_and_what_exercises_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, text) in runbooks() {
        let mut rest = text.as_str();
        for section in SECTIONS {
            let (_, behind) = rest
                .split_once(section)
                .unwrap_or_else(|| panic!("{name} has no {:?} in its place", section.trim()));
            rest = behind;
        }
        let named = rest.split('`').skip(1).step_by(2);
        let tests = named.filter(|name| name.starts_with("tests/")).map(|test| root.join(test));
        let scenarios = rest.split("entrepot chaos run ").skip(1).filter_map(|behind| {
            let scenario = behind.split(['`', ' ']).next()?;
            (!scenario.is_empty()).then(|| root.join(format!("chaos/scenarios/{scenario}.toml")))
        });
        let files: Vec<_> = tests.chain(scenarios).collect();
        assert!(!files.is_empty(), "{name} names no test and no scenario");
        for file in files {
            assert!(file.exists(), "{name}: there is no {}", file.display());
        }
    }
}

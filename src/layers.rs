//! Who may use whom, as a test: the table of `docs/ARCHITECTURE.md`.
//!
//! A module that isn't in the table, or names one that it may not use, fails with the file and line.
//! Only paths that begin with `crate::` are looked at; nothing else leads out of a module.

use std::fs;
use std::path::{Path, PathBuf};

/// What each module may use besides itself. `boot` puts the parts together and `cli` drives them: they
/// may use everything, and nothing but `cli` may use `boot`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("mutants", &["types"]),
    ("types", &[]),
    ("escrow", &["types"]),
    ("domain", &["types", "escrow"]),
    ("saga", &["types", "escrow", "domain"]),
    ("replication", &["types", "escrow", "domain"]),
    ("reconcile", &["types", "escrow", "domain", "saga", "replication"]),
    ("ports", &["types", "escrow", "domain", "saga", "replication", "reconcile"]),
    ("runtime", &["types", "escrow", "replication", "ports"]),
    ("telemetry", &["types", "replication", "reconcile"]),
    ("config", &["types", "runtime"]),
    (
        "app",
        &[
            "types",
            "escrow",
            "domain",
            "saga",
            "replication",
            "reconcile",
            "ports",
            "runtime",
            "telemetry",
        ],
    ),
    (
        "store",
        &[
            "types",
            "escrow",
            "domain",
            "saga",
            "replication",
            "reconcile",
            "ports",
            "runtime",
            "config",
            "telemetry",
        ],
    ),
    ("bus", &["types", "replication", "ports", "runtime", "config", "telemetry"]),
    ("gateways", &["types", "ports", "reconcile", "runtime", "config", "telemetry"]),
    (
        "workers",
        &[
            "types",
            "escrow",
            "domain",
            "saga",
            "replication",
            "reconcile",
            "ports",
            "app",
            "runtime",
            "telemetry",
        ],
    ),
    (
        "http",
        &[
            "types",
            "escrow",
            "domain",
            "saga",
            "replication",
            "reconcile",
            "ports",
            "app",
            "runtime",
            "config",
            "telemetry",
        ],
    ),
    (
        "sim",
        &[
            "types",
            "escrow",
            "domain",
            "saga",
            "replication",
            "reconcile",
            "ports",
            "runtime",
            "app",
            "store",
            "gateways",
            "workers",
        ],
    ),
];

/// Single paths beyond the table: user and path. Signatures of webhooks are pure functions that a
/// provider's adapter signs with and the public door checks with; tests of handlers run on the database
/// in memory.
const EXCEPTIONS: &[(&str, &str)] =
    &[("http", "crate::gateways::webhook"), ("http", "crate::sim::memory")];

/// May be used by everybody, also by the pure parts: it is `false` for them in every build but that of
/// the faults.
const EVERYWHERE: &str = "mutants";

/// May use everything that stands in the table.
const UNBOUND: &[&str] = &["boot", "cli"];

/// May only be used by [`UNBOUND`] modules.
const TOP: &[&str] = &["boot", "cli"];

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The top-level modules that a line of code names behind `crate::`.
fn named(line: &str) -> Vec<&str> {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices("crate::")
        .map(|(at, path)| {
            let rest = &code[at + path.len()..];
            rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap_or_default()
        })
        .collect()
}

#[test]
fn every_module_uses_only_what_its_layer_may() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let place = file.strip_prefix(&source).unwrap();
        let first = place.iter().next().unwrap().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if ["main", "lib", "layers"].contains(&module) {
            continue;
        }
        let allowed = MAY_USE.iter().find(|(name, _)| *name == module).map(|(_, may)| *may);
        if allowed.is_none() && !UNBOUND.contains(&module) {
            wrong.push(format!("src/{}: `{module}` is not in the table", place.display()));
        }
        for (line, number) in fs::read_to_string(&file).unwrap().lines().zip(1..) {
            for used in named(line) {
                let excepted = EXCEPTIONS.iter().any(|(user, path)| {
                    *user == module && path.split("::").nth(1) == Some(used) && line.contains(path)
                });
                let legal = used == module
                    || used == EVERYWHERE
                    || excepted
                    || match allowed {
                        Some(allowed) => allowed.contains(&used),
                        None => !(used.is_empty() || TOP.contains(&used) && module == "boot"),
                    };
                if !legal {
                    wrong.push(format!(
                        "src/{}:{number}: `{module}` uses `{used}`",
                        place.display()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "who may use whom is in src/layers.rs:\n{}", wrong.join("\n"));
}

#[test]
fn paths_are_found_in_code_and_not_in_comments() {
    assert_eq!(named("use crate::types::Sku; let x = crate::store::y();"), ["types", "store"]);
    assert_eq!(named("use crate::{types, store};"), [""], "grouped at the root: not legal here");
    assert!(named("/// see [`crate::store`]").is_empty());
}

//! `make mutants`: makes every deliberate fault (`entrepot::mutants`) and shows what noticed it.
//!
//! Each fault gets a process of its own, so that one that hangs or ends it harms no other. First everything
//! is looked at without a fault: what is red anyway proves nothing.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is the result")]
#![expect(
    clippy::disallowed_methods,
    reason = "a tool of the developers, not a part of the program"
)]

mod play;
mod table;
mod tests;

use std::process::ExitCode;
use std::time::Instant;

use entrepot::mutants::{Catcher, FAULTS, Fault};

use table::{Row, Table};

/// How many worlds a fault may survive.
const SEEDS: u64 = 2_000;
/// How many worlds must be good without any fault.
const SEEDS_WITHOUT: u64 = 200;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, seeds] = arguments.as_slice()
        && command == play::COMMAND
    {
        return play::worlds(seeds.parse().expect("told by the process that started this one"));
    }
    match look_at(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(1)
        }
    }
}

/// Looks at the faults of these names, or at all of them and the rules of the model. Were all caught?
fn look_at(names: &[String]) -> Result<bool, String> {
    if let Some(unknown) = names.iter().find(|name| FAULTS.iter().all(|fault| fault.name != **name))
    {
        return Err(format!("there is no fault `{unknown}`; they are in src/mutants.rs"));
    }
    let chosen = |fault: &&Fault| names.is_empty() || names.iter().any(|name| name == fault.name);
    let faults: Vec<&Fault> = FAULTS.iter().filter(chosen).collect();
    let catchers = || faults.iter().flat_map(|fault| fault.caught_by);
    let binaries = tests::build(catchers())?;
    let mut table = Table::begin();
    if let Some(found) = play::in_process(None, SEEDS_WITHOUT)?.found {
        return Err(format!("a rule breaks without any fault: {found}"));
    }
    tests::pass_without_a_fault(&binaries, catchers())?;
    for fault in &faults {
        for catcher in fault.caught_by {
            table.add(one(fault, *catcher, &binaries)?);
        }
    }
    if names.is_empty() {
        for row in tests::rules_of_the_model()? {
            table.add(row);
        }
    }
    Ok(table.end())
}

fn one(fault: &Fault, catcher: Catcher, binaries: &tests::Binaries) -> Result<Row, String> {
    let began = Instant::now();
    let by = match catcher {
        Catcher::Simulator => {
            let played = play::in_process(Some(fault.name), SEEDS)?;
            played.found.map(|found| format!("seed {}: {found}", played.seeds))
        }
        Catcher::Unit(test) | Catcher::Servers(test) => {
            let failed = binaries.fails(catcher, test, Some(fault.name))?;
            failed.then(|| test.to_owned())
        }
    };
    Ok(Row { name: fault.name.to_owned(), by, took: began.elapsed() })
}

//! The simulator itself: it repeats itself, plans survive a file, and shrinking keeps what matters.

mod ended;
mod gone;
mod joining;
mod returned;

use super::checks::Violation;
use super::plan::{Action, Entry, Plan, Size};
use super::{run, shrink};

const SMALL: Size = Size { regions: 3, orders: 20, witness: false };

#[test]
fn a_seed_repeats_itself_to_the_byte() {
    for seed in 0..5 {
        let plan = Plan::draw(seed, SMALL);
        let (first, second) = (run(&plan, true), run(&plan, true));
        assert_eq!(first.violation, None, "seed {seed}");
        assert!(first.trace.len() > 100);
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.hash, second.hash);
    }
    let others = [run(&Plan::draw(0, SMALL), false).hash, run(&Plan::draw(1, SMALL), false).hash];
    assert_ne!(others[0], others[1]);
}

#[test]
fn a_plan_is_read_as_it_was_written_and_checked() {
    let plan = Plan::draw(7, SMALL);
    let text = serde_json::to_string(&plan).unwrap();
    let read: Plan = serde_json::from_str(&text).unwrap();
    assert_eq!(read, plan);
    assert_eq!(plan.check(), Ok(()));
    let with = |entry| Plan { entries: vec![entry], ..plan.clone() };
    let far = with(Entry { at_ms: 1, action: Action::Crash { region: 9, down_ms: 1 } });
    assert!(far.check().is_err());
    assert!(Plan { regions: 0, ..plan.clone() }.check().is_err());
    let unsorted = Plan { entries: plan.entries.iter().rev().cloned().collect(), ..plan };
    assert!(unsorted.check().is_err());
}

#[test]
fn shrinking_leaves_what_is_needed_to_fail() {
    let plan = Plan::draw(3, Size { orders: 100, ..SMALL });
    let needed = [plan.entries[17].clone(), plan.entries[61].clone()];
    let violation = Violation { invariant: None, what: "both".to_owned() };
    let play = |plan: &Plan| {
        needed.iter().all(|entry| plan.entries.contains(entry)).then(|| violation.clone())
    };
    let (small, found) = shrink(&plan, &violation, play);
    assert_eq!(small.entries, needed);
    assert_eq!(small.knobs, super::plan::Knobs::default());
    assert_eq!(found, violation);
}

/// Which branch of several that are ready goes first is thrown by a die of the runtime's own otherwise, which no seed knows.
#[test]
fn every_choice_between_futures_is_in_order() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let simulated = ["app", "bus", "replication", "runtime", "saga", "sim", "workers"];
    let mut folders: Vec<_> = simulated.map(|folder| source.join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for choice in text.split(concat!("select", "! {")).skip(1) {
                let mut lines = choice.lines().map(str::trim);
                let first = lines.find(|line| !line.is_empty() && !line.starts_with("//"));
                assert_eq!(first, Some("biased;"), "{}", path.display());
            }
        }
    }
}

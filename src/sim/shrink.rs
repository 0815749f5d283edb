//! Makes a failing plan smaller: what can be left out without the failure going away, is.

use super::checks::Violation;
use super::plan::{Entry, Knobs, Plan};

/// Runs that shrinking may take. At a tenth of a second each that is half a minute; what is left over is
/// only less readable.
const RUNS_MAX: usize = 300;

/// The smallest plan found that breaks the same rule, and what it broke. `play` answers what a plan
/// breaks.
pub fn shrink(
    plan: &Plan,
    violation: &Violation,
    play: impl Fn(&Plan) -> Option<Violation>,
) -> (Plan, Violation) {
    let mut best = (plan.clone(), violation.clone());
    let mut left = RUNS_MAX;
    let mut fails = |plan: Plan| {
        left = left.checked_sub(1)?;
        let found = play(&plan).filter(|found| found.invariant == violation.invariant)?;
        Some((plan, found))
    };
    if let Some(calm) = fails(Plan { knobs: Knobs::default(), ..plan.clone() }) {
        best = calm;
    }
    // Delta debugging (Zeller, 1999): large pieces first, then smaller ones.
    let mut size = best.0.entries.len().div_ceil(2);
    while size > 0 {
        let mut start = 0;
        while start < best.0.entries.len() {
            match fails(without(&best.0, start, size)) {
                Some(smaller) => best = smaller,
                None => start += size,
            }
        }
        size /= 2;
    }
    best
}

fn without(plan: &Plan, start: usize, size: usize) -> Plan {
    let left_out = start..start + size;
    let kept = plan.entries.iter().enumerate().filter(|(index, _)| !left_out.contains(index));
    let entries: Vec<Entry> = kept.map(|(_, entry)| entry.clone()).collect();
    Plan { entries, ..plan.clone() }
}

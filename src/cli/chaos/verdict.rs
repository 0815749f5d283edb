//! What a run came to: one line a check, with counter-examples for those that failed.

use std::fmt::Write as _;

use serde::Serialize;

/// Counter-examples that are shown of one check.
const EXAMPLES_MAX: usize = 5;

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Passed,
    Failed,
    /// It says nothing about this scenario, or nothing could be looked at. Never counts as passed.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Begins with when it must hold: `anytime_`, `eventually_`, `finally_`.
    pub(super) check: &'static str,
    pub(super) outcome: Outcome,
    /// What was looked at, with numbers.
    pub(super) detail: String,
    /// Orders, keys or regions for which it doesn't hold; the first few.
    pub(super) counter_examples: Vec<String>,
}

impl Finding {
    /// Holds when there is no counter-example.
    pub(super) fn of(
        check: &'static str,
        detail: impl Into<String>,
        mut counter_examples: Vec<String>,
    ) -> Self {
        let outcome = if counter_examples.is_empty() { Outcome::Passed } else { Outcome::Failed };
        let more = counter_examples.len().saturating_sub(EXAMPLES_MAX);
        counter_examples.truncate(EXAMPLES_MAX);
        if more > 0 {
            counter_examples.push(format!("… and {more} more"));
        }
        Self { check, outcome, detail: detail.into(), counter_examples }
    }

    /// Nothing can be said.
    pub(super) fn skipped(check: &'static str, why: impl Into<String>) -> Self {
        let outcome = Outcome::Skipped;
        Self { check, outcome, detail: why.into(), counter_examples: Vec::new() }
    }
}

/// Whether any check failed.
pub(super) fn any_failed(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.outcome == Outcome::Failed)
}

/// For people.
pub(super) fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let word = match finding.outcome {
            Outcome::Passed => "passed ",
            Outcome::Failed => "FAILED ",
            Outcome::Skipped => "skipped",
        };
        writeln!(text, "{word}  {:width$}  {}", finding.check, finding.detail)
            .expect("writing to memory");
        for example in &finding.counter_examples {
            writeln!(text, "         {example}").expect("writing to memory");
        }
    }
    let count = |outcome| findings.iter().filter(|finding| finding.outcome == outcome).count();
    let (failed, skipped) = (count(Outcome::Failed), count(Outcome::Skipped));
    write!(text, "{} checks passed, {failed} failed", count(Outcome::Passed))
        .expect("writing to memory");
    if skipped > 0 {
        write!(text, ", {skipped} skipped").expect("writing to memory");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_shown_with_its_first_counter_examples() {
        let lost: Vec<_> = (1..=7).map(|number| format!("order {number}")).collect();
        let findings = [
            Finding::of("anytime_x", "10 answers", Vec::new()),
            Finding::of("finally_everything_is_there", "7 orders", lost),
            Finding::skipped("finally_sale", "there was no sale"),
        ];
        assert!(any_failed(&findings) && !any_failed(&findings[..1]));
        expect_test::expect![[r"
            passed   anytime_x                    10 answers
            FAILED   finally_everything_is_there  7 orders
                     order 1
                     order 2
                     order 3
                     order 4
                     order 5
                     … and 2 more
            skipped  finally_sale                 there was no sale
            1 checks passed, 1 failed, 1 skipped"]]
        .assert_eq(&table(&findings));
    }
}

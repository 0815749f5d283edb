//! The table: one line for each fault and who has to notice it.

use std::time::Duration;

/// What came of one fault and one that had to notice it.
pub(crate) struct Row {
    /// The fault.
    pub(crate) name: String,
    /// Who noticed, and how; `None` when it survived.
    pub(crate) by: Option<String>,
    /// How long it took.
    pub(crate) took: Duration,
}

/// What was seen so far.
pub(crate) struct Table {
    caught: usize,
    survived: Vec<String>,
}

/// What is seen of a text that says what was found.
const FOUND_CHARS_MAX: usize = 100;

impl Table {
    /// Prints the head.
    pub(crate) fn begin() -> Self {
        println!("{:<39} {:>7}  noticed by", "fault", "s");
        Self { caught: 0, survived: Vec::new() }
    }

    /// Prints a line.
    pub(crate) fn add(&mut self, row: Row) {
        let Row { name, by, took } = row;
        let by = if let Some(by) = by {
            self.caught += 1;
            by.chars().take(FOUND_CHARS_MAX).collect()
        } else {
            self.survived.push(name.clone());
            "NOBODY".to_owned()
        };
        println!("{name:<39} {:>7.1}  {by}", took.as_secs_f32());
    }

    /// Prints the score. Were all caught?
    pub(crate) fn end(self) -> bool {
        let all = self.caught + self.survived.len();
        println!("score: {} of {all} noticed", self.caught);
        if !self.survived.is_empty() {
            println!("survived: {}", self.survived.join(", "));
        }
        self.survived.is_empty()
    }
}

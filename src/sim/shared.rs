//! What everything in one world shares: time, trace, checks and knobs.

use std::fmt::Arguments;
use std::sync::atomic::{AtomicBool, Ordering};

use super::checks::Checks;
use super::plan::Knobs;
use super::time::WorldTime;
use super::trace::Trace;

/// One for a world.
pub struct Shared {
    /// Virtual time.
    pub time: WorldTime,
    /// What happened.
    pub trace: Trace,
    /// The rules.
    pub checks: Checks,
    knobs: Knobs,
    healed: AtomicBool,
}

impl Shared {
    /// At the beginning of a world.
    pub fn new(time: WorldTime, trace: Trace, checks: Checks, knobs: Knobs) -> Self {
        Self { time, trace, checks, knobs, healed: AtomicBool::new(false) }
    }

    /// Adds a line to the trace.
    pub fn note(&self, place: &str, what: Arguments<'_>) {
        self.trace.note(self.time.now_ms(), place, what);
    }

    /// No more faults from now on.
    pub fn heal(&self) {
        self.healed.store(true, Ordering::Relaxed);
    }

    /// No fault strikes any more.
    pub fn is_healed(&self) -> bool {
        self.healed.load(Ordering::Relaxed)
    }

    /// How often something goes wrong by itself now.
    pub fn now_and_then(&self, knob: impl Fn(&Knobs) -> u64) -> u64 {
        if self.is_healed() { 0 } else { knob(&self.knobs) }
    }
}

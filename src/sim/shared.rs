//! What everything in one world shares: time, trace, checks and knobs.

use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

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
    traffic: Mutex<BTreeMap<&'static str, Traffic>>,
}

/// What was sent from one region to another, lost or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// How many messages.
    pub messages: u64,
    /// How large they are, without what NATS and TCP add.
    pub bytes: u64,
}

impl Shared {
    /// At the beginning of a world.
    pub fn new(time: WorldTime, trace: Trace, checks: Checks, knobs: Knobs) -> Self {
        Self {
            time,
            trace,
            checks,
            knobs,
            healed: AtomicBool::new(false),
            traffic: Mutex::default(),
        }
    }

    /// Adds a line to the trace.
    pub fn note(&self, place: &str, what: Arguments<'_>) {
        self.trace.note(self.time.now_ms(), place, what);
    }

    /// Counts a message between regions.
    pub fn sent(&self, kind: &'static str, bytes: usize) {
        let mut traffic = self.traffic.lock().expect("no panic while held");
        let sum = traffic.entry(kind).or_default();
        sum.messages += 1;
        sum.bytes += bytes as u64;
    }

    /// All messages so far, by what they are.
    pub fn traffic(&self) -> BTreeMap<&'static str, Traffic> {
        self.traffic.lock().expect("no panic while held").clone()
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

//! What happened, one line an event: virtual time, where, what.
//!
//! All lines are hashed as they come; they are kept only when somebody wants to read them. Two runs of
//! one seed must make the same lines, to the byte.

use std::fmt::Write as _;
use std::sync::Mutex;

use sha2::{Digest as _, Sha256};

/// The lines of one run.
#[derive(Debug)]
pub struct Trace(Mutex<State>);

#[derive(Debug)]
struct State {
    hash: Sha256,
    count: u64,
    kept: Option<Vec<String>>,
    line: String,
}

impl Trace {
    /// `keep`: lines can be read afterwards.
    pub fn new(keep: bool) -> Self {
        let kept = keep.then(Vec::new);
        Self(Mutex::new(State { hash: Sha256::new(), count: 0, kept, line: String::new() }))
    }

    /// Adds a line.
    pub fn note(&self, at_ms: u64, place: &str, what: std::fmt::Arguments<'_>) {
        let mut state = self.0.lock().expect("no panic while held");
        let state = &mut *state;
        state.line.clear();
        write!(state.line, "{at_ms:>8} {place:<8} {what}").expect("a string takes everything");
        state.hash.update(state.line.as_bytes());
        state.hash.update(b"\n");
        state.count += 1;
        if let Some(kept) = &mut state.kept {
            kept.push(state.line.clone());
        }
    }

    /// How many lines, their hash in hex, and the lines if they were kept.
    pub fn finish(&self) -> (u64, String, Vec<String>) {
        let mut state = self.0.lock().expect("no panic while held");
        let hash = hex::encode(&state.hash.clone().finalize()[..16]);
        (state.count, hash, state.kept.take().unwrap_or_default())
    }
}

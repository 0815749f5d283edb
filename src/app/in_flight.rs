//! Intents whose first request is under way in this process.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::domain::idempotency::IntentKey;

/// One entry an open request, so connections bound it.
#[derive(Debug, Default)]
pub struct InFlightIntents(Mutex<BTreeSet<IntentKey>>);

impl InFlightIntents {
    /// `None` when the same intent is under way already. It stays until the guard is dropped.
    pub fn enter(self: &Arc<Self>, intent: &IntentKey) -> Option<InFlightGuard> {
        let fresh = self.0.lock().expect("no panic while held").insert(intent.clone());
        fresh.then(|| InFlightGuard { intents: Arc::clone(self), intent: intent.clone() })
    }

    /// It is under way.
    pub fn holds(&self, intent: &IntentKey) -> bool {
        self.0.lock().expect("no panic while held").contains(intent)
    }
}

/// Holds an intent.
#[derive(Debug)]
pub struct InFlightGuard {
    intents: Arc<InFlightIntents>,
    intent: IntentKey,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.intents.0.lock().expect("no panic while held").remove(&self.intent);
    }
}

//! What a commit wakes: nudges for latency; the workers' timers are for safety.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::domain::inventory::{StockDelta, StockDeltas};
use crate::types::StockKey;

/// Woken by commits of this process.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// There are new rows in the outbox.
    pub outbox: Arc<Notify>,
    /// Own rights rows changed.
    pub rows: Arc<DirtyRows>,
}

/// Own rights rows that changed since they were last shipped, with what was sold meanwhile. A key is
/// there once however often it changes, so the size is bounded by the keys that sell. Lost with the
/// process: the digests find what was not shipped.
#[derive(Debug, Default)]
pub struct DirtyRows {
    changed: Mutex<BTreeMap<StockKey, StockDelta>>,
    woken: Notify,
}

impl DirtyRows {
    /// Marks the keys of a commit.
    pub fn mark(&self, deltas: &StockDeltas) {
        if deltas.is_empty() {
            return;
        }
        let mut changed = self.changed.lock().expect("no panic while held");
        for (key, delta) in deltas {
            changed.entry(key.clone()).or_default().add(*delta);
        }
        drop(changed);
        self.woken.notify_one();
    }

    /// Takes all that is marked.
    pub fn take(&self) -> BTreeMap<StockKey, StockDelta> {
        std::mem::take(&mut *self.changed.lock().expect("no panic while held"))
    }

    /// Waits until something is marked.
    pub async fn marked(&self) {
        self.woken.notified().await;
    }
}

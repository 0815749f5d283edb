//! Who waits for an order's saga to end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::domain::order::OrderRecord;
use crate::types::OrderId;

/// Waiters by order. One entry a waiting request, so connections bound it.
#[derive(Debug, Default)]
pub struct Completions {
    waiting: Mutex<BTreeMap<OrderId, Vec<oneshot::Sender<Arc<OrderRecord>>>>>,
}

impl Completions {
    /// Registers interest; must happen before the saga can end.
    pub fn wait_for(&self, order: OrderId) -> oneshot::Receiver<Arc<OrderRecord>> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().expect("no panic while held");
        waiting.entry(order).or_default().push(sender);
        receiver
    }

    /// Tells everybody who waits how the order ended up.
    pub fn complete(&self, record: &Arc<OrderRecord>) {
        let waiters = self.waiting.lock().expect("no panic while held").remove(&record.order.id);
        for waiter in waiters.into_iter().flatten() {
            // A client that stopped waiting asks for the order later.
            drop(waiter.send(Arc::clone(record)));
        }
    }

    /// Forgets waiters that gave up.
    pub fn give_up(&self, order: OrderId) {
        let mut waiting = self.waiting.lock().expect("no panic while held");
        if let Some(waiters) = waiting.get_mut(&order) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                waiting.remove(&order);
            }
        }
    }
}

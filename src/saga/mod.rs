//! Long transactions: log, next step, compensation. Pure.
//!
//! ```text
//!             commit 1                      provider                        commit 2
//! reserve ───────────────▶ authorize ∥ fraud check ──┬─ all held ─────────▶ confirm        (completed)
//! units held, saga stored                            ├─ nothing held ─────▶ cancel         (compensated)
//!                                                    ├─ something held ───▶ void ─▶ cancel (compensated)
//!                                                    └─ not known ────────▶ ask by key again
//! ```
//!
//! Compensation runs in reverse: first the money, then the units.

mod place_order;

pub use place_order::{
    AUTHORIZE_ATTEMPTS_MAX, CompensationReason, Ending, Finding, Findings, PENDING_PATIENCE_MS,
    Verdict, judge,
};

use serde::{Deserialize, Serialize};

use crate::domain::order::place::PaymentIntent;
use crate::domain::order::{Order, OrderStatus};
use crate::types::{OrderId, SagaId};

/// Where a saga stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SagaState {
    /// Goes forward.
    Running,
    /// Undoes what it did.
    Compensating,
    /// Ended forward.
    Completed,
    /// Ended with everything undone.
    Compensated,
}

impl SagaState {
    /// The word in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Compensating => "compensating",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
        }
    }

    /// There is nothing left to do.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Compensated)
    }
}

/// A step of a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Units are held.
    Reserve,
    /// The provider is asked to hold the money, beside the fraud check.
    Authorize,
    /// Compensation: what the provider holds is given back.
    Void,
    /// Compensation: units are given back and the order is cancelled.
    Cancel,
    /// The order is confirmed.
    Confirm,
}

impl Step {
    /// The word in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Authorize => "authorize",
            Self::Void => "void",
            Self::Cancel => "cancel",
            Self::Confirm => "confirm",
        }
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// What was done.
    pub step: Step,
    /// What came of it.
    pub result: String,
    /// Wall time.
    pub at_ms: u64,
}

/// The most entries a log keeps: an undecided provider is asked for minutes, and only the last answers matter.
pub const LOG_ENTRIES_MAX: usize = 32;

/// A saga as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SagaRecord {
    /// Its name.
    pub id: SagaId,
    /// Whose.
    pub order_id: OrderId,
    /// Where it stands.
    pub state: SagaState,
    /// The step under way, or the last one.
    pub step: Step,
    /// How often the step under way was tried.
    pub attempts: u32,
    /// What happened.
    pub log: Vec<LogEntry>,
    /// What is to be authorized.
    pub payments: Vec<PaymentIntent>,
    /// Why it compensates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CompensationReason>,
    /// Wall time.
    pub created_at_ms: u64,
    /// Wall time of the last change.
    pub updated_at_ms: u64,
    /// Until then it belongs to the worker that took it last.
    pub due_at_ms: u64,
    /// Raised with every change; guards against two workers.
    pub version: u64,
}

impl SagaRecord {
    /// The saga of an order whose own was lost with a database: where the order is decided, ended, so that it can be taken
    /// up again like any other. Whether money is held for an undecided one only the provider knows; what it was to be
    /// charged with is lost, so nothing new is asked of it.
    pub fn taken_up(order: &Order, now_ms: u64) -> Self {
        let (state, step) = match order.status() {
            OrderStatus::Pending => (SagaState::Running, Step::Authorize),
            OrderStatus::Cancelled => (SagaState::Compensated, Step::Cancel),
            OrderStatus::Confirmed => (SagaState::Completed, Step::Confirm),
        };
        let payments = order.payments.iter().map(|payment| PaymentIntent {
            payment_id: payment.id,
            provider_key: payment.provider_key.clone(),
            method: payment.method.clone(),
            token: String::new(),
            amount_minor: payment.amount_minor,
        });
        Self {
            id: SagaId(order.id.0),
            order_id: order.id,
            state,
            step,
            attempts: 1,
            log: vec![LogEntry {
                step: Step::Reserve,
                result: "taken up".to_owned(),
                at_ms: now_ms,
            }],
            payments: payments.collect(),
            reason: None,
            created_at_ms: order.created_at_ms,
            updated_at_ms: now_ms,
            due_at_ms: now_ms,
            version: 1,
        }
    }

    /// Notes what came of a step. Old entries give way beyond [`LOG_ENTRIES_MAX`], the first one stays.
    pub fn note(&mut self, step: Step, result: impl Into<String>, at_ms: u64) {
        if self.log.len() >= LOG_ENTRIES_MAX {
            self.log.remove(1);
        }
        self.log.push(LogEntry { step, result: result.into(), at_ms });
        self.updated_at_ms = at_ms;
    }
}

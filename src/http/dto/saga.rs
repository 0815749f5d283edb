//! Sagas in answers. Payment tokens stay inside.

use serde::Serialize;

use crate::saga::SagaRecord;

use super::rfc3339;

/// A saga: what was done for an order, what came of it, what is next.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Saga)]
pub(in crate::http) struct SagaOut<'a> {
    /// Its name.
    #[schema(value_type = uuid::Uuid)]
    id: crate::types::SagaId,
    /// Whose.
    #[schema(value_type = uuid::Uuid)]
    order_id: crate::types::OrderId,
    /// `place_order`.
    kind: &'static str,
    /// `running`, `compensating`, `completed` or `compensated`.
    status: &'static str,
    /// The step under way, or the last one.
    step: &'static str,
    /// How often the step under way was tried.
    attempts: u32,
    /// What happened, oldest first.
    steps: Vec<StepOut<'a>>,
    /// Why it compensates.
    compensation: Option<&'static str>,
    /// When it began.
    created_at: String,
    /// When it last got on.
    updated_at: String,
    /// When it is looked at again at the latest; `null` when it is over.
    due_at: Option<String>,
}

/// One step of a saga that was tried.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = SagaStep)]
struct StepOut<'a> {
    /// What was done.
    step: &'static str,
    /// What came of it.
    result: &'a str,
    /// When.
    at: String,
}

impl<'a> SagaOut<'a> {
    pub(in crate::http) fn of(saga: &'a SagaRecord) -> Self {
        Self {
            id: saga.id,
            order_id: saga.order_id,
            kind: "place_order",
            status: saga.state.as_str(),
            step: saga.step.as_str(),
            attempts: saga.attempts,
            steps: saga
                .log
                .iter()
                .map(|entry| StepOut {
                    step: entry.step.as_str(),
                    result: &entry.result,
                    at: rfc3339(entry.at_ms),
                })
                .collect(),
            compensation: saga.reason.as_ref().map(crate::saga::CompensationReason::code),
            created_at: rfc3339(saga.created_at_ms),
            updated_at: rfc3339(saga.updated_at_ms),
            due_at: (!saga.state.is_over()).then(|| rfc3339(saga.due_at_ms)),
        }
    }
}

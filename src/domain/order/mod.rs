//! An order: its state, its events, its status, and the decision to take it.
//!
//! The state is the fold of the events (I-19): [`fold::apply`] is the only function that changes an
//! order, at its home and in every copy.

mod event;
pub mod fold;
mod history;
mod model;
pub mod place;
mod status;
#[cfg(test)]
mod tests;

pub use event::{ChainVerdict, CopyError, Event, EventBody, EventMaker, fold_copy, verify_chain};
pub use history::{Relation, Take, relate, released, take_new, take_whole};
pub use model::{
    Address, Allocation, AllocationState, Cancellation, Line, Moved, Order, OrderRecord, Payment,
    PaymentState,
};
pub use status::{FulfillmentStatus, LineStatus, OrderStatus, PaymentStatus};

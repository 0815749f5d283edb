//! Use cases: one file each, load → decide → commit.
//!
//! Every write is a [`Command`]: it says what it needs to see, decides in memory, and leaves its changes
//! in a [`Workspace`]. The [`Writer`] takes what is queued, loads once, lets each command decide in turn
//! on what the earlier ones left, and commits all of it in one transaction. Who waits for an answer only
//! awaits a channel: a client that hangs up interrupts nothing.

pub mod adoption;
mod advance_saga;
mod cancel_duplicate;
mod catalogue;
mod completions;
pub mod evacuate;
mod gone;
mod in_flight;
mod intent_lookup;
mod inventory;
pub(crate) mod joining;
mod move_orders;
mod order_lease;
mod place_order;
pub mod reconcile;
mod region;
pub mod rejoin;
pub mod retire;
pub mod rights;
mod routing;
mod run_saga;
mod service;
mod signals;
mod stops;
pub mod stranded;
mod verification;
pub mod witness;
mod workspace;
mod writer;

pub use advance_saga::{Advance, AdvanceSaga};
pub use cancel_duplicate::{CancelDuplicate, settle_contested};
pub use catalogue::{Put, PutNode, PutOutcome, PutProduct};
pub use completions::Completions;
pub use in_flight::{InFlightGuard, InFlightIntents};
pub use intent_lookup::{INTENT_REQUEST, IntentHandler, IntentLookup, Knowledge};
pub use inventory::{
    AdjustOutcome, AdjustStock, Adjusted, Adjustment, InventoryView, NodeView, RegionView,
    inventory_view,
};
pub use move_orders::MoveError;
pub use order_lease::{LeaseAnswer, LeaseAsk, LeaseHandler, ORDER_LEASE, OrderLease};
pub use place_order::{PlaceOrder, PlaceOutcome, place_order};
pub use region::Region;
pub use routing::Routing;
pub use run_saga::SagaRunner;
pub use service::{App, AppSettings, Placement, RegionStatus};
pub use signals::{DirtyRows, Signals};
pub use stops::{NOTICED_WITHIN, Stops};
pub use verification::Verification;
pub use workspace::{Command, Workspace};
pub use writer::{WriteError, Writer, WriterSettings};

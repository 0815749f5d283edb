//! The traits through which the core asks the world. Adapters implement them; only `boot` names both.

mod bus;
mod escrow;
mod marker;
mod payments;
mod reconcile;
mod registers;
mod rejoin;
mod replication;
mod retirement;
mod rights;
pub mod store;
mod time;

pub use bus::{Acknowledge, Bus, BusError, Delivery, RequestHandler, RequestKind};
pub use escrow::{Credit, Given, MergeReport, Moved, Reachability, RightsStore, SkuLedgers};
pub use marker::{Mark, Marker, MarkerError};
pub use payments::{Authorization, AuthorizeRequest, GatewayError, PaymentGateway};
pub use reconcile::{
    Claim, ClaimCursor, ClaimsPage, LedgerEntry, LedgerPage, Part, PaymentLedger, ReconcileStore,
    ScannedOrder, Snapshot, Turn,
};
pub use registers::RegisterStore;
pub use rejoin::{Beginning, Learned, Learning, RejoinStore};
pub use replication::{Applied, ReplicationError, ReplicationStore};
pub use retirement::{Buried, Ending, RetirementStore};
pub use rights::{Obtained, RightsSource};
pub use store::{
    ChangeSet, CommitError, Committed, EvacuationStore, Needs, Reader, SagaQueue, Stamp, StopStore,
    Stopped, Store, StoreError, View,
};
pub use time::{Clock, Ids};

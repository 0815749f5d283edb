//! Words that every other module uses: ids, money, regions, time stamps, invariants. Uses nothing.

mod hlc;
mod ids;
mod invariant;
mod money;
mod region;

pub use hlc::{BadHlc, ClockDrift, HLC_DRIFT_MS_MAX, Hlc, HlcTimestamp};
pub use ids::{
    BadText, CustomerId, LineId, NodeId, OrderId, PaymentId, ReportId, ReservationId, SagaId, Sku,
    StockKey, TransferId, check_text, uuid_v7,
};
pub use invariant::InvariantId;
pub use money::{BadCurrency, Currency, Money, split_by_largest_remainder};
pub use region::{
    Actor, BadActor, BadRegionId, Epoch, REGION_NAME_BYTES_MAX, RegionId, RegionNumber,
};

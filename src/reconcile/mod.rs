//! Reconciliation: what differs between what must agree, and what would mend it. Pure.
//!
//! Two questions are asked of a region's database. Does it agree with itself: do events, orders,
//! reservations, sagas and the provider's ledger tell one story? And do the copies it holds agree with
//! the truth at their origin? The adapters fetch; here is decided what a difference is.
//!
//! A system under load always differs somewhere by what is under way. No time-out decides about that:
//!
//! - What one database says of itself is read in one snapshot, in which a transaction is whole.
//! - A copy is judged against what its origin said *before* the copy had applied everything the origin had
//!   written by then ([`judge`]). Behind that point, a copy that lags is one that lost something.
//! - A payment is judged when its order's saga is over, and the order is the same before and after the
//!   provider was asked.
//!
//! | file | what it holds |
//! |---|---|
//! | `class` | the published list: code, invariant, repair |
//! | `report` | what a run found |
//! | `copies` | entries, sums of ranges, the judgement on a copy |
//! | `orders` | an order against its events and its lines |
//! | `stock` | reservations against rights |
//! | `money` | a payment against the provider |
//! | `message` | what regions ask each other |

mod class;
mod copies;
mod message;
mod money;
mod orders;
mod report;
mod stock;

pub use class::{Class, Repair};
pub use copies::{Entry, Kind, Mismatch, RANGE_ROWS, Range, Sum, Verdict, compare, judge};
pub use message::{Answer, Ask, CopiedOrder, ENTRIES_MAX, RANGES_MAX};
pub use money::{Provided, judge_payment};
pub use orders::{Flaw, StoredOrder, judge_document, judge_log};
pub use report::{Checked, DIFFERENCES_MAX, Difference, Found, NotCompared, Report, Status};
pub use stock::{Balance, Holdings, RightsLine, judge_rights};

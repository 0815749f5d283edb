//! The rights ledger and its protocol, pure.
//!
//! A stock that many regions sell from without asking each other is split into *rights*. For each key
//! (a SKU at a node) every region owns one [`Row`] of cells that only grow and that nobody else
//! writes; peers hold copies, and of two copies the higher version wins. That merge needs no order, no
//! causality and no exactly-once: a stale copy only makes its holder believe in fewer rights than it
//! has, so it can refuse too early, but never sell too much (I-01, I-05).
//!
//! ```text
//! inflow[d]  = received[d] + Σi granted[i → d] + Σx credit[x → d]
//! outflow[d] = spent[d] − released[d] + withdrawn[d] + Σj granted[d → j]
//! rights[d]  = inflow[d] − outflow[d] − Σj credit[d → j]     spendable now: ceiling[d] − outflow[d]
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `row` | one owner's cells, what makes a copy newer, what no honest owner writes |
//! | `ledger` | one key as one region sees it, its guarded operations, merging |
//! | `register` | ceilings that a majority agreed to, and what is taken over above them |
//! | `retire` | what becomes of a region that is gone for good |
//! | `ahead` | how far a ceiling runs ahead of what is sold |
//! | `grant` | what a giver gives |
//! | `asking` | whom a region asks for missing units, and when it may give up |
//! | `rate`, `rebalance` | how fast a key sells, and what to move ahead of demand |
//! | `voter` | whether an acceptor still knows what it voted, and a proposer is still who it says |
//! | `digest` | how two regions find the rows in which they differ |
//! | `message` | what they say to each other |
//!
//! Absent on purpose: clocks, leases and causal order. No rule here rests on one.

mod ahead;
mod asking;
mod digest;
mod grant;
mod ledger;
mod message;
#[cfg(test)]
mod race;
mod rate;
mod rebalance;
mod register;
mod retire;
mod row;
#[cfg(test)]
mod simulation;
mod steward;
mod voter;

pub use ahead::Autonomy;
pub use asking::{Asking, Request, SkuRows, Step};
pub use digest::{BUCKETS, BucketDigest, Differences, Digest, bucket_of};
pub use grant::{GiverDemand, Grant, decide_grant, spread};
pub use ledger::{Ledger, MergeError, Merged, Refusal};
pub use message::{
    Accept, Accepted, DigestAnswer, KeyedRow, KeyedSlot, NamedGrant, Prepare, Promise, PullRows,
    ROWS_PER_MESSAGE_MAX, Rows, TransferAnswer, TransferRequest, of_living,
};
pub use rate::SpendRate;
pub use rebalance::{PROTECTED_ROUND_MS, Standing, Wish, own_share, plan as plan_rebalance};
pub use register::{
    Acceptance, Ballot, Preempted, Promised, Purpose, Slot, Value, answer_accept, answer_prepare,
    majority, newest,
};
pub use retire::{executed_by, executor_of, retirement_key};
pub use row::{Retired, Row, UNITS_MAX, Unsold, Unsound};
pub use steward::{
    CLOCK_DRIFT_PARTS, ORDER_LEASE_MARGIN_MS, ORDER_LEASE_MS, Stewardship, appointed, lease_ends,
    leases_are_over, order_register, steward_key, steward_keys, steward_of,
};
pub use voter::{Asked, Stale, Voted, Voter, Voters, check as check_voters};

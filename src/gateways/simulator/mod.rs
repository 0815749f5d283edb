//! The payment provider simulator: an HTTP server with a durable ledger, in a process of its own.
//!
//! It stands for a provider that we don't control: it shares no code path with a region, it survives
//! being killed, and its ledger can be read by anybody who wants to audit what was charged. What a
//! payment token makes it do is in [`token`]; what it remembers, in [`books`]; how that becomes
//! durable before anyone is answered, in [`ledger`].
//!
//! | call | what it does |
//! |---|---|
//! | `POST /v1/authorizations` | holds money, once a key |
//! | `GET /v1/authorizations/{key}` | what became of a key |
//! | `POST /v1/authorizations/{key}/void` | releases what is held, or closes a key never seen |
//! | `POST /v1/authorizations/{key}/captures`, `…/refunds` | moves money, once a key |
//! | `GET /ledger` | everything, oldest first; `?key=`, `?order=`, `?limit=` and `?cursor=` |

mod books;
mod file;
mod ledger;
mod listing;
mod notify;
mod routes;
mod server;
mod token;

#[cfg(test)]
mod tests;

pub(crate) use books::{Account, Books, Hold, Record, State};
pub use file::OpenError;
pub use server::{Options, Simulator, StartError};
pub(crate) use token::{Behavior, Decline};

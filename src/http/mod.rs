//! The public HTTP API: routes, extractors, DTOs, problem+json.
//!
//! The way of a request: [`server`] reads heads within bounds and refuses ambiguous ones; the
//! [`front_door`] gives the request a trace id and dresses every answer (`X-Region`, problem+json);
//! the guard of its route ([`routes`]) checks token, role and rate; extractors check headers and body
//! ([`json`], [`headers`], [`page`]); the handler hands a command to `app` and writes the answer.
//! Handlers only await: the work itself runs in tasks of `app`, so a client that hangs up can't
//! interrupt a transaction.
//!
//! A DTO never leaves this module, and nothing in here decides anything about an order.

mod api;
pub mod auth;
mod context;
mod dto;
mod forward;
mod framing;
mod front_door;
mod generations;
mod handlers;
pub mod headers;
pub mod json;
mod operations;
pub mod page;
pub mod problem;
pub mod query;
pub mod rate_limit;
pub mod routes;
pub mod server;
#[cfg(test)]
mod testing;
mod text;

pub use api::door;
pub use context::{Context, ContextParts, Dependency, Health, HealthReport};
pub use forward::{Forwarder, X_ENTREPOT_FORWARDED};
pub use front_door::{FrontDoor, TraceId, X_REGION, X_REQUEST_ID};

//! The payment provider simulator's books, page by page.

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{Method, Uri};
use serde::Deserialize;

use super::SimulatorClient;
use crate::ports::{GatewayError, LedgerEntry, LedgerPage, PaymentLedger};
use crate::reconcile::Provided;
use crate::types::Money;

/// Operations in one page: some 350 KB.
const PAGE: u32 = 1_000;

/// The largest page we read: each line with a key and a reference as long as the provider takes them.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Deserialize)]
struct Listing {
    items: Vec<Item>,
    next_cursor: Option<String>,
}

/// The part of a line that we read.
#[derive(Deserialize)]
struct Item {
    operation: String,
    idempotency_key: String,
    #[serde(default)]
    order_reference: Option<String>,
    /// Without a known currency where a key was closed before anything was held.
    amount: serde_json::Value,
    state: String,
}

impl Item {
    fn entry(self) -> LedgerEntry {
        let provided = match self.state.as_str() {
            "authorized" | "captured" | "refunded" => {
                Provided::Held(serde_json::from_value::<Money>(self.amount).ok())
            }
            "pending" => Provided::Pending,
            _ => Provided::NotHeld,
        };
        let (provider_key, order_reference) = (self.idempotency_key, self.order_reference);
        LedgerEntry { provider_key, order_reference, provided }
    }
}

#[async_trait]
impl PaymentLedger for SimulatorClient {
    async fn page(&self, cursor: Option<&str>) -> Result<LedgerPage, GatewayError> {
        let cursor = cursor.unwrap_or("0");
        let refused = |why: String| GatewayError::Refused(format!("its ledger: {why}"));
        let uri = format!("{}?limit={PAGE}&cursor={cursor}", self.ledger());
        let uri: Uri = uri.parse().map_err(|_| refused(format!("the cursor `{cursor}`")))?;
        let (status, body) = self.exchange(Method::GET, uri, Bytes::new(), PAGE_BYTES_MAX).await?;
        if status.is_server_error() {
            return Err(GatewayError::Unavailable(format!("it answered {status}")));
        }
        if !status.is_success() {
            return Err(refused(status.to_string()));
        }
        let listing: Listing =
            serde_json::from_slice(&body).map_err(|error| refused(error.to_string()))?;
        let authorizations = listing.items.into_iter().filter(|item| item.operation == "authorize");
        Ok(LedgerPage {
            entries: authorizations.map(Item::entry).collect(),
            next: listing.next_cursor,
        })
    }
}

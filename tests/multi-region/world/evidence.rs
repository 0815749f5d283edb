//! What auditors read: the views of the schema `evidence` in each region, and the provider's ledger.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use sqlx::{Connection, PgConnection, Row};

use super::{Call, World};

/// One line of the payment provider's ledger.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LedgerEntry {
    pub(crate) operation: String,
    pub(crate) idempotency_key: String,
    pub(crate) state: String,
    pub(crate) amount: Amount,
    #[serde(default)]
    pub(crate) order_reference: Option<String>,
}

/// Minor units.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Amount {
    pub(crate) amount: i64,
}

/// Money that the provider holds: by its key, how much.
pub(crate) type Held = BTreeMap<String, i64>;

/// A payment of an order as its home region sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PaymentRow {
    pub(crate) order_id: String,
    pub(crate) provider_key: String,
    pub(crate) amount_minor: i64,
    pub(crate) state: String,
}

/// Positions of an origin's log: epoch, sequence, hash.
pub(crate) type Log = BTreeSet<(i32, i64, String)>;

impl World {
    /// Reads one region's evidence as the auditor, once its database answers.
    async fn auditor(&self, region: &str) -> PgConnection {
        let url = self.region(region)["auditor_database_url"].as_str().expect("a URL").to_owned();
        let poll = async {
            loop {
                match PgConnection::connect(&url).await {
                    Ok(connection) => return connection,
                    Err(_) => tokio::time::sleep(super::POLL).await,
                }
            }
        };
        let connected = tokio::time::timeout(super::PATIENCE, poll).await;
        connected.unwrap_or_else(|_| panic!("the database of {region} does not answer"))
    }

    /// Changes the copy of an order behind the back of the region that holds it.
    pub(crate) async fn damage_copy(&self, region: &str, order_id: &str) {
        let url = self.region(region)["database_url"].as_str().expect("a URL").to_owned();
        let mut connection = PgConnection::connect(&url).await.expect("the database answers");
        let change = "UPDATE orders SET document = replace(document, 'A. Shopper', 'Somebody else')
                      WHERE order_id = $1::text::uuid AND document LIKE '%A. Shopper%'";
        let done = sqlx::query(change).bind(order_id).execute(&mut connection).await;
        assert_eq!(done.expect("a copy").rows_affected(), 1, "{region} has a copy of {order_id}");
    }

    async fn rows(&self, region: &str, query: &'static str) -> Vec<sqlx::postgres::PgRow> {
        let mut connection = self.auditor(region).await;
        sqlx::query(query).fetch_all(&mut connection).await.expect("a view of the contract")
    }

    /// What every region must agree on: hash and rows of each range.
    pub(crate) async fn hashes(&self, region: &str) -> BTreeMap<String, (Option<String>, i64)> {
        let query = "SELECT range, hash, rows FROM evidence.v_state_hash";
        let rows = self.rows(region, query).await;
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
    }

    /// What a region wrote.
    pub(crate) async fn outbox(&self, region: &str) -> Log {
        let query = "SELECT epoch, seq, event_hash FROM evidence.v_outbox";
        let rows = self.rows(region, query).await;
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    }

    /// What a region applied of each other.
    pub(crate) async fn inbox(&self, region: &str) -> BTreeMap<String, Log> {
        let query = "SELECT origin, epoch, seq, event_hash FROM evidence.v_inbox";
        let mut logs: BTreeMap<String, Log> = BTreeMap::new();
        for row in self.rows(region, query).await {
            let position = (row.get(1), row.get(2), row.get(3));
            assert!(logs.entry(row.get(0)).or_default().insert(position), "applied twice");
        }
        logs
    }

    /// Status of every order that a region knows.
    pub(crate) async fn statuses(&self, region: &str) -> BTreeMap<String, String> {
        let query = "SELECT order_id, status FROM evidence.v_orders";
        let rows = self.rows(region, query).await;
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Every order that was placed under an idempotency key, as a region knows it.
    pub(crate) async fn orders_of_keys(&self, region: &str) -> BTreeMap<String, BTreeSet<String>> {
        let query = "SELECT key, order_id FROM evidence.v_idempotency WHERE order_id IS NOT NULL";
        let mut orders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in self.rows(region, query).await {
            orders.entry(row.get(0)).or_default().insert(row.get(1));
        }
        orders
    }

    /// Payments of a region's own orders.
    pub(crate) async fn payments(&self, region: &str) -> Vec<PaymentRow> {
        let query = "SELECT order_id, provider_key, amount_minor, state FROM evidence.v_payments";
        let rows = self.rows(region, query).await;
        rows.iter()
            .map(|row| PaymentRow {
                order_id: row.get(0),
                provider_key: row.get(1),
                amount_minor: row.get(2),
                state: row.get(3),
            })
            .collect()
    }

    /// Units that a region's own orders hold, by SKU and node.
    pub(crate) async fn reserved(&self, region: &str) -> BTreeMap<(String, String), i64> {
        let query = "SELECT sku, node, sum(quantity)::bigint FROM evidence.v_reservations \
                     WHERE state = 'held' GROUP BY sku, node";
        let rows = self.rows(region, query).await;
        rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect()
    }

    /// Units that a region has spent and not released, and the rights it has left, by its own rows.
    pub(crate) async fn spent(&self, region: &str) -> BTreeMap<(String, String), (i64, i64)> {
        let mut connection = self.auditor(region).await;
        let query = "SELECT key, node, sum(spent - released)::bigint, min(rights) FROM evidence.v_rights \
             WHERE region = $1 GROUP BY key, node";
        let rows =
            sqlx::query(query).bind(region).fetch_all(&mut connection).await.expect("a view");
        rows.iter().map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3)))).collect()
    }

    /// Received, spent and left over all regions, by SKU and node, as one region sees it.
    pub(crate) async fn balance(&self, region: &str) -> BTreeMap<(String, String), [i64; 4]> {
        let query = "SELECT key, node, sum(received)::bigint, sum(spent - released)::bigint, \
                     sum(withdrawn)::bigint, sum(rights)::bigint \
                     FROM evidence.v_rights GROUP BY key, node";
        let rows = self.rows(region, query).await;
        let cells = |row: &sqlx::postgres::PgRow| [row.get(2), row.get(3), row.get(4), row.get(5)];
        rows.iter().map(|row| ((row.get(0), row.get(1)), cells(row))).collect()
    }

    /// Sagas of a region that are not over.
    pub(crate) async fn open_sagas(&self, region: &str) -> i64 {
        let query =
            "SELECT count(*) FROM evidence.v_sagas WHERE state IN ('running', 'compensating')";
        self.rows(region, query).await[0].get(0)
    }

    /// Everything the provider has on record.
    pub(crate) async fn ledger(&self) -> Vec<LedgerEntry> {
        #[derive(Deserialize)]
        struct Listing {
            items: Vec<LedgerEntry>,
        }
        let url = format!("{}/ledger", self.simulator());
        let answer = self.http.send(Call::get(url)).await.expect("the simulator answers");
        let listing: Listing = serde_json::from_slice(&answer.body).expect("the ledger");
        listing.items
    }

    /// The provider's authorizations for one order.
    pub(crate) async fn authorizations(&self, order_id: &str) -> Vec<LedgerEntry> {
        let mut ledger = self.ledger().await;
        ledger.retain(|entry| {
            entry.operation == "authorize" && entry.order_reference.as_deref() == Some(order_id)
        });
        ledger
    }

    /// Money that the provider holds now. A key that holds twice fails here.
    pub(crate) async fn held(&self) -> Held {
        let mut held = Held::new();
        for entry in self.ledger().await {
            if entry.operation == "authorize" && entry.state == "authorized" {
                let before = held.insert(entry.idempotency_key.clone(), entry.amount.amount);
                assert!(before.is_none(), "held twice under {}", entry.idempotency_key);
            }
        }
        held
    }
}

//! What auditors read: the views of the schema `evidence`, as a role that can read nothing else.
//!
//! Each look opens a connection of its own and drops it: an auditor looks seldom, at databases that are being
//! killed and frozen.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::query::Query;
use sqlx::{ConnectOptions as _, Postgres, Row as _};

use super::within;

pub(super) const STATEMENTS: &[&str] =
    &[HASHES, OPEN_SAGAS, INTENTS, RIGHTS, TRANSFERS, RESERVED, PAYMENTS];

const HASHES: &str = "SELECT range, hash, rows FROM evidence.v_state_hash";

const OPEN_SAGAS: &str = "
SELECT order_id, step FROM evidence.v_sagas WHERE state IN ('running', 'compensating') ORDER BY order_id";

const INTENTS: &str = "
SELECT i.key, i.order_id, o.status, o.home_region, o.created_hlc
FROM evidence.v_idempotency i LEFT JOIN evidence.v_orders o USING (order_id)
WHERE starts_with(i.key, $1) AND i.order_id IS NOT NULL";

const RIGHTS: &str = "
SELECT key, node, region, epoch, version, received, spent - released, withdrawn, rights, granted_in, granted_out, ceiling
FROM evidence.v_rights WHERE starts_with(key, $1)";

const TRANSFERS: &str = "
SELECT transfer_id, key, quantity FROM evidence.v_transfers WHERE starts_with(key, $1)";

const RESERVED: &str = "
SELECT sku, sum(quantity)::bigint FROM evidence.v_reservations
WHERE state = 'held' AND starts_with(sku, $1) GROUP BY sku";

const PAYMENTS: &str = "
SELECT order_id, provider_key, amount_minor, state FROM evidence.v_payments WHERE order_id = ANY($1)";

/// One region's evidence.
#[derive(Debug, Clone)]
pub(crate) struct Auditor {
    options: PgConnectOptions,
    deadline: Duration,
}

/// An order that was placed under a client's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) key: String,
    pub(crate) order_id: String,
    /// `None` where the region knows the key and not the order.
    pub(crate) order: Option<IntentOrder>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IntentOrder {
    pub(crate) status: String,
    pub(crate) home_region: String,
    pub(crate) created_hlc: String,
}

/// A row of rights as a region knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RightsRow {
    pub(crate) sku: String,
    pub(crate) node: String,
    pub(crate) region: String,
    pub(crate) epoch: i32,
    pub(crate) version: i64,
    pub(crate) received: i64,
    /// Spent and not released.
    pub(crate) promised: i64,
    pub(crate) withdrawn: i64,
    pub(crate) rights: i64,
    /// Given to it by others.
    pub(crate) granted_in: i64,
    /// Given by it to others.
    pub(crate) granted_out: i64,
    /// What it may have promised and given at most.
    pub(crate) ceiling: i64,
}

/// Rights that one region gave to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TransferRow {
    pub(crate) transfer_id: String,
    pub(crate) sku: String,
    pub(crate) units: i64,
}

/// A payment of one of the region's own orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PaymentRow {
    pub(crate) order_id: String,
    pub(crate) provider_key: String,
    pub(crate) amount_minor: i64,
    pub(crate) state: String,
}

impl Auditor {
    /// `url` with the password; `deadline` bounds each look.
    pub(crate) fn new(url: &str, deadline: Duration) -> Result<Self, sqlx::Error> {
        let options: PgConnectOptions = url.parse()?;
        Ok(Self { options: options.application_name("entrepot auditor"), deadline })
    }

    async fn look<T>(
        &self,
        query: Query<'static, Postgres, PgArguments>,
        read: fn(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, sqlx::Error> {
        let rows = within(self.deadline, async {
            let mut connection = self.options.connect().await?;
            query.fetch_all(&mut connection).await
        });
        rows.await?.iter().map(read).collect()
    }

    /// Hash and rows of each range that all regions must agree on.
    pub(crate) async fn hashes(
        &self,
    ) -> Result<BTreeMap<String, (Option<String>, i64)>, sqlx::Error> {
        let rows = self.look(sqlx::query(HASHES), |row| {
            Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)))
        });
        Ok(rows.await?.into_iter().collect())
    }

    /// Orders whose saga is not over, and the step it is at.
    pub(crate) async fn open_sagas(&self) -> Result<Vec<(String, String)>, sqlx::Error> {
        self.look(sqlx::query(OPEN_SAGAS), |row| Ok((row.try_get(0)?, row.try_get(1)?))).await
    }

    /// Orders under keys that begin so, own ones and copies.
    pub(crate) async fn intents(&self, key_prefix: &str) -> Result<Vec<Intent>, sqlx::Error> {
        let query = sqlx::query(INTENTS).bind(key_prefix.to_owned());
        self.look(query, |row| {
            let status: Option<String> = row.try_get(2)?;
            let order = match status {
                None => None,
                Some(status) => Some(IntentOrder {
                    status,
                    home_region: row.try_get(3)?,
                    created_hlc: row.try_get(4)?,
                }),
            };
            Ok(Intent { key: row.try_get(0)?, order_id: row.try_get(1)?, order })
        })
        .await
    }

    /// Rights to SKUs that begin so: the region's own rows, and its copies of the others'.
    pub(crate) async fn rights(&self, sku_prefix: &str) -> Result<Vec<RightsRow>, sqlx::Error> {
        let query = sqlx::query(RIGHTS).bind(sku_prefix.to_owned());
        self.look(query, |row| {
            Ok(RightsRow {
                sku: row.try_get(0)?,
                node: row.try_get(1)?,
                region: row.try_get(2)?,
                epoch: row.try_get(3)?,
                version: row.try_get(4)?,
                received: row.try_get(5)?,
                promised: row.try_get(6)?,
                withdrawn: row.try_get(7)?,
                rights: row.try_get(8)?,
                granted_in: row.try_get(9)?,
                granted_out: row.try_get(10)?,
                ceiling: row.try_get(11)?,
            })
        })
        .await
    }

    /// Transfers of SKUs that begin so, which the region gave or got.
    pub(crate) async fn transfers(
        &self,
        sku_prefix: &str,
    ) -> Result<Vec<TransferRow>, sqlx::Error> {
        let query = sqlx::query(TRANSFERS).bind(sku_prefix.to_owned());
        self.look(query, |row| {
            Ok(TransferRow {
                transfer_id: row.try_get(0)?,
                sku: row.try_get(1)?,
                units: row.try_get(2)?,
            })
        })
        .await
    }

    /// Units that the region's own orders hold, of SKUs that begin so.
    pub(crate) async fn reserved(
        &self,
        sku_prefix: &str,
    ) -> Result<BTreeMap<String, i64>, sqlx::Error> {
        let query = sqlx::query(RESERVED).bind(sku_prefix.to_owned());
        let rows = self.look(query, |row| Ok((row.try_get(0)?, row.try_get(1)?))).await?;
        Ok(rows.into_iter().collect())
    }

    /// Payments of those of the orders that are the region's own.
    pub(crate) async fn payments(
        &self,
        orders: Vec<String>,
    ) -> Result<Vec<PaymentRow>, sqlx::Error> {
        self.look(sqlx::query(PAYMENTS).bind(orders), |row| {
            Ok(PaymentRow {
                order_id: row.try_get(0)?,
                provider_key: row.try_get(1)?,
                amount_minor: row.try_get(2)?,
                state: row.try_get(3)?,
            })
        })
        .await
    }
}

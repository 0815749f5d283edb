//! The rights rows, but for selling: merging peers' rows, granting, comparing.
//!
//! The own row of a key is the lock of the key: whoever changes rights of it, or raises its ceiling,
//! holds that row's lock, and reads the other owners' rows after it has it. Own rows are locked in
//! key order, as the sale does it. Copies are written by `UPSERT_COPIES` alone, which only ever takes
//! a newer version, in key order and after the locks; so no two transactions wait in a circle.

mod give;
pub(super) mod merge;
mod pins;
mod read;

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::PgConnection;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::PgStore;
use super::encode::{from_json, parsed, signed, store_error, unsigned};
use crate::escrow::{
    Ballot, Digest, GiverDemand, KeyedRow, Ledger, Row, Slot, TransferRequest, Value,
};
use crate::ports::{Credit, Given, MergeReport, Moved, RightsStore, SkuLedgers, StoreError};
use crate::types::{Actor, Epoch, Sku, StockKey, TransferId};

/// Every statement of this module.
pub(super) const STATEMENTS: &[&str] = &[
    read::OF_KEYS,
    read::OF_SKU,
    read::PAGE,
    read::OF_BUCKET,
    read::HELD_BY,
    merge::FIRST_OWN,
    merge::LOCK_OWN,
    merge::UPSERT_COPIES,
    merge::CHOOSE_OWN,
    merge::RECORD_TRANSFERS,
    give::LOCK_OWN_OF_SKU,
    give::WRITE_GRANTS,
    give::FIND_TRANSFERS,
    give::SAME_TRANSFER,
    pins::PINNED,
    pins::PIN,
    pins::UNPIN,
];

/// The rights rows of one region's database.
#[derive(Debug, Clone)]
pub struct PgRights {
    pub(super) store: PgStore,
    pub(super) own: Actor,
}

/// A row with what only its owner's region and its node's state say about it.
struct StoredRow {
    keyed: KeyedRow,
    /// `None`: the catalogue does not know the node yet.
    node_active: Option<bool>,
}

/// Ledgers by key, in key order.
type Ledgers = BTreeMap<StockKey, Ledger>;

impl PgRights {
    /// The rights rows in `store`, of the region's incarnation `epoch`.
    pub fn new(store: PgStore, epoch: Epoch) -> Self {
        let own = Actor { region: store.region, epoch };
        Self { store, own }
    }

    /// Builds the ledgers of the keys that the rows name, and of `keys`, of which nothing may be stored.
    fn ledgers_of<'a>(
        &self,
        rows: &[StoredRow],
        keys: impl IntoIterator<Item = &'a StockKey>,
    ) -> Ledgers {
        let mut by_key: BTreeMap<StockKey, BTreeMap<Actor, Row>> =
            keys.into_iter().map(|key| (key.clone(), BTreeMap::new())).collect();
        for StoredRow { keyed, .. } in rows {
            by_key.entry(keyed.key.clone()).or_default().insert(keyed.owner, keyed.row.clone());
        }
        by_key.into_iter().map(|(key, rows)| (key, Ledger::from_rows(self.own, rows))).collect()
    }
}

#[async_trait]
impl RightsStore for PgRights {
    async fn ledgers(&self, sku: &Sku) -> Result<SkuLedgers, StoreError> {
        let rows = self.read_sku(sku).await.map_err(store_error)?;
        let ledgers = self.ledgers_of(&rows, []);
        // As a sale sees it: what lies at a node that is switched off or unknown can't be sold.
        let sells = |key: &StockKey| {
            rows.iter().any(|row| row.keyed.key == *key && row.node_active == Some(true))
        };
        let active = ledgers.into_iter().filter(|(key, _)| sells(key));
        Ok(active.map(|(key, ledger)| (key.node, ledger)).collect())
    }

    async fn rows(
        &self,
        keys: &std::collections::BTreeSet<StockKey>,
    ) -> Result<Vec<KeyedRow>, StoreError> {
        let rows = self.read_keys(keys.iter()).await.map_err(store_error)?;
        let written = rows.into_iter().map(|row| row.keyed).filter(|row| !row.row.is_blank());
        Ok(written.collect())
    }

    async fn merge(
        &self,
        rows: &[KeyedRow],
        credits: &[Credit],
    ) -> Result<MergeReport, StoreError> {
        self.merge_rows(rows, credits).await.map_err(store_error)
    }

    async fn give(
        &self,
        request: &TransferRequest,
        demand: GiverDemand,
    ) -> Result<Given, StoreError> {
        self.give_rights(request, demand).await.map_err(store_error)
    }

    async fn pin(&self, sku: &Sku, units: u64) -> Result<(), StoreError> {
        self.pin_units(sku, units).await.map_err(store_error)
    }

    async fn pinned(&self, sku: &Sku) -> Result<u64, StoreError> {
        self.read_pinned(sku).await.map_err(store_error)
    }

    async fn transfer(
        &self,
        id: TransferId,
        key: &StockKey,
        to: Actor,
        units: u64,
    ) -> Result<Moved, StoreError> {
        self.transfer_rights(id, key, to, units).await.map_err(store_error)
    }

    async fn held_by(
        &self,
        owner: Actor,
        after: Option<&StockKey>,
        limit: usize,
    ) -> Result<Vec<StockKey>, StoreError> {
        self.read_held_by(owner, after, limit).await.map_err(store_error)
    }

    async fn digest(&self) -> Result<Digest, StoreError> {
        self.read_digest().await.map_err(store_error)
    }

    async fn rows_in(
        &self,
        owner: Actor,
        bucket: u8,
        after: Option<&StockKey>,
        limit: usize,
    ) -> Result<Vec<KeyedRow>, StoreError> {
        self.read_bucket(owner, bucket, after, limit).await.map_err(store_error)
    }
}

fn stored_row(row: &PgRow) -> Result<StoredRow, sqlx::Error> {
    Ok(StoredRow { keyed: keyed_row(row)?, node_active: row.try_get("node_active")? })
}

/// The columns of a rights row.
pub(super) fn keyed_row(row: &PgRow) -> Result<KeyedRow, sqlx::Error> {
    let counted = |name: &str| -> Result<u32, sqlx::Error> {
        let number: i32 = row.try_get(name)?;
        u32::try_from(number).map_err(|error| sqlx::Error::Decode(Box::new(error)))
    };
    let cells = Row {
        version: unsigned(row, "version")?,
        received: unsigned(row, "received")?,
        granted: from_json(row.try_get("granted")?)?,
        spent: unsigned(row, "spent")?,
        released: unsigned(row, "released")?,
        withdrawn: unsigned(row, "withdrawn")?,
        chosen: Slot {
            ballot: Ballot {
                round: counted("ballot_round")?,
                region: parsed(row, "ballot_region")?,
            },
            sequence: unsigned(row, "sequence")?,
            value: Value {
                ceiling: unsigned(row, "ceiling")?,
                credits: from_json(row.try_get("credits")?)?,
            },
        },
    };
    let key = StockKey { sku: parsed(row, "sku")?, node: parsed(row, "node")? };
    let owner = Actor { region: parsed(row, "owner")?, epoch: Epoch(counted("epoch")?) };
    Ok(KeyedRow { key, owner, row: cells })
}

pub(super) fn units_json(units: &BTreeMap<Actor, u64>) -> String {
    serde_json::to_string(units).expect("names and numbers have a JSON form")
}

pub(super) fn epoch_column(actor: Actor) -> i32 {
    i32::try_from(actor.epoch.0).unwrap_or(i32::MAX)
}

pub(super) fn skus<'a>(keys: impl Iterator<Item = &'a StockKey>) -> Vec<&'a str> {
    keys.map(|key| key.sku.as_str()).collect()
}

pub(super) fn nodes<'a>(keys: impl Iterator<Item = &'a StockKey>) -> Vec<&'a str> {
    keys.map(|key| key.node.as_str()).collect()
}

/// Ends a transaction. After an error in it, or in its commit, the lease must be dropped: its
/// connection is closed, which rolls back what was not committed.
pub(super) async fn execute(
    connection: &mut PgConnection,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await?;
    Ok(())
}

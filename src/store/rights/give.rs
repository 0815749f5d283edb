//! Granting: on a peer's request, and on an operator's.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, Row as _};

use super::merge::{Movement, choose_own, merge, record, upsert_copies};
use super::pins::pinned;
use super::{
    Ledgers, PgRights, StoredRow, epoch_column, execute, nodes, parsed, read, signed, skus,
    stored_row, units_json, unsigned,
};
use crate::escrow::{
    GiverDemand, KeyedRow, MergeError, NamedGrant, Refusal, SkuRows, TransferRequest, decide_grant,
    spread,
};
use crate::mutants::{Mutant, is_on};
use crate::ports::{Given, Moved};
use crate::store::within;
use crate::types::{Actor, NodeId, Sku, StockKey, TransferId};

pub(super) const LOCK_OWN_OF_SKU: &str = "
SELECT version FROM rights WHERE owner = $1 AND epoch = $2 AND sku = $3 ORDER BY sku, node FOR UPDATE";

pub(super) const WRITE_GRANTS: &str = "
UPDATE rights AS r SET version = u.version, granted = u.granted::jsonb, granted_total = u.granted_total
FROM unnest($3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[])
     AS u(sku, node, version, granted, granted_total)
WHERE r.owner = $1 AND r.epoch = $2 AND r.sku = u.sku AND r.node = u.node";

pub(super) const FIND_TRANSFERS: &str = "
SELECT transfer_id, node, quantity FROM transfers WHERE transfer_id = ANY($1::uuid[])";

pub(super) const SAME_TRANSFER: &str = "
SELECT (sku, node, from_region, to_region, quantity) = ($2::text, $3::text, $4::text, $5::text, $6::bigint)
FROM transfers WHERE transfer_id = $1";

impl PgRights {
    pub(super) async fn give_rights(
        &self,
        request: &TransferRequest,
        demand: GiverDemand,
    ) -> Result<Given, sqlx::Error> {
        let told = keyed(&request.sku, &request.rows);
        let known = self.read_sku(&request.sku).await?;
        let mut ledgers = self.ledgers_of(&known, told.iter().map(|row| &row.key));
        let learned = merge(&mut ledgers, &told);
        let held = Self::grantable(&ledgers, &known, request.node.as_ref());
        if learned.changed.is_empty() && held.is_empty() {
            // The usual answer once a SKU is sold out: nothing to lock and nothing to write. A repeated
            // request that emptied it is told again what it was given.
            let mut lease = self.store.lease().await?;
            let before = find_grants(&mut lease, request.request, ledgers.keys());
            let grants = within(self.store.deadline, before).await?;
            lease.keep();
            let rows = rows_of(&ledgers);
            return Ok(Given { grants, rows, learned, ..Given::default() });
        }
        let mut lease = self.store.lease().await?;
        let given = within(self.store.deadline, async {
            execute(&mut lease, "BEGIN").await?;
            self.make_own(&mut lease, &without_own(&known, &told, self.own)).await?;
            let given = self.give_in(&mut lease, request, &told, demand).await?;
            execute(&mut lease, "COMMIT").await?;
            Ok(given)
        })
        .await?;
        lease.keep();
        Ok(given)
    }

    async fn give_in(
        &self,
        connection: &mut PgConnection,
        request: &TransferRequest,
        told: &[KeyedRow],
        demand: GiverDemand,
    ) -> Result<Given, sqlx::Error> {
        let sku = &request.sku;
        sqlx::query(LOCK_OWN_OF_SKU)
            .bind(self.own.region.as_str())
            .bind(epoch_column(self.own))
            .bind(sku.as_str())
            .fetch_all(&mut *connection)
            .await?;
        let rows = sqlx::query(read::OF_SKU).bind(sku.as_str()).fetch_all(&mut *connection).await?;
        let rows = rows.iter().map(stored_row).collect::<Result<Vec<_>, _>>()?;
        let mut ledgers = self.ledgers_of(&rows, []);
        let learned = merge(&mut ledgers, told);
        if learned.refused.iter().any(|(_, error)| matches!(error, MergeError::Amnesia { .. })) {
            // What this region forgot may be sold already: nothing is given on the strength of its books.
            return Ok(Given { learned, ..Given::default() });
        }
        let changed: Vec<&KeyedRow> = learned.changed.iter().collect();
        upsert_copies(connection, self.own, &changed).await?;
        if !learned.changed.is_empty() {
            choose_own(connection, self.own, &ledgers).await?;
        }
        // Heard before: the same answer, so that the asker's books name what it got.
        let before = find_grants(connection, request.request, ledgers.keys()).await?;
        if !before.is_empty() && !is_on(Mutant::GrantedTwice) {
            let rows = rows_of(&ledgers);
            return Ok(Given { grants: before, busy: false, rows, learned });
        }
        let held = Self::grantable(&ledgers, &rows, request.node.as_ref());
        let spendable = held.values().copied().fold(0, u64::saturating_add);
        let (asker, need, want) = (request.asker, request.need, request.want);
        let demand = GiverDemand { pinned: pinned(connection, sku).await?, ..demand };
        let grant = decide_grant(self.own.region, spendable, asker.region, need, want, demand);
        let shares = spread(grant.units, &held);
        let grants = Self::grant(&mut ledgers, asker, request.request, &shares)?;
        self.write_grants(connection, sku, asker, &ledgers, &grants).await?;
        let busy = grant.busy;
        Ok(Given { grants, busy, rows: rows_of(&ledgers), learned })
    }

    /// What this region could give of a SKU, by node: nodes that are switched off keep theirs.
    fn grantable(
        ledgers: &Ledgers,
        rows: &[StoredRow],
        only: Option<&NodeId>,
    ) -> BTreeMap<NodeId, u64> {
        let off = |key: &StockKey| {
            rows.iter().any(|row| row.keyed.key == *key && row.node_active == Some(false))
        };
        ledgers
            .iter()
            .filter(|(key, _)| !off(key) && only.is_none_or(|node| *node == key.node))
            .map(|(key, ledger)| (key.node.clone(), ledger.spendable()))
            .filter(|(_, spendable)| *spendable > 0)
            .collect()
    }

    /// Grants shares of a request, each as a movement with a name: the first has the request's own,
    /// by which a repetition is recognized.
    fn grant(
        ledgers: &mut Ledgers,
        asker: Actor,
        request: TransferId,
        shares: &BTreeMap<NodeId, u64>,
    ) -> Result<BTreeMap<NodeId, NamedGrant>, sqlx::Error> {
        let mut grants = BTreeMap::new();
        for (key, ledger) in ledgers.iter_mut() {
            let Some(&share) = shares.get(&key.node) else { continue };
            let units = ledger.grant(asker, share).map_err(impossible)?;
            let first = grants.is_empty();
            let transfer = if first { request } else { derived(request, &key.node) };
            grants.insert(key.node.clone(), NamedGrant { transfer, units });
        }
        Ok(grants)
    }

    async fn write_grants(
        &self,
        connection: &mut PgConnection,
        sku: &Sku,
        to: Actor,
        ledgers: &Ledgers,
        grants: &BTreeMap<NodeId, NamedGrant>,
    ) -> Result<(), sqlx::Error> {
        if grants.is_empty() {
            return Ok(());
        }
        let granted: Vec<(&StockKey, &crate::escrow::Row, &NamedGrant)> = ledgers
            .iter()
            .filter(|(key, _)| key.sku == *sku)
            .filter_map(|(key, ledger)| Some((key, ledger.own_row(), grants.get(&key.node)?)))
            .collect();
        let done = sqlx::query(WRITE_GRANTS)
            .bind(self.own.region.as_str())
            .bind(epoch_column(self.own))
            .bind(skus(granted.iter().map(|(key, ..)| *key)))
            .bind(nodes(granted.iter().map(|(key, ..)| *key)))
            .bind(granted.iter().map(|(_, row, _)| signed(row.version)).collect::<Vec<_>>())
            .bind(granted.iter().map(|(_, row, _)| units_json(&row.granted)).collect::<Vec<_>>())
            .bind(granted.iter().map(|(_, row, _)| signed(row.granted_total())).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
        if done.rows_affected() != granted.len() as u64 {
            return Err(sqlx::Error::RowNotFound);
        }
        let movements: Vec<Movement<'_>> = granted
            .iter()
            .map(|&(key, _, grant)| Movement {
                transfer: grant.transfer.0,
                key,
                from: self.own.region,
                to: to.region,
                units: grant.units,
            })
            .collect();
        record(connection, "granted", &movements).await?;
        Ok(())
    }

    pub(super) async fn transfer_rights(
        &self,
        id: TransferId,
        key: &StockKey,
        to: Actor,
        units: u64,
    ) -> Result<Moved, sqlx::Error> {
        let mut lease = self.store.lease().await?;
        let moved = within(self.store.deadline, async {
            execute(&mut lease, "BEGIN").await?;
            let moved = self.transfer_in(&mut lease, id, key, to, units).await?;
            execute(&mut lease, if moved == Moved::Done { "COMMIT" } else { "ROLLBACK" }).await?;
            Ok(moved)
        })
        .await?;
        lease.keep();
        Ok(moved)
    }

    async fn transfer_in(
        &self,
        connection: &mut PgConnection,
        id: TransferId,
        key: &StockKey,
        to: Actor,
        units: u64,
    ) -> Result<Moved, sqlx::Error> {
        // The name first: of two that come at once under one name, whatever they ask for, the second
        // waits here and then finds the first.
        let wanted = Movement { transfer: id.0, key, from: self.own.region, to: to.region, units };
        if record(connection, "granted", &[wanted]).await? == 0 {
            let same: bool = sqlx::query_scalar(SAME_TRANSFER)
                .bind(id.0)
                .bind(key.sku.as_str())
                .bind(key.node.as_str())
                .bind(self.own.region.as_str())
                .bind(to.region.as_str())
                .bind(signed(units))
                .fetch_one(connection)
                .await?;
            return Ok(if same { Moved::Replayed } else { Moved::OtherTransfer });
        }
        let keys = BTreeSet::from([key]);
        let mut ledgers = self.lock(connection, &keys).await?;
        let ledger = ledgers.get(key).expect("locking made it");
        let spendable = ledger.spendable();
        if units > spendable {
            return Ok(Moved::Insufficient { spendable });
        }
        let shares = BTreeMap::from([(key.node.clone(), units)]);
        let grants = Self::grant(&mut ledgers, to, id, &shares)?;
        self.write_grants(connection, &key.sku, to, &ledgers, &grants).await?;
        Ok(Moved::Done)
    }
}

/// What was granted under a request, as it stands in the books.
async fn find_grants(
    connection: &mut PgConnection,
    request: TransferId,
    keys: impl Iterator<Item = &StockKey>,
) -> Result<BTreeMap<NodeId, NamedGrant>, sqlx::Error> {
    let mut names: Vec<uuid::Uuid> = keys.map(|key| derived(request, &key.node).0).collect();
    names.push(request.0);
    let rows = sqlx::query(FIND_TRANSFERS).bind(names).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let transfer = TransferId(row.try_get("transfer_id")?);
            Ok((parsed(row, "node")?, NamedGrant { transfer, units: unsigned(row, "quantity")? }))
        })
        .collect()
}

/// The name of a further movement of one request: the same whenever it is computed.
fn derived(request: TransferId, node: &NodeId) -> TransferId {
    let hash = Sha256::new_with_prefix(request.0.as_bytes()).chain_update(node.as_str()).finalize();
    let bytes = hash[..16].try_into().expect("a hash has 32 bytes");
    TransferId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// The keys of rows in which this region has no row of its own yet.
fn without_own<'a>(
    known: &[StoredRow],
    told: &'a [KeyedRow],
    own: Actor,
) -> BTreeSet<&'a StockKey> {
    let has_own =
        |key: &StockKey| known.iter().any(|row| row.keyed.owner == own && row.keyed.key == *key);
    told.iter().map(|row| &row.key).filter(|key| !has_own(key)).collect()
}

fn keyed(sku: &Sku, rows: &SkuRows) -> Vec<KeyedRow> {
    let mut keyed = Vec::new();
    for (node, rows) in rows {
        let key = StockKey { sku: sku.clone(), node: node.clone() };
        for (&owner, row) in rows {
            keyed.push(KeyedRow { key: key.clone(), owner, row: row.clone() });
        }
    }
    keyed
}

fn rows_of(ledgers: &Ledgers) -> SkuRows {
    let rows = |(key, ledger): (&StockKey, &crate::escrow::Ledger)| {
        (key.node.clone(), ledger.rows().clone())
    };
    ledgers.iter().map(rows).collect()
}

/// The ledger refuses what was decided on it a moment before, under the same lock.
fn impossible(refusal: Refusal) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(refusal))
}

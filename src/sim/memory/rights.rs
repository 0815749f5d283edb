//! The escrow ledger: one row per key and owner.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

use crate::domain::inventory::StockDeltas;
use crate::escrow::{
    Digest, GiverDemand, KeyedRow, Ledger, MergeError, NamedGrant, Row, SkuRows, TransferRequest,
    bucket_of, decide_grant, of_living, spread,
};
use crate::mutants::{Mutant, is_on};
use crate::ports::store::Spendable;
use crate::ports::{Credit, Given, MergeReport, Moved, RightsStore, SkuLedgers, StoreError};
use crate::types::{Actor, Epoch, NodeId, RegionId, Sku, StockKey, TransferId};

use super::{Memory, Tables};

/// Rows of all owners, and movements by name.
#[derive(Debug, Clone, Default)]
pub struct RightsTables {
    rows: BTreeMap<StockKey, BTreeMap<Actor, Row>>,
    transfers: BTreeMap<TransferId, Movement>,
}

/// One movement, as it stands in the books.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Movement {
    key: StockKey,
    from: RegionId,
    to: RegionId,
    units: u64,
}

/// What may still be sold of a row under its ceiling.
pub(super) fn spendable(row: &Row) -> u64 {
    row.chosen.value.ceiling.saturating_sub(row.outflow())
}

impl RightsTables {
    /// Every row known of every key.
    pub fn rows(&self) -> &BTreeMap<StockKey, BTreeMap<Actor, Row>> {
        &self.rows
    }

    /// The row that `own` writes.
    pub fn own_row(&self, own: Actor, key: &StockKey) -> Option<&Row> {
        self.rows.get(key)?.get(&own)
    }

    pub(super) fn own_rows_of(
        &self,
        own: Actor,
        sku: &Sku,
    ) -> impl Iterator<Item = (&StockKey, &Row)> {
        self.of_sku(sku).filter_map(move |(key, rows)| Some((key, rows.get(&own)?)))
    }

    fn of_sku(&self, sku: &Sku) -> impl Iterator<Item = (&StockKey, &BTreeMap<Actor, Row>)> {
        self.rows.iter().filter(move |(key, _)| key.sku == *sku)
    }

    /// What lies at a node of this region, whichever incarnation received it.
    pub(super) fn on_hand(&self, own: Actor, key: &StockKey) -> Option<u64> {
        let rows = self.rows.get(key).into_iter().flatten();
        let rows = rows.filter(|(owner, _)| owner.region == own.region && owner.epoch <= own.epoch);
        let cells = rows.map(|(_, row)| (row.received, row.withdrawn));
        let (came, went) = cells.reduce(|sum, one| (sum.0 + one.0, sum.1 + one.1))?;
        Some(u64::saturating_sub(came, went))
    }

    /// Would every change leave its row within its ceiling?
    pub(super) fn admits(&self, own: Actor, changes: &StockDeltas) -> bool {
        changes.iter().all(|(key, delta)| {
            let known = self.own_row(own, key).cloned();
            let Some(row) = known.or_else(|| (delta.received > 0).then(|| Row::new(own))) else {
                return false;
            };
            let outflow = row.outflow() + delta.spent + delta.withdrawn;
            outflow <= row.chosen.value.ceiling + delta.released
                && row.released + delta.released <= row.spent + delta.spent
                && delta
                    .counted_from
                    .is_none_or(|counted| counted == self.on_hand(own, key).unwrap_or(0))
        })
    }

    pub(super) fn change(&mut self, own: Actor, changes: &StockDeltas) {
        for (key, delta) in changes {
            let rows = self.rows.entry(key.clone()).or_default();
            let row = rows.entry(own).or_insert_with(|| Row::new(own));
            row.received += delta.received;
            row.spent += delta.spent;
            row.released += delta.released;
            row.withdrawn += delta.withdrawn;
            row.version += 1;
        }
    }

    /// Every row known of a SKU.
    pub fn known_rows(&self, sku: &Sku) -> Vec<KeyedRow> {
        let keyed = |(key, rows): (&StockKey, &BTreeMap<Actor, Row>)| {
            let row = |(&owner, row): (&Actor, &Row)| KeyedRow {
                key: key.clone(),
                owner,
                row: row.clone(),
            };
            rows.iter().map(row).collect::<Vec<_>>()
        };
        self.of_sku(sku).flat_map(keyed).collect()
    }

    pub(super) fn may_sell_alone(&self) -> BTreeMap<RegionId, Spendable> {
        let mut sums: BTreeMap<RegionId, Spendable> = BTreeMap::new();
        for (owner, row) in self.rows.values().flatten() {
            let units = row.chosen.value.ceiling.saturating_sub(row.outflow());
            if units > 0 {
                let sum = sums.entry(owner.region).or_default();
                sum.units += units;
                sum.keys += 1;
            }
        }
        sums
    }

    fn ledger(&self, own: Actor, key: &StockKey) -> Ledger {
        Ledger::from_rows(own, self.rows.get(key).cloned().unwrap_or_default())
    }

    fn keep(&mut self, key: &StockKey, ledger: &Ledger) {
        self.rows.insert(key.clone(), ledger.rows().clone());
    }

    fn merge(&mut self, own: Actor, rows: &[KeyedRow]) -> MergeReport {
        let mut report = MergeReport::default();
        for keyed in rows {
            let KeyedRow { key, owner, row } = keyed;
            let mut ledger = self.ledger(own, key);
            match ledger.merge(*owner, row.clone()) {
                Ok(merged) => {
                    if merged.inflow_grew > 0 {
                        *report.credited.entry(key.clone()).or_default() += merged.inflow_grew;
                    }
                    if merged.changed {
                        report.changed.push(keyed.clone());
                        self.keep(key, &ledger);
                    }
                }
                Err(error) => report.refused.push((key.clone(), error)),
            }
        }
        report
    }

    /// Stores what is newer of an owner's row.
    pub(super) fn join(&mut self, key: &StockKey, owner: Actor, row: Row) {
        let rows = self.rows.entry(key.clone()).or_default();
        let known = rows.entry(owner).or_insert_with(|| Row::new(owner));
        *known = row.joined(known);
    }

    fn record(&mut self, name: TransferId, movement: Movement) {
        self.transfers.entry(name).or_insert(movement);
    }

    fn granted_before(&self, request: &TransferRequest) -> BTreeMap<NodeId, NamedGrant> {
        let nodes = self.of_sku(&request.sku).map(|(key, _)| &key.node);
        let names = nodes.map(|node| derived(request.request, node));
        let names: BTreeSet<TransferId> = names.chain([request.request]).collect();
        let found = names.into_iter().filter_map(|transfer| {
            let movement = self.transfers.get(&transfer)?;
            Some((movement.key.node.clone(), NamedGrant { transfer, units: movement.units }))
        });
        found.collect()
    }
}

/// The name of a further movement of one request: the same whenever it is computed.
fn derived(request: TransferId, node: &NodeId) -> TransferId {
    let hash = Sha256::new_with_prefix(request.0.as_bytes()).chain_update(node.as_str()).finalize();
    let bytes = hash[..16].try_into().expect("a hash has 32 bytes");
    TransferId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

#[cfg(test)]
impl Memory {
    /// Lets the region sell all that it holds, as if a majority had agreed.
    pub(crate) fn open_all(&self) {
        let mut tables = self.tables();
        let own = tables.actor(self.own);
        for rows in tables.rights.rows.values_mut() {
            let inflow = Ledger::from_rows(own, rows.clone()).inflow(own);
            let Some(row) = rows.get_mut(&own) else { continue };
            if let Some(value) = row.chosen.value.raised(inflow, inflow) {
                row.chosen = row.chosen.followed_by(row.chosen.ballot, value);
            }
        }
    }
}

/// The rights rows of one database, as the region's incarnation `epoch` sees them.
#[derive(Debug, Clone)]
pub struct MemoryRights {
    pub(super) database: Memory,
    pub(super) own: Actor,
}

impl MemoryRights {
    /// The rights rows in `database`.
    pub fn new(database: Memory, epoch: Epoch) -> Self {
        let own = Actor { region: database.own, epoch };
        Self { database, own }
    }

    fn grantable(&self, tables: &Tables, request: &TransferRequest) -> BTreeMap<NodeId, u64> {
        let off = |node: &NodeId| tables.nodes.get(node).is_some_and(|node| !node.active);
        let wanted = |key: &StockKey| request.node.as_ref().is_none_or(|node| *node == key.node);
        let rows = tables.rights.own_rows_of(self.own, &request.sku);
        rows.filter(|(key, _)| wanted(key) && !off(&key.node))
            .map(|(key, row)| (key.node.clone(), spendable(row)))
            .filter(|(_, units)| *units > 0)
            .collect()
    }

    /// Grants shares of a request, each as a movement with a name.
    fn grant(
        &self,
        tables: &mut Tables,
        to: Actor,
        (request, sku): (TransferId, &Sku),
        shares: &BTreeMap<NodeId, u64>,
    ) -> BTreeMap<NodeId, NamedGrant> {
        let mut grants = BTreeMap::new();
        for (node, share) in shares {
            let key = StockKey { sku: sku.clone(), node: node.clone() };
            let mut ledger = tables.rights.ledger(self.own, &key);
            let units = ledger.grant(to, *share).expect("decided on this very row");
            let is_first = grants.is_empty();
            let transfer = if is_first { request } else { derived(request, node) };
            tables.rights.keep(&key, &ledger);
            tables
                .rights
                .record(transfer, Movement { key, from: self.own.region, to: to.region, units });
            grants.insert(node.clone(), NamedGrant { transfer, units });
        }
        grants
    }
}

#[async_trait]
impl RightsStore for MemoryRights {
    async fn ledgers(&self, sku: &Sku) -> Result<SkuLedgers, StoreError> {
        let tables = self.database.tables();
        let sells = |node: &NodeId| tables.nodes.get(node).is_some_and(|node| node.active);
        let keys = tables.rights.of_sku(sku).map(|(key, _)| key);
        let ledger = |key: &StockKey| (key.node.clone(), tables.rights.ledger(self.own, key));
        Ok(keys.filter(|key| sells(&key.node)).map(ledger).collect())
    }

    async fn rows(&self, keys: &BTreeSet<StockKey>) -> Result<Vec<KeyedRow>, StoreError> {
        let tables = self.database.tables();
        let of_key = |key: &StockKey| {
            let rows = tables.rights.rows.get(key).into_iter().flatten();
            let written = rows.filter(|(_, row)| !row.is_blank());
            let keyed = written.map(|(owner, row)| KeyedRow {
                key: key.clone(),
                owner: *owner,
                row: row.clone(),
            });
            keyed.collect::<Vec<_>>()
        };
        Ok(keys.iter().flat_map(of_key).collect())
    }

    async fn merge(
        &self,
        rows: &[KeyedRow],
        credits: &[Credit],
    ) -> Result<MergeReport, StoreError> {
        let mut tables = self.database.tables();
        let rows = of_living(rows, &tables.incarnations);
        let report = tables.rights.merge(self.own, &rows);
        for credit in credits {
            let Credit { transfer, key, from, units } = credit.clone();
            tables.rights.record(transfer, Movement { key, from, to: self.own.region, units });
        }
        Ok(report)
    }

    async fn give(
        &self,
        request: &TransferRequest,
        demand: GiverDemand,
    ) -> Result<Given, StoreError> {
        let mut tables = self.database.tables();
        let told = keyed(request);
        let learned = {
            // What was forgotten may be sold already: nothing is given, and nothing learned.
            let mut trial = tables.rights.clone();
            let learned = trial.merge(self.own, &of_living(&told, &tables.incarnations));
            let forgot = |error: &MergeError| matches!(error, MergeError::Amnesia { .. });
            if learned.refused.iter().any(|(_, error)| forgot(error)) {
                return Ok(Given { learned, ..Given::default() });
            }
            tables.rights = trial;
            learned
        };
        let before = tables.rights.granted_before(request);
        if !before.is_empty() && !is_on(Mutant::GrantedTwice) {
            let rows = rows_of(&tables.rights, &request.sku);
            return Ok(Given { grants: before, busy: false, rows, learned });
        }
        let held = self.grantable(&tables, request);
        let spendable = held.values().sum();
        let asker = request.asker;
        let (need, want) = (request.need, request.want);
        let pinned = tables.pins.get(&request.sku).copied().unwrap_or(0);
        let demand = GiverDemand { pinned, ..demand };
        let grant = decide_grant(self.own.region, spendable, asker.region, need, want, demand);
        let shares = spread(grant.units, &held);
        let name = (request.request, &request.sku);
        let grants = self.grant(&mut tables, asker, name, &shares);
        let rows = rows_of(&tables.rights, &request.sku);
        Ok(Given { grants, busy: grant.busy, rows, learned })
    }

    async fn pin(&self, sku: &Sku, units: u64) -> Result<(), StoreError> {
        let pins = &mut self.database.tables().pins;
        pins.insert(sku.clone(), units);
        pins.retain(|_, units| *units > 0);
        Ok(())
    }

    async fn pinned(&self, sku: &Sku) -> Result<u64, StoreError> {
        Ok(self.database.tables().pins.get(sku).copied().unwrap_or(0))
    }

    async fn transfer(
        &self,
        id: TransferId,
        key: &StockKey,
        to: Actor,
        units: u64,
    ) -> Result<Moved, StoreError> {
        let mut tables = self.database.tables();
        let wanted = Movement { key: key.clone(), from: self.own.region, to: to.region, units };
        if let Some(known) = tables.rights.transfers.get(&id)
            && !is_on(Mutant::GrantedTwice)
        {
            let same = *known == wanted;
            return Ok(if same { Moved::Replayed } else { Moved::OtherTransfer });
        }
        let spendable = tables.rights.ledger(self.own, key).spendable();
        if units > spendable && !is_on(Mutant::GrantsBeyondItsRights) {
            return Ok(Moved::Insufficient { spendable });
        }
        let shares = BTreeMap::from([(key.node.clone(), units)]);
        self.grant(&mut tables, to, (id, &key.sku), &shares);
        Ok(Moved::Done)
    }

    async fn held_by(
        &self,
        owner: Actor,
        after: Option<&StockKey>,
        limit: usize,
    ) -> Result<Vec<StockKey>, StoreError> {
        let tables = self.database.tables();
        let later = |key: &&StockKey| after.is_none_or(|after| *key > after);
        let flows = |key: &&StockKey| {
            let rows = &tables.rights.rows[*key];
            rows.contains_key(&owner) || tables.rights.ledger(self.own, key).inflow(owner) > 0
        };
        let keys = tables.rights.rows.keys().filter(later).filter(flows);
        Ok(keys.take(limit).cloned().collect())
    }

    async fn digest(&self) -> Result<Digest, StoreError> {
        let mut digest = Digest::default();
        for (key, rows) in &self.database.tables().rights.rows {
            for (owner, row) in rows {
                digest.add(key, *owner, row);
            }
        }
        Ok(digest)
    }

    async fn rows_in(
        &self,
        owner: Actor,
        bucket: u8,
        after: Option<&StockKey>,
        limit: usize,
    ) -> Result<Vec<KeyedRow>, StoreError> {
        let tables = self.database.tables();
        let later = |key: &StockKey| after.is_none_or(|after| key > after);
        let rows = tables.rights.rows.iter().filter_map(|(key, rows)| {
            let row = rows.get(&owner).filter(|row| !row.is_blank())?;
            (later(key) && bucket_of(key) == bucket).then(|| KeyedRow {
                key: key.clone(),
                owner,
                row: row.clone(),
            })
        });
        Ok(rows.take(limit).collect())
    }
}

fn keyed(request: &TransferRequest) -> Vec<KeyedRow> {
    let of_node = |(node, rows): (&NodeId, &BTreeMap<Actor, Row>)| {
        let key = StockKey { sku: request.sku.clone(), node: node.clone() };
        let keyed =
            |(&owner, row): (&Actor, &Row)| KeyedRow { key: key.clone(), owner, row: row.clone() };
        rows.iter().map(keyed).collect::<Vec<_>>()
    };
    request.rows.iter().flat_map(of_node).collect()
}

fn rows_of(rights: &RightsTables, sku: &Sku) -> SkuRows {
    rights.of_sku(sku).map(|(key, rows)| (key.node.clone(), rows.clone())).collect()
}

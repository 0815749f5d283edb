//! Copies that differ: what they should be, and putting that in their place.

use super::Reconciler;
use super::copies::Stop;
use crate::domain::catalogue::{Node, Product};
use crate::domain::order::{Event, OrderRecord, fold_copy};
use crate::reconcile::{Answer, Ask, CopiedOrder, Found, Kind, Report, StoredOrder};
use crate::types::{OrderId, RegionId};

impl Reconciler {
    /// Enters a copy of an order that differs, unless it is the fold of its home's events and only written
    /// differently. `version` is what the home had when the copy was found to lack it: all of it is applied, and
    /// no event beyond it may be stored here, which is for the replicator to do.
    pub(super) async fn enter_order_copy(
        &self,
        report: &mut Report,
        peer: RegionId,
        key: &str,
        version: u64,
        found: Found,
    ) -> Result<(), Stop> {
        let id: OrderId = key.parse().map_err(|_| format!("its order `{key}` has no id"))?;
        let fetched = if let Answer::Order(Some(fetched)) = self.ask(peer, &Ask::Order(id)).await? {
            fold_to(fetched, id, version)
        } else {
            Err(format!("{peer} does not know the order any more"))
        };
        if let Ok((record, _)) = &fetched {
            let stored = self.store.stored_orders(&[id]).await?;
            if stored.first().is_some_and(|stored| is_equal(stored, record)) {
                return Ok(());
            }
        }
        let mend = async {
            let (record, commits) = fetched?;
            let replaced = self.store.replace_copy(&record, &commits).await;
            if replaced.map_err(|error| error.to_string())? {
                Ok(format!("pulled version {version} from {peer}"))
            } else {
                Ok("has become newer by itself".to_owned())
            }
        };
        self.enter(report, found, mend).await;
        Ok(())
    }

    /// Takes a peer's product or node, if it is newer.
    pub(super) async fn pull_document(
        &self,
        peer: RegionId,
        kind: Kind,
        key: &str,
    ) -> Result<String, String> {
        let ask = Ask::Document { kind, key: key.to_owned() };
        let Answer::Document(Some(document)) = self.ask(peer, &ask).await? else {
            return Err(format!("{peer} does not have it any more"));
        };
        let taken = if kind == Kind::Products {
            let product: Product = serde_json::from_value(document).map_err(|e| e.to_string())?;
            self.store.take_product(&product).await
        } else {
            let node: Node = serde_json::from_value(document).map_err(|e| e.to_string())?;
            self.store.take_node(&node).await
        };
        taken.map_err(|error| error.to_string())?;
        Ok(format!("took the one of {peer}, if it is newer"))
    }
}

/// The order as it was at a version, and its events up to there.
fn fold_to(
    fetched: CopiedOrder,
    id: OrderId,
    version: u64,
) -> Result<(OrderRecord, Vec<Vec<Event>>), String> {
    let mut commits = fetched.commits;
    commits.retain(|commit| commit.last().is_some_and(|last| last.seq <= version));
    let events: Vec<Event> = commits.iter().flatten().cloned().collect();
    let folded = fold_copy(None, id, &events).map_err(|error| error.to_string())?;
    match folded {
        Some(record) if record.version == version => Ok((record, commits)),
        Some(_) | None => Err(format!("the events of its home don't make version {version}")),
    }
}

fn is_equal(stored: &StoredOrder, record: &OrderRecord) -> bool {
    let order = &record.order;
    stored.document.as_ref() == Ok(order)
        && stored.version == record.version
        && stored.chain_hash == record.chain_hash
        && stored.status == order.status().as_str()
        && stored.payment_status == order.payment_status().as_str()
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::order::{Cancellation, EventBody, EventMaker, Order};
    use crate::types::{Epoch, HlcTimestamp};

    /// Two commits: placed, and cancelled.
    fn fetched() -> (OrderId, CopiedOrder) {
        let region = "a".parse().unwrap();
        let stamp = |wall_ms| HlcTimestamp { wall_ms, logical: 0, region };
        let id = OrderId(uuid::Uuid::from_u128(2));
        let order: Order = serde_json::from_value(serde_json::json!({
            "id": id, "number": "1", "home_region": "a", "channel": "web", "currency": "EUR", "payments": [],
            "lines": [{"id": id, "sku": "x", "quantity": 1, "unit_minor": 5, "allocations": []}],
            "shipping_address": {"name": "A", "line1": "B", "city": "C", "postal_code": "D", "country": "DE"},
            "shipping_option": "standard", "allow_split": true, "created_at_ms": 1, "updated_at_ms": 1,
        }))
        .unwrap();
        let mut maker = EventMaker::new(region, Epoch::FIRST, None);
        maker.push(stamp(1), EventBody::Placed(Box::new(order))).unwrap();
        let (record, first) = maker.finish();
        let mut maker = EventMaker::new(region, Epoch::FIRST, Some(record));
        let why = Cancellation { code: "duplicate".to_owned(), detail: String::new() };
        maker.push(stamp(2), EventBody::Cancelled(why)).unwrap();
        let (_, second) = maker.finish();
        (id, CopiedOrder { commits: vec![first, second] })
    }

    /// Events beyond the version that was applied are the replicator's to store: it would find them there, and
    /// stand still.
    #[test]
    fn a_copy_is_mended_up_to_what_is_applied_and_no_further() {
        for version in [1, 2] {
            let (id, fetched) = fetched();
            let (record, commits) = fold_to(fetched, id, version).unwrap();
            assert_eq!((record.version, commits.len() as u64), (version, version));
        }
        let (id, fetched) = fetched();
        assert!(fold_to(fetched, id, 3).is_err());
    }
}

//! A region that holds something does not become the witness: nobody could take that over.

use entrepot::app::witness::held;
use entrepot::domain::catalogue::Node;
use entrepot::domain::inventory::StockDelta;
use entrepot::ports::{ChangeSet, Store as _};
use entrepot::store::{PgRights, PgStore};
use entrepot::types::{Epoch, RegionId, RegionNumber};
use serde_json::json;

use crate::support::postgres::Database;
use crate::support::world::{actor, key};
use crate::support::writes;

struct Candidate {
    store: PgStore,
    id: RegionId,
}

impl Candidate {
    async fn new() -> Self {
        let database = Database::new().await;
        let store = database.store("a");
        store.start(RegionNumber(std::num::NonZeroU8::MIN)).await.unwrap();
        Self { store, id: "a".parse().unwrap() }
    }

    async fn node(&self, id: &str, owner: &str, active: bool, time: u64) {
        let node = json!({
            "id": id, "name": id, "kind": "warehouse", "region": owner, "country": "DE", "latitude_e6": 0,
            "longitude_e6": 0, "capacity_per_day": 1, "backlog": 0, "carriers": [], "active": active,
            "hlc": writes::hlc(self.id, time),
        });
        let node: Node = serde_json::from_value(node).unwrap();
        let mut changes = ChangeSet::default();
        changes.nodes.insert(node.id.clone(), node);
        self.store.commit(&changes, writes::stamp(self.id, time)).await.unwrap();
    }

    async fn holds(&self) -> Option<&'static str> {
        let rights = PgRights::new(self.store.clone(), Epoch::FIRST);
        held(&self.store, &rights, actor(self.id)).await.unwrap()
    }
}

#[tokio::test]
async fn a_region_that_has_nodes_is_refused_until_they_are_off() {
    let region = Candidate::new().await;
    assert_eq!(region.holds().await, None);
    region.node("n", "b", true, 1).await;
    assert_eq!(region.holds().await, None, "another region's node");
    region.node("m", "a", true, 2).await;
    assert_eq!(region.holds().await, Some("nodes"));
    region.node("m", "a", false, 3).await;
    assert_eq!(region.holds().await, None);
}

#[tokio::test]
async fn a_region_that_has_orders_is_refused() {
    let region = Candidate::new().await;
    let order = writes::unpaid(region.id, writes::order_id(1, 1), 1);
    region.store.commit(&writes::orders([order]), writes::stamp(region.id, 1)).await.unwrap();
    assert_eq!(region.holds().await, Some("orders"));
}

#[tokio::test]
async fn units_count_also_above_the_ceiling() {
    let region = Candidate::new().await;
    region.node("n", "a", false, 1).await;
    let mut changes = ChangeSet::default();
    changes.stock.insert(key("x"), StockDelta { received: 5, ..StockDelta::default() });
    region.store.commit(&changes, writes::stamp(region.id, 2)).await.unwrap();
    assert_eq!(region.holds().await, Some("units to sell"));
}

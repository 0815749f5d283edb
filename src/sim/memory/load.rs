//! What a group of decisions wants to see.

use std::sync::Arc;

use crate::domain::inventory::NodeStock;
use crate::ports::store::{Needs, Shelf, View};
use crate::types::{OrderId, RegionId};

use super::{Tables, rights};

impl Tables {
    pub(super) fn view(&self, own: RegionId, needs: &Needs) -> View {
        let mut view = View::default();
        for intent in &needs.intents {
            if let Some(records) = self.intents.get(intent) {
                view.intents.insert(intent.clone(), records.clone());
            }
        }
        for reference in &needs.channel_refs {
            let ids: Vec<OrderId> = self.standing(reference).map(|order| order.order.id).collect();
            if !ids.is_empty() {
                view.channel_refs.insert(reference.clone(), ids);
            }
        }
        let of_intents = view.intents.values().flatten().filter_map(|record| record.order_id);
        let of_references = view.channel_refs.values().flatten().copied();
        for id in needs.orders.iter().copied().chain(of_intents).chain(of_references) {
            if let Some(record) = self.orders.get(&id) {
                view.orders.insert(id, Arc::clone(record));
            }
        }
        for id in &needs.sagas {
            if let Some((saga, _)) = self.sagas.get(id) {
                view.sagas.insert(*id, saga.clone());
            }
        }
        self.view_stock(own, needs, &mut view);
        view
    }

    /// Own nodes first, and only those that are not switched off.
    fn view_stock(&self, own: RegionId, needs: &Needs, view: &mut View) {
        for sku in &needs.skus {
            if let Some(product) = self.products.get(sku) {
                view.products.insert(sku.clone(), product.clone());
            }
            let mut nodes: Vec<_> = self
                .rights
                .own_rows_of(self.actor(own), sku)
                .filter_map(|(key, row)| {
                    let node = self.nodes.get(&key.node).filter(|node| node.active)?;
                    let spendable = rights::spendable(row);
                    Some((node.region != own, NodeStock { node: key.node.clone(), spendable }))
                })
                .collect();
            nodes.sort_by(|a, b| (a.0, &a.1.node).cmp(&(b.0, &b.1.node)));
            for (_, stock) in nodes {
                view.stock.add(sku.clone(), stock);
            }
        }
        for id in &needs.nodes {
            if let Some(node) = self.nodes.get(id) {
                view.nodes.insert(id.clone(), node.clone());
            }
        }
        for key in &needs.shelves {
            let actor = self.actor(own);
            let Some(on_hand) = self.rights.on_hand(actor, key) else { continue };
            let shelf = Shelf {
                on_hand,
                spendable: self.rights.own_row(actor, key).map_or(0, rights::spendable),
            };
            view.shelves.insert(key.clone(), shelf);
        }
    }
}

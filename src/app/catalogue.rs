//! Products and nodes: written anywhere, the last writer wins by HLC.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::catalogue::{Node, Product};
use crate::domain::idempotency::{IntentKey, IntentRecord, StoredAnswer};
use crate::ports::Needs;
use crate::types::{NodeId, Sku};

use super::{Command, Workspace};

/// How a product or node is to be written.
pub enum Put<T> {
    /// A POST; one that exists is refused.
    Create {
        /// As it is to be. The stamp in it is replaced.
        value: T,
        /// Who asks, under which key.
        intent: IntentKey,
        /// Hex SHA-256 of the request.
        body_hash: String,
    },
    /// A PATCH: makes the new value of the one that is there in the moment of the decision; one that
    /// doesn't exist is refused.
    Change(Box<dyn Fn(T) -> T + Send>),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome<T> {
    /// Written.
    Done(T),
    /// The same request was carried out before, with this result.
    Replayed(T),
    /// The key was used for another request.
    KeyReused,
    /// It exists already and is another.
    Exists,
    /// There is nothing to change.
    Missing,
}

/// Writes a product.
pub struct PutProduct {
    /// Which.
    pub sku: Sku,
    /// How.
    pub put: Put<Product>,
}

/// Writes a node.
pub struct PutNode {
    /// Which.
    pub id: NodeId,
    /// How.
    pub put: Put<Node>,
}

impl Command for PutProduct {
    type Answer = PutOutcome<Product>;

    fn needs(&self, needs: &mut Needs, _attempt: u32) {
        needs.skus.insert(self.sku.clone());
        needs.intents.extend(self.put.intent().cloned());
    }

    fn decide(&self, workspace: &mut Workspace<'_>) -> PutOutcome<Product> {
        let known = workspace.view.products.get(&self.sku).cloned();
        let seen = known.as_ref().map(|product| product.hlc);
        let product = match self.put.decide(workspace, known) {
            Ok(product) => Product { hlc: workspace.tick_after(seen), ..product },
            Err(outcome) => return outcome,
        };
        workspace.view.products.insert(self.sku.clone(), product.clone());
        let changes = &mut workspace.changes;
        if changes.products.insert(self.sku.clone(), product.clone()).is_none() {
            changes.products_seen.extend(seen.map(|seen| (self.sku.clone(), seen)));
        }
        self.put.keep(workspace, &product);
        PutOutcome::Done(product)
    }
}

impl Command for PutNode {
    type Answer = PutOutcome<Node>;

    fn needs(&self, needs: &mut Needs, _attempt: u32) {
        needs.nodes.insert(self.id.clone());
        needs.intents.extend(self.put.intent().cloned());
    }

    fn decide(&self, workspace: &mut Workspace<'_>) -> PutOutcome<Node> {
        let known = workspace.view.nodes.get(&self.id).cloned();
        let seen = known.as_ref().map(|node| node.hlc);
        let node = match self.put.decide(workspace, known) {
            Ok(node) => Node { hlc: workspace.tick_after(seen), ..node },
            Err(outcome) => return outcome,
        };
        workspace.view.nodes.insert(self.id.clone(), node.clone());
        let changes = &mut workspace.changes;
        if changes.nodes.insert(self.id.clone(), node.clone()).is_none() {
            changes.nodes_seen.extend(seen.map(|seen| (self.id.clone(), seen)));
        }
        self.put.keep(workspace, &node);
        PutOutcome::Done(node)
    }
}

impl<T: Clone + Serialize + DeserializeOwned> Put<T> {
    fn intent(&self) -> Option<&IntentKey> {
        match self {
            Self::Create { intent, .. } => Some(intent),
            Self::Change(_) => None,
        }
    }

    /// What is to be written, or why nothing is.
    fn decide(&self, workspace: &Workspace<'_>, known: Option<T>) -> Result<T, PutOutcome<T>> {
        let (value, intent, body_hash) = match self {
            Self::Change(change) => return known.map(change).ok_or(PutOutcome::Missing),
            Self::Create { value, intent, body_hash } => (value, intent, body_hash),
        };
        let records = workspace.view.intents.get(intent);
        match (records.and_then(|records| records.first()), known) {
            (Some(record), _) => Err(match &record.answer {
                Some(StoredAnswer::Done(first)) if record.body_hash == *body_hash => {
                    let first = serde_json::from_value(first.clone()).ok();
                    first.map_or(PutOutcome::KeyReused, PutOutcome::Replayed)
                }
                _ => PutOutcome::KeyReused,
            }),
            (None, Some(_)) => Err(PutOutcome::Exists),
            (None, None) => Ok(value.clone()),
        }
    }

    fn keep(&self, workspace: &mut Workspace<'_>, written: &T) {
        let Self::Create { intent, body_hash, .. } = self else { return };
        let answer = serde_json::to_value(written).expect("our own type always serializes");
        let record = IntentRecord {
            intent: intent.clone(),
            region: workspace.region.id,
            body_hash: body_hash.clone(),
            order_id: None,
            answer: Some(StoredAnswer::Done(answer)),
            first_at_ms: workspace.now_ms,
        };
        workspace.write_intent(record);
    }
}

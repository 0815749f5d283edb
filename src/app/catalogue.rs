//! Products and nodes: written anywhere, the last writer wins by HLC.

use crate::domain::catalogue::{Node, Product};
use crate::domain::idempotency::{IntentKey, IntentRecord, StoredAnswer};
use crate::ports::Needs;

use super::{Command, Workspace};

/// How a product or node is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// A POST under an idempotency key, with the hash of its body; one that exists is refused.
    Create(IntentKey, String),
    /// A PATCH; one that doesn't exist is refused.
    Replace,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome<T> {
    /// Written.
    Done(T),
    /// The same request was carried out before.
    Replayed(T),
    /// The key was used for another request.
    KeyReused,
    /// It exists already and is another.
    Exists,
    /// There is nothing to replace.
    Missing,
}

/// Writes a product. The stamp in it is replaced.
pub struct PutProduct {
    /// As it is to be.
    pub product: Product,
    /// How.
    pub put: Put,
}

/// Writes a node. The stamp in it is replaced.
pub struct PutNode {
    /// As it is to be.
    pub node: Node,
    /// How.
    pub put: Put,
}

impl Command for PutProduct {
    type Answer = PutOutcome<Product>;

    fn needs(&self, needs: &mut Needs, _attempt: u32) {
        needs.skus.insert(self.product.sku.clone());
        if let Put::Create(intent, _) = &self.put {
            needs.intents.insert(intent.clone());
        }
    }

    fn decide(&self, workspace: &mut Workspace<'_>) -> PutOutcome<Product> {
        let known = workspace.view.products.get(&self.product.sku).cloned();
        if let Some(refusal) = precheck(workspace, &self.put, known.clone()) {
            return refusal;
        }
        let product = Product { hlc: workspace.tick(), ..self.product.clone() };
        workspace.view.products.insert(product.sku.clone(), product.clone());
        workspace.changes.products.insert(product.sku.clone(), product.clone());
        keep_intent(workspace, &self.put);
        PutOutcome::Done(product)
    }
}

impl Command for PutNode {
    type Answer = PutOutcome<Node>;

    fn needs(&self, needs: &mut Needs, _attempt: u32) {
        needs.nodes.insert(self.node.id.clone());
        if let Put::Create(intent, _) = &self.put {
            needs.intents.insert(intent.clone());
        }
    }

    fn decide(&self, workspace: &mut Workspace<'_>) -> PutOutcome<Node> {
        let known = workspace.view.nodes.get(&self.node.id).cloned();
        if let Some(refusal) = precheck(workspace, &self.put, known.clone()) {
            return refusal;
        }
        let node = Node { hlc: workspace.tick(), ..self.node.clone() };
        workspace.view.nodes.insert(node.id.clone(), node.clone());
        workspace.changes.nodes.insert(node.id.clone(), node.clone());
        keep_intent(workspace, &self.put);
        PutOutcome::Done(node)
    }
}

fn precheck<T>(workspace: &Workspace<'_>, put: &Put, known: Option<T>) -> Option<PutOutcome<T>> {
    match put {
        Put::Replace => known.is_none().then_some(PutOutcome::Missing),
        Put::Create(intent, body_hash) => {
            let records = workspace.view.intents.get(intent);
            let record = records.and_then(|records| records.first());
            match (record, known) {
                (Some(record), Some(known)) if record.body_hash == *body_hash => {
                    Some(PutOutcome::Replayed(known))
                }
                (Some(_), _) => Some(PutOutcome::KeyReused),
                (None, Some(_)) => Some(PutOutcome::Exists),
                (None, None) => None,
            }
        }
    }
}

fn keep_intent(workspace: &mut Workspace<'_>, put: &Put) {
    if let Put::Create(intent, body_hash) = put {
        let record = IntentRecord {
            intent: intent.clone(),
            region: workspace.region.id,
            body_hash: body_hash.clone(),
            order_id: None,
            answer: Some(StoredAnswer::Done(serde_json::Value::Null)),
            first_at_ms: workspace.now_ms,
        };
        workspace.write_intent(record);
    }
}

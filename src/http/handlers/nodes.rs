//! Fulfillment nodes.

use axum::extract::State;
use axum::response::Response;

use crate::app::{Put, PutNode};
use crate::types::NodeId;

use super::super::auth::Caller;
use super::super::context::Context;
use super::super::dto::nodes::{NodeBody, NodeOut, NodePatch};
use super::super::headers::IdempotencyKey;
use super::super::json::StrictJson;
use super::super::page::{self, Page};
use super::super::problem::Problem;
use super::super::query::{PathId, StrictQuery};
use super::orders::json;
use super::products::{NO_FAULT, PageQuery, put_answer};
use super::{intent, request_hash};

/// Nodes by id.
#[utoipa::path(get, path = "/api/v1/nodes", tag = "nodes", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<NodeOut>)))]
pub(in crate::http) async fn list_nodes(
    State(context): State<Context>,
    StrictQuery(query): StrictQuery<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page::limit(query.limit)?;
    let after: Option<NodeId> = page::cursor(query.cursor.as_deref())?;
    let nodes = context.app.reader.nodes(after.as_ref(), limit + 1).await?;
    let page = Page::cut(nodes, limit, |node| node.id.clone());
    let items = page.items.into_iter().map(NodeOut::from).collect();
    Ok(json(&Page { items, next_cursor: page.next_cursor }))
}

/// One node.
#[utoipa::path(get, path = "/api/v1/nodes/{id}", tag = "nodes", params(("id" = String, Path)),
    responses((status = 200, description = "The node", body = NodeOut), (status = 404, description = "`not_found`")))]
pub(in crate::http) async fn get_node(
    State(context): State<Context>,
    PathId(id): PathId<NodeId>,
) -> Result<Response, Problem> {
    let node = context.app.reader.node(&id).await?.ok_or_else(|| Problem::not_found("node"))?;
    Ok(json(&NodeOut::from(node)))
}

/// A new node. Its region owns it: stock is received there under that region's rights.
#[utoipa::path(post, path = "/api/v1/nodes", tag = "nodes", params(("Idempotency-Key" = String, Header)), request_body = NodeBody,
    responses((status = 201, description = "Created", body = NodeOut), (status = 409, description = "`already_exists`"),
              (status = 422, description = "`validation_failed`, `idempotency_key_reused`")))]
pub(in crate::http) async fn create_node(
    State(context): State<Context>,
    caller: Caller,
    key: IdempotencyKey,
    body: StrictJson<NodeBody>,
) -> Result<Response, Problem> {
    let known = |region| context.app.region.is_seller(region);
    let node = body.value.check(context.region, known)?;
    let hash = request_hash("POST /nodes", &body.value.canonical());
    let (id, intent) = (node.id.clone(), intent(&caller, key));
    let put = Put::Create { value: node, intent, body_hash: hash };
    put_node(&context, PutNode { id, put }).await
}

/// Changes of a node; what is absent stays.
#[utoipa::path(patch, path = "/api/v1/nodes/{id}", tag = "nodes", params(("id" = String, Path)), request_body = NodePatch,
    responses((status = 200, description = "As it is now", body = NodeOut), (status = 404, description = "`not_found`"),
              (status = 422, description = "`validation_failed`")))]
pub(in crate::http) async fn change_node(
    State(context): State<Context>,
    PathId(id): PathId<NodeId>,
    body: StrictJson<NodePatch>,
) -> Result<Response, Problem> {
    let (node, patch) = (context.app.reader.node(&id).await?, body.value);
    patch.apply(node.ok_or_else(|| Problem::not_found("node"))?)?;
    let put = Put::Change(Box::new(move |now| patch.apply(now).expect(NO_FAULT)));
    put_node(&context, PutNode { id, put }).await
}

async fn put_node(context: &Context, command: PutNode) -> Result<Response, Problem> {
    let id = command.id.clone();
    let is_new = matches!(command.put, Put::Create { .. });
    let (outcome, _) = context.app.writer.submit(command).await?;
    put_answer(outcome, is_new, |node| json(&NodeOut::from(node)), "node", id.as_str())
}

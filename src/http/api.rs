//! The whole table of routes.

use utoipa_axum::routes;

use super::context::Context;
use super::front_door::FrontDoor;
use super::handlers::{
    admin, evacuation, inventory, nodes, orders, place, products, reconciliations, retirement,
    stranded, transfers, webhooks,
};
use super::operations;
use super::routes::{ANYBODY, Access, INSIDERS, OPERATORS, Routes};

/// The door with every route behind it.
pub fn door(context: Context) -> FrontDoor {
    table(context).finish()
}

fn table(context: Context) -> Routes {
    operations::add(Routes::new(context))
        .add(ANYBODY, routes!(place::place_order))
        .add(ANYBODY, routes!(orders::list_orders))
        .add(ANYBODY, routes!(orders::get_order))
        .add(ANYBODY, routes!(orders::order_events))
        .add(ANYBODY, routes!(orders::order_saga))
        .add(ANYBODY, routes!(inventory::get_inventory))
        .add(INSIDERS, routes!(inventory::adjust))
        .add(INSIDERS, routes!(inventory::stocktake))
        .add(OPERATORS, routes!(transfers::transfer_rights))
        .add(OPERATORS, routes!(transfers::pin_rights))
        .add(ANYBODY, routes!(products::list_products))
        .add(ANYBODY, routes!(products::get_product))
        .add(INSIDERS, routes!(products::create_product))
        .add(INSIDERS, routes!(products::change_product))
        .add(INSIDERS, routes!(nodes::list_nodes))
        .add(INSIDERS, routes!(nodes::get_node))
        .add(INSIDERS, routes!(nodes::create_node))
        .add(INSIDERS, routes!(nodes::change_node))
        .add(Access::Signed, routes!(webhooks::payment_webhook))
        .add(OPERATORS, routes!(admin::list_regions))
        .add(OPERATORS, routes!(admin::drain))
        .add(OPERATORS, routes!(admin::resume))
        .add(OPERATORS, routes!(admin::fence))
        .add(OPERATORS, routes!(admin::rejoin))
        .add(OPERATORS, routes!(evacuation::evacuate))
        .add(OPERATORS, routes!(retirement::retire))
        .add(OPERATORS, routes!(stranded::list_stranded))
        .add(OPERATORS, routes!(admin::list_sagas))
        .add(OPERATORS, routes!(admin::retry_saga))
        .add(OPERATORS, routes!(reconciliations::reconcile))
        .add(OPERATORS, routes!(reconciliations::get_reconciliation))
}

#[cfg(test)]
mod tests {
    use super::super::auth::Role;
    use super::super::routes::Access;
    use super::super::testing::{Fixture, json_of, request};
    use super::*;
    use std::sync::atomic::Ordering;

    /// A path with something in place of its parameters.
    fn filled(pattern: &str) -> String {
        let fill = |part: &str| match part {
            part if part.starts_with('{') => "0190163d-8694-739b-aea5-966c26f8ad01".to_owned(),
            part => part.to_owned(),
        };
        pattern.split('/').map(fill).collect::<Vec<_>>().join("/")
    }

    #[tokio::test]
    async fn no_guarded_route_answers_without_a_token_or_with_a_wrong_role() {
        let fixture = Fixture::new();
        let table = table(fixture.context.clone());
        let routes = table.table().to_vec();
        let door = table.finish();
        for route in routes {
            let path = filled(route.path);
            let Access::Roles(allowed) = route.access else { continue };
            let answer = door.answer(request(route.method, &path, None)).await;
            assert_eq!(answer.status(), 401, "{} {path} without a token", route.method);
            assert_eq!(answer.headers()["www-authenticate"], "Bearer");
            assert_eq!(json_of(answer).await["code"], "unauthenticated");
            for role in Role::ALL.iter().filter(|role| !allowed.contains(role)) {
                let token = fixture.token(*role, "somebody");
                let answer = door.answer(request(route.method, &path, Some(&token))).await;
                assert_eq!(answer.status(), 403, "{} {path} as {role}", route.method);
                assert_eq!(json_of(answer).await["code"], "forbidden");
            }
        }
    }

    #[tokio::test]
    async fn public_routes_are_the_operations_endpoints() {
        let fixture = Fixture::new();
        let table = table(fixture.context.clone());
        let public: Vec<_> = table
            .table()
            .iter()
            .filter(|route| route.access == Access::Public)
            .map(|route| route.path)
            .collect();
        assert_eq!(public, ["/livez", "/readyz", "/routing", "/metrics", "/openapi.json", "/docs"]);
        let door = table.finish();
        for path in public {
            let answer = door.answer(request("GET", path, None)).await;
            // There are no other regions in this one.
            let status = if path == "/routing" { 404 } else { 200 };
            assert_eq!(answer.status(), status, "{path}");
            assert_eq!(answer.headers()["x-region"], "eu-west");
        }
        fixture.health.0.store(false, Ordering::Relaxed);
        let answer = door.answer(request("GET", "/readyz", None)).await;
        assert_eq!(answer.status(), 503);
        assert_eq!(json_of(answer).await["status"], "draining");
    }

    #[tokio::test]
    async fn unknown_addresses_and_methods_are_problems() {
        let fixture = Fixture::new();
        let door = door(fixture.context.clone());
        let answer = door.answer(request("GET", "/api/v1/nothing", None)).await;
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.headers()["x-region"], "eu-west");
        let body = json_of(answer).await;
        assert_eq!(body["code"], "not_found");
        assert_eq!(body["trace_id"].as_str().unwrap().len(), 32);
        let answer = door.answer(request("DELETE", "/livez", None)).await;
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()["allow"], "GET,HEAD");
        assert_eq!(json_of(answer).await["code"], "method_not_allowed");
    }

    #[tokio::test]
    async fn the_trace_id_is_the_clients() {
        let fixture = Fixture::new();
        let door = door(fixture.context.clone());
        let mut asked = request("GET", "/nothing", None);
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        asked.headers_mut().insert("traceparent", parent.parse().unwrap());
        let answer = door.answer(asked).await;
        assert_eq!(answer.headers()["x-request-id"], "0af7651916cd43dd8448eb211c80319c");
    }

    #[tokio::test]
    async fn the_document_lists_every_route_with_its_roles() {
        let fixture = Fixture::new();
        let table = table(fixture.context.clone());
        let routes = table.table().to_vec();
        let door = table.finish();
        let document = json_of(door.answer(request("GET", "/openapi.json", None)).await).await;
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        for route in routes {
            let operation = &document["paths"][route.path][route.method.to_lowercase()];
            assert!(operation.is_object(), "{} {}", route.method, route.path);
            if let Access::Roles(roles) = route.access {
                assert_eq!(operation["x-roles"].as_array().unwrap().len(), roles.len());
                assert!(operation["responses"]["401"].is_object());
            }
        }
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name} is nowhere");
        }
        let codes = document["info"]["x-error-codes"].as_array().unwrap();
        assert_eq!(codes.len(), super::super::problem::Code::ALL.len());
    }
}

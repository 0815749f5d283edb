//! What a run may be asked for. What it finds needs databases: `tests/it/reconcile.rs`.

use axum::body::Body;
use axum::http::Request;
use serde_json::json;

use super::super::super::auth::Role;
use super::super::super::door;
use super::super::super::testing::{Fixture, json_of, request, send};

const PATH: &str = "/api/v1/admin/reconciliations";

#[tokio::test]
async fn a_run_is_asked_for_without_a_body_or_with_a_strict_one() {
    let fixture = Fixture::new();
    let door = door(fixture.context.clone());
    let admin = fixture.token(Role::Admin, "operator");
    let send = |body| send("POST", PATH, &admin, "k", &body);
    let mut untyped: Request<Body> = request("POST", PATH, Some(&admin));
    *untyped.body_mut() = Body::from("{}");
    for (asked, status, code) in [
        // Understood; this region has no others to compare with.
        (request("POST", PATH, Some(&admin)), 404, "not_found"),
        (send(json!({})), 404, "not_found"),
        (send(json!({"repair": true})), 404, "not_found"),
        (send(json!({"repair": 1})), 422, "validation_failed"),
        (send(json!({"mend": true})), 422, "validation_failed"),
        (untyped, 415, "unsupported_media_type"),
    ] {
        let answer = door.answer(asked).await;
        let answered = (answer.status().as_u16(), json_of(answer).await["code"].clone());
        assert_eq!(answered, (status, code.into()));
    }
}

#[tokio::test]
async fn a_report_that_no_region_keeps_is_not_found() {
    let fixture = Fixture::new();
    let door = door(fixture.context.clone());
    let admin = fixture.token(Role::Admin, "operator");
    for id in ["nonsense", "01999999-9999-7000-8000-0000000000ff"] {
        let answer = door.answer(request("GET", &format!("{PATH}/{id}"), Some(&admin))).await;
        assert_eq!(answer.status(), 404, "{id}");
    }
}

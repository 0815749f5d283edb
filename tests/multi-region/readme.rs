//! What the README tells a newcomer to do works, to the letter.

use crate::world::{Call, World};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_order_of_the_readme_is_confirmed() {
    let world = World::enter().await;
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once("## A first order").unwrap();
    let commands = section.split("```").nth(1).unwrap();
    let (_, curl) = commands.split_once("curl -s http://127.0.0.1:8080").unwrap();
    let path = curl.split_whitespace().next().unwrap();
    let (_, body) = curl.split_once("-d '").unwrap();
    let body = body.rsplit_once('\'').unwrap().0.to_owned();
    let mut call = Call::post_bytes(format!("{}{path}", world.balancer()), body);
    let headers = curl.lines().filter_map(|line| line.trim().strip_prefix("-H \""));
    for header in headers {
        let (name, value) = header.trim_end_matches(['\\', ' ', '"']).split_once(": ").unwrap();
        call = match name {
            "Authorization" => {
                let (_, command) = value.split_once("$(entrepot ").unwrap();
                let arguments = command.trim_end_matches(')').split_whitespace();
                let token = world.entrepot(&arguments.collect::<Vec<_>>());
                call.token(token.trim())
            }
            "Idempotency-Key" => call.key(value),
            "Content-Type" => call,
            other => panic!("a header that this test does not know: {other}"),
        };
    }
    let answer = world.http.send(call.clone()).await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json()["status"], "confirmed");
    let again = world.http.send(call).await.unwrap();
    assert!(again.is_replayed(), "{again:?}");
    assert_eq!(again.order_id(), answer.order_id());
    world.audit().await;
}

//! What only another region can answer.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::super::server;
use super::*;

/// A shop in eu-west that listens, and a region that has it for a neighbor.
pub(super) struct Neighbors {
    pub(super) there: Shop,
    pub(super) here: Fixture,
    pub(super) door: FrontDoor,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Neighbors {
    pub(super) async fn new(units: u64) -> Self {
        let there = shop(units).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let limits = server::Limits::default();
        let serving = server::serve(listener, there.door.clone(), limits, stop.clone());
        let serving = crate::runtime::spawn_named("test peer", serving);
        let issuer = Some(there.fixture.dir.path().to_owned());
        let peers = [("eu-west".parse().unwrap(), url)].into();
        let choices = Choices { region: "us-east", peers, issuer, ..Choices::default() };
        let here = Fixture::with(choices);
        let door = door(here.context.clone());
        Self { there, here, door, stop, serving }
    }

    pub(super) async fn get(&self, path: &str, token: &str) -> Response<Body> {
        self.door.answer(request("GET", path, Some(token))).await
    }

    /// The order arrives here as a copy.
    pub(super) fn copy(&self, location: &str) {
        let id = location.rsplit('/').next().unwrap().parse().unwrap();
        let record = self.there.fixture.store.tables().orders[&id].clone();
        self.here.store.put_copy(record);
    }

    /// The neighbor is gone.
    pub(super) async fn stop(&mut self) {
        self.stop.cancel();
        (&mut self.serving).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_elsewhere_is_asked_for_there() {
    let mut regions = Neighbors::new(10).await;
    let placed = regions.there.place("k1", &order_body("A-1", 1, "tok_ok")).await;
    let location = header(&placed, "location").to_owned();
    let alice = regions.there.alice.clone();
    let answer = regions.get(&location, &alice).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        (header(&answer, "x-region"), header(&answer, "x-home-region")),
        ("eu-west", "eu-west")
    );
    let bob = regions.there.fixture.token(Role::Customer, "bob");
    assert_eq!(regions.get(&location, &bob).await.status(), 404);
    let mut looping = request("GET", &location, Some(&alice));
    looping.headers_mut().insert("x-entrepot-forwarded", "ap-south".parse().unwrap());
    let answer = regions.door.answer(looping).await;
    assert_eq!(json_of(answer).await["code"], "home_region_unavailable");
    for nobody in ["mars", "us-east", "ä"] {
        let mut forged = request("GET", &location, Some(&alice));
        forged.headers_mut().insert("x-entrepot-forwarded", nobody.parse().unwrap());
        assert_eq!(regions.door.answer(forged).await.status(), 200, "{nobody} is no peer");
    }
    // A copy is shown as one; the strong answer is the home's.
    regions.copy(&location);
    let copy = json_of(regions.get(&location, &alice).await).await;
    assert!(copy["stale_as_of"].is_string());
    let strong = format!("{location}?consistency=strong");
    let answer = json_of(regions.get(&strong, &alice).await).await;
    assert_eq!(answer["stale_as_of"], Value::Null);
    regions.stop().await;
    let answer = regions.get(&strong, &alice).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (503, "2"));
    assert_eq!(json_of(answer).await["code"], "home_region_unavailable");
}

#[tokio::test]
async fn a_copy_of_anothers_order_looks_like_no_order() {
    let mut regions = Neighbors::new(10).await;
    let placed = regions.there.place("k1", &order_body("A-1", 1, "tok_ok")).await;
    let location = header(&placed, "location").to_owned();
    regions.copy(&location);
    let bob = regions.there.fixture.token(Role::Customer, "bob");
    let absent = location.replace("/orders/0", "/orders/1");
    for status in [404, 503] {
        let mut answers = Vec::new();
        for path in [&location, &absent] {
            let answer = regions.get(path, &bob).await;
            assert_eq!(answer.status(), status, "{path}");
            let answered_by = header(&answer, "x-region").to_owned();
            let mut problem = json_of(answer).await;
            problem["trace_id"] = Value::Null;
            answers.push((answered_by, problem));
        }
        assert_eq!(answers[0], answers[1]);
        if status == 404 {
            regions.stop().await;
        }
    }
    let own = regions.get(&location, &regions.there.alice).await;
    assert_eq!(own.status(), 200, "the copy is its owner's to see");
}

#[tokio::test]
async fn rights_are_moved_by_the_region_that_the_request_usually_goes_to() {
    let mut regions = Neighbors::new(10).await;
    let admin = regions.there.fixture.token(Role::Admin, "op");
    let body = json!({"to_region": "ap-south", "quantity": 1, "node": "w-1"});
    let path = "/api/v1/inventory/A-1/rights-transfers";
    let asked = |usual: Option<&str>| {
        let mut asked = send("POST", path, &admin, "k1", &body);
        if let Some(usual) = usual {
            asked.headers_mut().insert("x-preferred-region", usual.parse().unwrap());
        }
        regions.door.answer(asked)
    };
    for (usual, giver) in
        [(None, "us-east"), (Some("us-east"), "us-east"), (Some("eu-west"), "eu-west")]
    {
        assert_eq!(header(&asked(usual).await, "x-region"), giver, "{usual:?}");
    }
    regions.stop().await;
    let mut astray = send("POST", path, &admin, "k1", &body);
    astray.headers_mut().insert("x-preferred-region", "eu-west".parse().unwrap());
    let answer = regions.door.answer(astray).await;
    assert_eq!(
        json_of(answer).await["code"],
        "home_region_unavailable",
        "never from another region"
    );
}

#[tokio::test]
async fn a_saga_is_tried_again_at_its_home() {
    let mut regions = Neighbors::new(10).await;
    let body = order_body("A-1", 1, "tok_async");
    let alice = &regions.there.alice;
    let asked = with_prefer(send("POST", ORDERS, alice, "k1", &body), "respond-async");
    let order = json_of(regions.there.door.answer(asked).await).await;
    let path = format!("/api/v1/admin/sagas/{}/retry", order["id"].as_str().unwrap());
    let admin = regions.there.fixture.token(Role::Admin, "op");
    let answer = regions.door.answer(request("POST", &path, Some(&admin))).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "x-region")), (200, "eu-west"));
    let nobodys = "/api/v1/admin/sagas/00000000-0000-0000-0000-000000000000/retry";
    let answer = regions.door.answer(request("POST", nobodys, Some(&admin))).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "x-region")), (404, "us-east"));
    regions.stop().await;
    let answer = regions.door.answer(request("POST", &path, Some(&admin))).await;
    assert_eq!(json_of(answer).await["code"], "home_region_unavailable");
}

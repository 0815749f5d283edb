//! The evacuation of a region, as its processes tell each other of it.

use entrepot::domain::evacuation::{Evacuating, Progress, Stage};
use uuid::Uuid;

use super::{Kind, Subject};

fn progress(run: u128, stage: Stage) -> Progress {
    let (run, to) = (Uuid::from_u128(run), "b".parse().unwrap());
    Progress { run, to, stage, orders: 0, units: 7, detail: None }
}

pub(super) async fn an_evacuation_is_begun_once_and_told_to_all(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let known = || async { a.evacuation.evacuation().await.unwrap() };
    assert_eq!(known().await, None);
    let (first, second) = (progress(1, Stage::Settling), progress(2, Stage::Settling));
    let begin = async |begun: &Progress, now_ms: u64, lost_ms: u64| {
        let now = a.evacuation.begin_evacuation(begun, now_ms, lost_ms).await.unwrap();
        (now.progress.run, now.told_at_ms)
    };
    assert_eq!(begin(&first, 100, 50).await, (first.run, 100));
    assert_eq!(begin(&second, 150, 100).await, (first.run, 100), "one at a time");
    let on = progress(1, Stage::MovingOrders);
    assert_eq!(a.evacuation.tell_evacuation(&on, 160).await.unwrap(), Some(false));
    assert_eq!(known().await, Some(Evacuating { progress: on, told_at_ms: 160 }));
    assert_eq!(begin(&second, 200, 161).await, (second.run, 200), "its process is gone");
    let late = progress(1, Stage::Done);
    assert_eq!(a.evacuation.tell_evacuation(&late, 210).await.unwrap(), None);
    assert_eq!(known().await, Some(Evacuating { progress: second, told_at_ms: 200 }));
    let done = progress(2, Stage::Done);
    assert_eq!(a.evacuation.tell_evacuation(&done, 220).await.unwrap(), Some(false));
    assert_eq!(begin(&progress(3, Stage::Settling), 230, 0).await, (Uuid::from_u128(3), 230));
}

pub(super) async fn an_evacuation_ends_before_orders_move_or_goes_to_its_end(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let abort = async |run| a.evacuation.abort_evacuation(Uuid::from_u128(run)).await.unwrap();
    let tell =
        async |run, stage| a.evacuation.tell_evacuation(&progress(run, stage), 2).await.unwrap();
    assert!(!abort(1).await, "there is none");
    a.evacuation.begin_evacuation(&progress(1, Stage::Settling), 1, 0).await.unwrap();
    assert!(!abort(2).await, "that is another one");
    assert!(abort(1).await && abort(1).await);
    assert_eq!(tell(1, Stage::MovingRights).await, Some(true));
    assert!(abort(1).await);
    assert_eq!(tell(1, Stage::Aborted).await, Some(true));
    assert!(!abort(1).await, "it is over");
    a.evacuation.begin_evacuation(&progress(2, Stage::Settling), 3, 0).await.unwrap();
    assert_eq!(
        tell(2, Stage::MovingOrders).await,
        Some(false),
        "nobody asked for the end of this one"
    );
    assert!(!abort(2).await, "orders move");
    assert_eq!(tell(2, Stage::Verifying).await, Some(false));
}

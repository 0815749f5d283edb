//! The evacuation of a region, as its processes tell each other of it.

use entrepot::domain::evacuation::{Evacuating, Progress, Stage};
use entrepot::ports::CommitError;
use entrepot::ports::store::{Mandate, NO_MANDATE};
use entrepot::types::Epoch;
use uuid::Uuid;

use super::moves::{after, held, moved, write};
use super::{Kind, Subject, two};
use crate::support::writes::{order_id, orders, stamp};

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
        let now =
            a.evacuation.begin_evacuation(Epoch::FIRST, begun, now_ms, lost_ms).await.unwrap();
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
    a.evacuation.begin_evacuation(Epoch::FIRST, &progress(1, Stage::Settling), 1, 0).await.unwrap();
    assert!(!abort(2).await, "that is another one");
    assert!(abort(1).await && abort(1).await);
    assert_eq!(tell(1, Stage::MovingRights).await, Some(true));
    assert!(abort(1).await);
    assert_eq!(tell(1, Stage::Aborted).await, Some(true));
    assert!(!abort(1).await, "it is over");
    a.evacuation.begin_evacuation(Epoch::FIRST, &progress(2, Stage::Settling), 3, 0).await.unwrap();
    assert_eq!(
        tell(2, Stage::MovingOrders).await,
        Some(false),
        "nobody asked for the end of this one"
    );
    assert!(!abort(2).await, "orders move");
    assert_eq!(tell(2, Stage::Verifying).await, Some(false));
}

impl Subject {
    async fn begin(&self, run: u128) {
        let begun = progress(run, Stage::Settling);
        let now =
            self.evacuation.begin_evacuation(Epoch::FIRST, &begun, 1, u64::MAX).await.unwrap();
        assert_eq!(now.progress.run, begun.run);
    }

    async fn tell(&self, run: u128, stage: Stage) {
        let told = self.evacuation.tell_evacuation(&progress(run, stage), 2).await.unwrap();
        assert!(told.is_some());
    }

    async fn is_draining(&self) -> bool {
        self.store.stopped(Epoch::FIRST).await.unwrap().draining
    }
}

/// A process that stood still does not know that it was taken for gone.
pub(super) async fn orders_move_under_the_evacuation_that_is_under_way(kind: Kind) {
    let (a, b) = two(kind).await;
    let placed = [1, 2].map(|serial| held(a.region, order_id(1, serial), 1));
    for placed in &placed {
        write(&a, placed, 1).await;
    }
    let try_to_move = async |run, order: usize| {
        let mut changes = orders([after(&a, &placed[order], 2, moved(&a, &b))]);
        changes.mandate = Some(Mandate::Evacuation(Uuid::from_u128(run)));
        a.store.commit(&changes, stamp(a.region, 2)).await.map(drop)
    };
    let refused = Err(CommitError::Conflict(NO_MANDATE));
    assert_eq!(try_to_move(1, 0).await, refused, "there is none");
    a.begin(1).await;
    assert_eq!(try_to_move(1, 0).await, refused, "it can be aborted");
    a.tell(1, Stage::MovingOrders).await;
    assert_eq!(try_to_move(1, 0).await, Ok(()));
    a.begin(2).await;
    assert_eq!(try_to_move(1, 1).await, refused, "another one was begun");
    a.tell(2, Stage::Failed).await;
    assert_eq!(try_to_move(1, 1).await, refused, "and has ended");
    assert_eq!(try_to_move(2, 1).await, refused);
    a.store.set_draining(Epoch::FIRST, false).await.unwrap();
    a.begin(3).await;
    assert!(a.evacuation.abort_evacuation(Uuid::from_u128(3)).await.unwrap());
    a.tell(3, Stage::MovingOrders).await;
    assert_eq!(try_to_move(3, 1).await, refused, "it is being aborted");
    a.tell(3, Stage::Aborted).await;
    assert_eq!(try_to_move(3, 1).await, refused, "it was aborted");
    a.begin(4).await;
    a.tell(4, Stage::MovingOrders).await;
    a.store.set_draining(Epoch::FIRST, false).await.unwrap();
    assert_eq!(try_to_move(4, 1).await, refused, "an operator has resumed the region");
    a.begin(5).await;
    a.tell(5, Stage::MovingOrders).await;
    assert_eq!(try_to_move(5, 1).await, Ok(()));
}

pub(super) async fn what_has_moved_has_moved_when_an_evacuation_is_begun_anew(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let abort = async |run| a.evacuation.abort_evacuation(Uuid::from_u128(run)).await.unwrap();
    a.begin(1).await;
    a.tell(1, Stage::MovingOrders).await;
    a.begin(2).await;
    assert!(!abort(2).await, "the one before had begun to move orders");
    a.tell(2, Stage::MovingRights).await;
    a.tell(2, Stage::Failed).await;
    a.begin(3).await;
    assert!(!abort(3).await, "also two before");
    a.tell(3, Stage::Done).await;
    // It takes orders again: what is begun now is about those.
    a.store.set_draining(Epoch::FIRST, false).await.unwrap();
    a.begin(4).await;
    assert!(abort(4).await);
}

pub(super) async fn an_aborted_evacuation_leaves_a_region_as_its_operator_did(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let abort = async |run| {
        assert!(a.is_draining().await, "it is given up");
        assert!(a.evacuation.abort_evacuation(Uuid::from_u128(run)).await.unwrap());
        a.tell(run, Stage::Aborted).await;
    };
    a.begin(1).await;
    abort(1).await;
    assert!(!a.is_draining().await);
    a.store.set_draining(Epoch::FIRST, true).await.unwrap();
    a.begin(2).await;
    abort(2).await;
    assert!(a.is_draining().await, "it was drained before");
    a.store.set_draining(Epoch::FIRST, false).await.unwrap();
    a.begin(3).await;
    a.store.set_draining(Epoch::FIRST, true).await.unwrap();
    abort(3).await;
    assert!(a.is_draining().await, "it was drained meanwhile");
    a.store.set_draining(Epoch::FIRST, false).await.unwrap();
    a.begin(4).await;
    a.tell(4, Stage::Failed).await;
    assert!(a.is_draining().await, "what was begun is gone on with");
    a.store.set_draining(Epoch::FIRST, false).await.unwrap();
    assert!(!a.is_draining().await, "an operator speaks of all of it");
}

pub(super) async fn a_region_that_was_resumed_is_given_up_no_further(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let tell =
        async |run, stage| a.evacuation.tell_evacuation(&progress(run, stage), 2).await.unwrap();
    for (run, end) in [(1, Stage::Failed), (2, Stage::Done), (3, Stage::Aborted)] {
        a.begin(run).await;
        assert_eq!(tell(run, Stage::MovingRights).await, Some(false));
        a.store.set_draining(Epoch::FIRST, false).await.unwrap();
        for stage in [Stage::Settling, Stage::MovingRights, Stage::MovingOrders, Stage::Verifying] {
            assert_eq!(tell(run, stage).await, None, "{stage:?}");
        }
        let known = a.evacuation.evacuation().await.unwrap().unwrap();
        assert_eq!(known.progress.stage, Stage::MovingRights);
        assert_eq!(tell(run, end).await, Some(false), "its end is still told");
        assert_eq!(a.evacuation.evacuation().await.unwrap().unwrap().progress.stage, end);
        assert!(!a.is_draining().await);
    }
}

pub(super) async fn an_incarnation_that_is_over_gives_nothing_up(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let begun = progress(1, Stage::Settling);
    let refused = a.evacuation.begin_evacuation(Epoch(2), &begun, 1, 0).await;
    assert!(refused.unwrap_err().to_string().contains("its epoch is over"));
    assert_eq!(a.evacuation.evacuation().await.unwrap(), None);
    assert!(!a.is_draining().await);
    // Not even to follow one that is under way.
    a.begin(2).await;
    assert!(a.evacuation.begin_evacuation(Epoch(2), &begun, 1, 0).await.is_err());
    let known = a.evacuation.evacuation().await.unwrap().unwrap();
    assert_eq!(known.progress.run, Uuid::from_u128(2));
}

//! Ceilings of three regions: who may propose them, and what a fence and a return leave behind.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use entrepot::app::rights::{FenceError, ProposeError, Proposer, Rights};
use entrepot::escrow::{Ballot, Purpose, Voter};
use entrepot::ports::RegisterStore as _;
use entrepot::store::PgRights;
use entrepot::types::Epoch;

use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::world::{World, actor, key};

/// Answers race, so that one round may miss what the next one finds.
const ROUNDS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_missed_a_return_does_not_keep_the_region_out() {
    let world = World::start().await;
    let [b, a, c] = &world.regions[..] else { unreachable!("three regions") };
    a.rights.fence(c.id).await.unwrap();
    let fenced = || async { b.rights.is_fenced(actor(c.id)).then_some(()) };
    eventually("both others know", fenced).await;
    world.hub.cut(b.id, c.id);
    c.rights.come_back().await.unwrap();
    assert_eq!(b.rights.registers.fenced().await.unwrap(), BTreeSet::from([actor(c.id)]));
    world.hub.heal();
    for _ in 0..ROUNDS {
        // The first one asked is the one that missed it.
        Proposer::prepare(&c.rights, actor(c.id), Purpose::Propose).await.unwrap();
    }
    let heard = || async {
        // A proposal ends when a majority has answered: not each one reaches everybody.
        c.receive("x", 1).await;
        let promised = b.rights.registers.fenced().await.unwrap();
        (promised.is_empty() && !b.rights.is_fenced(actor(c.id))).then_some(())
    };
    eventually("it hears of the return from what is proposed", heard).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_was_set_back_has_no_vote_in_its_own_proposals() {
    let world = World::start().await;
    let [a, _, c] = &world.regions[..] else { unreachable!("three regions") };
    c.amnesia.store(1, Ordering::Relaxed);
    let refused = c.rights.fence(a.id).await.unwrap_err();
    assert_eq!(refused, FenceError::Propose(ProposeError::SetBack));
    assert_eq!(c.rights.come_back().await, Err(ProposeError::SetBack));
    for region in &world.regions {
        let promised = region.rights.registers.promised(actor(a.id)).await.unwrap();
        assert_eq!(promised, Ballot::birth(a.id), "in {}", region.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_one_region_share_a_ballot_instead_of_outbidding_each_other() {
    let world = World::start().await;
    let [a, _, _] = &world.regions[..] else { unreachable!("three regions") };
    let second = a.another_process();
    for round in 0..4 {
        for (name, rights) in [("x", &a.rights), ("y", &second)] {
            a.receive(name, 200).await;
            rights.raises.want([(key(name), 200 * (round + 1))]);
            rights.raise_round().await.unwrap();
            let ceiling = a.cell(name, "ceiling").await;
            assert_eq!(ceiling, 200 * (round + 1), "of {name}");
        }
    }
    let promised = a.rights.registers.promised(actor(a.id)).await.unwrap();
    assert_eq!(promised, Ballot { round: 1, region: a.id });
}

/// Otherwise an acceptor whose database was set back while everybody was down would vote twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_acceptors_voted_is_known_after_a_restart() {
    let world = World::start().await;
    let [a, _, c] = &world.regions[..] else { unreachable!("three regions") };
    a.receive("x", 200).await;
    let after_raise = a.rights.registers.voters().await.unwrap();
    assert!(after_raise.values().any(|voter| voter.votes > 0), "{after_raise:?}");
    a.rights.fence(c.id).await.unwrap();
    let noted = a.rights.registers.voters().await.unwrap();
    let begun = Rights::voters_of(&std::collections::BTreeMap::new(), noted.clone());
    let has_voted = |voter: &Voter| *voter > Voter::UNKNOWN;
    assert!(begun.values().any(has_voted), "who voted for the fence: {begun:?}");
    // Less is no news.
    let less = noted
        .iter()
        .map(|(region, voter)| (*region, Voter { votes: voter.votes.saturating_sub(1), ..*voter }));
    a.rights.registers.note_voters(&less.collect()).await.unwrap();
    let now = a.rights.registers.voters().await.unwrap();
    assert!(noted.iter().all(|(region, voter)| now[region] >= *voter), "{noted:?} {now:?}");
}

/// Likewise what another process of the region has counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_knows_of_votes_counts_for_the_others() {
    let world = World::start().await;
    let [a, b, c] = &world.regions[..] else { unreachable!("three regions") };
    let second = a.another_process();
    world.hub.cut(a.id, c.id);
    a.receive("x", 200).await;
    let counted = a.rights.registers.voters().await.unwrap()[&b.id];
    assert!(counted > Voter::UNKNOWN, "who voted for the raise");
    // What it asks only the third one shows it how far the second has voted.
    world.hub.heal();
    world.hub.cut(a.id, b.id);
    Proposer::prepare(&second, actor(a.id), Purpose::Propose).await.unwrap();
    assert!(second.voter(b.id) >= counted, "{counted:?}");
}

/// Each raise shows how far the others have voted, and mostly that is known.
#[tokio::test]
async fn how_far_others_voted_is_not_waited_for_where_it_is_known() {
    let database = Database::new().await;
    let rights = PgRights::new(database.store("a"), Epoch::FIRST);
    let (b, voter) = ("b".parse().unwrap(), |votes| Voter { epoch: Epoch::FIRST, votes });
    rights.note_voters(&[(b, voter(7))].into()).await.unwrap();
    let mut beside = database.connection().await;
    sqlx::raw_sql("BEGIN; SELECT FROM voters FOR UPDATE").execute(&mut beside).await.unwrap();
    for known in [6, 7] {
        rights.note_voters(&[(b, voter(known))].into()).await.unwrap();
    }
    sqlx::raw_sql("COMMIT").execute(&mut beside).await.unwrap();
    rights.note_voters(&[(b, voter(8))].into()).await.unwrap();
    assert_eq!(rights.voters().await.unwrap(), [(b, voter(8))].into());
}

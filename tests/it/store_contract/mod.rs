//! The contract of the store's ports, as one suite: it runs on PostgreSQL and on the database in memory
//! that the simulator uses, so that what is proved on the one holds for the other.

mod changes;
mod copies;
mod evacuation;
mod moves;
mod orders;
mod registers;
mod rejoin;
mod retirements;
mod rights;
mod stock;

use std::num::NonZeroU8;
use std::sync::Arc;

use entrepot::ports::{
    EvacuationStore, Reader, RegisterStore, RejoinStore, ReplicationStore, RetirementStore,
    RightsStore, SagaQueue, StopStore, Store,
};
use entrepot::sim::memory::{Memory, MemoryRights};
use entrepot::store::PgRights;
use entrepot::types::{Actor, Epoch, RegionId, RegionNumber, StockKey};

use crate::support::ceilings;
use crate::support::postgres::Database;

/// Everything a region stores, but for rights.
pub(super) trait AnyStore:
    Store + Reader + ReplicationStore + SagaQueue + StopStore
{
}

impl<T: Store + Reader + ReplicationStore + SagaQueue + StopStore> AnyStore for T {}

/// Which implementation is looked at.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Memory,
    Postgres,
}

/// One region's database.
pub(super) struct Subject {
    pub(super) region: RegionId,
    pub(super) store: Arc<dyn AnyStore>,
    pub(super) rights: Arc<dyn RightsStore>,
    pub(super) registers: Arc<dyn RegisterStore>,
    pub(super) rejoin: Arc<dyn RejoinStore>,
    pub(super) retirements: Arc<dyn RetirementStore>,
    pub(super) evacuation: Arc<dyn EvacuationStore>,
    _database: Option<Database>,
}

impl Subject {
    /// An empty database of a region, in its first incarnation.
    pub(super) async fn empty(kind: Kind, name: &str, number: u8) -> Self {
        let region = name.parse().unwrap();
        match kind {
            Kind::Memory => {
                let memory = Memory::new(region);
                let rights = Arc::new(MemoryRights::new(memory.clone(), Epoch::FIRST));
                let (registers, rejoin, retirements) =
                    (rights.clone(), rights.clone(), rights.clone());
                let store = Arc::new(memory);
                let evacuation = store.clone();
                let held = None;
                Self {
                    region,
                    store,
                    rights,
                    registers,
                    rejoin,
                    retirements,
                    evacuation,
                    _database: held,
                }
            }
            Kind::Postgres => {
                let database = Database::new().await;
                let store = database.store(name);
                let number = RegionNumber(NonZeroU8::new(number).unwrap());
                store.start(number).await.unwrap();
                let rights = Arc::new(PgRights::new(store.clone(), Epoch::FIRST));
                let (registers, rejoin, retirements) =
                    (rights.clone(), rights.clone(), rights.clone());
                let (store, held) = (Arc::new(store), Some(database));
                let evacuation = store.clone();
                Self {
                    region,
                    store,
                    rights,
                    registers,
                    rejoin,
                    retirements,
                    evacuation,
                    _database: held,
                }
            }
        }
    }
}

impl Subject {
    /// Lets the region sell all that it holds of a key.
    pub(super) async fn open(&self, key: &StockKey) {
        let own = Actor { region: self.region, epoch: Epoch::FIRST };
        ceilings::open(self.rights.as_ref(), self.registers.as_ref(), own, key).await;
    }
}

/// Region `a`, that writes, and region `b`, that applies.
pub(super) async fn two(kind: Kind) -> (Subject, Subject) {
    (Subject::empty(kind, "a", 1).await, Subject::empty(kind, "b", 2).await)
}

/// Each case on each implementation.
macro_rules! contract {
    ($($part:ident: $($case:ident),+;)+) => {
        mod in_memory {
            use super::Kind;
            $($(
                #[tokio::test]
                async fn $case() {
                    super::$part::$case(Kind::Memory).await;
                }
            )+)+
        }
        mod in_postgres {
            use super::Kind;
            $($(
                #[tokio::test]
                async fn $case() {
                    super::$part::$case(Kind::Postgres).await;
                }
            )+)+
        }
    };
}

contract! {
    retirements:
        what_people_say_follows_on_what_they_have_read,
        what_is_done_stays_done_until_the_region_begins_anew,
        a_number_is_a_retirements_or_an_incarnations,
        orders_are_found_by_what_they_count_on,
        the_last_row_of_an_owner_gives_what_it_had_left,
        of_an_owner_that_is_over_only_the_last_row_is_taken;
    orders:
        a_commit_is_written_as_a_whole_or_not_at_all,
        an_old_version_refuses_the_commit,
        an_intent_is_taken_once_in_a_region,
        a_reference_has_one_standing_order_and_is_left_by_a_cancelled_one,
        lists_are_in_order_and_end_where_they_are_told,
        a_due_saga_is_claimed_by_one_worker;
    changes:
        the_outbox_is_numbered_without_a_gap,
        an_incarnation_that_is_over_writes_nothing,
        the_catalogue_keeps_the_newest_and_refuses_what_was_decided_on_an_old_one,
        a_region_that_was_set_back_stays_out_of_traffic,
        a_drained_region_places_no_order_whatever_its_process_knows,
        the_way_back_into_traffic_is_taken_step_by_step;
    evacuation:
        an_evacuation_is_begun_once_and_told_to_all,
        an_evacuation_ends_before_orders_move_or_goes_to_its_end,
        orders_move_under_the_evacuation_that_is_under_way,
        what_has_moved_has_moved_when_an_evacuation_is_begun_anew,
        an_aborted_evacuation_leaves_a_region_as_its_operator_did,
        a_region_that_was_resumed_is_given_up_no_further,
        an_incarnation_that_is_over_gives_nothing_up;
    copies:
        a_batch_is_applied_once_and_in_order,
        what_does_not_fit_leaves_nothing,
        an_intent_that_two_regions_took_is_contested,
        a_reference_that_two_regions_took_is_contested_for_one_customer;
    moves:
        a_moved_order_is_told_whole_and_takes_nothing_more_of_the_home_before,
        units_of_a_moved_order_are_given_back_by_who_placed_it,
        the_history_with_more_moves_stands,
        who_is_not_its_home_can_neither_change_nor_move_an_order,
        an_order_that_was_learned_is_applied_once,
        units_that_were_given_back_unseen_are_not_given_back_again,
        a_moved_order_keeps_no_reference_from_the_next_one,
        of_two_moves_everybody_keeps_the_later,
        a_steward_that_was_outbid_moves_nothing;
    stock:
        nothing_is_sold_beyond_the_ceiling_nor_given_back_twice,
        a_stocktake_is_written_only_over_what_was_counted,
        own_nodes_are_preferred_and_those_switched_off_left_out;
    registers:
        an_acceptor_keeps_its_promises_and_its_newest_value,
        what_others_proposed_is_told_to_who_comes_after,
        a_value_under_a_fence_is_not_stored,
        what_is_chosen_raises_the_ceiling_and_stays,
        how_far_others_voted_is_kept_and_never_goes_back,
        the_word_that_a_region_is_gone_ends_with_its_fence;
    rejoin:
        a_noted_incarnation_ends_the_one_before,
        what_is_known_of_a_home_is_told_in_pages,
        what_others_know_of_an_order_is_taken_over,
        a_reference_that_still_stands_puts_a_batch_off,
        an_incarnation_begins_once_and_tells_what_was_prepared,
        a_region_that_an_operator_drained_begins_anew_drained,
        an_order_told_again_is_continued_or_set_aside,
        what_lies_on_a_shelf_outlives_the_incarnation;
    rights:
        a_newer_copy_wins_and_brings_its_rights_once,
        a_request_is_granted_once,
        a_transfers_name_stands_for_one_transfer,
        what_is_pinned_is_not_given,
        equal_rows_have_equal_sums_and_are_paged_by_bucket;
}

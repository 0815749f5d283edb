//! Deliberate faults: each drops one rule that the program rests on, to see that its absence is noticed.
//!
//! A place where a rule is kept asks [`is_on`] whether it is to be broken there. That is a constant
//! `false`, which leaves nothing in the program, unless it was built with the feature `mutants`; and with
//! that, a build without debug assertions, which every release is, does not compile. One build holds all
//! faults; [`VARIABLE`] chooses the one that a process has.
//!
//! `make mutants` looks at each of them: worlds of the simulator are played until a rule is seen to break,
//! and for what the simulator doesn't reach (HTTP, SQL) a test must fail. One that survives is a hole in the
//! checks. `docs/MUTANTS.md` says how to add one.

/// Names the fault of this process.
pub const VARIABLE: &str = "ENTREPOT_MUTANT";

#[cfg(all(feature = "mutants", not(debug_assertions)))]
compile_error!("the feature `mutants` puts faults into the program: it is not for releases");

/// What must notice a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Catcher {
    /// Some seed of the simulator.
    Simulator,
    /// This test of the library.
    Unit(&'static str),
    /// This test on real servers, of the binary `it`.
    Servers(&'static str),
}

/// A fault, as it is documented.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Which.
    pub mutant: Mutant,
    /// Its name in [`VARIABLE`] and in tables.
    pub name: &'static str,
    /// What goes wrong.
    pub what: &'static str,
    /// The numbers of the rules that should be seen to break; none for what has no number.
    pub breaks: &'static [&'static str],
    /// Who must notice: each of these.
    pub caught_by: &'static [Catcher],
}

macro_rules! faults {
    ($($mutant:ident = $name:literal $what:literal [$($breaks:literal),*] $($catcher:ident $(($test:literal))?),+;)*) => {
        /// The faults.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {
            $(#[doc = $what] $mutant,)*
        }

        /// Every fault.
        pub const FAULTS: &[Fault] = &[
            $(Fault {
                mutant: Mutant::$mutant,
                name: $name,
                what: $what,
                breaks: &[$($breaks),*],
                caught_by: &[$(Catcher::$catcher $(($test))?),+],
            },)*
        ];
    };
}

faults! {
    NoIntentLookUp = "no-intent-look-up"
        "A placement does not look whether its intent was taken before."
        ["I-07"] Simulator;
    RandomProviderKey = "random-provider-key"
        "The provider's key of a payment is made up instead of derived from the intent."
        ["I-07", "I-10"] Simulator;
    NobodyYields = "nobody-yields"
        "Of two orders of one intent in two regions none is cancelled."
        ["I-07", "I-16"] Simulator;
    BothYield = "both-yield"
        "Of two orders of one intent in two regions both are cancelled."
        ["I-06", "I-07"] Simulator;
    StandsOnVoidedMoney = "stands-on-voided-money"
        "An order stays although the other order of its intent voided the money of both."
        ["I-10", "I-12"] Unit("app::cancel_duplicate::tests::an_order_does_not_stand_on_money_that_the_other_one_voided");
    AnyBodyReplays = "any-body-replays"
        "A key that was used for another body answers the first order."
        ["I-07"] Unit("http::handlers::tests::the_same_key_gives_the_first_answer_again");

    PeersNotAsked = "peers-not-asked"
        "A placement that strayed does not ask the other regions for its intent."
        ["I-07"] Simulator;
    IntentsNotUnique = "intents-not-unique"
        "The database takes a second record of one intent."
        ["I-07"] Servers("store_contract::in_postgres::an_intent_is_taken_once_in_a_region"), Servers("store_contract::in_memory::an_intent_is_taken_once_in_a_region");
    ContestsPassedOver = "contests-passed-over"
        "Two orders of one intent in two regions are not noticed."
        ["I-07"] Simulator, Servers("store_contract::in_postgres::an_intent_that_two_regions_took_is_contested");
    AnyReferenceAnswers = "any-reference-answers"
        "A channel's reference answers another customer's order."
        ["I-27"] Unit("http::handlers::tests::references::a_reference_answers_its_order_to_those_who_may_see_it");
    DrainedTakesOrders = "drained-takes-orders"
        "A drained region takes new orders."
        [] Simulator, Unit("http::handlers::tests::a_draining_region_takes_no_new_orders_but_repeats_old_answers");

    OrderLeaseIgnored = "order-lease-ignored"
        "A region acts on its older orders without a lease."
        ["I-13"] Simulator;
    LeaseNotWaitedOut = "lease-not-waited-out"
        "The orders of a lost region are taken over while its lease may last."
        ["I-13"] Simulator;
    VotesNotNoted = "votes-not-noted"
        "How far the other regions have voted is forgotten when a process ends."
        ["I-01"] Servers("ceilings::what_acceptors_voted_is_known_after_a_restart");
    WitnessInherits = "witness-inherits"
        "The witness gets a share of what a lost region had not sold."
        ["I-04"] Simulator;
    OutbidStewardMoves = "outbid-steward-moves"
        "Who acts for a lost region's orders goes on moving them after it has promised them to somebody else."
        ["I-13"] Servers("store_contract::in_postgres::a_steward_that_was_outbid_moves_nothing"), Servers("store_contract::in_memory::a_steward_that_was_outbid_moves_nothing");
    HandedBackUnasked = "handed-back-unasked"
        "A region that returns takes its orders back from who acts for them before that one has stopped."
        ["I-13"] Unit("sim::tests::returned::a_region_that_returns_waits_until_who_acts_for_its_orders_has_stopped");
    HandedBackUnseen = "handed-back-unseen"
        "A region that returns takes its orders back before it has applied what was done with them."
        ["I-13"] Unit("app::order_lease::tests::all_that_was_done_is_applied_up_to_the_end_of_it");
    FenceForgotten = "fence-forgotten"
        "An acceptor lets a region propose that was fenced and has not said that it is back."
        [] Unit("escrow::register::tests::who_was_fenced_is_refused_until_it_says_that_it_is_back");
    CreditsNotAdopted = "credits-not-adopted"
        "A region that returns goes on from its own values, without what others took over meanwhile."
        ["I-04"] Simulator;
    OldRouteWins = "old-route-wins"
        "The load balancer follows whoever spoke last about a region, also one that was away."
        [] Unit("domain::routing::tests::a_lost_region_that_does_not_know_it_serves_nobody"), Unit("domain::routing::tests::an_older_version_never_wins");
    PinsIgnored = "pins-ignored"
        "A region gives away what an operator keeps there."
        [] Unit("escrow::grant::tests::a_grant_is_covered_serves_the_need_and_spares_the_giver"), Servers("store_contract::in_postgres::what_is_pinned_is_not_given");
    HeldUnitsRetired = "held-units-retired"
        "What orders hold of a region that is gone for good is given to others, where its sale is in no copy of the row."
        ["I-01"] Unit("escrow::retire::tests::what_is_granted_is_what_lies_below_the_ceiling_and_is_not_known_to_be_sold");
    AdoptedWithoutAsking = "adopted-without-asking"
        "An undecided order that was taken over is confirmed without asking the payment provider."
        ["I-10"] Simulator;
    AloneAdopted = "alone-adopted"
        "An order that a lost region may be deciding alone is taken over without a person's word."
        ["I-13"] Simulator;

    UnguardedReserve = "unguarded-reserve"
        "What was read as free is reserved without a look at what it is now."
        ["I-01", "I-03", "I-05"] Simulator, Servers("store_contract::in_postgres::nothing_is_sold_beyond_the_ceiling_nor_given_back_twice");
    PromisedIsTaken = "promised-is-taken"
        "A shrinkage takes units that are promised to orders."
        ["I-01"] Unit("http::handlers::tests::promised_stock_stays");
    LinesCountedApart = "lines-counted-apart"
        "Two lines of one SKU are checked each for itself."
        ["I-02"] Simulator;
    ReleasedTwice = "released-twice"
        "What an order held is given back twice."
        ["I-03"] Simulator;
    NeverReleased = "never-released"
        "A cancelled order keeps its units."
        ["I-03"] Simulator;
    GrantedTwice = "granted-twice"
        "A request that is heard twice is granted twice."
        ["I-04"] Simulator, Servers("store_contract::in_postgres::a_request_is_granted_once");
    GrantsBeyondItsRights = "grants-beyond-its-rights"
        "An operator's transfer moves what is asked for, whatever the giver holds."
        ["I-05"] Simulator;
    GrantsAreNoOutflow = "grants-are-no-outflow"
        "What was given away does not count against the ceiling."
        ["I-01", "I-05"] Simulator;
    CeilingBeyondInflow = "ceiling-beyond-inflow"
        "A ceiling is raised by a unit more than flowed to the region."
        ["I-04"] Simulator;
    AmnesiaPassedOver = "amnesia-passed-over"
        "A region that is shown that its database was set back goes on."
        ["I-01"] Simulator;
    DoubtPassedOver = "doubt-passed-over"
        "A region sells before it is known whether its database remembers everything."
        ["I-01"] Unit("app::region::tests::a_region_in_doubt_takes_no_orders_and_writes_nothing");
    ForgottenVotesCounted = "forgotten-votes-counted"
        "An acceptor that began anew goes on from the votes it remembers."
        [] Unit("sim::memory::rejoin::tests::a_new_incarnation_goes_on_from_what_the_others_voted");
    OldIncarnationApplied = "old-incarnation-applied"
        "What an earlier incarnation wrote is applied after a later one was noted."
        ["I-20"] Simulator;
    NotToldAgain = "not-told-again"
        "A new incarnation does not tell again what only it knew."
        ["I-20"] Simulator;
    OldHoldsReleased = "old-holds-released"
        "A new incarnation gives back units that an earlier one had taken."
        ["I-03", "I-20"] Simulator;
    OwnRowFromOthers = "own-row-from-others"
        "A peer's newer copy of a region's own row is taken in like any other."
        ["I-01", "I-05"] Unit("escrow::ledger::tests::a_newer_own_row_is_evidence_of_amnesia");
    PromisesIgnored = "promises-ignored"
        "An acceptor stores a proposal below its promise."
        [] Unit("escrow::register::tests::an_acceptor_keeps_its_promises_and_its_newest_value");
    CreditsIgnoredOnRaise = "credits-ignored-on-raise"
        "A ceiling is raised over what others took over."
        ["I-01"] Unit("escrow::register::tests::a_ceiling_is_raised_within_inflow_and_credits");
    CeilingNotCountedAsSold = "ceiling-not-counted-as-sold"
        "A take-over takes what the owner may still sell."
        ["I-01"] Unit("escrow::register::tests::a_take_over_names_every_heir_and_leaves_the_ceiling");
    NobodyIsAsked = "nobody-is-asked"
        "An order that is short is refused without asking the peers."
        [] Simulator;

    UnknownCommitTakenForDone = "unknown-commit-taken-for-done"
        "A COMMIT without an answer counts as done."
        ["I-06"] Simulator;
    UnknownCommitTakenForFailed = "unknown-commit-taken-for-failed"
        "A COMMIT without an answer counts as failed: nobody looks."
        [] Simulator;
    CommitErrorIsFailure = "commit-error-is-failure"
        "A COMMIT that PostgreSQL answers with an error counts as not done."
        ["I-06"] Servers("hang_ups::a_commit_that_answers_with_an_error_is_unknown");
    ConnectionsKept = "connections-kept"
        "A connection whose work was given up goes back to the pool."
        ["I-06"] Servers("hang_ups::whatever_was_acknowledged_is_there_although_others_hang_up_at_every_millisecond");
    RemoteNotAwaited = "remote-not-awaited"
        "`durability: remote` is answered before another region holds the order."
        ["I-06"] Unit("replication::peers::tests::remote_durability_is_what_a_peer_says_it_applied");
    VersionsNotChecked = "versions-not-checked"
        "An order or a saga is written over a version that nobody looked at."
        ["I-17"] Servers("store_contract::in_postgres::an_old_version_refuses_the_commit"), Servers("store_contract::in_memory::an_old_version_refuses_the_commit");
    NoEpochCheck = "no-epoch-check"
        "An incarnation that is over goes on writing."
        ["I-13"] Simulator, Servers("store_contract::in_postgres::an_incarnation_that_is_over_writes_nothing");
    LostOutboxRow = "lost-outbox-row"
        "What is told to the others leaves out cancellations."
        ["I-18", "I-20"] Simulator;
    InboxAppliedTwice = "inbox-applied-twice"
        "A batch is applied without a look at the watermark."
        ["I-18"] Simulator, Servers("store_contract::in_postgres::a_batch_is_applied_once_and_in_order");
    GapSkipped = "gap-skipped"
        "The next envelope that is there is applied, not the next one."
        ["I-18"] Simulator;
    ForeignOrdersCopied = "foreign-orders-copied"
        "A copy is taken from a region that is not the order's home."
        ["I-13"] Servers("store_contract::in_postgres::what_does_not_fit_leaves_nothing"), Servers("store_contract::in_memory::what_does_not_fit_leaves_nothing");
    OldEpochsTaken = "old-epochs-taken"
        "What an older incarnation of a peer sends is taken in."
        ["I-13", "I-18"] Unit("replication::inbound::tests::an_old_epoch_is_refused_and_a_new_one_waits_for_the_old_ones_end");
    UnreadableApplied = "unreadable-applied"
        "An envelope of a newer schema is applied as far as it is understood."
        ["I-18"] Unit("replication::inbound::tests::an_unknown_schema_is_parked_at_its_place_and_never_dropped");
    NothingIsPulled = "nothing-is-pulled"
        "What the broker lost is not asked for at its origin."
        ["I-18", "I-20"] Simulator;
    RowsNotCompared = "rows-not-compared"
        "Rows that got lost on their way are not looked for."
        ["I-20"] Simulator;
    ClockWithoutMemory = "clock-without-memory"
        "Stamps are the wall clock's time."
        ["I-17"] Simulator;
    StampsForgotten = "stamps-forgotten"
        "After a start the clock knows nothing of the stamps made before."
        ["I-17"] Simulator;
    AnyClockFollowed = "any-clock-followed"
        "The clock follows stamps from however far ahead."
        [] Simulator;
    WallClockWins = "wall-clock-wins"
        "Of two changes to a product the one with the later wall-clock time wins."
        ["I-17"] Simulator;
    SeenStampsPassedOver = "seen-stamps-passed-over"
        "A change is stamped without a look at the stamp of what it replaces."
        ["I-17"] Simulator;
    LastToArriveWins = "last-to-arrive-wins"
        "Of two changes to a product the one that arrives last wins."
        ["I-20"] Simulator;
    StateBesideEvents = "state-beside-events"
        "The stored order is changed beside its events."
        ["I-19"] Simulator;

    AnyTransition = "any-transition"
        "An event takes an order out of a terminal status."
        ["I-08"] Unit("domain::order::tests::nothing_leaves_a_terminal_status");
    ChainNotChecked = "chain-not-checked"
        "A copy takes events that are not the ones that were hashed."
        ["I-19"] Unit("domain::order::tests::a_change_of_any_part_of_any_event_is_noticed");

    EachPaymentPaysAll = "each-payment-pays-all"
        "Of an order with two payments each is asked for the whole."
        ["I-10", "I-12"] Simulator;
    SilenceIsRefusal = "silence-is-refusal"
        "A provider that does not answer counts as having declined."
        ["I-10", "I-12"] Simulator;
    SilenceIsConsent = "silence-is-consent"
        "A provider that does not answer counts as holding the money."
        ["I-10", "I-12"] Simulator;
    NotVoided = "not-voided"
        "An order is undone without voiding its money."
        ["I-10", "I-12"] Simulator;
    PendingIsNothing = "pending-is-nothing"
        "Money that the provider decides on later counts as not held when the order is undone."
        ["I-10", "I-12"] Simulator;
    AsksForEver = "asks-for-ever"
        "A provider that never answers is asked for ever."
        ["I-16"] Simulator;
    LeasesIgnored = "leases-ignored"
        "A saga is taken over from a process that works on it."
        ["I-16"] Servers("store_contract::in_postgres::a_due_saga_is_claimed_by_one_worker"), Servers("store_contract::in_memory::a_due_saga_is_claimed_by_one_worker");
    NoRecovery = "no-recovery"
        "Sagas of a process that died are left alone."
        ["I-16"] Simulator;

    EverybodySeesAll = "everybody-sees-all"
        "A customer is shown other customers' orders."
        ["I-27"] Unit("http::handlers::tests::others_orders_do_not_exist");
    TokensNeverExpire = "tokens-never-expire"
        "A token is good for ever once it was checked."
        ["I-27"] Unit("http::auth::verifier::tests::a_good_token_is_good_until_it_expires_also_from_memory");
    UnsignedWebhooks = "unsigned-webhooks"
        "A webhook is believed whoever signed it."
        ["I-12"] Unit("gateways::webhook::tests::every_changed_part_is_noticed");
}

/// Whether this fault is to be made here. `false` in every build but that of the faults.
#[cfg(not(feature = "mutants"))]
#[inline]
pub const fn is_on(_mutant: Mutant) -> bool {
    false
}

/// Whether this process makes this fault.
#[cfg(feature = "mutants")]
pub fn is_on(mutant: Mutant) -> bool {
    *CHOSEN == Some(mutant)
}

/// Read once: a process has one fault, or none.
#[cfg(feature = "mutants")]
static CHOSEN: std::sync::LazyLock<Option<Mutant>> = std::sync::LazyLock::new(|| {
    #[expect(clippy::disallowed_methods, reason = "the one switch, and in no release")]
    let name = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty())?;
    let fault = FAULTS.iter().find(|fault| fault.name == name);
    Some(fault.unwrap_or_else(|| panic!("{VARIABLE}: there is no fault {name}")).mutant)
});

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::types::InvariantId;

    #[test]
    fn every_fault_has_a_name_of_its_own_and_breaks_rules_that_exist() {
        let names: BTreeSet<&str> = FAULTS.iter().map(|fault| fault.name).collect();
        assert_eq!(names.len(), FAULTS.len());
        let known = |code: &&str| InvariantId::ALL.iter().any(|id| id.code() == *code);
        for fault in FAULTS {
            assert!(fault.breaks.iter().all(known), "{}", fault.name);
        }
    }

    #[test]
    fn every_fault_is_in_the_document() {
        let document = include_str!("../docs/MUTANTS.md");
        let is_missing = |name: &&str| !document.contains(&format!("`{name}`"));
        let missing: Vec<&str> = FAULTS.iter().map(|fault| fault.name).filter(is_missing).collect();
        assert!(missing.is_empty(), "docs/MUTANTS.md does not name {missing:?}");
    }

    #[test]
    #[cfg(not(feature = "mutants"))]
    fn without_the_feature_there_are_none() {
        const ANY: bool = is_on(Mutant::UnguardedReserve);
        const { assert!(!ANY) };
    }
}

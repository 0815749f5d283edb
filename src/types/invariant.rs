//! The numbered rules that always hold. `docs/INVARIANTS.md` has the full statements.

use std::fmt;

macro_rules! invariants {
    ($($name:ident = $code:literal $statement:literal;)*) => {
        /// A rule that always holds; cited by tests, checks, alerts and decisions under its number.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum InvariantId {
            $(#[doc = $statement] $name,)*
        }

        impl InvariantId {
            /// Every rule, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number, e.g. `I-01`.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// The rule in one sentence.
            pub fn statement(self) -> &'static str {
                match self { $(Self::$name => $statement),* }
            }
        }
    };
}

invariants! {
    NoOversell = "I-01" "Over all regions, units promised to orders never exceed units received, per SKU and node.";
    AllLinesOrNone = "I-02" "All lines of an order are reserved, or none.";
    ReservationOnce = "I-03" "A reservation is taken once and ends once: consumed, released or expired.";
    RightsConserved = "I-04" "Rights + in flight + reserved + sold = received, per key; a transfer has one debit and at most one credit.";
    RightsNotNegative = "I-05" "Rights are never negative; every replicated cell has one writer, the region that owns it.";
    NothingLost = "I-06" "An acknowledged order, cancellation or refund is never lost while its home's database survives.";
    OneKeyOneOrder = "I-07" "One idempotency key, one standing order and one charge: over crashes, retries and regions.";
    LegalTransitions = "I-08" "Only legal transitions, and none out of a terminal state but the documented ones.";
    OneAuthorization = "I-10" "One successful authorization per payment and purpose; captures never exceed it; cancelled before shipping means nothing held.";
    BooksBalance = "I-12" "The books balance: provider ledger = payments of orders, in minor units.";
    OneHome = "I-13" "An order is written only by its home region, at that region's current epoch.";
    NoSagaWaitsForEver = "I-16" "No saga waits for ever: it ends, or is on the stuck list within 5 minutes.";
    EventsGapless = "I-17" "Events of an order are numbered 1..n without a gap; HLC never goes back.";
    ReplicationComplete = "I-18" "What a region wrote is applied by each peer once, in order per origin, without a gap.";
    FoldGivesState = "I-19" "Folding the events of an order gives its stored state.";
    RegionsConverge = "I-20" "After healing, every region's replicated state is equal (by hash) within 30 s.";
    OwnDataOnly = "I-27" "Nobody reads another customer's data.";
}

impl fmt::Display for InvariantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

//! Every kind of difference, under a stable code.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::InvariantId;

/// Who mends a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// `--repair` does: it changes copies and what is owed to nobody, never an own truth.
    Safe,
    /// A person decides: something that was true is lost or contradicted, and only people know which side is right.
    ByHand,
}

macro_rules! classes {
    ($($name:ident = $code:literal $invariant:ident $repair:ident $meaning:literal => $mend:literal;)*) => {
        /// A kind of difference.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Class {
            $(#[doc = $meaning] $name,)*
        }

        impl Class {
            /// Every class.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable code.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// The rule that is broken.
            pub fn invariant(self) -> InvariantId {
                match self { $(Self::$name => InvariantId::$invariant),* }
            }

            /// Who mends it.
            pub fn repair(self) -> Repair {
                match self { $(Self::$name => Repair::$repair),* }
            }

            /// What it says, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning),* }
            }

            /// What mends it.
            pub fn mend(self) -> &'static str {
                match self { $(Self::$name => $mend),* }
            }
        }
    };
}

classes! {
    Oversold = "oversold" NoOversell ByHand
        "More units of a key are promised to orders or withdrawn than were ever received."
        => "receive the missing units, or cancel the latest orders of the key until the sum fits";
    LineNotReserved = "line_not_reserved" AllLinesOrNone ByHand
        "A standing order holds other quantities than its lines ask for."
        => "cancel the order and have it placed again; look for what wrote it";
    ReservationNotInRights = "reservation_not_in_rights" ReservationOnce ByHand
        "What a region's rights say is promised is not what its orders hold."
        => "stop the region's server, compare the row with the orders that hold its units, correct `spent` and `released` and raise `version`, or the copies keep the old ones; look for what wrote them";
    RightsNotConserved = "rights_not_conserved" RightsConserved ByHand
        "The total that a row of rights says it granted is not the sum of its grants."
        => "stop the region's server, correct the total to the sum of its grants and raise `version`; look for what wrote it";
    RightsOverdrawn = "rights_overdrawn" RightsNotNegative ByHand
        "More has left a region's rights than was active for it."
        => "move rights to the region, or receive units there; look for what wrote the row";
    RightsCellDiffers = "rights_cell_differs" RightsNotNegative ByHand
        "Two regions hold different cells under one version of a row of rights."
        => "compare with the third region's copy: if it agrees with the owner, delete the odd copy and let it be pulled; \
            if it does not, the owner's database was set back";
    RightsCopyBehind = "rights_copy_behind" RegionsConverge Safe
        "A copy of a row of rights stays behind its owner's."
        => "pull the owner's rows";
    RightsForgotten = "rights_forgotten" NothingLost ByHand
        "A copy of a row of rights is newer than its owner's own row."
        => "the owner's database was set back: put back the database that remembers, or let the region rejoin (docs/runbooks/restore.md)";
    OrderCopyMissing = "order_copy_missing" ReplicationComplete Safe
        "A region has applied all that the home wrote, and yet lacks the copy of an order."
        => "pull the order and its events from its home";
    OrderCopyDiffers = "order_copy_differs" RegionsConverge Safe
        "A copy of an order is another order than its home holds."
        => "pull the order from its home";
    OrderForgotten = "order_forgotten" NothingLost ByHand
        "A copy of an order is newer than the order at its home, or its home does not know the order."
        => "the home's database was set back: put back the database that remembers, or let the region rejoin (docs/runbooks/restore.md)";
    OrderUnreadable = "order_unreadable" FoldGivesState ByHand
        "The document or an event of an order can't be read."
        => "restore the document from the events, or the events from another region's copy";
    EventMissing = "event_missing" EventsGapless ByHand
        "The events of an order are not numbered 1..n without a gap."
        => "restore the missing events from another region's copy or a backup";
    EventChainBroken = "event_chain_broken" EventsGapless ByHand
        "An event is not the one that was hashed when it was written."
        => "restore the event from another region's copy or a backup, and look for who changed it";
    HlcWentBack = "hlc_went_back" EventsGapless ByHand
        "An event has a stamp that is not after the one before it."
        => "none for the event; look for a database that was set back, or a clock";
    EventIllegal = "event_illegal" LegalTransitions ByHand
        "An event takes an order where it may not go."
        => "compare the events with another region's copy, and restore them";
    EventOfOtherRegion = "event_of_other_region" OneHome ByHand
        "A region other than its home wrote an event of an order."
        => "find out which incarnation wrote it, and fence that";
    FoldDiffers = "fold_differs" FoldGivesState ByHand
        "Folding the events of an order does not give the order that is stored."
        => "write the fold of the events as the order, once it is known what changed it";
    IntentTakenTwice = "intent_taken_twice" OneKeyOneOrder ByHand
        "Two orders stand under one client's idempotency key."
        => "cancel the later one; each region does so by itself once it sees both, so look why it does not";
    ReferenceTakenTwice = "reference_taken_twice" OneKeyOneOrder ByHand
        "Two orders of one customer stand under one reference of a channel."
        => "cancel the later one; each region does so by itself once it sees both, so look why it does not";
    PaymentUnknownToProvider = "payment_unknown_to_provider" OneAuthorization ByHand
        "An order counts on a payment of which the provider has never heard."
        => "ask the customer for another payment, or cancel the order";
    PaymentNotHeld = "payment_not_held" OneAuthorization ByHand
        "An order counts on money that the provider does not hold any more."
        => "ask the customer for another payment, or cancel the order";
    PaymentHeldForCancelledOrder = "payment_held_for_cancelled_order" OneAuthorization Safe
        "The provider holds money for an order that is cancelled."
        => "void the authorization";
    PaymentHeldWithoutOrder = "payment_held_without_order" NothingLost ByHand
        "The provider holds money under an order that no region knows."
        => "look for the order in backups and at whoever else uses the provider's account; void the money when nobody owes goods for it";
    PaymentAmountDiffers = "payment_amount_differs" OneAuthorization ByHand
        "The provider holds another amount than the order says."
        => "correct the difference with the provider and the customer";
    OutboxNotApplied = "outbox_not_applied" ReplicationComplete ByHand
        "An envelope lies below a peer's watermark, and the peer's inbox lacks it."
        => "the copies of its orders are compared beside it, and pulled; restore the inbox row from the origin's outbox";
    InboxUnknownToOrigin = "inbox_unknown_to_origin" NothingLost ByHand
        "A peer has applied an envelope that its origin does not have."
        => "the origin's outbox lost a row or its database was set back: put back the database that remembers, or let the region rejoin (docs/runbooks/restore.md)";
    EnvelopeDiffers = "envelope_differs" ReplicationComplete ByHand
        "A peer has applied another envelope than its origin holds at this place."
        => "find out which of the two was changed, and restore it";
    ReplicationStandsStill = "replication_stands_still" ReplicationComplete ByHand
        "A peer wrote envelopes that are not applied here, and nothing moves."
        => "see the region's log and the table `parked`: a newer program, or an order whose copy can't go on";
    SagaStuck = "saga_stuck" NoSagaWaitsForEver Safe
        "A saga is open for longer than five minutes."
        => "wake the saga";
    OrderWithoutSaga = "order_without_saga" NoSagaWaitsForEver ByHand
        "An order is pending and no saga is open that would decide it."
        => "restore its saga, or cancel the order and void its money";
    ProductDiffers = "product_differs" RegionsConverge Safe
        "A region holds an older or another product than a peer."
        => "pull the newer product";
    NodeDiffers = "node_differs" RegionsConverge Safe
        "A region holds an older or another node than a peer."
        => "pull the newer node";
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// A text is no class of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a class of differences")]
pub struct BadClass(String);

impl FromStr for Class {
    type Err = BadClass;

    fn from_str(text: &str) -> Result<Self, BadClass> {
        let known = Self::ALL.iter().find(|class| class.code() == text);
        known.copied().ok_or_else(|| BadClass(text.to_owned()))
    }
}

impl Serialize for Class {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Class {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published list is this one: code, invariant, meaning and repair of each class.
    #[test]
    fn the_document_lists_every_class() {
        let document = include_str!("../../docs/RECONCILIATION.md");
        let rows: Vec<_> = document.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(rows.len(), Class::ALL.len());
        for (class, row) in Class::ALL.iter().zip(rows) {
            let repair = match class.repair() {
                Repair::Safe => "`--repair`",
                Repair::ByHand => "by hand",
            };
            let (code, rule) = (class.code(), class.invariant());
            let meaning = class.meaning();
            let mend = class.mend();
            assert_eq!(row, format!("| `{code}` | {rule} | {meaning} | {repair}: {mend} |"));
        }
    }

    #[test]
    fn codes_are_read_as_they_are_written() {
        for class in Class::ALL {
            assert_eq!(class.code().parse::<Class>().unwrap(), *class);
        }
        assert!("other".parse::<Class>().is_err());
    }
}

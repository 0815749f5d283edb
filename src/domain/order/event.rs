//! What happened to an order: numbered 1..n, stamped, and chained by hash so that none can be
//! changed, dropped or slipped in afterwards (I-17, I-28).

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::mutants::{Mutant, is_on};
use crate::types::{Epoch, HlcTimestamp, OrderId, PaymentId, RegionId};

use super::fold::{self, FoldError};
use super::model::{Cancellation, Order, OrderRecord};

const MOVED: &str = "order.moved";

/// What happened. Payload schemas only grow: fields are added, never renamed or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum EventBody {
    /// The order was taken: units are held, money is not yet.
    #[serde(rename = "order.placed")]
    Placed(Box<Order>),
    /// The provider holds the money of a payment.
    #[serde(rename = "payment.authorized")]
    PaymentAuthorized {
        /// Which.
        payment_id: PaymentId,
        /// The provider's name for it.
        reference: String,
    },
    /// The provider won't hold the money of a payment.
    #[serde(rename = "payment.declined")]
    PaymentDeclined {
        /// Which.
        payment_id: PaymentId,
        /// The provider's reason.
        code: String,
    },
    /// Nothing is held any more for a payment.
    #[serde(rename = "payment.voided")]
    PaymentVoided {
        /// Which.
        payment_id: PaymentId,
        /// The provider's name for it, where it was not known before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
    },
    /// Reserved and authorized: we owe the goods.
    #[serde(rename = "order.confirmed")]
    Confirmed {},
    /// No unit will be sent; every hold is given back.
    #[serde(rename = "order.cancelled")]
    Cancelled(Cancellation),
    /// Another region is its home from now on.
    #[serde(rename = "order.moved")]
    Moved {
        /// The home before.
        from: RegionId,
        /// The home after.
        to: RegionId,
    },
}

impl EventBody {
    /// The stable name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Placed(_) => "order.placed",
            Self::PaymentAuthorized { .. } => "payment.authorized",
            Self::PaymentDeclined { .. } => "payment.declined",
            Self::PaymentVoided { .. } => "payment.voided",
            Self::Confirmed {} => "order.confirmed",
            Self::Cancelled(_) => "order.cancelled",
            Self::Moved { .. } => MOVED,
        }
    }

    /// The payload alone, as it is stored and hashed.
    fn payload(&self) -> Box<RawValue> {
        let payload = match self {
            Self::Placed(order) => serde_json::value::to_raw_value(order),
            Self::Cancelled(cancellation) => serde_json::value::to_raw_value(cancellation),
            Self::Confirmed {} => RawValue::from_string("{}".to_owned()),
            Self::Moved { from, to } => {
                serde_json::value::to_raw_value(&serde_json::json!({"from": from, "to": to}))
            }
            Self::PaymentAuthorized { payment_id, reference } => serde_json::value::to_raw_value(
                &serde_json::json!({"payment_id": payment_id, "reference": reference}),
            ),
            Self::PaymentDeclined { payment_id, code } => serde_json::value::to_raw_value(
                &serde_json::json!({"payment_id": payment_id, "code": code}),
            ),
            Self::PaymentVoided { payment_id, reference: None } => {
                serde_json::value::to_raw_value(&serde_json::json!({"payment_id": payment_id}))
            }
            Self::PaymentVoided { payment_id, reference } => serde_json::value::to_raw_value(
                &serde_json::json!({"payment_id": payment_id, "reference": reference}),
            ),
        };
        payload.expect("our own types always serialize")
    }
}

/// One event, as it is stored, replicated and shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// 1..n without a gap (I-17).
    pub seq: u64,
    /// The stable name of the type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Status of the order before; absent for the first.
    pub from_status: Option<String>,
    /// Status of the order after.
    pub to_status: String,
    /// Who wrote it: the home region; a move, the home before or after.
    pub region: RegionId,
    /// In which incarnation.
    pub epoch: Epoch,
    /// Never goes back along an order.
    pub hlc: HlcTimestamp,
    /// The payload, to the byte as it was hashed.
    pub data: Box<RawValue>,
    /// Hex SHA-256 of `data`.
    pub payload_hash: String,
    /// Hex SHA-256 over the previous chain hash and every field of this event.
    pub chain_hash: String,
}

impl Event {
    /// Another region is the order's home from here on.
    pub fn is_move(&self) -> bool {
        self.kind == MOVED
    }

    /// The payload, typed.
    pub fn body(&self) -> Result<EventBody, serde_json::Error> {
        #[derive(Serialize)]
        struct Tagged<'a> {
            r#type: &'a str,
            data: &'a RawValue,
        }
        let tagged = serde_json::to_string(&Tagged { r#type: &self.kind, data: &self.data })?;
        serde_json::from_str(&tagged)
    }

    fn expected_chain_hash(&self, order_id: OrderId, previous: &str) -> String {
        let mut hash = Sha256::new();
        let (seq, epoch, hlc) =
            (self.seq.to_string(), self.epoch.to_string(), self.hlc.to_string());
        let order_id = order_id.to_string();
        let from_status = self.from_status.as_deref().unwrap_or("");
        for part in [
            previous,
            &order_id,
            &seq,
            &self.kind,
            from_status,
            &self.to_status,
            self.region.as_str(),
            &epoch,
            &hlc,
            &self.payload_hash,
        ] {
            hash.update(part.as_bytes());
            hash.update(b"\n");
        }
        hex::encode(hash.finalize())
    }
}

/// Makes the events of one commit to one order and folds them in as it goes.
#[derive(Debug)]
pub struct EventMaker {
    region: RegionId,
    epoch: Epoch,
    record: Option<OrderRecord>,
    events: Vec<Event>,
}

impl EventMaker {
    /// Begins with a stored order, or with none.
    pub fn new(region: RegionId, epoch: Epoch, record: Option<OrderRecord>) -> Self {
        Self { region, epoch, record, events: Vec::new() }
    }

    /// The last event's stamp.
    pub fn last_stamp(&self) -> Option<HlcTimestamp> {
        self.record.as_ref().map(|record| record.updated_hlc)
    }

    /// Appends an event and folds it in. After an error the maker is of no use any more.
    pub fn push(&mut self, hlc: HlcTimestamp, body: EventBody) -> Result<(), FoldError> {
        let kind = body.type_name();
        let data = body.payload();
        let previous = self.record.take();
        let from_status = previous.as_ref().map(|record| record.order.status().to_string());
        let (version, previous_hash, created_hlc, before) = match previous {
            Some(record) => {
                (record.version, record.chain_hash, record.created_hlc, Some(record.order))
            }
            None => (0, String::new(), hlc, None),
        };
        let order = fold::apply(before, body, hlc)?;
        let mut event = Event {
            seq: version + 1,
            kind: kind.to_owned(),
            from_status,
            to_status: order.status().to_string(),
            region: self.region,
            epoch: self.epoch,
            hlc,
            payload_hash: hex::encode(Sha256::digest(data.get().as_bytes())),
            data,
            chain_hash: String::new(),
        };
        event.chain_hash = event.expected_chain_hash(order.id, &previous_hash);
        self.record = Some(OrderRecord {
            order,
            version: event.seq,
            chain_hash: event.chain_hash.clone(),
            created_hlc,
            updated_hlc: hlc,
        });
        self.events.push(event);
        Ok(())
    }

    /// The order as it is now, and the events that made it so. At least one must have been pushed.
    pub fn finish(self) -> (OrderRecord, Vec<Event>) {
        (self.record.expect("an event was pushed"), self.events)
    }
}

/// Why a copy of an order can't take an event: the origin's log is not what was sent, or a bug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// I-17.
    #[error("event {got} follows event {have}: one is missing (I-17)")]
    Gap {
        /// The copy's version.
        have: u64,
        /// The event's.
        got: u64,
    },
    /// I-28.
    #[error("event {0} is not the one that was hashed (I-28)")]
    Chain(u64),
    /// The payload can't be read.
    #[error("the payload of event {seq} can't be read: {why}")]
    Payload {
        /// Which.
        seq: u64,
        /// The parser's words.
        why: String,
    },
    /// I-13.
    #[error("event {seq} was written by {writer}, and the order's home was {home} (I-13)")]
    Foreign {
        /// Which.
        seq: u64,
        /// Who wrote it.
        writer: RegionId,
        /// Who might have.
        home: RegionId,
    },
    /// I-08, I-19.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// I-19.
    #[error("event {seq} should leave the order {told}, but the fold says {folded} (I-19)")]
    Status {
        /// Which.
        seq: u64,
        /// By the event.
        told: String,
        /// By the fold.
        folded: &'static str,
    },
}

/// Folds another region's events into the copy of an order. Events that the copy has are passed over,
/// so applying twice changes nothing.
pub fn fold_copy(
    mut copy: Option<OrderRecord>,
    order_id: OrderId,
    events: &[Event],
) -> Result<Option<OrderRecord>, CopyError> {
    for event in events {
        let have = copy.as_ref().map_or(0, |record| record.version);
        if event.seq <= have {
            continue;
        }
        if event.seq != have + 1 {
            return Err(CopyError::Gap { have, got: event.seq });
        }
        let previous = copy.as_ref().map_or("", |record| &record.chain_hash);
        let intact = event.payload_hash == hex::encode(Sha256::digest(event.data.get().as_bytes()))
            && event.chain_hash == event.expected_chain_hash(order_id, previous);
        if !intact && !is_on(Mutant::ChainNotChecked) {
            return Err(CopyError::Chain(event.seq));
        }
        let body = event
            .body()
            .map_err(|error| CopyError::Payload { seq: event.seq, why: error.to_string() })?;
        let created_hlc = copy.as_ref().map_or(event.hlc, |record| record.created_hlc);
        let home = copy.as_ref().map(|record| record.order.home_region);
        let order = fold::apply(copy.map(|record| record.order), body, event.hlc)?;
        // A move is written by the home that gives the order away, or by the one that takes it over.
        let may_write = event.region == home.unwrap_or(order.home_region)
            || event.is_move() && event.region == order.home_region;
        if !may_write && !is_on(Mutant::ForeignOrdersCopied) {
            let (seq, writer, home) = (event.seq, event.region, order.home_region);
            return Err(CopyError::Foreign { seq, writer, home });
        }
        let folded = order.status().as_str();
        if event.to_status != folded {
            return Err(CopyError::Status {
                seq: event.seq,
                told: event.to_status.clone(),
                folded,
            });
        }
        copy = Some(OrderRecord {
            version: event.seq,
            chain_hash: event.chain_hash.clone(),
            created_hlc,
            updated_hlc: event.hlc,
            order,
        });
    }
    Ok(copy)
}

/// What is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainVerdict {
    /// Every event is what it was when it was written.
    Intact,
    /// The first event that is not in its place or was changed.
    BrokenAt(u64),
}

/// Checks numbers, payload hashes, the chain and the order of stamps.
pub fn verify_chain(order_id: OrderId, events: &[Event]) -> ChainVerdict {
    let mut previous: Option<&Event> = None;
    for (event, seq) in events.iter().zip(1..) {
        let previous_hash = previous.map_or("", |event| &event.chain_hash);
        let good = event.seq == seq
            && previous.is_none_or(|previous| previous.hlc < event.hlc)
            && event.payload_hash == hex::encode(Sha256::digest(event.data.get().as_bytes()))
            && event.chain_hash == event.expected_chain_hash(order_id, previous_hash);
        if !good {
            return ChainVerdict::BrokenAt(seq);
        }
        previous = Some(event);
    }
    ChainVerdict::Intact
}

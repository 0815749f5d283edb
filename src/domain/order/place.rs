//! The decision to take an order: prices, payments, units. All of it in memory; a refusal has nothing to undo.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::domain::catalogue::Product;
use crate::domain::idempotency::{Asked, IntentKey};
use crate::domain::inventory::{Share, Shortage, StockView};
use crate::mutants::{Mutant, is_on};
use crate::types::{
    Currency, CustomerId, Epoch, LineId, Money, OrderId, PaymentId, RegionId, ReservationId, Sku,
};

use super::model::{Address, Allocation, AllocationState, Line, Order, Payment, PaymentState};

/// The most an order may cost, in minor units: far above any sale, far below what overflows a sum of many orders.
pub const ORDER_TOTAL_MINOR_MAX: i64 = 1_000_000_000_000;

/// A request whose form has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceRequest {
    /// Who asks, under which key.
    pub intent: IntentKey,
    /// `web`, `mobile`, `pos` or `marketplace:<name>`.
    pub channel: String,
    /// The channel's own name of the order.
    pub channel_order_ref: Option<String>,
    /// Absent for guests.
    pub customer_id: Option<CustomerId>,
    /// The asker is this customer and sees no other's orders (I-27); `None` sees all.
    pub sees_only: Option<CustomerId>,
    /// For notifications.
    pub email: Option<String>,
    /// Of every amount.
    pub currency: Currency,
    /// At least one.
    pub lines: Vec<LineRequest>,
    /// E.g. `standard`.
    pub shipping_option: String,
    /// Where it goes.
    pub shipping_address: Address,
    /// Where the bill goes, if elsewhere.
    pub billing_address: Option<Address>,
    /// In the order given.
    pub payments: Vec<PaymentRequest>,
    /// May be sent from several nodes.
    pub allow_split: bool,
}

/// A line that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineRequest {
    /// What.
    pub sku: Sku,
    /// How many, at least one.
    pub quantity: u32,
    /// The channel's own price; `None` takes the catalogue's.
    pub unit_minor: Option<i64>,
}

/// A payment that is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentRequest {
    /// E.g. `card`.
    pub method: String,
    /// What the provider's form gave the client.
    pub token: String,
    /// `None` takes what is left.
    pub amount_minor: Option<i64>,
}

/// A payment to be authorized: what the saga needs beyond the order. The token stays out of the order,
/// so that it is neither shown nor copied to other regions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PaymentIntent {
    /// The payment of the order.
    pub payment_id: PaymentId,
    /// Names the intent to the provider, for ever.
    pub provider_key: String,
    /// E.g. `card`.
    pub method: String,
    /// What the provider's form gave the client.
    pub token: String,
    /// How much.
    pub amount_minor: i64,
}

/// Where and when the decision is made, and the ids it may use.
pub struct PlaceContext<'a> {
    /// The home region to be.
    pub region: RegionId,
    /// Its incarnation.
    pub epoch: Epoch,
    /// Wall time.
    pub now_ms: u64,
    /// The order's id.
    pub order_id: OrderId,
    /// A fresh id at each call.
    pub fresh: &'a mut dyn FnMut() -> Uuid,
}

/// The domain says no. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceRejection {
    /// The catalogue has no such SKU.
    UnknownSku {
        /// Index of the line.
        line: usize,
        /// What was asked for.
        sku: Sku,
    },
    /// The SKU has no price in the order's currency.
    NoPrice {
        /// Index of the line.
        line: usize,
        /// What was asked for.
        sku: Sku,
    },
    /// Above [`ORDER_TOTAL_MINOR_MAX`].
    TotalTooLarge,
    /// The payments don't add up to the total.
    PaymentsDoNotAddUp {
        /// To be paid.
        total_minor: i64,
        /// Offered.
        offered_minor: i64,
    },
    /// Not enough rights here.
    InsufficientStock(Vec<Shortage>),
}

/// Decides. On success the units are taken out of `stock`.
pub fn decide(
    request: &PlaceRequest,
    products: &BTreeMap<Sku, Product>,
    stock: &mut StockView,
    context: &mut PlaceContext<'_>,
) -> Result<(Order, Vec<PaymentIntent>), PlaceRejection> {
    let prices = prices(request, products)?;
    let total_minor = total(request, &prices)?;
    let (payments, intents) = payments(request, total_minor, context)?;
    let mut demand: BTreeMap<Sku, u64> = BTreeMap::new();
    for line in &request.lines {
        let of_sku = demand.entry(line.sku.clone()).or_default();
        let before = if is_on(Mutant::LinesCountedApart) { 0 } else { *of_sku };
        *of_sku = before + u64::from(line.quantity);
    }
    let mut shares =
        stock.allocate(&demand, request.allow_split).map_err(PlaceRejection::InsufficientStock)?;
    let lines = request
        .lines
        .iter()
        .zip(prices)
        .map(|(line, unit_minor)| Line {
            id: LineId((context.fresh)()),
            sku: line.sku.clone(),
            quantity: line.quantity,
            unit_minor,
            allocations: take(shares.get_mut(&line.sku).expect("demanded"), line.quantity, context),
            cancelled: 0,
        })
        .collect();
    let order = Order {
        moved: None,
        alone: false,
        id: context.order_id,
        number: number(context.order_id),
        home_region: context.region,
        channel: request.channel.clone(),
        channel_order_ref: request.channel_order_ref.clone(),
        customer_id: request.customer_id.clone(),
        email: request.email.clone(),
        currency: request.currency,
        lines,
        shipping_option: request.shipping_option.clone(),
        shipping_address: request.shipping_address.clone(),
        billing_address: request.billing_address.clone(),
        payments,
        allow_split: request.allow_split,
        created_at_ms: context.now_ms,
        updated_at_ms: context.now_ms,
        cancellation: None,
    };
    Ok((order, intents))
}

fn prices(
    request: &PlaceRequest,
    products: &BTreeMap<Sku, Product>,
) -> Result<Vec<i64>, PlaceRejection> {
    let price = |(line, wanted): (usize, &LineRequest)| {
        let sku = wanted.sku.clone();
        let product = products.get(&sku).ok_or(PlaceRejection::UnknownSku { line, sku })?;
        let catalogue = product.prices.get(&request.currency).copied();
        let sku = wanted.sku.clone();
        wanted.unit_minor.or(catalogue).ok_or(PlaceRejection::NoPrice { line, sku })
    };
    request.lines.iter().enumerate().map(price).collect()
}

fn total(request: &PlaceRequest, prices: &[i64]) -> Result<i64, PlaceRejection> {
    let line_total = |(line, price): (&LineRequest, &i64)| price.checked_mul(line.quantity.into());
    request
        .lines
        .iter()
        .zip(prices)
        .map(line_total)
        .try_fold(0i64, |sum, line| sum.checked_add(line?))
        .filter(|total| (0..=ORDER_TOTAL_MINOR_MAX).contains(total))
        .ok_or(PlaceRejection::TotalTooLarge)
}

/// In the order given; one without an amount takes what is left. A payment of nothing is dropped, and
/// one of more than is left spoils all: no later one could make up for it.
fn payments(
    request: &PlaceRequest,
    total_minor: i64,
    context: &mut PlaceContext<'_>,
) -> Result<(Vec<Payment>, Vec<PaymentIntent>), PlaceRejection> {
    let mut left = total_minor;
    let mut payments = Vec::new();
    let mut intents = Vec::new();
    for (index, offered) in request.payments.iter().enumerate() {
        let amount_minor = offered.amount_minor.unwrap_or(left);
        if !(0..=left).contains(&amount_minor) {
            let offered_minor = (total_minor - left).saturating_add(amount_minor);
            return Err(PlaceRejection::PaymentsDoNotAddUp { total_minor, offered_minor });
        }
        left -= amount_minor;
        if amount_minor == 0 {
            continue;
        }
        let payment_id = PaymentId((context.fresh)());
        let provider_key = request.intent.provider_key(
            "authorize",
            &Asked {
                index,
                amount: Money::new(amount_minor, request.currency),
                method: &offered.method,
                token: &offered.token,
            },
        );
        let provider_key = if is_on(Mutant::RandomProviderKey) {
            (context.fresh)().to_string()
        } else {
            provider_key
        };
        payments.push(Payment {
            id: payment_id,
            method: offered.method.clone(),
            gateway: "simulator".to_owned(),
            provider_key: provider_key.clone(),
            amount_minor,
            state: PaymentState::Pending,
            reference: None,
        });
        intents.push(PaymentIntent {
            payment_id,
            provider_key,
            method: offered.method.clone(),
            token: offered.token.clone(),
            amount_minor,
        });
    }
    if left == 0 {
        Ok((payments, intents))
    } else {
        Err(PlaceRejection::PaymentsDoNotAddUp { total_minor, offered_minor: total_minor - left })
    }
}

/// Takes a line's units out of the shares of its SKU, which hold enough for all of its lines.
fn take(shares: &mut [Share], quantity: u32, context: &mut PlaceContext<'_>) -> Vec<Allocation> {
    let mut left = quantity;
    let mut allocations = Vec::new();
    for share in shares.iter_mut().filter(|share| share.quantity > 0) {
        let taken = left.min(u32::try_from(share.quantity).unwrap_or(u32::MAX));
        if taken == 0 {
            break;
        }
        share.quantity -= u64::from(taken);
        left -= taken;
        allocations.push(Allocation {
            reservation_id: ReservationId((context.fresh)()),
            node: share.node.clone(),
            quantity: taken,
            epoch: context.epoch,
            state: AllocationState::Held,
        });
    }
    allocations
}

/// A number for people: the id's time and 22 of its random bits in Crockford's base 32, the home
/// region's number in front. As unique as the id for any practical purpose; nothing is looked up by it.
fn number(id: OrderId) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let bits = id.0.as_u128();
    // 48 bits of time, 22 of the last ones, in which ids of one millisecond differ for sure: 14 letters
    // of 5 bits. The last byte names the region.
    let time_and_random = ((bits >> 80) << 22) | ((bits >> 8) & 0x3f_ffff);
    let letters = (0..14).rev().map(|place| {
        let index = usize::try_from((time_and_random >> (place * 5)) & 31).expect("five bits");
        char::from(ALPHABET[index])
    });
    let home = id.home().map_or(0, |home| home.0.get());
    format!("{home}-{}", letters.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOTAL: i64 = 100;

    fn offer(amounts: &[Option<i64>]) -> PlaceRequest {
        let address = serde_json::json!({
            "name": "A", "line1": "B 1", "city": "C", "postal_code": "1", "country": "DE",
        });
        let payment = |amount: &Option<i64>| PaymentRequest {
            method: "card".to_owned(),
            token: "tok_ok".to_owned(),
            amount_minor: *amount,
        };
        PlaceRequest {
            intent: IntentKey { principal: "p".to_owned(), key: "k".to_owned() },
            channel: "web".to_owned(),
            channel_order_ref: None,
            customer_id: None,
            sees_only: None,
            email: None,
            currency: "EUR".parse().unwrap(),
            lines: Vec::new(),
            shipping_option: "standard".to_owned(),
            shipping_address: serde_json::from_value(address).unwrap(),
            billing_address: None,
            payments: amounts.iter().map(payment).collect(),
            allow_split: true,
        }
    }

    /// What each payment is to hold, or what was offered in all.
    #[expect(clippy::unwrap_in_result, reason = "a fixed name")]
    fn held(amounts: &[Option<i64>]) -> Result<Vec<i64>, i64> {
        let mut fresh = || Uuid::nil();
        let mut context = PlaceContext {
            region: "eu-west".parse().unwrap(),
            epoch: Epoch::FIRST,
            now_ms: 0,
            order_id: OrderId(Uuid::nil()),
            fresh: &mut fresh,
        };
        match payments(&offer(amounts), TOTAL, &mut context) {
            Ok((payments, intents)) => {
                let amounts: Vec<_> = payments.iter().map(|payment| payment.amount_minor).collect();
                let asked: Vec<_> = intents.iter().map(|intent| intent.amount_minor).collect();
                assert_eq!(amounts, asked);
                Ok(amounts)
            }
            Err(PlaceRejection::PaymentsDoNotAddUp { offered_minor, .. }) => Err(offered_minor),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn payments_take_what_is_left_and_never_more() {
        assert_eq!(held(&[None]), Ok(vec![100]));
        assert_eq!(held(&[Some(30), None]), Ok(vec![30, 70]));
        assert_eq!(held(&[Some(100), None]), Ok(vec![100]), "a payment of nothing is dropped");
        assert_eq!(held(&[Some(150), None]), Err(150));
        assert_eq!(held(&[Some(150), Some(-50)]), Err(150));
        assert_eq!(held(&[Some(-50), None]), Err(-50));
        assert_eq!(held(&[None, Some(1)]), Err(101));
        assert_eq!(held(&[Some(30)]), Err(30));
        assert_eq!(held(&[]), Err(0));
        assert_eq!(held(&[Some(50), Some(i64::MAX)]), Err(i64::MAX));
    }

    proptest! {
        #[test]
        fn what_is_taken_is_positive_and_adds_up(
            amounts in prop::collection::vec(prop::option::of(-200i64..=200), 0..5),
        ) {
            if let Ok(amounts) = held(&amounts) {
                prop_assert!(amounts.iter().all(|amount| (1..=TOTAL).contains(amount)));
                prop_assert_eq!(amounts.iter().sum::<i64>(), TOTAL);
            }
        }
    }
}

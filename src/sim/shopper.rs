//! A shopper: orders, hangs up, tries again elsewhere, and remembers what was answered.

use std::sync::Arc;
use std::time::Duration;

use crate::app::Placement;
use crate::domain::idempotency::IntentKey;
use crate::domain::order::place::{LineRequest, PaymentRequest, PlaceRequest};
use crate::domain::order::{Address, OrderRecord, OrderStatus};
use crate::runtime::spawn_named;
use crate::types::{InvariantId, OrderId, RegionId};

use super::plan::{REGIONS, Shopping};
use super::world::World;

/// How long `POST /orders` waits for the saga (`order_wait_ms`).
const ORDER_WAIT: Duration = Duration::from_secs(2);
/// Between a shopper and the nearest region.
const LAST_MILE: Duration = Duration::from_millis(20);
/// For the last answer, when nothing is broken any more: a provider that stays silent is given up after
/// less than a minute.
const ANSWER_AT_LAST: Duration = Duration::from_secs(90);
/// By then servers that just started have heard each other's heartbeats; before, nobody is asked.
const HEARD_MS: u64 = 2_000;
/// So many units more than are wanted are plenty: orders under way at the same time can't want them all.
const PLENTY: u64 = 30;
/// What the first of two cards pays: less than any order costs.
const FIRST_CARD_MINOR: i64 = 100;
/// After "still being worked on" or "not now".
const PAUSE: Duration = Duration::from_secs(1);

/// What a shopper was told in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Confirmed.
    Confirmed(OrderId),
    /// Taken; the saga goes on.
    Taken(OrderId),
    /// Cancelled, and why.
    Refused(OrderId, String),
    /// There is not enough stock.
    OutOfStock,
    /// Refused for another reason; nothing was done.
    Nothing(&'static str),
}

impl Answer {
    fn of(record: &OrderRecord) -> Self {
        let id = record.order.id;
        match record.order.status() {
            OrderStatus::Confirmed => Self::Confirmed(id),
            OrderStatus::Pending => Self::Taken(id),
            OrderStatus::Cancelled => {
                let why = record.order.cancellation.as_ref().map(|why| why.code.clone());
                Self::Refused(id, why.unwrap_or_default())
            }
        }
    }
}

/// The intent of a shopping.
pub fn intent(shopping: &Shopping) -> IntentKey {
    let principal = format!("customer:c{}", shopping.customer);
    IntentKey { principal, key: format!("k{}", shopping.key) }
}

/// The SKU of a place in the plan.
pub fn sku(index: usize) -> crate::types::Sku {
    format!("SKU-{index}").parse().expect("short and plain")
}

/// The node of a region.
pub fn node(region: usize) -> crate::types::NodeId {
    format!("node-{}", REGIONS[region]).parse().expect("short and plain")
}

fn request(shopping: &Shopping) -> PlaceRequest {
    let customer = format!("c{}", shopping.customer).parse().expect("short and plain");
    let line = |(index, quantity): &(usize, u32)| LineRequest {
        sku: sku(*index),
        quantity: *quantity,
        unit_minor: None,
    };
    let last = shopping.tokens.len().saturating_sub(1);
    let payment = |(index, token): (usize, &String)| PaymentRequest {
        method: "card".to_owned(),
        token: token.clone(),
        amount_minor: (index < last).then_some(FIRST_CARD_MINOR),
    };
    PlaceRequest {
        intent: intent(shopping),
        channel: "web".to_owned(),
        channel_order_ref: shopping.reference.map(|name| format!("r{name}")),
        customer_id: Some(customer),
        sees_only: None,
        email: None,
        currency: "EUR".parse().expect("a currency"),
        lines: shopping.lines.iter().map(line).collect(),
        shipping_option: "standard".to_owned(),
        shipping_address: Address {
            name: "A".to_owned(),
            line1: "B 1".to_owned(),
            line2: None,
            city: "C".to_owned(),
            region: None,
            postal_code: "1".to_owned(),
            country: "DE".to_owned(),
        },
        billing_address: None,
        payments: shopping.tokens.iter().enumerate().map(payment).collect(),
        allow_split: true,
    }
}

/// Does what the plan says, and notes every answer.
pub async fn shop(world: Arc<World>, shopping: Shopping) {
    let own = shopping.tries.first().map_or(0, |(region, _)| *region);
    for (region, patience_ms) in &shopping.tries {
        let patience = Duration::from_millis(*patience_ms);
        let attempt = attempt(&world, &shopping, own, *region);
        let answer = tokio::time::timeout(patience, attempt).await.ok().flatten();
        let name = REGIONS[*region];
        let key = shopping.key;
        match &answer {
            Some(answer) => {
                world.shared.note("shopper", format_args!("{key} at {name}: {answer:?}"));
                world.shared.checks.answered(&intent(&shopping), answer);
                return;
            }
            None => world.shared.note("shopper", format_args!("{key} at {name}: gives up")),
        }
    }
}

/// After everything was healed the same is asked once more, at a region that the key chooses and that sells: now there must
/// be an answer, and it must agree with what was said before.
pub async fn ask_again(world: Arc<World>, shopping: Shopping) {
    let own = shopping.tries.first().map_or(0, |(region, _)| *region);
    let key = shopping.key;
    let region = usize::try_from(key).unwrap_or(0) % world.sellers();
    let attempt = attempt(&world, &shopping, own, region);
    let answer = tokio::time::timeout(ANSWER_AT_LAST, attempt).await.ok().flatten();
    world.shared.note("shopper", format_args!("{key} again at {}: {answer:?}", REGIONS[region]));
    if let Some(answer) = answer {
        world.shared.checks.answered_at_last(&intent(&shopping), &answer);
    } else {
        let what = format!("k{key} got no answer from {} after healing", REGIONS[region]);
        world.shared.checks.broken(InvariantId::OneKeyOneOrder, what);
    }
}

/// One try. `None`: no answer that settles anything.
async fn attempt(
    world: &Arc<World>,
    shopping: &Shopping,
    own: usize,
    region: usize,
) -> Option<Answer> {
    loop {
        tokio::time::sleep(LAST_MILE).await;
        let before = plenty(world, shopping);
        let strayed = own != region;
        let is_known = strayed && could_be_known(world, shopping, region);
        let placement = ask(world, shopping, region, strayed).await;
        if is_known && let Some(order) = placed_in(placement.as_ref(), region) {
            world.shared.checks.placed_twice(&intent(shopping), order);
        }
        if let Some(Placement::OutOfStock { replayed: false, .. }) = &placement
            && let (Some(before), Some(after)) = (before, plenty(world, shopping))
        {
            world.shared.checks.refused_in_vain(&intent(shopping), before.min(after));
        }
        tokio::time::sleep(LAST_MILE).await;
        match placement? {
            Placement::Settled { order, .. } | Placement::Running { order, .. } => {
                return Some(Answer::of(&order));
            }
            Placement::OutOfStock { .. } => return Some(Answer::OutOfStock),
            Placement::KeyReused => return Some(Answer::Nothing("key reused")),
            Placement::ChannelRefTaken => return Some(Answer::Nothing("reference taken")),
            Placement::Rejected(_) => return Some(Answer::Nothing("rejected")),
            Placement::Elsewhere { home, copy } => {
                match elsewhere(world, shopping, region, home, copy).await {
                    Some(answer) => return Some(answer),
                    None => tokio::time::sleep(PAUSE).await,
                }
            }
            Placement::InFlight | Placement::Draining => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// In a world in which nothing breaks: the scarcest of what is asked for, if there is plenty of all.
fn plenty(world: &World, shopping: &Shopping) -> Option<u64> {
    let wanted = |index: usize| -> u64 {
        let lines = shopping.lines.iter().filter(|(sku, _)| *sku == index);
        lines.map(|(_, quantity)| u64::from(*quantity)).sum()
    };
    let checks = &world.shared.checks;
    let left = shopping
        .lines
        .iter()
        .map(|(index, _)| checks.unpromised(&sku(*index)).saturating_sub(wanted(*index)));
    let hear_each_other = world.shared.time.now_ms() >= HEARD_MS;
    left.min().filter(|left| world.is_calm() && hear_each_other && *left >= PLENTY)
}

/// In a world in which nothing breaks: another region has an order of this shopping, and can be asked.
fn could_be_known(world: &World, shopping: &Shopping, region: usize) -> bool {
    let hear_each_other = world.shared.time.now_ms() >= HEARD_MS;
    let here = world.sites()[region].region;
    let in_time = world.shared.now_and_then(|knobs| knobs.reorder_permille) == 0;
    world.is_calm()
        && in_time
        && hear_each_other
        && world.shared.checks.taken_elsewhere(&intent(shopping), here)
}

/// The order that this region has just taken.
fn placed_in(placement: Option<&Placement>, region: usize) -> Option<OrderId> {
    let (Placement::Settled { order, replayed: false }
    | Placement::Running { order, replayed: false }) = placement?
    else {
        return None;
    };
    (order.order.home_region.as_str() == REGIONS[region]).then_some(order.order.id)
}

/// As the border does it: the order's home is asked, and its copy is the second best answer.
async fn elsewhere(
    world: &Arc<World>,
    shopping: &Shopping,
    region: usize,
    home: RegionId,
    copy: Option<Arc<OrderRecord>>,
) -> Option<Answer> {
    let there = REGIONS.iter().position(|name| *name == home.as_str())?;
    let forwarded = async {
        world.cross(region, there).await?;
        let placement = ask(world, shopping, there, false).await?;
        world.cross(there, region).await?;
        match placement {
            Placement::Settled { order, .. } | Placement::Running { order, .. } => {
                Some(Answer::of(&order))
            }
            Placement::OutOfStock { .. } => Some(Answer::OutOfStock),
            // What was forwarded is not forwarded again.
            Placement::Elsewhere { copy, .. } => copy.map(|copy| Answer::of(&copy)),
            Placement::KeyReused
            | Placement::ChannelRefTaken
            | Placement::InFlight
            | Placement::Rejected(_)
            | Placement::Draining => None,
        }
    };
    let answer = tokio::time::timeout(ORDER_WAIT, forwarded).await.ok().flatten();
    answer.or_else(|| copy.map(|copy| Answer::of(&copy)))
}

/// Asks a region's server. The request is carried on when nobody waits for it any more.
async fn ask(
    world: &Arc<World>,
    shopping: &Shopping,
    region: usize,
    strayed: bool,
) -> Option<Placement> {
    let server = world.server(region)?;
    let (app, request) = (Arc::clone(&server.app), request(shopping));
    let hash = format!("{:?}", shopping.lines);
    let placing = spawn_named("place order", async move {
        app.place_order(request, hash, ORDER_WAIT, strayed).await
    });
    tokio::select! {
        biased;
        () = server.life.over() => None,
        placed = placing => {
            let placed = placed.ok()?;
            if placed.is_err() && world.loses_only_answers() {
                let region = world.sites()[region].region;
                world.shared.checks.was_not_told(region, &intent(shopping));
            }
            placed.ok()
        }
    }
}

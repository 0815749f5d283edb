//! Intents and channel references that this region took and another one as well (I-07).

use std::collections::VecDeque;

use sqlx::PgConnection;

use crate::domain::idempotency::IntentKey;
use crate::mutants::{Mutant, is_on};
use crate::types::RegionId;

pub(super) const STATEMENTS: &[&str] =
    &[CONTEST, CONTEST_ALL, CONTEST_REFERENCES, CONTEST_ALL_REFERENCES];

/// Two regions took the same intent and each made an order of it: to be settled by the home of each.
const CONTEST: &str = "
INSERT INTO contested (order_id, other_order_id)
SELECT own.order_id, other.order_id
FROM unnest($2::text[], $3::text[]) AS u(principal, key)
JOIN idempotency own ON own.principal = u.principal AND own.key = u.key
JOIN idempotency other ON other.principal = u.principal AND other.key = u.key AND other.region <> own.region
JOIN orders o ON o.order_id = own.order_id AND o.home_region = $1
WHERE other.order_id IS NOT NULL
ON CONFLICT DO NOTHING";

/// The same over everything, once at each start.
const CONTEST_ALL: &str = "
INSERT INTO contested (order_id, other_order_id)
SELECT own.order_id, other.order_id
FROM idempotency own
JOIN idempotency other ON other.principal = own.principal AND other.key = own.key AND other.region <> own.region
JOIN orders o ON o.order_id = own.order_id AND o.home_region = $1
WHERE other.order_id IS NOT NULL
ON CONFLICT DO NOTHING";

/// Two regions took the same reference of a channel, for the same customer. Two customers who happen to
/// use one reference keep their orders.
const CONTEST_REFERENCES: &str = "
INSERT INTO contested (order_id, other_order_id)
SELECT own.order_id, other.order_id
FROM unnest($2::text[], $3::text[]) AS u(channel, reference)
JOIN orders own ON own.channel = u.channel AND own.channel_order_ref = u.reference AND own.stands
               AND own.home_region = $1
JOIN orders other ON other.channel = u.channel AND other.channel_order_ref = u.reference AND other.stands
                 AND other.order_id <> own.order_id
WHERE own.customer_id IS NOT DISTINCT FROM other.customer_id
ON CONFLICT DO NOTHING";

/// The same over everything, once at each start.
const CONTEST_ALL_REFERENCES: &str = "
INSERT INTO contested (order_id, other_order_id)
SELECT own.order_id, other.order_id
FROM orders own
JOIN orders other ON other.channel = own.channel AND other.channel_order_ref = own.channel_order_ref
                 AND other.stands AND other.order_id <> own.order_id
WHERE own.channel_order_ref IS NOT NULL AND own.stands AND own.home_region = $1
  AND own.customer_id IS NOT DISTINCT FROM other.customer_id
ON CONFLICT DO NOTHING";

/// What only one standing order may have.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    pub(super) intents: Vec<IntentKey>,
    /// Channel and the channel's own name of the order.
    pub(super) references: Vec<(String, String)>,
}

impl Claims {
    fn is_empty(&self) -> bool {
        self.intents.is_empty() && self.references.is_empty()
    }
}

/// Notes which of these this region took as well, as far as its commits can be seen.
pub(super) async fn find(
    connection: &mut PgConnection,
    own: RegionId,
    claims: &Claims,
) -> Result<(), sqlx::Error> {
    let Claims { intents, references } = claims;
    if !intents.is_empty() && !is_on(Mutant::ContestsPassedOver) {
        sqlx::query(CONTEST)
            .bind(own.as_str())
            .bind(intents.iter().map(|intent| intent.principal.as_str()).collect::<Vec<_>>())
            .bind(intents.iter().map(|intent| intent.key.as_str()).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
    }
    if !references.is_empty() {
        sqlx::query(CONTEST_REFERENCES)
            .bind(own.as_str())
            .bind(references.iter().map(|(channel, _)| channel.as_str()).collect::<Vec<_>>())
            .bind(references.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>())
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// What was copied lately.
///
/// This region may take an intent or a reference in the very moment in which another region's record of
/// it is copied: neither transaction sees the other, and neither finds the contest. So what was copied is
/// looked at again when every transaction of that moment has ended. What a crash makes us forget is
/// found by a look at everything at the next start.
#[derive(Debug, Default)]
pub(super) struct RecentClaims {
    all_were_seen: bool,
    all_not_before_ms: u64,
    copied: VecDeque<(u64, Claims)>,
}

/// How long a commit that was under way when an intent was copied may stay invisible: every
/// statement and every idle transaction is ended by the server after 10 s.
const VISIBLE_AFTER_MS: u64 = 15_000;

/// Between two looks at everything, when one failed: it reads the whole table.
const ALL_AGAIN_MS: u64 = 600_000;

impl RecentClaims {
    pub(super) fn copied(&mut self, claims: Claims, now_ms: u64) {
        if !claims.is_empty() {
            self.copied.push_back((now_ms, claims));
        }
    }

    /// Orders have come to be this region's: what they contest is not known by what was copied lately.
    /// They come in many commits: one look, after the last.
    pub(super) fn moved(&mut self, now_ms: u64) {
        self.all_were_seen = false;
        self.all_not_before_ms = now_ms.saturating_add(VISIBLE_AFTER_MS);
    }

    /// What is to be looked at now.
    pub(super) fn due(&mut self, now_ms: u64) -> Look {
        if !self.all_were_seen && now_ms >= self.all_not_before_ms {
            self.all_not_before_ms = now_ms.saturating_add(ALL_AGAIN_MS);
            return Look::All;
        }
        let mut due = Claims::default();
        while let Some((at_ms, _)) = self.copied.front() {
            // A wall clock that was set back makes it a later look, not none.
            if at_ms.abs_diff(now_ms) < VISIBLE_AFTER_MS {
                break;
            }
            let (_, claims) = self.copied.pop_front().unwrap_or_default();
            due.intents.extend(claims.intents);
            due.references.extend(claims.references);
        }
        Look::At(due)
    }

    /// The look failed: it is due again.
    pub(super) fn failed(&mut self, look: Look) {
        if let Look::At(claims) = look
            && !claims.is_empty()
        {
            self.copied.push_front((0, claims));
        }
    }

    pub(super) fn done(&mut self, look: &Look) {
        self.all_were_seen |= matches!(look, Look::All);
    }
}

/// What is looked at again.
#[derive(Debug)]
pub(super) enum Look {
    All,
    At(Claims),
}

impl Look {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::At(claims) if claims.is_empty())
    }

    pub(super) async fn run(
        &self,
        connection: &mut PgConnection,
        own: RegionId,
    ) -> Result<(), sqlx::Error> {
        match self {
            Self::All => {
                for statement in [CONTEST_ALL, CONTEST_ALL_REFERENCES] {
                    sqlx::query(statement).bind(own.as_str()).execute(&mut *connection).await?;
                }
                Ok(())
            }
            Self::At(claims) => find(connection, own, claims).await,
        }
    }
}

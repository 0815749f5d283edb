//! The connections to one broker, and how a dead one is found.
//!
//! NATS pings every [`PING_INTERVAL`] and gives up after two unanswered ones: good against leaks, slow
//! against a black hole, over which TCP reports nothing. So when a peer's heartbeats stay out for
//! [`QUIET`], its broker is asked something that needs no answerer: "nobody serves this" is an answer,
//! too. A broker that says nothing for [`PROBE_LIMIT`] is behind a dead connection, which is closed
//! and made anew; one that answers is left alone, since then it is the peer's server that is down.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, ServerAddr};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::time::{sleep, timeout};

use super::{BadAddress, names};
use crate::config::{NatsAddress, NatsLogin};
use crate::replication::Heartbeat;
use crate::types::RegionId;

/// How often a connection is pinged when nothing else goes over it.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A connection and its handshake: three round trips of 300 ms and a lost packet.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// The longest pause between two attempts to connect: after healing, nobody wants to wait, and an
/// attempt a second and peer is nothing.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How many commands wait while there is no connection. What is beyond waits in its caller, with a
/// time limit.
const COMMANDS_MAX: usize = 1_024;
/// Heartbeats come several times a second; after this long without any the connection is suspect.
const QUIET: Duration = Duration::from_secs(2);
/// A broker that did not answer for this long is not there.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Between two attempts to subscribe, which fail only when the client is closed.
const SUBSCRIBE_PAUSE: Duration = Duration::from_secs(1);
/// A subject that nobody ever serves.
const PROBE_SUBJECT: &str = "entrepot.probe";

/// The two connections to a peer's broker.
pub(super) struct Link {
    /// Heartbeats, rows and requests.
    pub(super) control: Client,
    /// Envelopes.
    pub(super) bulk: Client,
}

impl Link {
    pub(super) async fn connect(
        own: RegionId,
        peer: RegionId,
        address: &NatsAddress,
    ) -> Result<Self, BadAddress> {
        let control = connect(peer, address, format!("entrepot {own} control")).await?;
        let bulk = connect(peer, address, format!("entrepot {own} bulk")).await?;
        Ok(Self { control, bulk })
    }

    /// Replaces connections over which the broker does not answer.
    async fn check(&self, peer: RegionId) {
        futures::join!(
            replace_if_dead(&self.control, peer, "control"),
            replace_if_dead(&self.bulk, peer, "bulk")
        );
    }
}

/// A client of the broker of `of`, that connects in the background, for ever.
pub(super) async fn connect(
    of: RegionId,
    address: &NatsAddress,
    name: String,
) -> Result<Client, BadAddress> {
    let bad = |reason: String| BadAddress { of, reason };
    let server: ServerAddr = address.url.parse().map_err(|error| {
        bad(format!("{} is not nats://HOST:PORT or tls://HOST:PORT ({error})", address.url))
    })?;
    let options = match &address.login {
        NatsLogin::None => ConnectOptions::new(),
        NatsLogin::Password { user, password } => {
            ConnectOptions::with_user_and_password(user.clone(), password.expose().to_owned())
        }
        NatsLogin::Credentials(file) => {
            ConnectOptions::with_credentials_file(file).await.map_err(|error| {
                bad(format!("the credentials file {} can't be read: {error}", file.display()))
            })?
        }
    };
    options
        .name(name)
        .retry_on_initial_connect()
        // A broker would tell its own addresses, and clients would go there past the link.
        .ignore_discovered_servers()
        .ping_interval(PING_INTERVAL)
        .connection_timeout(CONNECT_LIMIT)
        .client_capacity(COMMANDS_MAX)
        .reconnect_delay_callback(|attempts| {
            let doubled = 50 << attempts.min(5);
            if attempts <= 1 {
                Duration::ZERO
            } else {
                Duration::from_millis(doubled).min(RECONNECT_PAUSE_MAX)
            }
        })
        .event_callback(move |event| async move { report(of, &event) })
        .connect(server)
        .await
        .map_err(|error| bad(error.to_string()))
}

fn report(of: RegionId, event: &async_nats::Event) {
    use async_nats::Event;
    match event {
        Event::Connected => tracing::info!(peer.region = %of, "connected to the broker of {of}"),
        Event::Disconnected => {
            tracing::warn!(peer.region = %of, "lost the broker of {of}; reconnecting");
        }
        Event::SlowConsumer(_) => {
            tracing::warn!(
                peer.region = %of,
                "messages of {of} come faster than they are read; some were dropped and are \
                 asked for again"
            );
        }
        Event::ServerError(error) => {
            tracing::warn!(peer.region = %of, %error, "the broker of {of} complains");
        }
        Event::ClientError(error) => {
            tracing::debug!(peer.region = %of, %error, "no connection to the broker of {of} yet");
        }
        Event::LameDuckMode | Event::Draining | Event::Closed => {
            tracing::debug!(peer.region = %of, ?event, "the connection to {of} ends");
        }
    }
}

async fn replace_if_dead(client: &Client, peer: RegionId, which: &str) {
    if !is_connected(client) {
        // It is being made anew already.
        return;
    }
    let probe = client.request(PROBE_SUBJECT, bytes::Bytes::new());
    if timeout(PROBE_LIMIT, probe).await.is_err() && is_connected(client) {
        tracing::warn!(
            peer.region = %peer,
            connection = which,
            "the broker of {peer} is silent; making a new connection"
        );
        if let Err(error) = client.force_reconnect().await {
            tracing::error!(peer.region = %peer, %error, "can't make a new connection to {peer}");
        }
    }
}

pub(super) fn is_connected(client: &Client) -> bool {
    client.connection_state() == async_nats::connection::State::Connected
}

/// The heartbeats of a peer; while they stay out, its connections are checked.
pub(super) fn heartbeats(peer: RegionId, link: Arc<Link>) -> BoxStream<'static, Heartbeat> {
    let listener = Listener { peer, link, subscription: None };
    futures::stream::unfold(listener, |mut listener| async move {
        let beat = listener.next().await;
        Some((beat, listener))
    })
    .boxed()
}

struct Listener {
    peer: RegionId,
    link: Arc<Link>,
    subscription: Option<async_nats::Subscriber>,
}

impl Listener {
    async fn next(&mut self) -> Heartbeat {
        loop {
            let Some(subscription) = &mut self.subscription else {
                let subject = names::heartbeat_subject(self.peer);
                match self.link.control.subscribe(subject).await {
                    Ok(subscription) => self.subscription = Some(subscription),
                    Err(_) => sleep(SUBSCRIBE_PAUSE).await,
                }
                continue;
            };
            match timeout(QUIET, subscription.next()).await {
                Ok(Some(message)) => match Heartbeat::decode(&message.payload) {
                    Ok(beat) if beat.region == self.peer => return beat,
                    Ok(beat) => tracing::warn!(
                        peer.region = %self.peer,
                        "a heartbeat of {} on the subject of {}", beat.region, self.peer
                    ),
                    Err(error) => tracing::warn!(
                        peer.region = %self.peer, %error, "an unreadable heartbeat of {}", self.peer
                    ),
                },
                Ok(None) => self.subscription = None,
                Err(_quiet) => self.link.check(self.peer).await,
            }
        }
    }
}

//! Everything about rights that runs by itself in a region's server: answering peers, shipping and
//! taking in rows, comparing them, asking ahead of demand.

use std::sync::Arc;
use std::time::Duration;

use super::{fences, raiser, rebalancer, row_digest, row_shipper};
use crate::app::rights::{
    ACCEPT, AcceptHandler, DigestHandler, Giver, PREPARE, PrepareHandler, PullHandler, ROWS_DIGEST,
    ROWS_PULL, Rights, TRANSFER,
};
use crate::runtime::TaskSet;

/// How often, from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct RightsTimes {
    /// How long changed rows are gathered before they are shipped.
    pub row_ship: Duration,
    /// Between comparisons with a peer.
    pub digest_interval: Duration,
    /// Between looks at the rates.
    pub rebalance: Duration,
    /// Between two requests ahead of demand of one key to one peer.
    pub transfer_interval: Duration,
}

/// Starts it all; ends when `tasks` is told to stop.
pub fn start(tasks: &TaskSet, rights: &Arc<Rights>, times: RightsTimes) {
    let stop = || tasks.stopping();
    let serving = {
        let (rights, stop) = (Arc::clone(rights), stop());
        async move {
            let giver = Arc::new(Giver::new(Arc::clone(&rights)));
            let digests = Arc::new(DigestHandler::new(Arc::clone(&rights)));
            let pulls = Arc::new(PullHandler::new(Arc::clone(&rights)));
            let prepares = Arc::new(PrepareHandler::new(Arc::clone(&rights)));
            let accepts = Arc::new(AcceptHandler::new(Arc::clone(&rights)));
            tokio::join!(
                rights.bus.serve(TRANSFER, giver, stop.clone()),
                rights.bus.serve(ROWS_DIGEST, digests, stop.clone()),
                rights.bus.serve(ROWS_PULL, pulls, stop.clone()),
                rights.bus.serve(PREPARE, prepares, stop.clone()),
                rights.bus.serve(ACCEPT, accepts, stop),
            );
        }
    };
    drop(tasks.spawn("serve-rights", serving));
    for peer in rights.bus.peers() {
        drop(tasks.spawn("receive-rows", row_shipper::receive(Arc::clone(rights), peer, stop())));
    }
    drop(tasks.spawn("raise-ceilings", raiser::run(Arc::clone(rights), stop())));
    drop(tasks.spawn("take-over", fences::run(Arc::clone(rights), stop())));
    drop(tasks.spawn("ship-rows", row_shipper::ship(Arc::clone(rights), times.row_ship, stop())));
    let digests = row_digest::run(Arc::clone(rights), times.digest_interval, stop());
    drop(tasks.spawn("compare-rows", digests));
    let (every, quiet) = (times.rebalance, times.transfer_interval);
    drop(tasks.spawn("rebalance", rebalancer::run(Arc::clone(rights), every, quiet, stop())));
}

//! One direction of one connection: reads, lets time pass, writes.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Sleep;

use super::Fault;

/// Data on its way in one direction of one connection: what a window of TCP would hold at 350 Mbit/s
/// and 90 ms. More is not read from the sender, which then waits as it would for a window.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Read at a time; what is delayed and lost together.
const PIECE_BYTES: usize = 16 * 1024;
/// Pieces on their way; small ones are bounded by number, large ones by bytes.
const PIECES_MAX: usize = 4_096;
/// TCP's shortest retransmission time-out on Linux.
const RETRANSMIT_AFTER: Duration = Duration::from_millis(200);
/// A piece lost this often in a row arrives all the same: after 6 s.
const LOST_IN_A_ROW_MAX: u32 = 5;

/// The way broke: the connection is to be closed.
#[derive(Debug)]
pub(super) struct Broken;

/// Data that travels.
struct Piece {
    due: std::pin::Pin<Box<Sleep>>,
    /// Empty: the sender closed its side.
    data: Vec<u8>,
    _space: Option<OwnedSemaphorePermit>,
}

/// Carries everything from one socket to the other until the sender closes its side.
pub(super) async fn pump(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    fault: watch::Receiver<Fault>,
) -> Result<(), Broken> {
    let (pieces, arrivals) = mpsc::channel(PIECES_MAX);
    let depart = depart(from, pieces, fault.clone());
    let arrive = arrive(to, arrivals, fault);
    tokio::try_join!(depart, arrive).map(drop)
}

/// Reads, and gives each piece the time at which it is due on the other side.
async fn depart(
    mut from: OwnedReadHalf,
    pieces: mpsc::Sender<Piece>,
    fault: watch::Receiver<Fault>,
) -> Result<(), Broken> {
    let space = Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX));
    // The sequence of losses need not differ between runs.
    let mut dice = SmallRng::seed_from_u64(from.peer_addr().map_or(0, |peer| peer.port().into()));
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let length = from.read(&mut buffer).await.map_err(|_| Broken)?;
        let delay = delay(*fault.borrow(), &mut dice);
        let due = Box::pin(tokio::time::sleep(delay));
        let space = if length > 0 {
            let length = u32::try_from(length).expect("at most PIECE_BYTES");
            Some(Arc::clone(&space).acquire_many_owned(length).await.map_err(|_| Broken)?)
        } else {
            None
        };
        let piece = Piece { due, data: buffer[..length].to_vec(), _space: space };
        pieces.send(piece).await.map_err(|_| Broken)?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// Writes each piece when it is due, in order, and holds it while the way is cut.
async fn arrive(
    mut to: OwnedWriteHalf,
    mut arrivals: mpsc::Receiver<Piece>,
    mut fault: watch::Receiver<Fault>,
) -> Result<(), Broken> {
    while let Some(piece) = arrivals.recv().await {
        piece.due.await;
        if fault.borrow_and_update().cut {
            // Data was held, so the connection ends when the way is healed.
            drop(fault.wait_for(|fault| !fault.cut).await);
            return Err(Broken);
        }
        if piece.data.is_empty() {
            return to.shutdown().await.map_err(|_| Broken);
        }
        to.write_all(&piece.data).await.map_err(|_| Broken)?;
    }
    Ok(())
}

/// How long a piece travels, repetitions included.
fn delay(fault: Fault, dice: &mut SmallRng) -> Duration {
    let mut delay = fault.latency();
    if fault.jitter_us > 0 {
        delay += Duration::from_micros(dice.random_range(0..=fault.jitter_us));
    }
    let mut time_out = RETRANSMIT_AFTER.max(fault.latency() * 3);
    for _ in 0..LOST_IN_A_ROW_MAX {
        if fault.loss_per_10_000 == 0 || dice.random_range(0..10_000) >= fault.loss_per_10_000 {
            break;
        }
        delay += time_out;
        time_out *= 2;
    }
    delay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_a_delay_that_doubles_and_ends() {
        let mut dice = SmallRng::seed_from_u64(1);
        let none = Fault { latency_us: 80_000, ..Fault::default() };
        assert_eq!(delay(none, &mut dice), Duration::from_millis(80));
        let always = Fault { loss_per_10_000: 10_000, ..Fault::default() };
        assert_eq!(delay(always, &mut dice), RETRANSMIT_AFTER * 31);
        let some = Fault { loss_per_10_000: 500, ..Fault::default() };
        let late = (0..10_000).filter(|_| !delay(some, &mut dice).is_zero()).count();
        assert!((400..600).contains(&late), "{late} of 10,000 were late");
        let jitter = Fault { latency_us: 1_000, jitter_us: 1_000, ..Fault::default() };
        let delays: Vec<_> = (0..1_000).map(|_| delay(jitter, &mut dice).as_micros()).collect();
        assert!(delays.iter().all(|us| (1_000..=2_000).contains(us)));
    }
}

//! The books together with their file, and the one thread that makes groups of records durable.
//!
//! A decision is made and entered under one short lock; its line goes into the open group. The writer
//! takes the group, writes it, calls `fdatasync` once, and wakes everyone whose answer rests on it. So
//! the cost of a sync is shared by all requests that came meanwhile, and nobody is answered before.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::books::{Account, Books, Record};
use super::file::{LedgerFile, OpenError};

/// How long the writer rests after a sync, so that the next group can fill: at most some 450 syncs a
/// second, a few percent of one core, for 2 ms on top of an answer that otherwise takes a network
/// round trip. A lone request finds the writer rested and does not wait.
const REST_AFTER_SYNC: Duration = Duration::from_millis(2);

/// The ledger could not be written: nothing more is answered, and the process should end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the payment ledger cannot be written; what was answered before is safe")]
pub(super) struct NotDurable;

/// The provider's books on disk.
pub(super) struct Ledger {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    path: Box<Path>,
}

struct Shared {
    state: Mutex<Open>,
    /// Signaled when the open group gets its first line, and at the end.
    work: Condvar,
    /// Turns true when a group could not be made durable.
    broken: watch::Sender<bool>,
}

struct Open {
    books: Books,
    /// Lines of the open group.
    lines: Vec<u8>,
    /// The number of the open group, and who waits for it.
    group: u64,
    waiters: watch::Sender<bool>,
    /// The group that the writer has in hand.
    in_hand: Option<(u64, watch::Sender<bool>)>,
    durable_bytes: u64,
    closing: bool,
}

/// Becomes true when a group is durable.
pub(super) struct Durable(Option<watch::Receiver<bool>>);

impl Durable {
    /// Waits until everything the ticket stands for is on disk.
    pub(super) async fn wait(self) -> Result<(), NotDurable> {
        let Some(mut receiver) = self.0 else { return Ok(()) };
        receiver.wait_for(|durable| *durable).await.map(|_| ()).map_err(|_| NotDurable)
    }
}

impl Ledger {
    /// Reads the file and starts the writer. Also says how many bytes of a torn end were cut off.
    pub(super) fn open(path: &Path) -> Result<(Self, u64), OpenError> {
        let mut books = Books::default();
        let file = LedgerFile::open(path, |record| books.apply(record, 0))?;
        let cut = file.cut_bytes;
        let open = Open {
            books,
            lines: Vec::new(),
            group: 1,
            waiters: watch::Sender::new(false),
            in_hand: None,
            durable_bytes: file.bytes,
            closing: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(open),
            work: Condvar::new(),
            broken: watch::Sender::new(false),
        });
        let for_writer = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || for_writer.write_groups(file))
            .map_err(|error| OpenError::Io { path: path.into(), error })?;
        Ok((Self { shared, writer: Some(writer), path: path.into() }, cut))
    }

    /// Looks at the books. What is seen may be told only after its ticket was waited for.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Books) -> T) -> T {
        look(&self.shared.lock().books)
    }

    /// Decides and, if there is something to record, records it. The decision's own result comes back
    /// with the account as it then stands and the ticket to wait for.
    pub(super) fn decide<'r, E>(
        &self,
        key: &str,
        decision: impl FnOnce(&Books) -> Result<Option<Record<'r>>, E>,
    ) -> Result<(Option<Account>, Durable), E> {
        let mut open = self.shared.lock();
        if let Some(record) = decision(&open.books)? {
            self.append(&mut open, &record);
        }
        let account = open.books.account(key).cloned();
        let ticket = open.ticket(account.as_ref().map_or(0, |account| account.group));
        Ok((account, ticket))
    }

    fn append(&self, open: &mut Open, record: &Record<'_>) {
        let group = open.group;
        open.books.apply(record, group).expect("a decision fits the books it was made from");
        let first = open.lines.is_empty();
        serde_json::to_writer(&mut open.lines, record).expect("a record is plain JSON");
        open.lines.push(b'\n');
        if first {
            self.shared.work.notify_one();
        }
    }

    /// How many bytes of the file are durable: what a listing may show.
    pub(super) fn durable_bytes(&self) -> u64 {
        self.shared.lock().durable_bytes
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Is done when the ledger can't be written any more.
    pub(super) async fn broken(&self) {
        let mut receiver = self.shared.broken.subscribe();
        drop(receiver.wait_for(|broken| *broken).await);
    }
}

impl Drop for Ledger {
    /// Writes what is left and ends the writer.
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.work.notify_one();
        if let Some(writer) = self.writer.take() {
            drop(writer.join());
        }
    }
}

impl Open {
    fn ticket(&self, group: u64) -> Durable {
        if group == self.group {
            return Durable(Some(self.waiters.subscribe()));
        }
        let in_hand = self.in_hand.as_ref().filter(|(number, _)| *number == group);
        Durable(in_hand.map(|(_, waiters)| waiters.subscribe()))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.state.lock().expect("no panic while held")
    }

    /// Takes the open group, once there is one. None: the ledger is closed.
    fn take_group(&self, spare: Vec<u8>) -> Option<Vec<u8>> {
        let mut open = self.lock();
        while open.lines.is_empty() {
            if open.closing {
                return None;
            }
            open = self.work.wait(open).expect("no panic while held");
        }
        let waiters = std::mem::replace(&mut open.waiters, watch::Sender::new(false));
        open.in_hand = Some((open.group, waiters));
        open.group += 1;
        Some(std::mem::replace(&mut open.lines, spare))
    }

    fn write_groups(&self, mut file: LedgerFile) {
        let mut spare = Vec::new();
        while let Some(mut lines) = self.take_group(spare) {
            let written = file.file.write_all(&lines).and_then(|()| file.file.sync_data());
            if let Err(error) = written {
                // After a failed sync nobody knows what is on disk. The waiters' senders stay in
                // place, so that no one is answered, until the process ends and reads the file again.
                tracing::error!(%error, "the payment ledger cannot be written; ending");
                self.broken.send_replace(true);
                return;
            }
            let mut open = self.lock();
            open.durable_bytes += lines.len() as u64;
            let in_hand = open.in_hand.take();
            let closing = open.closing;
            drop(open);
            if let Some((_, waiters)) = in_hand {
                waiters.send_replace(true);
            }
            lines.clear();
            spare = lines;
            if !closing {
                std::thread::sleep(REST_AFTER_SYNC);
            }
        }
    }
}

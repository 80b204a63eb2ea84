//! Checks a credential store.

use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::report::{Check, NonConforming, Outcome, Report};
use crate::CredentialStore;
use crate::credentials::{Record, SourceError, SourceErrorKind, Version};
use crate::error::ErrorChain;

/// How long a call of a store may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How many processes store at the same time.
const WRITERS: usize = 8;

/// How many records are stored while others are loaded.
const ROUNDS: usize = 40;

/// A call has fewer awaits than this, or is dropped at these.
const MOST_AWAITS: usize = 64;

const LOADS: &str = "`load` returns the record and its version. Without a change both stay equal.";
const STORES: &str = "After `Ok` each process loads the stored record, with another version.";
const CONFLICTS: &str = "If the version is not the expected one, `store` changes nothing and \
    returns `SourceError::conflict`: otherwise two processes can lose the working password. A \
    store that cannot compare versions serves one process at a time.";
const ONE_WINS: &str = "Of several processes that store at once and expect the same version, one \
    succeeds and the others get `SourceError::conflict`.";
const WHOLE: &str = "A process that loads while another one stores gets the old record or the new \
    one, never a part.";
const DROPPED: &str = "A `store` that is dropped has stored the record or not. The store stays \
    usable.";

/// Checks the store that `open` returns. Each call of `open` opens it as another
/// process would.
///
/// It stores records some hundred times, and the record that it found at the end.
/// No password is sent anywhere. Do not run it on a store that a program uses. The store
/// may be empty if `load` then returns a first record. A paused clock is fine for a store
/// without sockets.
///
/// Durability is checked as far as it can be seen: other handles load what one has
/// stored. Whether a record survives the loss of power is not checked.
///
/// A call that does not return within 30 s is broken.
///
/// # Errors
///
/// [`NonConforming`] lists every violation, with the contract and its reason.
///
/// # Panics
///
/// If it runs outside of a tokio runtime.
///
/// # Examples
///
/// ```no_run
/// use tower_reauth::credentials::FileStore;
/// use tower_reauth::testing::store_conformance;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), tower_reauth::BoxError> {
/// let report = store_conformance(|| FileStore::new("/tmp/account.json")).await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
pub async fn store_conformance<S: CredentialStore>(
    open: impl Fn() -> S,
) -> Result<Report, NonConforming> {
    let mut report = Report::default();
    let first = load(&open()).await;
    let trial = match &first {
        Ok((record, _)) => Trial {
            open,
            found: record.clone(),
        },
        Err(_) => {
            report.add(Check::Load, outcome(first.map(drop)));
            return report.into_result();
        }
    };
    report.add(Check::Load, outcome(trial.load().await));
    let stored = trial.store().await;
    let works = stored.is_ok();
    report.add(Check::Store, outcome(stored));
    if works {
        report.add(Check::StoreConflict, outcome(trial.conflict().await));
        report.add(Check::ConcurrentStores, outcome(trial.concurrent().await));
        report.add(Check::WholeRecords, outcome(trial.whole().await));
        // Last, since a store may be left unusable.
        report.add(Check::DroppedStore, outcome(trial.dropped().await));
    }
    if let Err(broken) = trial.restore().await {
        report.add(Check::Store, outcome(Err(broken)));
    }
    report.into_result()
}

struct Trial<F> {
    open: F,
    found: Record,
}

#[derive(Debug)]
struct Broken {
    found: String,
    contract: &'static str,
}

fn broken(found: impl fmt::Display, contract: &'static str) -> Broken {
    Broken {
        found: found.to_string(),
        contract,
    }
}

fn outcome(tried: Result<(), Broken>) -> Outcome {
    match tried {
        Ok(()) => Outcome::Kept { note: None },
        Err(Broken { found, contract }) => Outcome::Broken { found, contract },
    }
}

impl<S: CredentialStore, F: Fn() -> S> Trial<F> {
    async fn load(&self) -> Result<(), Broken> {
        let store = (self.open)();
        let (record, version) = load(&store).await?;
        let (again, same) = load(&store).await?;
        if record != again {
            return Err(broken("the second load returned another record", LOADS));
        }
        if version != same {
            return Err(broken("the second load returned another version", LOADS));
        }
        Ok(())
    }

    async fn store(&self) -> Result<(), Broken> {
        let store = (self.open)();
        for number in 0..3 {
            let (_, before) = load(&store).await?;
            let record = record(number);
            store_as(&store, &record, &before).await?;
            for (which, store) in [("the same", &store), ("another", &(self.open)())] {
                let (loaded, version) = load(store).await?;
                if loaded != record {
                    let found = format!("{which} handle did not load the stored record");
                    return Err(broken(found, STORES));
                }
                if version == before {
                    let found = format!("{which} handle loaded the version from before");
                    return Err(broken(found, STORES));
                }
            }
        }
        Ok(())
    }

    async fn conflict(&self) -> Result<(), Broken> {
        let (one, other) = ((self.open)(), (self.open)());
        let (_, stale) = load(&one).await?;
        let kept = record(10);
        let (_, version) = load(&other).await?;
        store_as(&other, &kept, &version).await?;
        for (which, store) in [("another process", &one), ("the same process", &other)] {
            match called(store.store(record(11), stale.clone())).await? {
                Err(error) if error.kind() == SourceErrorKind::Conflict => {}
                Err(error) => return Err(broken(failed("store", &error), CONFLICTS)),
                Ok(()) => {
                    let found = format!("a record that {which} stored was overwritten");
                    return Err(broken(found, CONFLICTS));
                }
            }
            if load(store).await?.0 != kept {
                let found = "after the conflict another record was loaded";
                return Err(broken(found, CONFLICTS));
            }
        }
        Ok(())
    }

    async fn concurrent(&self) -> Result<(), Broken> {
        for round in 0..ROUNDS / WRITERS {
            let mut writers = Vec::new();
            for writer in 0..WRITERS {
                let store = (self.open)();
                let (_, version) = load(&store).await?;
                let record = record(100 + round * WRITERS + writer);
                writers.push((store, record, version));
            }
            let all = writers.into_iter().map(|(store, record, version)| {
                tokio::spawn(async move {
                    let stored = called(store.store(record.clone(), version)).await?;
                    match stored {
                        Ok(()) => Ok(Some(record)),
                        Err(error) if error.kind() == SourceErrorKind::Conflict => Ok(None),
                        Err(error) => Err(broken(failed("store", &error), ONE_WINS)),
                    }
                })
            });
            let mut winners = Vec::new();
            for writer in all.collect::<Vec<_>>() {
                let ended = writer.await;
                let ended = ended.map_err(|_| broken("`store` panicked", ONE_WINS))?;
                winners.extend(ended?);
            }
            let (kept, _) = load(&(self.open)()).await?;
            match winners.as_slice() {
                [winner] if *winner == kept => {}
                [_] => {
                    let found = "the record of the one that succeeded was not loaded";
                    return Err(broken(found, ONE_WINS));
                }
                _ => {
                    let found = format!("{} of {WRITERS} succeeded", winners.len());
                    return Err(broken(found, ONE_WINS));
                }
            }
        }
        Ok(())
    }

    async fn whole(&self) -> Result<(), Broken> {
        let (reader, writer) = ((self.open)(), (self.open)());
        // Of different lengths, so that a part of one is not a record.
        let records: Vec<_> = (0..ROUNDS).map(record).collect();
        let (_, version) = load(&writer).await?;
        store_as(&writer, &records[0], &version).await?;
        let stop = Arc::new(());
        let running = Arc::downgrade(&stop);
        let known = records.clone();
        let reads = tokio::spawn(async move {
            loop {
                let (record, _) = load(&reader).await?;
                if !known.contains(&record) {
                    return Err(broken("a record was loaded that nobody stored", WHOLE));
                }
                if running.strong_count() == 0 {
                    return Ok(());
                }
                tokio::task::yield_now().await;
            }
        });
        for record in &records {
            let (_, version) = load(&writer).await?;
            store_as(&writer, record, &version).await?;
            tokio::task::yield_now().await;
        }
        drop(stop);
        match reads.await {
            Ok(read) => read,
            Err(_) => Err(broken("`load` panicked", WHOLE)),
        }
    }

    async fn dropped(&self) -> Result<(), Broken> {
        for awaits in 1..=MOST_AWAITS {
            let store = (self.open)();
            let (before, version) = load(&store).await?;
            let record = record(1000 + awaits);
            let is_over = dropped_at(awaits, store.store(record.clone(), version)).await;
            let (after, _) = load(&store).await?;
            if after != before && after != record {
                let found = format!("dropped at await {awaits}, it left another record");
                return Err(broken(found, DROPPED));
            }
            // What was dropped may still be at work where it started.
            loop {
                let (_, version) = load(&store).await?;
                match called(store.store(before.clone(), version)).await? {
                    Ok(()) => break,
                    Err(error) if error.kind() == SourceErrorKind::Conflict => {}
                    Err(error) => return Err(broken(failed("store", &error), DROPPED)),
                }
            }
            if is_over {
                break;
            }
        }
        Ok(())
    }

    async fn restore(&self) -> Result<(), Broken> {
        let store = (self.open)();
        loop {
            let (_, version) = load(&store).await?;
            match called(store.store(self.found.clone(), version)).await? {
                Err(error) if error.kind() == SourceErrorKind::Conflict => {}
                Ok(()) => return Ok(()),
                Err(error) => return Err(broken(failed("store", &error), STORES)),
            }
        }
    }
}

/// Returns a record with all that a record can hold, but for a password change in
/// progress: a store may know that nobody makes it.
fn record(number: usize) -> Record {
    let length = number % 7 * 100;
    let password = format!("{number}-\"\\\n\t\u{e9}\u{1F600} {}", "x".repeat(length));
    Record::example(password)
}

async fn load<S: CredentialStore>(store: &S) -> Result<(Record, Version), Broken> {
    let loaded = called(store.load()).await?;
    loaded.map_err(|error| broken(failed("load", &error), LOADS))
}

async fn store_as<S: CredentialStore>(
    store: &S,
    record: &Record,
    expected: &Version,
) -> Result<(), Broken> {
    let stored = called(store.store(record.clone(), expected.clone())).await?;
    stored.map_err(|error| broken(failed("store", &error), STORES))
}

fn failed(call: &str, error: &SourceError) -> String {
    format!("`{call}` failed: {}", ErrorChain(error))
}

async fn called<T>(call: impl Future<Output = T>) -> Result<T, Broken> {
    const RETURNS: &str = "A call returns within 30 s.";
    let answered = timeout(CALL_TIMEOUT, call).await;
    answered.map_err(|_| broken("a call did not return", RETURNS))
}

/// Drops a call when it waits for the `awaits`th time. Returns whether it was over
/// before.
async fn dropped_at<T>(awaits: usize, call: impl Future<Output = T>) -> bool {
    let mut call = Box::pin(call);
    let mut waited = 0;
    poll_fn(|cx| match call.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(true),
        Poll::Pending => {
            waited += 1;
            match waited == awaits {
                true => Poll::Ready(false),
                false => Poll::Pending,
            }
        }
    })
    .await
}

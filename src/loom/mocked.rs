//! Mocked primitives that loom sees. Each does what the real primitive guarantees, and no
//! more.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use loom::sync::atomic::{AtomicBool, fence};
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
pub(crate) use loom::sync::{Mutex, MutexGuard};
use loom::thread::ThreadId;
use tokio::time::Instant;

/// loom's `Arc` has no [`Weak`]. The memory orders are those of the standard library.
pub(crate) struct Arc<T> {
    /// The last one drops the value. loom does not interrupt that.
    value: std::sync::Arc<T>,
    strong: std::sync::Arc<AtomicUsize>,
}

pub(crate) struct Weak<T> {
    value: std::sync::Weak<T>,
    strong: std::sync::Arc<AtomicUsize>,
}

impl<T> Arc<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: std::sync::Arc::new(value),
            strong: std::sync::Arc::new(AtomicUsize::new(1)),
        }
    }

    /// Returns the parts of a clone. loom does not see it before it is counted.
    fn parts(&self) -> (std::sync::Arc<T>, std::sync::Arc<AtomicUsize>) {
        (self.value.clone(), self.strong.clone())
    }

    fn of_parts((value, strong): (std::sync::Arc<T>, std::sync::Arc<AtomicUsize>)) -> Self {
        strong.fetch_add(1, Ordering::Relaxed);
        Self { value, strong }
    }

    pub(crate) fn downgrade(this: &Self) -> Weak<T> {
        Weak {
            value: std::sync::Arc::downgrade(&this.value),
            strong: this.strong.clone(),
        }
    }

    pub(crate) fn strong_count(this: &Self) -> usize {
        this.strong.load(Ordering::Relaxed)
    }

    pub(crate) fn into_inner(this: Self) -> Option<T> {
        let value = this.value.clone();
        drop(this);
        std::sync::Arc::into_inner(value)
    }

    pub(crate) fn ptr_eq(this: &Self, other: &Self) -> bool {
        std::sync::Arc::ptr_eq(&this.value, &other.value)
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        Self::of_parts(self.parts())
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        if self.strong.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
        }
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Arc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T> Weak<T> {
    pub(crate) fn strong_count(&self) -> usize {
        self.strong.load(Ordering::Relaxed)
    }

    pub(crate) fn upgrade(&self) -> Option<Arc<T>> {
        let more = |strong| (strong > 0).then(|| strong + 1);
        self.strong
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, more)
            .ok()?;
        Some(Arc {
            value: self.value.upgrade().expect("counted"),
            strong: self.strong.clone(),
        })
    }
}

/// A cell that is set once.
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    is_set: AtomicBool,
}

impl<T> OnceLock<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        let is_set = self.is_set.load(Ordering::Acquire);
        self.value.get().filter(|_| is_set)
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        self.value.set(value)?;
        self.is_set.store(true, Ordering::Release);
        Ok(())
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self {
            value: std::sync::OnceLock::new(),
            is_set: AtomicBool::new(false),
        }
    }
}

/// A reader does not synchronize with other readers. A writer waits for the running
/// readers, as a writer of `arc_swap` does when it pays the debts.
pub(crate) struct ArcSwapOption<T> {
    /// The written values, the newest last. loom sees `last` instead.
    written: std::sync::Mutex<Vec<Option<Arc<T>>>>,
    last: AtomicUsize,
    readers: std::sync::Mutex<Vec<ThreadId>>,
    /// Held by each reader while it reads, at its place among the readers.
    reading: [Mutex<()>; MOST_THREADS],
}

/// How many threads a model has.
const MOST_THREADS: usize = 3;

impl<T> ArcSwapOption<T> {
    pub(crate) fn new(value: Option<Arc<T>>) -> Self {
        Self {
            written: std::sync::Mutex::new(vec![value]),
            last: AtomicUsize::new(0),
            readers: std::sync::Mutex::default(),
            reading: Default::default(),
        }
    }

    pub(crate) fn load(&self) -> Option<Arc<T>> {
        self.load_full()
    }

    pub(crate) fn load_full(&self) -> Option<Arc<T>> {
        let _reading = self.reading[self.place()].lock().unwrap();
        let last = self.last.load(Ordering::Acquire);
        let parts = self.written.lock().unwrap()[last].as_ref().map(Arc::parts);
        parts.map(Arc::of_parts)
    }

    pub(crate) fn swap(&self, value: Option<Arc<T>>) -> Option<Arc<T>> {
        let last = {
            let mut written = self.written.lock().unwrap();
            written.push(value);
            written.len() - 1
        };
        self.last.swap(last, Ordering::AcqRel);
        for reading in &self.reading {
            drop(reading.lock().unwrap());
        }
        self.written.lock().unwrap()[last - 1].take()
    }

    fn place(&self) -> usize {
        let me = loom::thread::current().id();
        let mut readers = self.readers.lock().unwrap();
        match readers.iter().position(|reader| *reader == me) {
            Some(place) => place,
            None => {
                readers.push(me);
                readers.len() - 1
            }
        }
    }
}

/// The part of tokio's `Notify` that the crate uses: it wakes all current waiters.
#[derive(Default)]
pub(crate) struct Notify(Mutex<Called>);

#[derive(Default)]
struct Called {
    times: u64,
    wakers: Vec<Waker>,
}

impl Notify {
    pub(crate) fn notify_waiters(&self) {
        let mut called = self.0.lock().unwrap();
        called.times += 1;
        let wakers = std::mem::take(&mut called.wakers);
        drop(called);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn notified(&self) -> Notified<&Self> {
        Notified::of(self)
    }

    pub(crate) fn notified_owned(self: std::sync::Arc<Self>) -> OwnedNotified {
        Notified::of(self)
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notify")
    }
}

pub(crate) type OwnedNotified = Notified<std::sync::Arc<Notify>>;

#[derive(Debug)]
pub(crate) struct Notified<N> {
    notify: N,
    /// The number of notifications before this wait.
    before: u64,
}

impl<N: Deref<Target = Notify>> Notified<N> {
    fn of(notify: N) -> Self {
        let before = notify.0.lock().unwrap().times;
        Self { notify, before }
    }
}

impl<N: Deref<Target = Notify>> Notified<N> {
    pub(crate) fn enable(self: Pin<&mut Self>) -> bool {
        self.notify.0.lock().unwrap().times != self.before
    }
}

impl<N: Deref<Target = Notify>> Future for Notified<N> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut called = self.notify.0.lock().unwrap();
        if called.times != self.before {
            return Poll::Ready(());
        }
        called.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

type Task = (Pin<Box<dyn Future<Output = ()> + Send>>, AbortHandle);

/// The tasks that were not polled yet, and the waker of the runtime that polls them.
#[derive(Default)]
struct Spawned {
    tasks: Vec<Task>,
    runs: Option<Waker>,
}

loom::lazy_static! {
    // The tasks that a failed model leaves cannot be dropped outside of the model.
    static ref SPAWNED: ManuallyDrop<Mutex<Spawned>> = ManuallyDrop::default();
}

/// Leaves a task to the thread that calls [`run`].
pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
    let handle = AbortHandle::default();
    let mut spawned = SPAWNED.lock().unwrap();
    spawned.tasks.push((Box::pin(task), handle.clone()));
    let runs = spawned.runs.take();
    drop(spawned);
    runs.into_iter().for_each(Waker::wake);
    Some(handle)
}

#[derive(Clone, Debug, Default)]
pub(crate) struct AbortHandle {
    aborted: std::sync::Arc<AtomicBool>,
}

impl AbortHandle {
    pub(crate) fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
    }
}

/// Returns whether a spawned task was not polled yet.
pub(crate) fn has_tasks() -> bool {
    !SPAWNED.lock().unwrap().tasks.is_empty()
}

/// Drops the tasks that were not polled yet.
pub(crate) fn shut_down() {
    let left = std::mem::take(&mut *SPAWNED.lock().unwrap());
    drop(left);
}

/// A runtime of one thread, which ends when `main` does.
pub(crate) fn run<T>(main: impl Future<Output = T>) -> T {
    let mut main = std::pin::pin!(main);
    let mut tasks = Vec::new();
    loom::future::block_on(std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(answer) = main.as_mut().poll(cx) {
                return Poll::Ready(answer);
            }
            let mut spawned = SPAWNED.lock().unwrap();
            spawned.runs = Some(cx.waker().clone());
            let more = std::mem::take(&mut spawned.tasks);
            drop(spawned);
            let is_more = !more.is_empty();
            tasks.extend(more);
            let mut has_finished = false;
            tasks.retain_mut(|(task, handle): &mut Task| {
                let aborted = handle.aborted.load(Ordering::Acquire);
                let finished = aborted || task.as_mut().poll(cx).is_ready();
                has_finished |= finished;
                !finished
            });
            if !is_more && !has_finished {
                return Poll::Pending;
            }
        }
    }))
}

/// Returns the current runtime of tokio. A model has none.
pub(crate) fn runtime() -> Option<tokio::runtime::Handle> {
    tokio::runtime::Handle::try_current().ok()
}

/// All threads of a model share the thread-locals of one, so a model nests no sessions.
pub(crate) const HAS_TASK_LOCALS: bool = false;

/// Returns an `Arc` of the standard library that keeps `arc`.
pub(crate) fn std_arc<T>(arc: Arc<T>) -> std::sync::Arc<Arc<T>> {
    std::sync::Arc::new(arc)
}

/// A model has no time: a deadline that has not passed never does.
pub(crate) async fn sleep_until(at: Instant) {
    if at > Instant::now() {
        std::future::pending::<()>().await;
    }
}

pub(crate) async fn timeout<F: Future>(_: Duration, call: F) -> Option<F::Output> {
    Some(call.await)
}

pub(crate) async fn timeout_at<F: Future>(_: Instant, call: F) -> Result<F::Output, ()> {
    Ok(call.await)
}

/// In a model no worker blocks.
pub(crate) fn wake_another_worker() {}

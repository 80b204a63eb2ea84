//! Notices what hangs, what panics, and what is left behind.

use std::process::exit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anybody may take over one thing, on a machine however slow.
const STALL_TIMEOUT: Duration = Duration::from_secs(45);

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Counts each panic from now on, wherever it is caught.
pub(crate) fn count_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        report(panic);
    }));
}

pub(crate) fn panics() -> usize {
    PANICS.load(Ordering::Relaxed)
}

/// What one task does now.
#[derive(Clone)]
pub(crate) struct Post {
    who: String,
    doing: Arc<Mutex<Option<(String, Instant)>>>,
}

impl Post {
    fn now(&self) -> Option<(String, Duration)> {
        let doing = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
        let (what, since) = doing.as_ref()?;
        Some((what.clone(), since.elapsed()))
    }

    /// Says what the task does, until what it answers drops.
    pub(crate) fn does(&self, what: impl Into<String>) -> Doing<'_> {
        *self.doing.lock().unwrap() = Some((what.into(), Instant::now()));
        Doing(self)
    }
}

pub(crate) struct Doing<'a>(&'a Post);

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        *self.0.doing.lock().unwrap() = None;
    }
}

/// Ends the process, with a word on who waits for what, if anybody does for too
/// long. A thread of its own, since the runtime may be what hangs.
pub(crate) struct Watchdog {
    posts: Arc<Mutex<Vec<Post>>>,
    // Its drop ends the thread.
    _alive: Sender<()>,
}

impl Watchdog {
    pub(crate) fn new(account: impl Fn() -> String + Send + 'static) -> Self {
        let posts = Arc::<Mutex<Vec<Post>>>::default();
        let (alive, over) = channel();
        let checked = posts.clone();
        thread::spawn(move || check(&over, &checked, account));
        Self {
            posts,
            _alive: alive,
        }
    }

    pub(crate) fn post(&self, who: impl Into<String>) -> Post {
        let post = Post {
            who: who.into(),
            doing: Arc::default(),
        };
        self.posts.lock().unwrap().push(post.clone());
        post
    }
}

fn check(over: &Receiver<()>, posts: &Mutex<Vec<Post>>, account: impl Fn() -> String) {
    while let Err(RecvTimeoutError::Timeout) = over.recv_timeout(Duration::from_millis(250)) {
        let posts = posts.lock().unwrap_or_else(PoisonError::into_inner);
        let now: Vec<_> = posts
            .iter()
            .filter_map(|post| Some((&post.who, post.now()?)))
            .collect();
        if now.iter().all(|(_, (_, time))| *time < STALL_TIMEOUT) {
            continue;
        }
        eprintln!("it hangs:");
        for (who, (what, time)) in now {
            eprintln!("  {who}: {what}, for {time:?}");
        }
        eprintln!("{}", account());
        exit(101);
    }
}

/// How many files and sockets this process has open, where that can be told.
pub(crate) fn open_files() -> Option<usize> {
    let files = std::fs::read_dir("/proc/self/fd").ok()?;
    Some(files.count())
}

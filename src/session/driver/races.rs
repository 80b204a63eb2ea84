//! Tests of thread schedules that are chosen to break a session.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use tower::{Layer, ServiceExt};

use super::timer_task::on_timer;
use super::*;
use crate::session::rules::Acquire;
use crate::session::*;
use crate::{
    BoxError, Buffer, FixedToken, IfEmpty, LoginContext, Never, Profile, ProviderError, Replay,
    SessionLayer, provider_fn,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Returns the number of tasks of the runtime.
fn tasks() -> usize {
    let runtime = tokio::runtime::Handle::current();
    runtime.metrics().num_alive_tasks()
}

/// A session whose logins yield numbers, from 0.
fn counting() -> Session {
    let issued = AtomicU64::new(0);
    let provider = provider_fn(Profile::default(), move |_: LoginContext| {
        let number = issued.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, ProviderError>(Token::bearer(number.to_string())?.lives_for(HOUR)) }
    });
    Session::new(provider)
}

/// A session whose token is live: it was used, and a response has accepted it.
async fn proven() -> Session {
    let session = Session::new(FixedToken::bearer(Profile::default().bound(), "3f9a"));
    for _ in 0..2 {
        goes_home(session.layer()).await.unwrap();
    }
    session
}

async fn goes_home<R>(layer: SessionLayer<R>) -> Result<(), BoxError>
where
    R: Replay<Full<Bytes>> + Clone,
{
    let http = tower::service_fn(|request: Request<R::Body>| async move {
        assert_eq!(request.headers()[header::AUTHORIZATION], "Bearer 3f9a");
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::default()))
    });
    let request = Request::get("https://api.test/").body(Full::default())?;
    layer.layer(http).oneshot(request).await.map(drop)
}

/// Another thread holds the lock, and waits for the request.
#[tokio::test]
async fn a_request_with_a_live_token_takes_no_lock() {
    async fn passes<R>(layer: SessionLayer<R>, session: &Session)
    where
        R: Replay<Full<Bytes>, Body: Send, Kept: Send> + Clone + Send + 'static,
    {
        let (done, over) = mpsc::channel();
        let locked = session.driver.lock();
        let request = std::thread::spawn(move || {
            let sent = pin!(goes_home(layer)).poll(&mut Context::from_waker(Waker::noop()));
            let _ = done.send(matches!(sent, Poll::Ready(Ok(()))));
        });
        // Long enough for any machine, and waited for only by one that fails.
        let passed = over.recv_timeout(Duration::from_secs(60));
        drop(locked);
        request.join().unwrap();
        assert_eq!(passed, Ok(true));
    }
    let session = proven().await;
    passes(session.layer(), &session).await;
    passes(session.layer().replay(Never), &session).await;
    passes(session.layer().replay(IfEmpty), &session).await;
    passes(session.layer().replay(Buffer::up_to(1024)), &session).await;
}

#[tokio::test(start_paused = true)]
async fn the_same_token_once_more_leaves_nothing_behind() {
    let session = Session::new(FixedToken::bearer(Profile::default(), "3f9a"));
    for _ in 0..1000 {
        session.renew().await.unwrap();
    }
    let leases = session.driver.lock().leases.len();
    assert!(leases <= 2, "{leases} leases of nobody");
}

#[tokio::test(start_paused = true)]
async fn replaced_tokens_leave_nothing_behind() {
    let session = counting();
    for _ in 0..100 {
        let held = session.token().await.unwrap();
        session.renew().await.unwrap();
        drop(held);
    }
    session.renew().await.unwrap();
    let state = session.driver.lock();
    assert_eq!((state.retired.len(), state.unlisted.len()), (0, 0));
}

/// The timer was replaced after it had gone off on another thread, while it waited for
/// the lock.
#[tokio::test(start_paused = true)]
async fn a_timer_that_was_replaced_as_it_went_off_leaves_the_next_one_alone() {
    let session = counting();
    session.token().await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(tasks(), 1, "the timer");
    on_timer(&Arc::downgrade(&session.driver), 0);
    tokio::task::yield_now().await;
    assert_eq!(tasks(), 1, "and no second one");
    drop(session);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(tasks(), 0, "and none after the last handle");
}

/// `arc_swap` has eight slots a thread for borrowed values. A value beyond that is
/// owned.
///
/// Runs on a thread of its own, since a failure never ends.
#[test]
fn closing_ends_on_a_thread_that_borrows_much() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let closed = runtime.block_on(async {
            let session = counting();
            session.token().await.unwrap();
            let other = arc_swap::ArcSwap::from_pointee(());
            let borrowed: Vec<_> = (0..8).map(|_| other.load()).collect();
            let closed = session.close(HOUR).await;
            drop(borrowed);
            closed.is_ok() || matches!(closed, Err(left) if left.in_use() == 0)
        });
        done.send(closed).unwrap();
    });
    let closed = ended.recv_timeout(Duration::from_secs(10));
    assert_eq!(closed, Ok(true), "it never ends");
}

/// Another thread can log out between a request's event and its wait for the job.
#[tokio::test(start_paused = true)]
async fn a_logout_between_the_start_of_a_wait_and_the_wait_is_not_missed() {
    let provider = provider_fn(Profile::default(), |_: LoginContext| {
        std::future::pending::<Result<Token, ProviderError>>()
    });
    let session = Session::new(provider);
    let now = session.driver.now();
    let (acquire, wait) = session.driver.step(|state, _| state.rules.acquire(now));
    assert!(matches!(acquire, Acquire::Wait));
    let mut logout = Box::pin(session.logout());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(logout.as_mut().poll(&mut cx).is_pending());
    let since = tokio::time::Instant::now();
    wait.unwrap().await;
    assert_eq!(since.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_goes_off_early_enough_is_left_and_one_for_nothing_is_not() {
    let session = counting();
    session.token().await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let number = session.driver.timer_task.number();
    // An unused token expires later than the last timer was due.
    session.renew().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let later = session.driver.timer_task.number();
    assert_eq!(later, number, "set anew though the last one will do");
    assert_eq!(tasks(), 1);
    let _ = session.logout().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(tasks(), 0, "a timer with nothing to wait for");
}

#[test]
fn without_a_runtime_a_session_closes_all_the_same() {
    let session = counting();
    let mut closing = std::pin::pin!(session.close(HOUR));
    let mut cx = Context::from_waker(Waker::noop());
    let closed = closing.as_mut().poll(&mut cx);
    assert!(matches!(closed, std::task::Poll::Ready(Ok(()))));
}

/// A token is live only if a timer ends it.
#[test]
fn a_token_is_live_only_while_there_is_a_runtime_for_its_timer() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let session = counting();
    let is_live = || session.driver.usable().unwrap().is_live();
    let first = runtime();
    first.block_on(async { session.accept(&session.token().await.unwrap()) });
    assert!(is_live());
    drop(first);
    assert!(!is_live());
    session.driver.usable_now();
    assert!(!is_live(), "there is no runtime");
    let second = runtime();
    second.block_on(async {
        session.driver.usable_now();
        assert!(is_live());
        assert_eq!(tasks(), 1);
    });
}

/// A request that read the token before is told apart from a request that reads it now.
#[tokio::test(start_paused = true)]
async fn what_was_published_before_a_close_is_used_by_no_new_request() {
    let session = counting();
    session.accept(&session.token().await.unwrap());
    let read = session.driver.usable().unwrap();
    assert!(read.is_live());
    let mut closing = Box::pin(session.close(HOUR));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(closing.as_mut().poll(&mut cx).is_pending(), "it is in use");
    assert!(!read.is_live() && !read.is_usable());
    drop(read);
    let _ = closing.await;
}

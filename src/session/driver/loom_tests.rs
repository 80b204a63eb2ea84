//! Runs the lock-free part in every order that the memory model allows: requests while
//! the session refreshes, replaces tokens, logs out and closes.
//!
//! ```sh
//! RUSTFLAGS='--cfg reauth_loom' CARGO_PROFILE_DEV_OPT_LEVEL=1 \
//!     cargo test --lib --target-dir target/model loom_tests::
//! ```
//!
//! The tests run the production code, from the service to the provider, on the primitives
//! of `loom/mocked.rs`. A wait that never ends is a deadlock, which loom reports.
//! `LOOM_MAX_PREEMPTIONS=3` goes deeper than [`PREEMPTIONS`]: a million orders, some
//! minutes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use loom::future::block_on;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use tower_layer::Layer;
use tower_service::Service;

use crate::loom::Notify;
use crate::loom::mocked::{has_tasks, run, shut_down};
use crate::session::Session;
use crate::{
    BoxError, CredentialProvider, Error, ErrorKind, LoginContext, LogoutContext, LogoutEnds,
    Profile, ProviderError, Replay, Rolling, SessionBody, SessionService, Token,
};

/// How often a thread may be preempted.
const PREEMPTIONS: usize = 2;

/// A login system and the server behind it. Its tokens are numbers, from 1.
///
/// The bits are loom's atomics, so that an answer may be as old as the memory model
/// allows.
#[derive(Default)]
struct Server {
    issued: AtomicUsize,
    /// A bit for each token that was logged out.
    ended: AtomicUsize,
    /// A bit for each token that is rejected.
    dead: AtomicUsize,
    /// How many logins yield the last token once more.
    repeats: AtomicUsize,
    /// The next value of the token that each answer carries, if it is not 0.
    rolls_to: AtomicUsize,
    changed: Notify,
}

impl Server {
    fn issue(&self) -> Token {
        let repeats = self.repeats.load(Ordering::Relaxed);
        if repeats > 0 {
            self.repeats.store(repeats - 1, Ordering::Relaxed);
            return number(self.issued.load(Ordering::Relaxed));
        }
        number(self.issued.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn new_token(&self) -> usize {
        self.issued.load(Ordering::Relaxed)
    }

    fn set(&self, bits: &AtomicUsize, number: usize) -> bool {
        let before = bits.fetch_or(1 << number, Ordering::Relaxed);
        self.changed.notify_waiters();
        before & 1 << number != 0
    }

    fn is_set(bits: &AtomicUsize, number: usize) -> bool {
        bits.load(Ordering::Relaxed) & 1 << number != 0
    }

    /// Waits until one of these tokens is logged out. No other token may be.
    async fn has_ended_one(&self, numbers: &[usize]) {
        loop {
            let changed = self.changed.notified();
            let ended = self.ended.load(Ordering::Acquire);
            if ended != 0 {
                let is_one = numbers.iter().any(|number| ended == 1 << number);
                assert!(is_one, "{ended:b} were logged out");
                return;
            }
            changed.await;
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let carried = &request.headers()[header::AUTHORIZATION];
        let number = number_of(carried);
        let mut response = Response::default();
        response.headers_mut().insert("x-token", carried.clone());
        let next = self.rolls_to.load(Ordering::Relaxed);
        if next > 0 {
            let next = HeaderValue::from(next);
            response.headers_mut().insert("x-next", next);
        }
        if Self::is_set(&self.dead, number) {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        } else {
            assert!(!Self::is_set(&self.ended, number), "logged out in use");
        }
        response
    }
}

fn number(number: usize) -> Token {
    Token::bearer(number.to_string()).unwrap()
}

fn number_of(carried: &HeaderValue) -> usize {
    carried.to_str().unwrap()["Bearer ".len()..]
        .parse()
        .unwrap()
}

#[derive(Clone)]
struct Provider {
    server: Arc<Server>,
    rolls: bool,
}

impl CredentialProvider for Provider {
    fn profile(&self) -> Profile {
        let profile = Profile::at("https://a".parse().unwrap()).logout_ends(LogoutEnds::Token);
        match self.rolls {
            true => profile.rolling(Rolling::by(|_, response| {
                let next = response.headers.get("x-next")?.to_str().ok()?;
                Token::bearer(next).ok()
            })),
            false => profile,
        }
    }

    async fn login(&self, _: LoginContext) -> Result<Token, ProviderError> {
        Ok(self.server.issue())
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        let mut headers = HeaderMap::new();
        cx.token().apply_to(&mut headers);
        let number = number_of(&headers[header::AUTHORIZATION]);
        assert!(
            !self.server.set(&self.server.ended, number),
            "logged out twice"
        );
        Ok(())
    }
}

/// A session whose token, 1, has been accepted before.
fn session() -> (Session, Arc<Server>) {
    let (session, server) = session_of(false, None);
    assert!(session.driver.usable().unwrap().is_live());
    (session, server)
}

fn session_of(rolls: bool, lives_for: Option<Duration>) -> (Session, Arc<Server>) {
    let server = Arc::new(Server::default());
    let initial = server.issue().with_lifetime(lives_for);
    let provider = Provider {
        server: server.clone(),
        rolls,
    };
    let session = Session::builder(provider).initial_token(initial).build();
    let used = session.driver.usable_now().unwrap();
    session.accept(used.token());
    (session, server)
}

/// A request, from the request path on.
async fn get<R>(
    session: &Session,
    server: &Arc<Server>,
    replay: R,
) -> Result<Response<SessionBody<Full<Bytes>>>, BoxError>
where
    R: Replay<Full<Bytes>> + Clone,
{
    let server = server.clone();
    let inner = tower::service_fn(move |request: Request<R::Body>| {
        std::future::ready(Ok::<_, Infallible>(server.answer(&request)))
    });
    let mut client: SessionService<_, R> = session.layer().replay(replay).layer(inner);
    let request = Request::get("https://a/").body(Full::default()).unwrap();
    client.call(request).await
}

/// The number of the token that a request of this session would carry, on the
/// request path.
fn carried(session: &Session) -> Option<usize> {
    let live = session.driver.live_for(&"https://a/".parse().unwrap())?;
    let mut headers = HeaderMap::new();
    live.token().apply_to(&mut headers);
    Some(number_of(&headers[header::AUTHORIZATION]))
}

fn check(model: impl Fn() + Clone + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    let orders = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = orders.clone();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let model = model.clone();
        let model = move || {
            model();
            shut_down();
        };
        spawn(model).join().unwrap();
    });
    println!("{} orders", orders.load(Ordering::Relaxed));
}

fn spawn<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    // loom's own stacks are too small for a session's futures in a debug build.
    let builder = thread::Builder::new().stack_size(256 * 1024);
    builder.spawn(act).unwrap()
}

/// Runs `act` on another thread.
fn meanwhile<T: Send + 'static>(
    session: &Session,
    server: &Arc<Server>,
    act: impl FnOnce(Session, Arc<Server>) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let (session, server) = (session.clone(), server.clone());
    spawn(move || act(session, server))
}

/// Gets a response, and asserts that its token is kept until its body is dropped.
fn use_a_token(session: &Session, server: &Arc<Server>) {
    let response = block_on(get(session, server, crate::Never)).unwrap();
    let number = number_of(&response.headers()["x-token"]);
    thread::yield_now();
    let is_ended = Server::is_set(&server.ended, number);
    assert!(!is_ended, "{number} was logged out before its body ended");
}

#[test]
fn a_replaced_token_is_logged_out_after_its_last_use() {
    check(|| {
        let (session, server) = session();
        let request = meanwhile(&session, &server, |session, server| {
            use_a_token(&session, &server);
        });
        run(async {
            session.renew().await.unwrap();
            session.accept(&session.token().await.unwrap());
            server.has_ended_one(&[1]).await;
        });
        request.join().unwrap();
        assert_eq!(server.new_token(), 2);
    });
}

/// The token is refreshed ahead of its expiry. One request proves the new token, while
/// another uses the old one.
#[test]
fn a_new_token_is_proven_while_the_old_one_is_used() {
    check(|| {
        let hour = Duration::from_secs(3600);
        let (session, server) = session_of(false, Some(hour));
        run(async {
            let late = hour * 35 / 36;
            let (_, login) = session.driver.step(|state, _| state.rules.tick(late));
            login.expect("it is due").await;
        });
        let request = meanwhile(&session, &server, |session, server| {
            use_a_token(&session, &server);
        });
        run(async {
            let response = get(&session, &server, crate::IfEmpty).await.unwrap();
            assert_eq!(number_of(&response.headers()["x-token"]), 2);
            drop(response);
            server.has_ended_one(&[1]).await;
        });
        request.join().unwrap();
        let generation = session.driver.usable().unwrap().token().generation();
        assert_eq!(generation, 2);
    });
}

#[test]
fn a_token_that_was_handed_out_is_in_use_until_its_last_copy_drops() {
    check(|| {
        let (session, server) = session();
        let holder = meanwhile(&session, &server, |session, server| {
            let token = block_on(session.token()).unwrap();
            let number = token.generation() as usize;
            let copy = token.clone();
            drop(token);
            assert!(!Server::is_set(&server.ended, number));
            drop(copy);
        });
        run(async {
            session.renew().await.unwrap();
            session.accept(&session.token().await.unwrap());
            server.has_ended_one(&[1]).await;
        });
        holder.join().unwrap();
    });
}

#[test]
fn a_token_that_a_login_repeats_keeps_its_users() {
    check(|| {
        let (session, server) = session();
        server.repeats.store(1, Ordering::Relaxed);
        let request = meanwhile(&session, &server, |session, server| {
            use_a_token(&session, &server);
        });
        run(async {
            session.renew().await.unwrap();
            session.renew().await.unwrap();
            session.accept(&session.token().await.unwrap());
            server.has_ended_one(&[1]).await;
        });
        request.join().unwrap();
        assert_eq!(server.new_token(), 2);
    });
}

#[test]
fn rejected_requests_share_one_login_and_each_is_replayed() {
    check(|| {
        let (session, server) = session();
        server.set(&server.dead, 1);
        let other = meanwhile(&session, &server, |session, server| {
            block_on(get(&session, &server, crate::IfEmpty)).unwrap()
        });
        let response = run(get(&session, &server, crate::IfEmpty)).unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        drop(other.join().unwrap());
        assert_eq!(server.new_token(), 2);
    });
}

#[test]
fn a_renewal_that_somebody_asks_for_is_one_login() {
    check(|| {
        let (session, server) = session();
        let other = meanwhile(&session, &server, |session, _| {
            block_on(session.renew()).unwrap();
            session.accept(&block_on(session.token()).unwrap());
        });
        run(server.has_ended_one(&[1]));
        other.join().unwrap();
        assert_eq!(server.new_token(), 2);
    });
}

#[test]
fn a_request_after_a_rejection_does_not_carry_what_was_rejected() {
    check(|| {
        let (session, server) = session();
        let rejected = Arc::new(AtomicBool::new(false));
        let told = rejected.clone();
        let request = meanwhile(&session, &server, move |session, _| {
            let is_new = told.load(Ordering::Acquire);
            let carried = carried(&session);
            assert!(!is_new || carried != Some(1), "rejected before");
        });
        let token = session.driver.usable().unwrap().token().clone();
        session.reject(&token);
        rejected.store(true, Ordering::Release);
        request.join().unwrap();
    });
}

#[test]
fn a_request_after_a_logout_carries_nothing() {
    check(|| {
        let (session, server) = session();
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let request = meanwhile(&session, &server, move |session, _| {
            let is_over = told.load(Ordering::Acquire);
            let carried = carried(&session);
            assert!(!is_over || carried.is_none(), "logged out before");
        });
        run(async {
            session.logout().await.unwrap();
            over.store(true, Ordering::Release);
            server.has_ended_one(&[1]).await;
        });
        request.join().unwrap();
    });
}

#[test]
fn closing_waits_for_whoever_was_let_in() {
    check(|| {
        let (session, server) = session();
        let request = meanwhile(&session, &server, |session, server| {
            match block_on(get(&session, &server, crate::Never)) {
                Ok(response) => {
                    assert!(!Server::is_set(&server.ended, 1), "in its body");
                    drop(response);
                }
                Err(error) => {
                    let error = error.downcast_ref::<Error>().unwrap();
                    // An admitted request does not get this error.
                    assert_eq!(error.kind(), ErrorKind::Closed);
                }
            }
        });
        run(async {
            session.close(Duration::MAX).await.unwrap();
            server.has_ended_one(&[1]).await;
        });
        request.join().unwrap();
    });
}

#[test]
fn closing_waits_for_a_replay() {
    check(|| {
        let (session, server) = session();
        server.set(&server.dead, 1);
        let request = meanwhile(&session, &server, |session, server| {
            let Ok(response) = block_on(get(&session, &server, crate::IfEmpty)) else {
                return;
            };
            assert!(!Server::is_set(&server.ended, 2), "in its body");
            drop(response);
        });
        run(async {
            session.close(Duration::MAX).await.unwrap();
        });
        request.join().unwrap();
    });
}

#[test]
fn a_token_whose_timer_was_lost_is_not_on_the_request_path() {
    check(|| {
        let (session, server) = session_of(false, Some(Duration::from_secs(3600)));
        let request = meanwhile(&session, &server, |session, _| {
            session.driver.usable_now();
        });
        shut_down();
        request.join().unwrap();
        assert!(carried(&session).is_none() || has_tasks());
        session.driver.usable_now();
        assert!(carried(&session).is_some() && has_tasks());
    });
}

#[test]
fn a_value_from_a_response_does_not_replace_a_newer_token() {
    check(|| {
        let (session, server) = session_of(true, None);
        server.rolls_to.store(9, Ordering::Relaxed);
        let request = meanwhile(&session, &server, |session, server| {
            drop(block_on(get(&session, &server, crate::Never)).unwrap());
        });
        run(async {
            session.renew().await.unwrap();
            let live = session.driver.usable().expect("there is one at all times");
            assert_eq!(live.token().generation(), 2);
            session.accept(live.token());
            drop(live);
            server.has_ended_one(&[1, 9]).await;
        });
        request.join().unwrap();
        let generation = session.driver.usable().unwrap().token().generation();
        assert_eq!(generation, 2);
    });
}

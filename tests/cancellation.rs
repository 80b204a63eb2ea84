//! Each public future, dropped at each of its await points in turn: nothing is
//! lost, held, or done twice. On virtual time.
//!
//! The server, the client and the source of the credentials yield wherever they
//! could wait. A story is told once for each await point of its future, several
//! times over: the future is dropped when it starts to wait there, some turns of
//! everybody else later, and when it is woken there and not polled any more. How
//! many points there are is part of the test, so that a change is noticed.

#![allow(
    clippy::async_yields_async,
    reason = "a story yields the future that is to be dropped"
)]

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt};
use tower_reauth::credentials::{Record, Version};
use tower_reauth::provider::{Api, Call};
use tower_reauth::{
    Auto, BoxError, Buffer, CredentialProvider, ErrorKind, Event, ExposeSecret, IfEmpty,
    LoginContext, LogoutContext, LogoutEnds, Never, PasswordChange, PasswordContext, Profile,
    ProviderError, Reauth, ReauthFailure, Rejection, Replay, Session, SessionBody, Source, State,
    Token, TokenEnd,
};
use tower_reauth::{CredentialStore, SourceError};

const ORIGIN: &str = "https://api.test";
const X_TOKEN: HeaderName = HeaderName::from_static("x-token");
const X_ID: HeaderName = HeaderName::from_static("x-id");
const DEAD: &str = "this session is invalid or expired";

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

// What waits wherever it could.

/// A body that yields before each of its frames, and before its end.
struct Trickle {
    frames: VecDeque<Bytes>,
    has_yielded: bool,
    _alive: Arc<()>,
}

impl Trickle {
    fn of(text: &str, alive: Arc<()>) -> Self {
        let (first, second) = text.as_bytes().split_at(text.len() / 2);
        Self {
            frames: [first, second].map(Bytes::copy_from_slice).into(),
            has_yielded: false,
            _alive: alive,
        }
    }
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.has_yielded = !self.has_yielded;
        if self.has_yielded {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.frames.pop_front().map(|data| Ok(Frame::data(data))))
    }
}

/// A service that yields before it is ready.
struct Yielding<S> {
    inner: S,
    has_yielded: bool,
}

impl<S: Clone> Clone for Yielding<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            has_yielded: false,
        }
    }
}

impl<S: Service<R>, R> Service<R> for Yielding<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        if !self.has_yielded {
            self.has_yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.has_yielded = false;
        self.inner.call(request)
    }
}

/// A store that yields before and after it does anything.
#[derive(Clone)]
struct YieldingStore(Arc<Mutex<(Record, u64)>>);

impl YieldingStore {
    fn new(password: &str) -> Self {
        Self(Arc::new(Mutex::new((Record::new("emuser", password), 0))))
    }

    fn json(&self) -> serde_json::Value {
        let text = self.0.lock().unwrap().0.to_json();
        serde_json::from_str(text.expose_secret()).unwrap()
    }

    fn passwords(&self) -> Vec<String> {
        let record = self.json();
        let others = record["others"].as_array().into_iter().flatten();
        let passwords = std::iter::once(&record).chain(others);
        let text = |fields: &serde_json::Value| fields["password"].as_str().unwrap().to_owned();
        passwords.map(text).collect()
    }

    fn read(&self) -> (Record, Version) {
        let kept = self.0.lock().unwrap();
        (kept.0.clone(), Version::from(kept.1))
    }

    fn replace(&self, record: Record, expected: &Version) -> Result<(), SourceError> {
        let mut kept = self.0.lock().unwrap();
        if Version::from(kept.1) != *expected {
            return Err(SourceError::conflict());
        }
        *kept = (record, kept.1 + 1);
        Ok(())
    }
}

impl CredentialStore for YieldingStore {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        yield_now().await;
        let loaded = self.read();
        yield_now().await;
        Ok(loaded)
    }

    async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
        yield_now().await;
        let stored = self.replace(record, &expected);
        yield_now().await;
        stored
    }
}

// The server and its client.

#[derive(Clone)]
struct Server {
    state: Arc<Mutex<Account>>,
    /// One place for all requests, those of the provider included.
    places: Arc<Semaphore>,
}

/// What the server knows.
struct Account {
    password: String,
    logins: u64,
    failed_logins: u64,
    /// How many passwords it refused. The login goes on with the next one.
    refused_passwords: u64,
    failing_logins: u64,
    /// The sessions that are good.
    live: BTreeSet<String>,
    /// Whether a dead token is answered with a 500 and a text.
    tells_by_text: bool,
    /// Whether a dead token is noticed before a body is read.
    is_hasty: bool,
    /// Whether a rejection is too long to be read ahead.
    is_verbose: bool,
    /// Whether a password is changed and nobody told.
    loses_a_change: bool,
    /// Whether somebody else takes the place after the next login.
    is_crowded: bool,
    rejections: u64,
    executed: BTreeMap<String, u64>,
    /// What its responses are made of.
    responses: Vec<Weak<()>>,
}

type Http = Yielding<ConcurrencyLimit<Server>>;

impl Server {
    fn new() -> Self {
        Self {
            state: Arc::new(Mutex::new(Account {
                password: "old".to_owned(),
                logins: 0,
                failed_logins: 0,
                refused_passwords: 0,
                failing_logins: 0,
                live: BTreeSet::new(),
                tells_by_text: false,
                is_hasty: false,
                is_verbose: false,
                loses_a_change: false,
                is_crowded: false,
                rejections: 0,
                executed: BTreeMap::new(),
                responses: Vec::new(),
            })),
            places: Arc::new(Semaphore::new(1)),
        }
    }

    fn client(&self) -> Http {
        Yielding {
            inner: ConcurrencyLimit::with_semaphore(self.clone(), self.places.clone()),
            has_yielded: false,
        }
    }

    fn account<T>(&self, look: impl FnOnce(&mut Account) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// Takes the only place for a while, as soon as it is free.
    fn crowd(&self) {
        let places = self.places.clone();
        tokio::spawn(async move {
            let _place = places.acquire_owned().await;
            sleep(Duration::from_secs(1)).await;
        });
    }

    /// Whether a request needs no session, or has one that is good.
    fn knows(&self, head: &Parts) -> bool {
        let token = token_of(head).unwrap_or_default();
        head.uri.path() == "/login" || self.account(|account| account.live.contains(token))
    }

    fn answer(&self, head: &Parts, body: &str) -> Response<Trickle> {
        let mut state = self.state.lock().unwrap();
        let token = token_of(head);
        let is_live = token.is_some_and(|token| state.live.contains(token));
        let mut headers = HeaderMap::new();
        let (status, text) = match head.uri.path() {
            "/login" if state.failing_logins > 0 => {
                state.failing_logins -= 1;
                state.failed_logins += 1;
                (503, "come back later")
            }
            "/login" if body == format!("password={}", state.password) => {
                state.logins += 1;
                let token = format!("token-{}", state.logins);
                headers.insert(X_TOKEN, token.parse().unwrap());
                state.live.insert(token);
                (200, "welcome")
            }
            "/login" => {
                state.refused_passwords += 1;
                (401, "who are you")
            }
            _ if !is_live => {
                state.rejections += 1;
                match state.tells_by_text && head.uri.path() != "/logout" {
                    true => (500, DEAD),
                    false => (401, DEAD),
                }
            }
            "/logout" => {
                state.live.remove(token.unwrap());
                (200, "good bye")
            }
            "/password" => {
                state.password = body.strip_prefix("new=").unwrap().to_owned();
                match std::mem::take(&mut state.loses_a_change) {
                    true => (504, "nobody knows"),
                    false => (200, "changed"),
                }
            }
            path => {
                let id = head.headers[X_ID].to_str().unwrap().to_owned();
                *state.executed.entry(id).or_default() += 1;
                match path {
                    "/broken" => (500, "out of order"),
                    _ => (200, "all is well"),
                }
            }
        };
        let is_login = head.uri.path() == "/login";
        let is_crowded = is_login && std::mem::take(&mut state.is_crowded);
        let is_verbose = state.is_verbose;
        let alive = Arc::new(());
        state.responses.push(Arc::downgrade(&alive));
        drop(state);
        if is_crowded {
            self.crowd();
        }
        let text = match is_verbose {
            true => text.repeat(1000),
            false => text.to_owned(),
        };
        let mut response = Response::new(Trickle::of(&text, alive));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        *response.headers_mut() = headers;
        response
    }
}

fn token_of(head: &Parts) -> Option<&str> {
    let value = head.headers.get(header::AUTHORIZATION)?;
    value.to_str().ok()?.strip_prefix("Bearer ")
}

impl<B> Service<Request<B>> for Server
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Trickle>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            if server.account(|account| account.is_hasty) && !server.knows(&head) {
                yield_now().await;
                let response = server.answer(&head, "");
                yield_now().await;
                // As a connection does, it holds the body until then.
                drop(body);
                return Ok(response);
            }
            let body = body.collect().await.map_err(Into::into)?.to_bytes();
            let body = String::from_utf8(body.to_vec())?;
            yield_now().await;
            let response = server.answer(&head, &body);
            yield_now().await;
            Ok(response)
        })
    }
}

struct Provider {
    api: Api<Http>,
    source: Source,
}

impl CredentialProvider for Provider {
    fn profile(&self) -> Profile {
        let rejection = Rejection::status(StatusCode::UNAUTHORIZED).or_body_contains(
            StatusCode::INTERNAL_SERVER_ERROR,
            "expired",
            1024,
        );
        let profile = self.api.profile().rejection(rejection);
        profile.logout_ends(LogoutEnds::Token)
    }

    fn source(&self) -> Option<&Source> {
        Some(&self.source)
    }

    async fn login(&self, login: LoginContext) -> Result<Token, ProviderError> {
        let password = login.credentials()?.password().expose_secret();
        let call = self.api.post("/login").form([("password", password)]);
        let answer = call.login().await?;
        Ok(Token::bearer(answer.header("x-token")?)?)
    }

    async fn logout(&self, cx: LogoutContext) -> Result<(), ProviderError> {
        self.api.post("/logout").token(cx.token()).logout().await?;
        Ok(())
    }

    async fn change_password(&self, cx: PasswordContext) -> Result<(), ProviderError> {
        let new = cx.new_password().expose_secret();
        let call = self.api.post("/password").token(cx.token().unwrap());
        call.form([("new", new)]).change().await?;
        Ok(())
    }
}

// One run of a story, and what must be true after it.

struct World {
    server: Server,
    session: Session,
    store: YieldingStore,
    /// Whether the store has not answered one call.
    has_hung: Arc<AtomicBool>,
    /// What each request, and each copy of it, holds.
    requests: Mutex<Vec<Weak<()>>>,
    /// The clients that made them, whose callers keep them.
    clients: Mutex<Vec<Box<dyn Any>>>,
}

impl World {
    fn new() -> Self {
        Self::with_store(|store| store)
    }

    fn with_store<S: CredentialStore>(to_use: impl FnOnce(YieldingStore) -> S) -> Self {
        let server = Server::new();
        let store = YieldingStore::new("old");
        let session = Session::new(Provider {
            api: Api::new(server.client(), ORIGIN.parse().unwrap()).unwrap(),
            source: Source::new(to_use(store.clone())),
        });
        Self {
            server,
            session,
            store,
            has_hung: Arc::default(),
            requests: Mutex::default(),
            clients: Mutex::default(),
        }
    }

    /// A world with a live token.
    async fn logged_in() -> Self {
        let world = Self::new();
        world.session.token().await.unwrap();
        world
    }

    /// A world with a token of which only the server knows that it is dead.
    async fn revoked() -> Self {
        let world = Self::logged_in().await;
        world.server.account(|account| account.live.clear());
        world
    }

    /// Something that lives for as long as anybody keeps it.
    fn alive(&self) -> Arc<()> {
        let alive = Arc::new(());
        self.requests.lock().unwrap().push(Arc::downgrade(&alive));
        alive
    }

    /// A request that is told apart from others by its id.
    fn request<B>(&self, id: &'static str, body: B) -> Request<B> {
        // An idempotent one, so that an unsure rejection replays it too.
        Request::put(format!("{ORIGIN}/{id}"))
            .header(X_ID, id)
            .extension(self.alive())
            .body(body)
            .unwrap()
    }

    fn full(&self, text: &'static str) -> Full<Bytes> {
        Full::new(Bytes::from_owner(Owned(text, self.alive())))
    }

    /// A request that was made through a service that is ready.
    async fn call<R, B>(
        &self,
        replay: R,
        id: &'static str,
        body: B,
    ) -> impl Future<Output = Result<Response<SessionBody<Trickle>>, BoxError>> + use<R, B>
    where
        R: Replay<B> + Clone + 'static,
        R::Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let layer = self.session.layer().replay(replay);
        let mut client = layer.layer(self.server.client());
        let request = self.request(id, body);
        let ready = ServiceExt::<Request<B>>::ready(&mut client).await;
        let response = ready.unwrap().call(request);
        self.clients.lock().unwrap().push(Box::new(client));
        response
    }

    /// What must be true once all that was begun has ended. Answers with how
    /// many logins it took to get there.
    async fn check(&self) -> u64 {
        // Longer than any back-off, retirement or cool-down of one failure.
        sleep(Duration::from_secs(60)).await;
        self.server.account(|account| account.failing_logins = 0);
        assert_eq!(self.server.places.available_permits(), 1, "a place is held");
        self.nothing_is_left();
        let is_closed = self.session.status().state == State::Closed;
        match self.session.status().state {
            State::Closed => {}
            State::LoggedOut => self.session.login().await.unwrap(),
            _ => {}
        }
        let answer = timeout(WAIT_TIMEOUT, async {
            let response = self.call(Auto, "after", self.full("x")).await.await?;
            let status = response.status();
            response.into_body().collect().await?;
            Ok::<_, BoxError>(status)
        });
        match answer.await.expect("the request after it hangs") {
            Ok(status) => assert_eq!(status, StatusCode::OK),
            Err(error) => {
                let ours = tower_reauth::Error::find(&*error).expect("one of ours");
                assert!(is_closed && ours.kind() == ErrorKind::Closed, "{ours}");
            }
        }
        let logins = self.logins();
        if !is_closed {
            // With the password that the server takes.
            self.session.renew().await.unwrap();
            self.session.accept(&self.session.token().await.unwrap());
        }
        sleep(Duration::from_secs(60)).await;
        if !is_closed {
            // The one in use, and no session that nobody knows.
            assert_eq!(self.server.account(|account| account.live.len()), 1);
            self.password_is_settled();
        }
        timeout(WAIT_TIMEOUT, self.session.close(WAIT_TIMEOUT))
            .await
            .expect("the end hangs")
            .unwrap();
        self.nothing_is_left();
        self.is_even();
        logins
    }

    fn nothing_is_left(&self) {
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "a task");
        let dead = |held: &[Weak<()>]| held.iter().all(|held| held.strong_count() == 0);
        assert!(dead(&self.requests.lock().unwrap()), "a request is left");
        self.server.account(|account| {
            assert!(dead(&account.responses), "a response is left");
        });
    }

    /// The store has the server's password, and nothing that is under way.
    fn password_is_settled(&self) {
        let record = self.store.json();
        let password = self.server.account(|account| account.password.clone());
        assert_eq!(record["password"], password.as_str(), "{record}");
        assert_eq!(record["accepted"], true, "{record}");
        for resolved in ["change", "login", "tries"] {
            assert_eq!(record.get(resolved), None, "{record}");
        }
    }

    fn is_even(&self) {
        let stats = self.session.stats();
        self.server.account(|account| {
            assert!(account.live.is_empty(), "a session is left behind");
            assert!(account.executed.values().all(|times| *times == 1));
            assert_eq!(stats.all_logins().succeeded, account.logins);
            // One that hung is the store's, and a logout calls off one that is not sent.
            let failed = stats.all_logins().failed - account.failed_logins;
            assert!(failed <= 1, "{stats:?}");
            // Of two passwords, the old one is tried first, once.
            assert!(account.refused_passwords <= 1, "{stats:?}");
            // Of what was dropped before its answer, the session never heard.
            assert!(stats.rejections <= account.rejections, "{stats:?}");
            assert!(stats.helpful_replays <= stats.replays, "{stats:?}");
            assert!(stats.replays <= stats.rejections, "{stats:?}");
            let ended: u64 = [TokenEnd::LoggedOut, TokenEnd::Rejected]
                .iter()
                .map(|end| stats.ended(*end))
                .sum();
            assert_eq!(ended, account.logins, "{stats:?}");
        });
    }

    fn logins(&self) -> u64 {
        self.server
            .account(|account| account.logins + account.failed_logins + account.refused_passwords)
    }
}

struct Owned(&'static str, #[allow(dead_code, reason = "held")] Arc<()>);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// When a future is dropped at an await point.
#[derive(Clone, Copy, Debug)]
enum Dropped {
    /// After so many turns of everybody else, woken or not.
    After(usize),
    /// Once it is woken there, in place of the poll that would follow.
    Woken,
}

/// More turns than the longest login takes, with the calls of the store.
const TURNS: usize = 18;

/// Polls `future` until it waits for the `point`-th time, and drops it there.
/// `None` unless it was done before.
async fn drop_at<F: Future>(future: F, point: usize, dropped: Dropped) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut waits = 0;
    let output = poll_fn(|cx| {
        if waits == point {
            return Poll::Ready(None);
        }
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => return Poll::Ready(Some(output)),
            Poll::Pending => waits += 1,
        }
        match dropped {
            Dropped::After(_) if waits == point => Poll::Ready(None),
            Dropped::After(_) | Dropped::Woken => Poll::Pending,
        }
    });
    let output = output.await;
    if let (None, Dropped::After(turns)) = (&output, dropped) {
        for _ in 0..turns {
            yield_now().await;
        }
    }
    output
}

/// Tells a story for each of the `points` at which its future can be dropped,
/// and to its end. The first point is before the first poll.
async fn at_each_point<F: Future>(
    points: usize,
    world: impl AsyncFn() -> World,
    story: impl AsyncFn(&World) -> F,
) {
    let turns = (0..TURNS).map(Dropped::After);
    for dropped in turns.chain([Dropped::Woken]) {
        let mut logins = Vec::new();
        let mut is_done = false;
        while !is_done {
            let point = logins.len();
            let world = world().await;
            let future = story(&world).await;
            is_done = drop_at(future, point, dropped).await.is_some();
            println!("{dropped:?} at {point}");
            logins.push(world.check().await);
        }
        assert_eq!(logins.len() - 1, points, "points to be dropped at");
        // Where nothing was dropped, each login was needed, unless it was called off.
        let most = logins.last();
        let is_called_off = most == Some(&0);
        let is_most = logins.iter().max() == most;
        assert!(is_most || is_called_off, "{dropped:?}: {logins:?}");
    }
}

// The response.

/// Lets each way of replaying a request tell the story, and expects this
/// status where the request is replayed if it is rejected, and that one where
/// it is not.
async fn with_each_replay(
    points: [usize; 4],
    world: impl AsyncFn() -> World,
    id: &'static str,
    replayed: u16,
    returned: u16,
) {
    let [auto, never, if_empty, buffer] = points;
    println!("Auto");
    at_each_point(auto, &world, async |world| {
        let response = world.call(Auto, id, world.full("a job")).await;
        async move { assert_eq!(response.await.unwrap().status(), replayed) }
    })
    .await;
    println!("Never");
    at_each_point(never, &world, async |world| {
        let response = world.call(Never, id, world.full("a job")).await;
        async move { assert_eq!(response.await.unwrap().status(), returned) }
    })
    .await;
    println!("IfEmpty");
    at_each_point(if_empty, &world, async |world| {
        let response = world.call(IfEmpty, id, Full::<Bytes>::default()).await;
        async move { assert_eq!(response.await.unwrap().status(), replayed) }
    })
    .await;
    println!("Buffer");
    at_each_point(buffer, &world, async |world| {
        let body = Trickle::of("a job", world.alive());
        let response = world.call(Buffer::up_to(1024), id, body).await;
        async move { assert_eq!(response.await.unwrap().status(), replayed) }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_live_token_may_be_dropped() {
    with_each_replay([3, 3, 3, 6], World::logged_in, "x", 200, 200).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_the_first_login_may_be_dropped() {
    with_each_replay([5, 5, 5, 8], async || World::new(), "x", 200, 200).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_the_service_after_its_login_may_be_dropped() {
    let world = async || {
        let world = World::new();
        world.server.account(|account| account.is_crowded = true);
        world
    };
    with_each_replay([6, 6, 6, 9], world, "x", 200, 200).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_token_goes_while_it_waits_for_the_service_may_be_dropped() {
    at_each_point(
        8,
        async || World::new(),
        async |world| {
            world.server.account(|account| account.is_crowded = true);
            let (session, server) = (world.session.clone(), world.server.clone());
            tokio::spawn(async move {
                let token = session.token().await.unwrap();
                sleep(Duration::from_millis(500)).await;
                server.account(|account| {
                    account.live.clear();
                    account.rejections += 1;
                });
                session.reject(&token);
            });
            let response = world.call(Auto, "x", world.full("a job")).await;
            async move { assert_eq!(response.await.unwrap().status(), 200) }
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_replay_gets_no_token_after_a_long_rejection_may_be_dropped() {
    at_each_point(7, World::revoked, async |world| {
        world.server.account(|account| {
            account.is_verbose = true;
            account.is_crowded = true;
        });
        let session = world.session.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(500)).await;
            session.logout().await
        });
        let response = world.call(Auto, "x", world.full("a job")).await;
        async move {
            let response = response.await.unwrap();
            assert_eq!(response.status(), 401);
            let error = response.into_body().collect().await.unwrap_err();
            let ours = tower_reauth::Error::find(&*error).unwrap();
            assert_eq!(ours.kind(), ErrorKind::Truncated);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_rejected_and_replayed_may_be_dropped() {
    with_each_replay([10, 3, 10, 13], World::revoked, "x", 200, 401).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_rejected_before_its_body_is_read_may_be_dropped() {
    let world = async || {
        let world = World::revoked().await;
        world.server.account(|account| account.is_hasty = true);
        world
    };
    with_each_replay([10, 3, 10, 13], world, "x", 200, 401).await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_waits_for_the_service_may_be_dropped() {
    let world = async || {
        let world = World::revoked().await;
        world.server.account(|account| account.is_crowded = true);
        world
    };
    with_each_replay([11, 3, 11, 14], world, "x", 200, 401).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_renewal_fails_may_be_dropped() {
    let world = async || {
        let world = World::revoked().await;
        world.server.account(|account| account.failing_logins = 1);
        world
    };
    with_each_replay([7, 3, 7, 10], world, "x", 401, 401).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_first_login_fails_may_be_dropped() {
    let world = async || {
        let world = World::new();
        world.server.account(|account| account.failing_logins = 1);
        world
    };
    at_each_point(2, world, async |world| {
        let response = world.call(Auto, "x", world.full("a job")).await;
        async move { response.await.unwrap_err() }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_rejection_is_told_by_its_body_may_be_dropped() {
    let world = async || {
        let world = World::revoked().await;
        world.server.account(|account| account.tells_by_text = true);
        world
    };
    with_each_replay([10, 6, 10, 13], world, "x", 200, 500).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_failure_is_no_rejection_may_be_dropped() {
    with_each_replay([6, 6, 6, 9], World::logged_in, "broken", 500, 500).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_none_of_the_sessions_business_may_be_dropped() {
    at_each_point(3, World::logged_in, async |world| {
        let layer = world.session.layer();
        let mut client = layer.layer(world.server.client());
        let mut request = world.request("x", world.full("a job"));
        request.extensions_mut().insert(tower_reauth::Anonymous);
        ServiceExt::<Request<Full<Bytes>>>::ready(&mut client)
            .await
            .unwrap()
            .call(request)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_shares_a_login_may_be_dropped() {
    at_each_point(
        5,
        async || World::new(),
        async |world| {
            for _ in 0..3 {
                let session = world.session.clone();
                tokio::spawn(async move { session.token().await.unwrap() });
            }
            let response = world.call(Auto, "x", world.full("a job")).await;
            async move { response.await.unwrap() }
        },
    )
    .await;
}

// The body of a response.

#[tokio::test(start_paused = true)]
async fn the_body_of_an_accepted_response_may_be_dropped() {
    at_each_point(4, World::logged_in, async |world| {
        let response = world.call(Auto, "x", world.full("a job")).await;
        let body = response.await.unwrap().into_body();
        async move { assert_eq!(body.collect().await.unwrap().to_bytes(), "all is well") }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_response_whose_token_is_replaced_meanwhile_may_be_dropped() {
    at_each_point(4, World::logged_in, async |world| {
        let response = world.call(Auto, "x", world.full("a job")).await;
        let body = response.await.unwrap().into_body();
        world.session.renew().await.unwrap();
        async move { assert_eq!(body.collect().await.unwrap().to_bytes(), "all is well") }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_rejection_that_is_returned_may_be_dropped() {
    let world = async || {
        let world = World::revoked().await;
        world.server.account(|account| account.failing_logins = 1);
        world
    };
    at_each_point(1, world, async |world| {
        let response = world.call(Auto, "x", world.full("a job")).await;
        let response = response.await.unwrap();
        let why = &response.extensions().get::<Reauth>().unwrap().failure;
        assert!(matches!(why, ReauthFailure::RenewalFailed(_)));
        let body = response.into_body();
        async move { assert_eq!(body.collect().await.unwrap().to_bytes(), DEAD) }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_body_of_a_response_that_was_read_for_a_rejection_may_be_dropped() {
    at_each_point(1, World::logged_in, async |world| {
        let response = world.call(Auto, "broken", world.full("a job")).await;
        let body = response.await.unwrap().into_body();
        async move { assert_eq!(body.collect().await.unwrap().to_bytes(), "out of order") }
    })
    .await;
}

// The session.

#[tokio::test(start_paused = true)]
async fn token_may_be_dropped() {
    at_each_point(
        2,
        async || World::new(),
        async |world| {
            let session = world.session.clone();
            async move { session.token().await.unwrap() }
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn token_after_a_rejection_may_be_dropped() {
    at_each_point(2, World::revoked, async |world| {
        let session = world.session.clone();
        let token = session.token().await.unwrap();
        // Another protocol's server says it, not this one.
        world.server.account(|account| account.rejections += 1);
        async move {
            session.reject(&token);
            drop(token);
            session.token().await.unwrap()
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn login_may_be_dropped() {
    at_each_point(
        2,
        async || World::new(),
        async |world| {
            let session = world.session.clone();
            async move { session.login().await.unwrap() }
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn login_with_a_live_token_may_be_dropped() {
    at_each_point(2, World::logged_in, async |world| {
        let session = world.session.clone();
        async move { session.login().await.unwrap() }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn renew_may_be_dropped() {
    at_each_point(2, World::logged_in, async |world| {
        let session = world.session.clone();
        async move { session.renew().await.unwrap() }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn renew_during_a_password_change_may_be_dropped() {
    at_each_point(3, World::logged_in, async |world| {
        let session = world.session.clone();
        change_beside(world).await;
        async move { session.renew().await.unwrap() }
    })
    .await;
}

/// Starts a password change in a task of its own.
async fn change_beside(world: &World) {
    let session = world.session.clone();
    tokio::spawn(async move {
        let change = PasswordChange::to("other");
        session.change_password(change).await.unwrap();
    });
    while world.store.json().get("change").is_none() {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn logout_may_be_dropped() {
    at_each_point(2, World::logged_in, async |world| {
        let session = world.session.clone();
        async move { session.logout().await.unwrap() }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn logout_during_a_login_may_be_dropped() {
    at_each_point(
        2,
        async || World::new(),
        async |world| {
            let session = world.session.clone();
            let _ = drop_at(session.token(), 1, Dropped::After(0)).await;
            async move { session.logout().await.unwrap() }
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn change_password_may_be_dropped() {
    at_each_point(2, World::logged_in, async |world| {
        let session = world.session.clone();
        async move {
            let change = PasswordChange::to("new");
            session.change_password(change).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn change_password_without_a_token_may_be_dropped() {
    at_each_point(
        3,
        async || World::new(),
        async |world| {
            let session = world.session.clone();
            async move {
                let change = PasswordChange::to("new");
                session.change_password(change).await.unwrap();
            }
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn change_password_with_a_dead_token_may_be_dropped() {
    at_each_point(4, World::revoked, async |world| {
        let session = world.session.clone();
        async move {
            let change = PasswordChange::to("new");
            session.change_password(change).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn change_password_during_another_may_be_dropped() {
    at_each_point(3, World::logged_in, async |world| {
        let session = world.session.clone();
        change_beside(world).await;
        async move {
            let change = PasswordChange::to("new");
            session.change_password(change).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn change_password_after_a_lost_answer_may_be_dropped() {
    let world = async || {
        let world = World::logged_in().await;
        world
            .server
            .account(|account| account.loses_a_change = true);
        let change = PasswordChange::to("lost");
        let lost = world.session.change_password(change).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::Uncertain);
        world
    };
    at_each_point(4, world, async |world| {
        let session = world.session.clone();
        async move {
            let change = PasswordChange::to("new");
            session.change_password(change).await.unwrap();
        }
    })
    .await;
}

// A job, whose calls of the store are dropped after the login timeout.

/// A store that never answers one of its calls, which may have been done.
struct Hanging {
    store: YieldingStore,
    /// How many calls it has left to answer. `None` once it has not answered one.
    left: Arc<Mutex<Option<usize>>>,
    when: When,
    has_hung: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug)]
enum When {
    BeforeTheCall,
    AfterTheCall,
}

impl Hanging {
    async fn call<T>(&self, call: impl Future<Output = T>) -> T {
        let hangs = {
            let mut left = self.left.lock().unwrap();
            let hangs = *left == Some(0);
            *left = left.and_then(|left| left.checked_sub(1));
            hangs
        };
        if hangs {
            if let When::AfterTheCall = self.when {
                call.await;
            }
            self.has_hung.store(true, Ordering::SeqCst);
            return pending().await;
        }
        call.await
    }
}

impl CredentialStore for Hanging {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        self.call(self.store.load()).await
    }

    async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
        self.call(self.store.store(record, expected)).await
    }
}

/// Runs a story with a store that does not answer its first call, its second, and so on,
/// until it has answered all. Returns how many calls there were.
async fn with_each_call_of_the_store_hanging(story: impl AsyncFn(&World)) -> usize {
    let mut calls = 0;
    for when in [When::BeforeTheCall, When::AfterTheCall] {
        for left in 0.. {
            println!("{when:?} {left}");
            let has_hung = Arc::new(AtomicBool::new(false));
            let calls_left = Arc::new(Mutex::new(Some(left)));
            let mut world = World::with_store(|store| Hanging {
                store,
                left: calls_left.clone(),
                when,
                has_hung: has_hung.clone(),
            });
            world.has_hung = has_hung.clone();
            story(&world).await;
            *calls_left.lock().unwrap() = None;
            let passwords = world.store.passwords();
            let password = world.server.account(|account| account.password.clone());
            assert!(passwords.contains(&password), "{passwords:?}, {password}");
            world.check().await;
            if !has_hung.load(Ordering::SeqCst) {
                calls = left;
                break;
            }
        }
    }
    calls
}

/// The first load is part of the login's own timeout.
#[track_caller]
fn did_not_answer(error: &tower_reauth::Error) {
    let kinds = [ErrorKind::DeadlineExceeded, ErrorKind::Unavailable];
    assert!(kinds.contains(&error.kind()), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn each_call_of_the_store_may_hang_in_a_login() {
    let calls = with_each_call_of_the_store_hanging(async |world| {
        if let Err(error) = timeout(WAIT_TIMEOUT * 2, world.session.login())
            .await
            .unwrap()
        {
            did_not_answer(&error);
        }
    })
    .await;
    assert_eq!(calls, 4, "the claim and the verdict");
}

#[tokio::test(start_paused = true)]
async fn each_call_of_the_store_may_hang_in_a_password_change() {
    let calls = with_each_call_of_the_store_hanging(async |world| {
        let change = PasswordChange::to("new");
        let changed = world.session.change_password(change).await;
        let is_new = world.server.account(|account| account.password == "new");
        match changed {
            Ok(()) => assert!(is_new),
            // It was not asked.
            Err(error) => {
                did_not_answer(&error);
                assert!(!is_new);
            }
        }
    })
    .await;
    assert_eq!(calls, 8, "the login, the new password, the answer");
}

#[tokio::test(start_paused = true)]
async fn each_call_of_the_store_may_hang_after_a_lost_answer() {
    with_each_call_of_the_store_hanging(async |world| {
        world
            .server
            .account(|account| account.loses_a_change = true);
        let change = || world.session.change_password(PasswordChange::to("new"));
        for _ in 0..4 {
            if change().await.is_ok() {
                return;
            }
            sleep(Duration::from_secs(60)).await;
        }
        panic!("it does not succeed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn close_may_be_dropped() {
    at_each_point(2, World::logged_in, async |world| {
        let session = world.session.clone();
        async move { session.close(WAIT_TIMEOUT).await.unwrap() }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn close_during_a_login_may_be_dropped() {
    at_each_point(
        2,
        async || World::new(),
        async |world| {
            let session = world.session.clone();
            let _ = drop_at(session.token(), 1, Dropped::After(0)).await;
            async move { session.close(WAIT_TIMEOUT).await.unwrap() }
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn close_during_a_request_may_be_dropped() {
    at_each_point(3, World::logged_in, async |world| {
        let session = world.session.clone();
        let response = world.call(Auto, "x", world.full("a job")).await;
        tokio::spawn(async move {
            let body = response.await.unwrap().into_body();
            body.collect().await.unwrap();
        });
        async move { session.close(WAIT_TIMEOUT).await.unwrap() }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn receiving_events_may_be_dropped() {
    for dropped in [Dropped::After(0), Dropped::Woken] {
        for point in 0..=1 {
            let world = World::new();
            let mut events = world.session.events();
            let session = world.session.clone();
            tokio::spawn(async move { session.renew().await.unwrap() });
            let received = drop_at(events.recv(), point, dropped).await;
            assert!(received.is_none(), "there was nothing to receive yet");
            world.check().await;
            drop(world);
            let mut seen = Vec::new();
            while let Some(event) = events.recv().await {
                seen.push(match event {
                    Event::LoginStarted { .. } => "login started",
                    Event::LoggedIn { .. } => "logged in",
                    Event::TokenEnded { .. } => "token ended",
                    Event::Closed => "closed",
                    Event::LoggedOut => "logged out",
                    other => panic!("{other:?}"),
                });
            }
            let all = [
                "login started",
                "logged in",
                "login started",
                "logged in",
                "token ended",
                "closed",
                "logged out",
                "token ended",
            ];
            assert_eq!(seen, all);
        }
    }
}

// The calls of a provider.

impl World {
    /// A call that brings its own session, which is good.
    async fn api_call(&self) -> Call<Http> {
        let token = self.session.token().await.unwrap();
        let api = Api::new(self.server.client(), ORIGIN.parse().unwrap()).unwrap();
        let body = Bytes::from_owner(Owned("a job", self.alive()));
        let call = api.post("/x").body("text/plain", body);
        call.header(X_ID, "x").token(&token)
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_provider_may_be_dropped() {
    at_each_point(7, World::logged_in, async |world| {
        let call = world.api_call().await;
        async move { call.send().await.unwrap() }
    })
    .await;
    at_each_point(7, World::logged_in, async |world| {
        let call = world.api_call().await;
        async move { call.send_once().await.unwrap() }
    })
    .await;
    at_each_point(7, World::logged_in, async |world| {
        let call = world.api_call().await;
        async move { call.login().await.unwrap() }
    })
    .await;
    at_each_point(7, World::logged_in, async |world| {
        let call = world.api_call().await;
        async move { call.logout().await.unwrap() }
    })
    .await;
    at_each_point(7, World::logged_in, async |world| {
        let call = world.api_call().await;
        async move { call.change().await.unwrap() }
    })
    .await;
    at_each_point(7, World::logged_in, async |world| {
        let call = world.api_call().await;
        async move { call.exchange().await.unwrap() }
    })
    .await;
}

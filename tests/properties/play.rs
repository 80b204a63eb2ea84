//! Plays one programme, and looks after each step whether all is as it must be.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, Layer, ServiceExt};
use tower_reauth::{
    Buffer, Error, ErrorKind, IfEmpty, Never, PasswordChange, Reauth, ReauthFailure, Session,
    SessionBody, SessionService, State, TokenEnd,
};

use super::book::password;
use super::programme::{
    BodyKind, DEADLINE, Ending, Issues, Order, Path, Patience, Programme, RejectsBy, ResponseUse,
    SourceKind, Step, Strategies, Then, World,
};
use super::server::{
    Broken, Http, NUMBER, OrderBody, Restarted, Server, number_of, payload, rejection, uri,
};

/// After this, everything has ended that was under way when all healed.
const LONG_ENOUGH: Duration = Duration::from_secs(300);
/// Longer than a login waits because others got no verdict.
const LONGEST_PAUSE: Duration = Duration::from_secs(3601);
/// Longer than any back-off and any cool-down.
const HEALED: Duration = Duration::from_secs(700);

/// What must not happen and did, with all that led to it.
pub(crate) struct Failure {
    pub(crate) rule: String,
    pub(crate) log: Vec<String>,
}

pub(crate) fn play(programme: &Programme) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(async {
        let server = Server::new(programme.world.clone());
        let player = Player::new(&server, &programme.world);
        player.play(programme).await;
        let mut book = server.book();
        match book.violation.take() {
            None => Ok(()),
            Some(rule) => Err(Failure {
                rule,
                log: std::mem::take(&mut book.log),
            }),
        }
    })
}

type Answered = Result<Response<SessionBody<OrderBody>>, BoxError>;

#[derive(Clone)]
struct Client {
    auto: SessionService<Http>,
    if_empty: SessionService<Http, IfEmpty>,
    never: SessionService<Http, Never>,
    buffer: SessionService<Http, Buffer>,
}

impl Client {
    fn new(session: &Session, http: &Http) -> Self {
        let layer = session.layer();
        Self {
            auto: layer.layer(http.clone()),
            if_empty: layer.clone().replay(IfEmpty).layer(http.clone()),
            never: layer.clone().replay(Never).layer(http.clone()),
            buffer: layer.replay(Buffer::up_to(1024)).layer(http.clone()),
        }
    }

    async fn send(self, number: u64, order: &Order) -> Answered {
        let method = match order.post {
            true => "POST",
            false => "GET",
        };
        let request = Request::builder()
            .method(method)
            .uri(uri(order))
            .header(NUMBER, number)
            .body(payload(order, number))?;
        match (order.replay, order.body) {
            (Strategies::Auto, BodyKind::Empty | BodyKind::Bytes) => {
                let (head, body) = request.into_parts();
                let body = Full::<Bytes>::from(body.collect().await?.to_bytes());
                let request = Request::from_parts(head, body);
                self.auto.oneshot(request).await
            }
            (Strategies::Auto, BodyKind::Stream) => {
                self.auto.oneshot(request.map(UnsyncBoxBody::new)).await
            }
            (Strategies::IfEmpty, _) => self.if_empty.oneshot(request).await,
            (Strategies::Never, _) => self.never.oneshot(request).await,
            (Strategies::Buffer, _) => self.buffer.oneshot(request).await,
        }
    }
}

struct Player {
    server: Server,
    session: Session,
    client: Client,
    under_way: JoinSet<()>,
    requests: u64,
}

impl Player {
    fn new(server: &Server, world: &World) -> Self {
        let mut session = Session::builder(server.provider())
            .login_timeout(DEADLINE)
            .password_retention(world.retention);
        if world.keep_alive {
            session = session.keep_alive();
        }
        let session = session.build();
        server.book().events = Some(session.events());
        server.book().session = Some(session.clone());
        Self {
            server: server.clone(),
            client: Client::new(&session, &server.http()),
            session,
            under_way: JoinSet::new(),
            requests: 0,
        }
    }

    async fn play(mut self, programme: &Programme) {
        for (place, step) in programme.steps.iter().enumerate() {
            self.server.book().note(format_args!("step {}", place + 1));
            self.take(step).await;
            // Whoever can go on without the clock does.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            self.look();
            if self.is_over() {
                return;
            }
        }
        self.server.book().note("the end");
        match programme.ending {
            Ending::Drop => {}
            Ending::Close | Ending::Logout => {
                self.heal();
                self.all_end().await;
                if !self.is_over() {
                    self.recovers().await;
                }
                if !self.is_over() {
                    self.ends(programme.ending).await;
                }
                self.look();
            }
        }
        if !self.is_over() {
            self.lets_go().await;
        }
    }

    fn is_over(&self) -> bool {
        self.server.book().violation.is_some()
    }

    async fn take(&mut self, step: &Step) {
        let server = &self.server;
        let session = self.session.clone();
        match step {
            Step::Request(order) => self.request(order),
            Step::Advance(time) => sleep(*time).await,
            Step::RevokeAll => {
                for token in server.book().tokens.values_mut() {
                    token.revoked = true;
                }
            }
            Step::RevokeNewest => {
                if let Some((_, token)) = server.book().tokens.iter_mut().next_back() {
                    token.revoked = true;
                }
            }
            Step::Forbid(path) => {
                server.book().forbidden.insert(*path);
            }
            Step::Allow(path) => {
                server.book().forbidden.remove(path);
            }
            Step::ForbidAll => {
                let mut book = server.book();
                book.forbidden.extend((0..=6).map(Path::Allowed));
            }
            Step::AllowAll => server.book().forbidden.clear(),
            Step::NextLogin(answer) => server.book().logins.push_back(*answer),
            Step::NextLogout(answer) => server.book().logouts.push_back(*answer),
            Step::ServerHasOtherPassword => server.book().passwords.is_changed_elsewhere(),
            Step::SourceLearnsPassword => {
                let passwords = &mut server.book().passwords;
                passwords.is_orderly = false;
                passwords.edits_source(passwords.server);
            }
            Step::SourceErrs => {
                let passwords = &mut server.book().passwords;
                passwords.is_orderly = false;
                let wrong = passwords.another();
                passwords.edits_source(wrong);
            }
            Step::NextFetchFails => server.book().fetches_that_fail += 1,
            Step::NextStore(answer) => server.book().passwords.answers.push_back(*answer),
            Step::StoreIsDown(is_down) => server.book().passwords.is_down = *is_down,
            Step::Renew(patience) => {
                self.operate("renew", *patience, 10, async move {
                    session.renew().await.err()
                });
            }
            Step::Login(patience) => {
                server.book().forced += 1;
                self.operate("login", *patience, 20, async move {
                    session.login().await.err()
                });
            }
            Step::Logout(patience) => {
                server.book().closing = None;
                self.operate("logout", *patience, 60, async move {
                    session.logout().await.err()
                });
            }
            Step::Change {
                answer,
                even_if_it_cannot_be_stored,
                patience,
            } => {
                let new = {
                    let mut book = server.book();
                    book.changes.push_back(*answer);
                    book.changing += 1;
                    book.passwords.another()
                };
                let change = PasswordChange::to(password(new));
                let change = match even_if_it_cannot_be_stored {
                    true => change.allow_unstored(),
                    false => change,
                };
                self.operate("change", *patience, 20, async move {
                    session.change_password(change).await.err()
                });
            }
            Step::Token {
                held,
                then,
                patience,
            } => self.hold(*held, *then, *patience),
            Step::Close { deadline, patience } => {
                let deadline = *deadline;
                server.book().closes(deadline);
                let closing = async move {
                    let _ = session.close(deadline).await;
                    None
                };
                self.operate("close", *patience, 70, closing);
            }
        }
    }

    /// Runs an operation that must end within so many login timeouts.
    fn operate(
        &mut self,
        name: &'static str,
        patience: Patience,
        deadlines: u32,
        operation: impl Future<Output = Option<Error>> + Send + 'static,
    ) {
        let server = self.server.clone();
        self.under_way.spawn(async move {
            let started = Instant::now();
            let error = patiently(patience, operation).await;
            let mut book = server.book();
            book.hear();
            if name == "change" {
                book.changing -= 1;
                // It looks for a token first, which is a use of it.
                if let Some(number) = book.current() {
                    book.is_used(number);
                }
            }
            book.note(format_args!(
                "{name} ends: {:?}",
                error.flatten().map(|error| error.kind())
            ));
            if started.elapsed() > DEADLINE * deadlines {
                book.violated(format_args!("{name} took {:?}", started.elapsed()));
            }
        });
    }

    fn hold(&mut self, held: Duration, then: Then, patience: Patience) {
        let (server, session) = (self.server.clone(), self.session.clone());
        self.under_way.spawn(async move {
            let started = Instant::now();
            let Some(Ok(token)) = patiently(patience, session.token()).await else {
                if started.elapsed() > DEADLINE * 6 {
                    server.book().violated("token() took too long");
                }
                return;
            };
            let number = number_of(&token);
            server.book().is_handed_out(number);
            let _held = Held::new(&server, number);
            sleep(held).await;
            match then {
                Then::Drop => {}
                Then::Reject => {
                    let mut book = server.book();
                    book.note(format_args!("token {number} is rejected by hand"));
                    book.tokens.get_mut(&number).unwrap().is_rejected_by_hand = true;
                    drop(book);
                    session.reject(&token);
                }
                Then::Accept => {
                    server.book().used_by_hand(number);
                    session.accept(&token);
                }
            }
            drop(token);
        });
    }

    fn request(&mut self, order: &Order) {
        self.requests += 1;
        let (server, client, number) = (self.server.clone(), self.client.clone(), self.requests);
        let order = order.clone();
        self.under_way.spawn(async move {
            asks(&server, client, number, order).await;
        });
    }

    /// What must hold after each step.
    fn look(&mut self) {
        while let Some(ended) = self.under_way.try_join_next() {
            if ended.is_err() {
                self.server.book().violated("a caller panicked");
            }
        }
        let mut book = self.server.book();
        book.hear();
        book.keeps_promises();
        let status = self.session.status();
        let stats = self.session.stats();
        let state = status.state;
        if status.generation != book.view.current {
            let current = book.view.current;
            book.violated(format_args!("{status:?}, and {current:?} is in use"));
        }
        let is_suspended = book.view.is_suspended;
        if (state == State::Renewing) != (is_suspended && !book.view.is_closed) {
            book.violated(format_args!("{status:?} while suspended: {is_suspended}"));
        }
        let closed = book.view.is_closed;
        if (state == State::Closed) != closed {
            book.violated(format_args!("{status:?} while closed: {closed}"));
        }
        let logged_out = book.view.is_logged_out && !closed;
        if (state == State::LoggedOut) != logged_out {
            book.violated(format_args!("{status:?} while logged out: {logged_out}"));
        }
        let ends = [
            TokenEnd::LoggedOut,
            TokenEnd::Rejected,
            TokenEnd::Expired,
            TokenEnd::Continued,
            TokenEnd::Abandoned,
            TokenEnd::Discarded,
        ];
        for end in ends {
            let counted = book.view.ended.values().filter(|other| **other == end);
            let counted = counted.count() as u64;
            if stats.ended(end) != counted {
                book.violated(format_args!("{stats:?}, and {counted} ended as {end:?}"));
            }
        }
        if stats.all_logins().succeeded != book.view.logins {
            let logins = book.view.logins;
            book.violated(format_args!("{stats:?}, and {logins} logins succeeded"));
        }
        if stats.replays != book.replays {
            let replays = book.replays;
            book.violated(format_args!("{stats:?}, and {replays} replays arrived"));
        }
        let checked = book.passwords.keeps_the_right_one();
        book.check(checked);
    }

    fn heal(&self) {
        let mut book = self.server.book();
        book.note("all heals");
        book.logins.clear();
        book.logouts.clear();
        book.changes.clear();
        book.forbidden.clear();
        book.fetches_that_fail = 0;
        book.passwords.heals();
    }

    /// Whoever waits ends.
    async fn all_end(&mut self) {
        let mut under_way = std::mem::take(&mut self.under_way);
        let all = async {
            while let Some(ended) = under_way.join_next().await {
                if ended.is_err() {
                    self.server.book().violated("a caller panicked");
                }
            }
        };
        if timeout(LONG_ENOUGH, all).await.is_err() {
            self.server.book().violated("somebody waits for ever");
        }
        self.look();
    }

    /// With everything healed a request succeeds.
    async fn recovers(&mut self) {
        // Whatever was left behind in the scripts by who came late.
        self.heal();
        sleep(HEALED).await;
        let (is_closed, is_logged_out) = {
            let mut book = self.server.book();
            book.hear();
            (book.view.is_closed, book.view.is_logged_out)
        };
        if is_closed || is_logged_out {
            let outcome = self.asks_plainly().await;
            let expected = match is_closed {
                true => ErrorKind::Closed,
                false => ErrorKind::LoggedOut,
            };
            if outcome != Err(Some(expected)) {
                self.server
                    .book()
                    .violated(format_args!("{outcome:?} and not {expected:?}"));
            }
            if is_closed {
                return;
            }
            self.logs_in().await;
        }
        let mut last = Ok(0);
        for _ in 0..6 {
            last = self.asks_plainly().await;
            if last == Ok(200) {
                self.changes().await;
                return self.look();
            }
            sleep(Duration::from_secs(61)).await;
            // A change that went on without its caller may have come since.
            self.heal();
        }
        let (is_latched, is_paused) = {
            let book = self.server.book();
            (book.would_refuse(), book.is_paused())
        };
        if is_paused {
            sleep(LONGEST_PAUSE).await;
            last = self.asks_plainly().await;
        }
        if is_latched {
            self.logs_in().await;
            last = self.asks_plainly().await;
        }
        if last != Ok(200) {
            self.server
                .book()
                .violated(format_args!("all is healed, and a request gets {last:?}"));
        }
    }

    /// With everything healed the password can be changed, if it is the current one.
    async fn changes(&mut self) {
        let new = {
            let mut book = self.server.book();
            let now = book.now();
            if !book.passwords.is_current(now) {
                return;
            }
            book.changing += 1;
            book.passwords.another()
        };
        // An earlier one may have to be asked for first.
        let mut outcome = Ok(());
        for _ in 0..3 {
            let change = PasswordChange::to(password(new)).allow_unstored();
            outcome = self.session.change_password(change).await;
            if outcome.is_ok() {
                break;
            }
            sleep(Duration::from_secs(61)).await;
        }
        let mut book = self.server.book();
        book.changing -= 1;
        let now = book.now();
        let is_full = book.passwords.is_full(now);
        match outcome {
            Ok(()) => {
                let server = book.passwords.server;
                if server != new {
                    book.violated(format_args!("changed to {new}, and {server} is in force"));
                }
            }
            Err(error) if is_full && error.kind() == ErrorKind::Unavailable => {}
            Err(error) => book.violated(format_args!("all is healed, and a change gets {error:?}")),
        }
    }

    /// Logs in by hand, once for each password that is kept.
    async fn logs_in(&mut self) {
        let most = {
            let book = self.server.book();
            book.passwords.count(book.now()).max(1)
        };
        let mut last = Ok(());
        for _ in 0..most {
            self.server.book().forced += 1;
            last = self.session.login().await;
            if last.is_ok() {
                return;
            }
        }
        self.server
            .book()
            .violated(format_args!("all is healed, and a login gets {last:?}"));
    }

    async fn asks_plainly(&mut self) -> Result<u16, Option<ErrorKind>> {
        self.requests += 1;
        let order = Order {
            post: false,
            path: Path::Allowed(0),
            body: BodyKind::Empty,
            replay: Strategies::Auto,
            is_read: true,
            takes: Duration::ZERO,
            breaks: false,
            trickles: Duration::ZERO,
            long_rejection: false,
            response: ResponseUse::ReadAtOnce,
            patience: None,
        };
        let asking = asks(&self.server, self.client.clone(), self.requests, order);
        asking.await.expect("nobody leaves")
    }

    async fn ends(&mut self, ending: Ending) {
        let (is_closed, is_over, has_given_up) = {
            let mut book = self.server.book();
            book.hear();
            let mut ends = book.view.ended.values();
            let has_given_up = ends.any(|end| *end == TokenEnd::Abandoned);
            (book.view.is_closed, book.view.is_logged_out, has_given_up)
        };
        let outcome = match ending {
            Ending::Close => {
                let closed = timeout(LONG_ENOUGH, self.session.close(DEADLINE * 10)).await;
                closed.map(|closed| closed.err().map(|left| format!("{left:?}")))
            }
            Ending::Logout | Ending::Drop => {
                let logout = timeout(LONG_ENOUGH, self.session.logout()).await;
                logout.map(|logout| logout.err().map(|error| format!("{error:?}")))
            }
        };
        match outcome {
            Ok(None) => {}
            // What a logout before this one gave up.
            Ok(Some(_)) if is_over && has_given_up => {}
            outcome => self
                .server
                .book()
                .violated(format_args!("the end: {outcome:?}")),
        }
        let arrived = self.server.book().requests.len();
        let expected = match is_closed || ending == Ending::Close {
            true => ErrorKind::Closed,
            false => ErrorKind::LoggedOut,
        };
        let outcome = self.asks_plainly().await;
        if outcome != Err(Some(expected)) {
            self.server.book().violated(format_args!(
                "after the end a request gets {outcome:?} ({arrived})"
            ));
        }
        sleep(HEALED).await;
        self.server.book().is_even();
    }

    /// Once the last handle is dropped, no task remains.
    async fn lets_go(mut self) {
        {
            let mut book = self.server.book();
            book.note("everybody lets go");
            book.hear();
        }
        self.under_way.shutdown().await;
        self.server.book().hear();
        {
            let mut book = self.server.book();
            book.is_dropped = true;
            book.session = None;
        }
        drop(self.session);
        drop(self.client);
        // A login under way and the logout of its token, or a change.
        sleep(DEADLINE * 5).await;
        {
            let mut book = self.server.book();
            book.hear();
            book.is_let_go();
            let tasks = Handle::current().metrics().num_alive_tasks();
            if tasks > 0 {
                book.violated(format_args!("{tasks} tasks remain"));
            }
        }
        if self.server.book().violation.is_none() {
            restarts(&self.server).await;
        }
    }
}

/// A process that starts now finds the password in the store.
async fn restarts(server: &Server) {
    let kept = {
        let mut book = server.book();
        if book.world.source != SourceKind::Writable {
            return;
        }
        book.note("a new process starts");
        book.fetches_that_fail = 0;
        book.passwords.heals();
        book.passwords.is_restarted = true;
        book.passwords.count(book.now())
    };
    // Whatever the last process has left to wait for is over.
    sleep(LONGEST_PAUSE).await;
    let process = Restarted::new(server).expect("it has a store");
    let wrong = process.wrong.clone();
    let session = Session::builder(process).login_timeout(DEADLINE).build();
    let mut outcome = session.token().await.map(drop);
    let failed = wrong.load(Ordering::Relaxed);
    if failed > 2 {
        server
            .book()
            .violated(format_args!("a new process sent {failed} wrong passwords"));
    }
    for _ in 0..kept * 2 {
        let kind = outcome.as_ref().map_err(Error::kind);
        outcome = match kind {
            Ok(()) => break,
            Err(ErrorKind::Refused) => session.login().await,
            Err(_) => {
                sleep(LONGEST_PAUSE).await;
                session.token().await.map(drop)
            }
        };
    }
    if let Err(error) = outcome {
        let book = &mut server.book();
        book.violated(format_args!("a new process cannot log in: {error:?}"));
    }
}

async fn patiently<T>(patience: Patience, future: impl Future<Output = T>) -> Option<T> {
    match patience {
        Some(patience) => timeout(patience, future).await.ok(),
        None => Some(future.await),
    }
}

/// Somebody holds a token.
struct Held(Server, u64);

impl Held {
    fn new(server: &Server, number: u64) -> Self {
        server.book().tokens.get_mut(&number).unwrap().held += 1;
        Self(server.clone(), number)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.book().tokens.get_mut(&self.1).unwrap().held -= 1;
    }
}

/// A request's use of its token ends, whatever becomes of its caller.
struct Using(Server, u64);

impl Drop for Using {
    fn drop(&mut self) {
        self.0.book().is_done(self.1);
    }
}

/// Sends a request, and uses its response. Answers with its status, or with
/// the kind of our error; nothing if its caller was dropped.
async fn asks(
    server: &Server,
    client: Client,
    number: u64,
    order: Order,
) -> Option<Result<u16, Option<ErrorKind>>> {
    let _using = Using(server.clone(), number);
    let started = Instant::now();
    server.book().starts(number, order.clone());
    let answered = patiently(order.patience, client.send(number, &order)).await;
    let waited = started.elapsed();
    let may_wait = DEADLINE * 6 + (order.takes + order.trickles) * 2 + Duration::from_secs(4);
    if waited > may_wait {
        server
            .book()
            .violated(format_args!("request {number} took {waited:?}"));
    }
    let answered = answered?;
    server.book().note(format_args!(
        "request {number} ends: {:?}",
        answered.as_ref().map(Response::status)
    ));
    let response = match answered {
        Ok(response) => response,
        Err(error) => return Some(Err(fails(server, number, &order, &*error))),
    };
    let status = response.status().as_u16();
    let is_rejected = status != 200;
    let calls = server.book().requests[&number].calls.len();
    let reauth = response.extensions().get::<Reauth>().cloned();
    if let Some(why) = is_unexplained(server, number, &order, is_rejected, reauth.as_ref()) {
        server
            .book()
            .violated(format_args!("request {number}: {why} ({reauth:?})"));
    }
    match order.response {
        ResponseUse::ReadAtOnce => {}
        ResponseUse::ReadAfter(time) | ResponseUse::DroppedAfter(time) => sleep(time).await,
    }
    if !matches!(order.response, ResponseUse::DroppedAfter(_)) {
        let body = response.into_body().collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let expected = match is_rejected {
            true => rejection(number, calls, order.long_rejection),
            false => Bytes::from_static(b"done"),
        };
        if body != expected {
            server.book().violated(format_args!(
                "request {number} got a body that is not its own"
            ));
        }
    }
    Some(Ok(status))
}

/// What an error says that a request ended with.
fn fails(
    server: &Server,
    number: u64,
    order: &Order,
    error: &(dyn std::error::Error + 'static),
) -> Option<ErrorKind> {
    let mut book = server.book();
    let request = &book.requests[&number];
    let (calls, executed) = (request.calls.len(), request.executed);
    let Some(ours) = Error::find(error) else {
        if !error.is::<Broken>() {
            book.violated(format_args!("request {number} failed with {error}"));
        }
        return None;
    };
    let kind = ours.kind();
    book.note(format_args!("request {number}: {kind:?}"));
    // Its rejected response, if it was long, went when it was about to be sent again.
    let may_have_arrived = order.long_rejection && book.world.rejects_by == RejectsBy::Status401;
    if executed > 0 && (order.post || !order.long_rejection) {
        book.violated(format_args!(
            "request {number} was executed, and failed with {kind:?}"
        ));
    }
    if calls > 0 && !may_have_arrived && !order.long_rejection && order.trickles.is_zero() {
        book.violated(format_args!(
            "request {number} arrived, and failed with {kind:?}"
        ));
    }
    Some(kind)
}

/// What is wrong with what a rejection says of itself.
fn is_unexplained(
    server: &Server,
    number: u64,
    order: &Order,
    is_rejected: bool,
    reauth: Option<&Reauth>,
) -> Option<&'static str> {
    let mut book = server.book();
    book.hear();
    let request = &book.requests[&number];
    let is_told = is_rejected && order.tells_of_a_rejection(book.world.rejects_by);
    let (true, Some(reauth)) = (is_told, reauth) else {
        return (is_told || reauth.is_some()).then_some("a rejection and its reason come together");
    };
    if reauth.replayed != (request.calls.len() > 1) {
        return Some("whether it was replayed is not true");
    }
    let is_unsure = book.world.rejects_by == RejectsBy::Text500;
    let is_same = book.world.issues == Issues::Same;
    let is_true = match &reauth.failure {
        ReauthFailure::NotReplayable => {
            !order.is_replayable() || order.replay == Strategies::Buffer
        }
        ReauthFailure::Unsure => is_unsure && order.post,
        ReauthFailure::CoolingDown => true,
        ReauthFailure::RenewalFailed(error) => error.kind() != ErrorKind::LoggedOut,
        ReauthFailure::StillRejected => reauth.replayed || is_same,
        ReauthFailure::LoggedOut => book.view.is_logged_out || book.forced > 0,
        _ => false,
    };
    if matches!(
        reauth.failure,
        ReauthFailure::NotReplayable | ReauthFailure::Unsure
    ) && let Some(generation) = reauth.generation
    {
        book.is_promised(generation);
    }
    (!is_true).then_some("its reason is not true")
}

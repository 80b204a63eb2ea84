//! Runs a scenario over virtual time.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Buf;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::BodyExt;
use tokio::time::{Instant, advance, sleep, sleep_until, timeout_at};
use tower::{Layer, ServiceExt};
use tower_reauth::{
    Anonymous, BoxError, Event, Events, IfEmpty, Never, PasswordChange, Reauth, ReplayBody,
    Session, Source, Stats, Status, Token, replay_fn,
};

use super::format::{Action, Call, FIRST, Scenario, Sending, Step, Strategy};
use super::provider::{
    LoginSystem, OwnSession, ScriptedProvider, ScriptedSource, number_of_token, password,
    with_lifetimes,
};
use super::record::{Ended, Hold, Record, Recorder, Sent};
use super::service::{Body, Scripted, SentBy};

/// The tokens that callers of `token()` hold, by their names and numbers.
type Held = Arc<Mutex<BTreeMap<String, BTreeMap<usize, Token>>>>;

/// Longer than anything takes that a session may still have to do.
const FOR_GOOD: Duration = Duration::from_secs(600);

/// Runs `scenario` and tells what happened to each session. The first one is first.
pub(crate) fn run(scenario: &Scenario) -> Vec<(String, Record)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(play(scenario))
}

async fn play(scenario: &Scenario) -> Vec<(String, Record)> {
    let recorder = Recorder::new();
    let given = &scenario.given;
    let service = Scripted::new(&given.service, recorder.clone());
    let source = given
        .credentials
        .as_ref()
        .map(|credentials| ScriptedSource::new(credentials, recorder.clone()));
    let boxed = source
        .as_ref()
        .zip(given.credentials.as_ref())
        .map(|(source, given)| source.boxed(given.writable));
    let system = Arc::new(LoginSystem::new(given));

    let mut worlds = vec![World::new(
        scenario,
        FIRST,
        recorder.clone(),
        service.clone(),
        boxed.clone(),
        system.clone(),
    )];
    for name in &given.sessions {
        let recorder = recorder.of_another_session();
        let service = service.of(name, recorder.clone());
        let (boxed, system) = (boxed.clone(), system.clone());
        worlds.push(World::new(scenario, name, recorder, service, boxed, system));
    }
    let mut steps: Vec<_> = scenario.when.iter().collect();
    steps.sort_by_key(|step| step.at);
    let mut tasks = Vec::new();
    for step in steps {
        if recorder.elapsed() < step.at {
            sleep_until(recorder.moment(step.at)).await;
        }
        let name = step.session.as_deref().unwrap_or(FIRST);
        let world = worlds.iter().find(|world| world.name == name);
        let world = world.expect("the names were checked");
        for _ in 0..step.times {
            let (caller, work) = match &step.action {
                Action::Source(password) => {
                    recorder.note(format!("from now on the source yields {password:?}"));
                    if let Some(source) = &source {
                        source.yields(password);
                    }
                    continue;
                }
                Action::Block(time) => {
                    recorder.note("from here on nothing runs");
                    block(*time).await;
                    recorder.note("now it runs again");
                    continue;
                }
                Action::DropSession => {
                    worlds.iter().for_each(World::drop_handles);
                    continue;
                }
                Action::Request(sending) => world.send(sending, &step.name),
                Action::Call(call) => world.call(call, &step.name),
            };
            let holds = world.holds(&step.action, &step.name);
            let recorder = world.recorder.clone();
            let what = recorder.record().name_of(caller);
            recorder.note(format!("{what} begins"));
            let dropped = step.drop_at.map(|drop_at| recorder.moment(drop_at));
            let work = tokio::spawn(async move {
                match dropped {
                    Some(dropped) => timeout_at(dropped, work).await.unwrap_or(Ended::Dropped),
                    None => work.await,
                }
            });
            tasks.push(work.abort_handle());
            let held = world.held.clone();
            let waits = tokio::spawn(async move {
                let ended = work.await.unwrap_or(Ended::Panicked);
                recorder.end_caller(caller, ended);
                if let Some(holds) = holds {
                    holds.until_it_ends(caller, &held, &recorder).await;
                }
            });
            tasks.push(waits.abort_handle());
        }
        // So that what stands first in the file is polled first; but what was
        // due while nothing ran comes after the next step.
        if !matches!(step.action, Action::Block(_)) {
            tokio::task::yield_now().await;
        }
    }
    sleep_until(recorder.moment(scenario.end())).await;

    let source = source.map(|source| source.password());
    let seen: Vec<_> = worlds.iter().map(World::see).collect();
    // A task that still waits would keep its session alive.
    for task in tasks {
        task.abort();
    }
    for world in &worlds {
        world.lock().clear();
        world.drop_handles();
    }
    let recorders = worlds.into_iter().map(|world| (world.name, world.recorder));
    let recorders: Vec<_> = recorders.collect();
    sleep(FOR_GOOD).await;
    let tasks_left = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let records = recorders.into_iter().zip(seen);
    let records = records.map(|((name, recorder), seen)| {
        let mut record = recorder.take();
        record.tasks_left = tasks_left;
        (record.status, record.stats) = seen.unzip();
        record.source = source.clone();
        (name, record)
    });
    records.collect()
}

/// Writes down how tokens end, until the session is gone.
async fn listen(mut events: Events, recorder: Recorder) {
    while let Some(event) = events.recv().await {
        match event {
            Event::TokenEnded {
                generation, end, ..
            } => {
                let now = recorder.now();
                recorder.note(format!("token {generation} has ended: {end:?}"));
                recorder.record().ends.push((now, generation, end));
            }
            Event::Missed { count, .. } => recorder.wrong(&format!("{count} events were missed")),
            other => recorder.show(format!("{other:?}")),
        }
    }
}

/// Lets the time pass at once. What was due meanwhile is late.
async fn block(time: Duration) {
    let mut passing = Box::pin(advance(time));
    // It passes at the first poll; what is left would give way to others.
    std::future::poll_fn(|cx| {
        let _ = passing.as_mut().poll(cx);
        std::task::Poll::Ready(())
    })
    .await;
}

/// When, and whose, token a step rejects or accepts.
fn rejected_at(step: &Step) -> Option<(String, Duration)> {
    match &step.action {
        Action::Call(Call::Reject { token_of } | Call::Accept { token_of }) => {
            Some((token_of.clone(), step.at))
        }
        _ => None,
    }
}

/// How long a caller of `token()` holds what it got.
struct Holds {
    name: String,
    hold: Duration,
    /// Until this moment in any case: somebody is to reject it.
    at_least_until: Option<Instant>,
}

impl Holds {
    async fn until_it_ends(self, caller: usize, held: &Held, recorder: &Recorder) {
        let until = Instant::now() + self.hold;
        sleep_until(self.at_least_until.map_or(until, |least| least.max(until))).await;
        let name = recorder.record().name_of(caller);
        let released = {
            let mut held = held.lock().expect("no panic under it");
            held.get_mut(&self.name)
                .and_then(|tokens| tokens.remove(&caller))
        };
        let Some(number) = released.as_ref().and_then(number_of_token) else {
            return;
        };
        recorder.note(format!("{name} lets go of token {number}"));
        let now = recorder.now();
        let mut record = recorder.record();
        let hold = record
            .holds
            .iter_mut()
            .find(|hold| hold.token == number && hold.caller == caller);
        if let Some(hold) = hold {
            hold.until = Some(now);
        }
        drop(record);
        drop(released);
    }
}

/// What a path is put behind.
fn home(scenario: &Scenario) -> String {
    let origins = &scenario.given.profile.origins;
    let first = origins.first().or(scenario.given.session.origin.as_ref());
    first.map_or_else(String::new, |origin| {
        origin.address.to_string().trim_end_matches('/').to_owned()
    })
}

/// A session, and what its callers do with it.
struct World {
    name: String,
    recorder: Recorder,
    session: Mutex<Option<Session>>,
    /// The same, for its provider.
    own_session: OwnSession,
    service: Scripted,
    home: String,
    held: Held,
    /// Whose token is rejected by hand, and when.
    rejects: Vec<(String, Duration)>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Work = std::pin::Pin<Box<dyn Future<Output = Ended> + Send>>;

impl World {
    fn new(
        scenario: &Scenario,
        name: &str,
        recorder: Recorder,
        service: Scripted,
        source: Option<Source>,
        system: Arc<LoginSystem>,
    ) -> Self {
        let given = &scenario.given;
        let own_session = OwnSession::default();
        let provider = ScriptedProvider::new(
            given,
            name,
            system,
            source,
            recorder.clone(),
            service.clone(),
            own_session.clone(),
        );
        let mut builder = Session::builder(provider);
        if let Some(origin) = &given.session.origin {
            builder = builder.origin(origin.origin.clone());
        }
        if let Some(deadline) = given.session.login_deadline {
            builder = builder.login_timeout(deadline.0);
        }
        if let Some(initial) = &given.session.initial {
            let token = super::provider::token(1);
            let mut token = with_lifetimes(token, initial.lives_for, initial.idles_out_after);
            if let Some(data) = &initial.with_data {
                token = token.with_data(data.as_str());
            }
            builder = builder.initial_token(token);
        }
        if given.session.keep_alive {
            builder = builder.keep_alive();
        }
        let session = builder.build();
        tokio::spawn(listen(session.events(), recorder.clone()));
        *locked(&own_session) = Some(session.clone());
        let is_of_it = |step: &&Step| step.session.as_deref().unwrap_or(FIRST) == name;
        Self {
            name: name.to_owned(),
            recorder,
            session: Mutex::new(Some(session)),
            own_session,
            rejects: scenario
                .when
                .iter()
                .filter(is_of_it)
                .filter_map(rejected_at)
                .collect(),
            service,
            home: home(scenario),
            held: Held::default(),
        }
    }

    fn session(&self) -> Session {
        let session = locked(&self.session).clone();
        session.expect("no caller comes after the last handle is dropped")
    }

    fn drop_handles(&self) {
        *locked(&self.session) = None;
        *locked(&self.own_session) = None;
        self.recorder.drop_handles();
    }

    /// Returns the session's status and counters at the run's end, if it is still there.
    fn see(&self) -> Option<(Status, Stats)> {
        self.recorder.end();
        let session = locked(&self.session).take()?;
        let status = session.status();
        self.recorder.show(format!("{status:?} {status}"));
        let layer = session.layer();
        self.recorder.show(format!("{session:?} {layer:?}"));
        Some((status, session.stats()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, BTreeMap<usize, Token>>> {
        self.held.lock().expect("no panic under it")
    }

    fn holds(&self, action: &Action, name: &str) -> Option<Holds> {
        let Action::Call(Call::Token { hold }) = action else {
            return None;
        };
        let rejected = self.rejects.iter().filter(|(of, _)| of == name);
        // A millisecond more, so that it is there at that very moment.
        let rejected = rejected.map(|(_, at)| *at + Duration::from_millis(1)).max();
        Some(Holds {
            name: name.to_owned(),
            hold: *hold,
            at_least_until: rejected.map(|at| self.recorder.moment(at)),
        })
    }

    fn send(&self, sending: &Sending, name: &str) -> (usize, Work) {
        let body = match sending.body {
            super::format::BodyKind::Empty => String::new(),
            super::format::BodyKind::Bytes | super::format::BodyKind::Stream => {
                format!("body of {name}")
            }
        };
        let caller = self.recorder.add_caller(
            name,
            Some(Sent {
                body: body.clone(),
                anonymous: sending.anonymous,
            }),
        );
        let target = &sending.line.target;
        let uri: Uri = match target.authority().is_some() || sending.relative {
            true => target.clone(),
            false => format!("{}{target}", self.home)
                .parse()
                .expect("an origin and a path"),
        };
        let mut request = Request::builder()
            .method(sending.line.method.clone())
            .uri(uri)
            .extension(SentBy(caller));
        for (name, value) in &sending.headers.0 {
            request = request.header(name, value);
        }
        if sending.anonymous {
            request = request.extension(Anonymous);
        }
        let request = request
            .body(Body::new(sending.body, &body))
            .expect("made of checked parts");
        let layer = self.session().layer();
        let service = self.service.clone();
        let late = sending.read_after;
        let work: Work = match sending.replay {
            Strategy::Auto => Box::pin(response_of(layer.layer(service).oneshot(request), late)),
            Strategy::IfEmpty => Box::pin(response_of(
                layer.replay(IfEmpty).layer(service).oneshot(request),
                late,
            )),
            Strategy::Never => Box::pin(response_of(
                layer.replay(Never).layer(service).oneshot(request),
                late,
            )),
            Strategy::Function => Box::pin(response_of(
                layer
                    .replay(replay_fn(|body: &Body| body.try_clone()))
                    .layer(service)
                    .oneshot(request),
                late,
            )),
        };
        (caller, work)
    }

    fn call(&self, call: &Call, name: &str) -> (usize, Work) {
        let caller = self.recorder.add_caller(name, None);
        let session = self.session();
        let recorder = self.recorder.clone();
        let held = self.held.clone();
        let name = name.to_owned();
        let work: Work = match call {
            Call::Token { .. } => Box::pin(async move {
                match session.token().await {
                    Ok(token) => {
                        if let Some(number) = number_of_token(&token) {
                            let from = recorder.now();
                            recorder.record().holds.push(Hold {
                                caller,
                                token: number,
                                from,
                                until: None,
                            });
                        }
                        let ended = Ended::Token {
                            number: number_of_token(&token),
                            generation: token.generation(),
                        };
                        recorder.show(format!("{token:?}"));
                        let mut held = held.lock().expect("no panic under it");
                        held.entry(name).or_default().insert(caller, token);
                        ended
                    }
                    Err(error) => Ended::Failed(error.into()),
                }
            }),
            Call::Login => {
                self.opens(true);
                Box::pin(async move { done(session.login().await) })
            }
            Call::Renew => Box::pin(async move { done(session.renew().await) }),
            Call::Logout => {
                self.opens(false);
                Box::pin(async move { done(session.logout().await) })
            }
            Call::Close { deadline } => {
                let now = self.recorder.now();
                self.recorder.record().closed.push(now);
                let deadline = *deadline;
                Box::pin(async move {
                    match session.close(deadline).await {
                        Ok(()) => Ended::Done,
                        Err(error) => Ended::Failed(error.into()),
                    }
                })
            }
            Call::Status => Box::pin(async move { Ended::Status(session.status()) }),
            Call::Reject { token_of } | Call::Accept { token_of } => {
                let token_of = token_of.clone();
                let rejects = matches!(call, Call::Reject { .. });
                Box::pin(async move {
                    let token = held
                        .lock()
                        .expect("no panic under it")
                        .get(&token_of)
                        .and_then(|tokens| tokens.values().last().cloned());
                    match token {
                        Some(token) => {
                            let mut record = recorder.record();
                            let by_hand = match rejects {
                                true => &mut record.rejected,
                                false => &mut record.accepted,
                            };
                            by_hand.extend(number_of_token(&token));
                            drop(record);
                            match rejects {
                                true => session.reject(&token),
                                false => session.accept(&token),
                            }
                        }
                        None => recorder.wrong(&format!("{token_of:?} was given no token")),
                    }
                    Ended::Done
                })
            }
            Call::ChangePassword { to, from, unstored } => {
                let mut change = PasswordChange::to(password(to));
                if let Some(from) = from {
                    change = change.current(password(from));
                }
                if *unstored {
                    change = change.allow_unstored();
                }
                Box::pin(async move { done(session.change_password(change).await) })
            }
        };
        (caller, work)
    }

    fn opens(&self, opens: bool) {
        let now = self.recorder.now();
        self.recorder.record().opened.push((now, opens));
    }
}

/// How a call ended that gives nothing back.
pub(crate) fn done(outcome: Result<(), tower_reauth::Error>) -> Ended {
    match outcome {
        Ok(()) => Ended::Done,
        Err(error) => Ended::Failed(error.into()),
    }
}

/// All that a body yields, its trailers, and the error that it ends with.
async fn text_of<B>(body: B) -> (String, HeaderMap, Option<BoxError>)
where
    B: http_body::Body<Error: Into<BoxError>>,
{
    let mut body = std::pin::pin!(body);
    let mut bytes = Vec::new();
    let mut trailers = HeaderMap::new();
    let error = loop {
        match body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(mut data) => bytes.extend(data.copy_to_bytes(data.remaining())),
                Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
            },
            Some(Err(error)) => break Some(error.into()),
            None => break None,
        }
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (text, trailers, error)
}

/// A response with its body, or how it failed to come.
pub(crate) async fn response_of<B>(
    response: impl Future<Output = Result<Response<B>, BoxError>>,
    read_after: Option<Duration>,
) -> Ended
where
    B: http_body::Body<Error: Into<BoxError>>,
{
    match response.await {
        Ok(response) => {
            let (head, body) = response.into_parts();
            if let Some(time) = read_after {
                sleep(time).await;
            }
            let (body, trailers, body_error) = text_of(body).await;
            Ended::Response {
                status: head.status,
                body,
                trailers,
                headers: head.headers,
                body_error,
                reauth: head.extensions.get::<Reauth>().cloned(),
            }
        }
        Err(error) => Ended::Failed(error),
    }
}

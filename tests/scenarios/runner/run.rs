//! Runs a scenario over virtual time.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use tokio::time::{sleep_until, timeout_at};
use tower::{Layer, ServiceExt};
use tower_reauth::{
    Anonymous, BoxError, IfEmpty, Never, PasswordChange, Reauth, ReplayBody, Session, Source,
    Token, replay_fn,
};

use super::format::{Action, Call, Scenario, Sending, Strategy};
use super::provider::{OwnSession, ScriptedProvider, ScriptedSource, number_of_token, password};
use super::record::{Ended, Record, Recorder, Sent};
use super::service::{Body, Scripted, SentBy};

/// The tokens that `token()` gave, by the name of who asked.
type Held = Arc<Mutex<BTreeMap<String, Token>>>;

/// Runs `scenario` and tells what happened.
pub(crate) fn run(scenario: &Scenario) -> Record {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(play(scenario))
}

async fn play(scenario: &Scenario) -> Record {
    let recorder = Recorder::new();
    let given = &scenario.given;
    let service = Scripted::new(&given.service, recorder.clone());
    let source = given
        .credentials
        .as_ref()
        .map(|credentials| ScriptedSource::new(credentials, recorder.clone()));
    let own_session = OwnSession::default();
    let provider = ScriptedProvider::new(
        given,
        source.clone().map(Source::new),
        recorder.clone(),
        service.clone(),
        own_session.clone(),
    );

    let mut builder = Session::builder(provider);
    if let Some(origin) = &given.session.origin {
        builder = builder.origin(origin.0.clone());
    }
    if let Some(deadline) = given.session.login_deadline {
        builder = builder.login_deadline(deadline.0);
    }
    if let Some(initial) = &given.session.initial {
        let token = super::provider::token(1);
        builder = builder.initial(match initial.lives_for {
            Some(lifetime) => token.lives_for(lifetime.0),
            None => token,
        });
    }
    let session = builder.build();
    let own = |session| {
        let mut own = own_session.lock().unwrap_or_else(PoisonError::into_inner);
        *own = session;
    };
    own(Some(session.clone()));

    let world = World {
        recorder: recorder.clone(),
        session: session.clone(),
        service,
        home: home(scenario),
        held: Held::default(),
    };
    let mut steps: Vec<_> = scenario.when.iter().collect();
    steps.sort_by_key(|step| step.at);
    let mut callers = Vec::new();
    for step in steps {
        if recorder.elapsed() < step.at {
            sleep_until(recorder.moment(step.at)).await;
        }
        for _ in 0..step.times {
            let (caller, work) = match &step.action {
                Action::Source(password) => {
                    recorder.note(format!("from now on the source yields {password:?}"));
                    if let Some(source) = &source {
                        source.yields(password);
                    }
                    continue;
                }
                Action::Request(sending) => world.send(sending, &step.name),
                Action::Call(call) => world.call(call, &step.name),
            };
            let what = recorder.record().name_of(caller);
            recorder.note(format!("{what} begins"));
            let dropped = step.drop_at.map(|drop_at| recorder.moment(drop_at));
            let work = tokio::spawn(async move {
                match dropped {
                    Some(dropped) => timeout_at(dropped, work).await.unwrap_or(Ended::Dropped),
                    None => work.await,
                }
            });
            let recorder = recorder.clone();
            callers.push(tokio::spawn(async move {
                let ended = work.await.unwrap_or(Ended::Panicked);
                recorder.end_caller(caller, ended);
            }));
        }
        // So that what stands first in the file is polled first.
        tokio::task::yield_now().await;
    }
    sleep_until(recorder.moment(scenario.end())).await;

    // Whoever waits still would keep the session alive.
    for caller in callers {
        caller.abort();
    }
    let status = session.status();
    recorder.show(format!("{status:?} {status}"));
    recorder.show(format!("{session:?} {:?}", session.layer()));
    let mut record = recorder.take();
    record.status = Some(status);
    record.source = source.map(|source| source.password());
    own(None);
    record
}

/// What a path is put behind.
fn home(scenario: &Scenario) -> String {
    let origins = &scenario.given.profile.origins;
    let first = origins.first().or(scenario.given.session.origin.as_ref());
    first.map_or_else(String::new, |origin| {
        origin.0.to_string().trim_end_matches('/').to_owned()
    })
}

struct World {
    recorder: Recorder,
    session: Session,
    service: Scripted,
    home: String,
    held: Held,
}

type Work = std::pin::Pin<Box<dyn Future<Output = Ended> + Send>>;

impl World {
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
        let layer = self.session.layer();
        let service = self.service.clone();
        let work: Work = match sending.replay {
            Strategy::Auto => Box::pin(response_of(layer.layer(service).oneshot(request))),
            Strategy::IfEmpty => Box::pin(response_of(
                layer.replay(IfEmpty).layer(service).oneshot(request),
            )),
            Strategy::Never => Box::pin(response_of(
                layer.replay(Never).layer(service).oneshot(request),
            )),
            Strategy::Function => Box::pin(response_of(
                layer
                    .replay(replay_fn(|body: &Body| body.try_clone()))
                    .layer(service)
                    .oneshot(request),
            )),
        };
        (caller, work)
    }

    fn call(&self, call: &Call, name: &str) -> (usize, Work) {
        let caller = self.recorder.add_caller(name, None);
        let session = self.session.clone();
        let recorder = self.recorder.clone();
        let held = self.held.clone();
        let name = name.to_owned();
        let lock = |held: &Held| held.lock().expect("no panic under it").clone();
        let work: Work = match call {
            Call::Token => Box::pin(async move {
                match session.token().await {
                    Ok(token) => {
                        let ended = Ended::Token {
                            number: number_of_token(&token),
                            generation: token.generation(),
                        };
                        recorder.show(format!("{token:?}"));
                        held.lock().expect("no panic under it").insert(name, token);
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
            Call::Status => Box::pin(async move { Ended::Status(session.status()) }),
            Call::Reject { token_of } => {
                let token_of = token_of.clone();
                Box::pin(async move {
                    match lock(&held).get(&token_of) {
                        Some(token) => session.reject(token),
                        None => recorder.wrong(&format!("{token_of:?} was given no token")),
                    }
                    Ended::Done
                })
            }
            Call::ChangePassword { to, from, unstored } => {
                let mut change = PasswordChange::to(password(to));
                if let Some(from) = from {
                    change = change.from(password(from));
                }
                if *unstored {
                    change = change.even_if_it_cannot_be_stored();
                }
                Box::pin(async move { done(session.change_password(change).await.map(drop)) })
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

/// A response with its body, or how it failed to come.
pub(crate) async fn response_of<B>(
    response: impl Future<Output = Result<Response<B>, BoxError>>,
) -> Ended
where
    B: http_body::Body<Error: std::fmt::Debug>,
{
    match response.await {
        Ok(response) => {
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("a scripted body never fails");
            Ended::Response {
                status: head.status,
                body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
                reauth: head.extensions.get::<Reauth>().cloned(),
            }
        }
        Err(error) => Ended::Failed(error),
    }
}

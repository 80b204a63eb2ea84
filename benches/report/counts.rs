//! What repeats exactly, and so is asserted in a test too: polls, bytes, tasks.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use allocation_counter::measure;
use http::Request;
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;
use tokio::time::sleep;
use tower::Service;
use tower_reauth::testing::{Answer, Gate, ScriptedProvider};
use tower_reauth::{LoginContext, Profile, Session, SessionService, Token, provider_fn};

use crate::kinds::{Costs, KINDS, Make};
use crate::peers::{Bare, Body, ORIGIN, Requests, TOKEN, auto};

/// On virtual time.
fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
}

type Answered = <SessionService<Bare> as Service<Request<Body>>>::Future;
type Inner = <Bare as Service<Request<Body>>>::Future;

/// Requests that wait for one login.
pub(crate) struct Waiters {
    pub(crate) logins: usize,
    /// All together, from their first to their answer.
    pub(crate) polls: u64,
    /// Each, beyond the request and the future of the inner service.
    pub(crate) bytes: f64,
}

/// A session whose login stands at the gate.
fn held() -> (ScriptedProvider, Gate, SessionService<Bare>) {
    let provider = ScriptedProvider::at(ORIGIN.parse().expect("a valid origin"));
    let gate = Gate::closed();
    provider.on_login(Answer::usual().held_at(&gate));
    let service = auto(&Session::new(provider.clone()));
    (provider, gate, service)
}

pub(crate) fn waiters(count: usize) -> Waiters {
    let (logins, polls) = polls(count);
    Waiters {
        logins,
        polls,
        bytes: bytes(count),
    }
}

fn polls(count: usize) -> (usize, u64) {
    let (provider, gate, mut service) = held();
    let requests = Requests::new(Make::Parsed);
    let polls = Rc::new(Cell::new(0));
    let tasks = LocalSet::new();
    tasks.block_on(&runtime(), async {
        let waiters: Vec<_> = (0..count)
            .map(|_| {
                let waiter = Counted {
                    future: Box::pin(service.call(requests.make())),
                    polls: polls.clone(),
                };
                tokio::task::spawn_local(waiter)
            })
            .collect();
        gate.reached(1).await;
        gate.open();
        for waiter in waiters {
            let response = waiter.await.expect("no panic").expect("an answer");
            assert!(response.status().is_success());
        }
    });
    (provider.logins(), polls.get())
}

fn bytes(count: usize) -> f64 {
    let (_, gate, mut service) = held();
    let requests = Requests::new(Make::Parsed);
    runtime().block_on(async {
        let requests: Vec<Request<Body>> = (0..count).map(|_| requests.make()).collect();
        let mut waiters: Vec<Pin<Box<Answered>>> = Vec::with_capacity(count);
        let counted = measure(|| {
            let mut cx = Context::from_waker(Waker::noop());
            for request in requests {
                let mut waiter = Box::pin(service.call(request));
                assert!(waiter.as_mut().poll(&mut cx).is_pending());
                waiters.push(waiter);
            }
        });
        gate.reached(1).await;
        // The list of the requests has gone meanwhile, and they are in the futures.
        let taken = counted.bytes_current as f64 / count as f64;
        taken - size_of::<Inner>() as f64
    })
}

/// Counts how often a future is polled.
struct Counted<F> {
    future: Pin<Box<F>>,
    polls: Rc<Cell<u64>>,
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.polls.set(self.polls.get() + 1);
        self.future.as_mut().poll(cx)
    }
}

/// A session that nobody uses after its login.
pub(crate) struct Idle {
    /// Everything that it keeps: its provider and its token too.
    pub(crate) bytes: i64,
    pub(crate) tasks: usize,
}

pub(crate) fn idle(lives_for: Option<Duration>) -> Idle {
    let runtime = runtime();
    let log_in = || runtime.block_on(logged_in(lives_for));
    // The first one fills what the runtime and the thread keep.
    drop(log_in());
    runtime.block_on(tasks_end());
    let mut session = None;
    let counted = measure(|| session = Some(log_in()));
    Idle {
        bytes: counted.bytes_current,
        tasks: runtime.metrics().num_alive_tasks(),
    }
}

async fn logged_in(lives_for: Option<Duration>) -> Session {
    let profile = Profile::at(ORIGIN.parse().expect("a valid origin"));
    let provider = provider_fn(profile, move |_: LoginContext| async move {
        let token = Token::bearer(TOKEN)?;
        Ok(match lives_for {
            Some(lifetime) => token.lives_for(lifetime),
            None => token,
        })
    });
    let session = Session::new(provider);
    drop(session.token().await.expect("a login"));
    tasks_end().await;
    session
}

/// Lets those end that have nothing left to do.
async fn tasks_end() {
    sleep(Duration::from_millis(1)).await;
}

/// What each kind of request allocates more than the bare one.
pub(crate) fn allocations(make: Make) -> Costs {
    Costs::above_bare(KINDS.map(|kind| {
        let mut send = kind.sender(make);
        // The first load of the token on a thread makes the thread's own slots.
        send(1);
        measure(|| send(1)).count_total as f64
    }))
}

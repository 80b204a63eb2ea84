//! A server that may execute a password change late.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tower::ServiceExt;
use tower_reauth::controlm::emulator::Emulator;

/// The server goes on with a request whose client has gone.
pub(crate) struct SlowServer {
    pub(crate) emulator: Emulator,
    pub(crate) url: String,
    late: Arc<Mutex<Late>>,
    _runtime: Runtime,
}

struct Late {
    chance: fastrand::Rng,
    changes: Vec<LateChange>,
    /// The failed logins in a row, and the most that there were.
    row: usize,
    longest_row: usize,
}

/// A change that is executed after so many more logins.
struct LateChange {
    logins: usize,
    /// Whether time has passed since it was sent.
    is_old: bool,
    go_on: oneshot::Sender<()>,
}

impl SlowServer {
    /// `latest` is the number of logins that come before a late change at most.
    pub(crate) fn start(lock_after: u32, latest: usize, chance: fastrand::Rng) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let emulator = Emulator::builder()
            .user("emuser", "first")
            .lock_after(lock_after)
            .build();
        let late = Arc::new(Mutex::new(Late {
            chance,
            changes: Vec::new(),
            row: 0,
            longest_row: 0,
        }));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}/automation-api", listener.local_addr().unwrap());
        runtime.spawn(accept(listener, emulator.clone(), late.clone(), latest));
        Self {
            emulator,
            url,
            late,
            _runtime: runtime,
        }
    }

    fn late(&self) -> MutexGuard<'_, Late> {
        self.late.lock().unwrap()
    }

    /// Executes all late changes.
    pub(crate) fn release_all(&self) {
        let changes = std::mem::take(&mut self.late().changes);
        self.execute(changes);
    }

    /// Time passes. A change that is late for the second time is executed before.
    pub(crate) fn time_passes(&self) {
        let mut late = self.late();
        let (old, mut new): (Vec<_>, Vec<_>) = std::mem::take(&mut late.changes)
            .into_iter()
            .partition(|change| change.is_old);
        new.iter_mut().for_each(|change| change.is_old = true);
        late.changes = new;
        drop(late);
        self.execute(old);
    }

    fn execute(&self, changes: Vec<LateChange>) {
        for change in changes {
            let before = self.requests();
            // Its task is gone only if the runtime is.
            change.go_on.send(()).unwrap();
            while self.requests() == before {
                std::thread::yield_now();
            }
        }
    }

    fn requests(&self) -> u64 {
        self.emulator.account().requests
    }

    pub(crate) fn longest_row(&self) -> usize {
        self.late().longest_row
    }
}

async fn accept(listener: TcpListener, emulator: Emulator, late: Arc<Mutex<Late>>, latest: usize) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (emulator, late) = (emulator.clone(), late.clone());
        let service = service_fn(move |request| {
            // In a task of its own: a client that dies does not stop it.
            let answer = tokio::spawn(answer(request, emulator.clone(), late.clone(), latest));
            async move { Ok::<_, Infallible>(answer.await.unwrap()) }
        });
        let connection = hyper::server::conn::http1::Builder::new();
        tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    emulator: Emulator,
    late: Arc<Mutex<Late>>,
    latest: usize,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    // Of a client that has died while it was sending.
    let Ok(body) = body.collect().await else {
        return Response::default();
    };
    let path = head.uri.path().to_owned();
    if path.ends_with("/update") {
        let waits = {
            let mut late = late.lock().unwrap();
            let logins = match late.chance.bool() {
                true => 0,
                false => late.chance.usize(..=latest),
            };
            (logins > 0).then(|| {
                let (go_on, waits) = oneshot::channel();
                late.changes.push(LateChange {
                    logins,
                    is_old: false,
                    go_on,
                });
                waits
            })
        };
        if let Some(waits) = waits {
            let _ = waits.await;
        }
    }
    let request = Request::from_parts(head, Full::new(body.to_bytes()));
    let response = emulator.service().oneshot(request).await.unwrap();
    if path.ends_with("/login") {
        let mut late = late.lock().unwrap();
        late.row = match response.status() {
            StatusCode::OK => 0,
            _ => late.row + 1,
        };
        late.longest_row = late.longest_row.max(late.row);
        for change in &mut late.changes {
            change.logins -= 1;
        }
        for change in late.changes.extract_if(.., |change| change.logins == 0) {
            let _ = change.go_on.send(());
        }
    }
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Response::from_parts(head, Full::new(body))
}

//! The process that is killed: this test itself, run once more.
//!
//! It writes a byte for each step, of its own and of the server's.

use std::env;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tower::Service;
use tower_reauth::controlm::ControlM;
use tower_reauth::credentials::{FileStore, Record, Version};
use tower_reauth::{
    CredentialStore, Error, ErrorKind, PasswordChange, Session, Source, SourceError,
};

/// A step was taken.
pub(crate) const STEP: u8 = b'.';
/// It is logged in.
pub(crate) const LOGGED_IN: u8 = b'!';
/// The password was changed.
pub(crate) const CHANGED: u8 = b'+';
/// The server was too slow, or another process was faster.
pub(crate) const BUSY: u8 = b'~';
/// The next login is due in more than a second.
pub(crate) const LATER: u8 = b'z';
/// It could not log in, or the password could not be changed.
pub(crate) const FAILED: u8 = b'?';
/// It has done all that it was to do.
pub(crate) const DONE: u8 = b'=';

/// How long a login or a change may take.
const TIMEOUT: Duration = Duration::from_millis(300);

/// Longer than the server executes a change late.
pub(crate) const RETENTION: Duration = Duration::from_secs(60);

static STEPS: AtomicUsize = AtomicUsize::new(0);

/// One step more, at which the process may have to die.
fn step() {
    let taken = STEPS.fetch_add(1, Ordering::SeqCst) + 1;
    if env::var("DIES_AT").is_ok_and(|at| at == taken.to_string()) {
        std::process::abort();
    }
    say(STEP);
}

fn say(what: u8) {
    let mut out = std::io::stdout().lock();
    // The parent has gone.
    if out.write_all(&[what]).and_then(|()| out.flush()).is_err() {
        std::process::abort();
    }
}

/// A store that takes a step before and after each call.
struct Stepping(FileStore);

async fn stepping<T>(call: impl Future<Output = T>) -> T {
    step();
    let answer = call.await;
    step();
    answer
}

impl CredentialStore for Stepping {
    async fn load(&self) -> Result<(Record, Version), SourceError> {
        stepping(self.0.load()).await
    }

    async fn store(&self, record: Record, expected: Version) -> Result<(), SourceError> {
        stepping(self.0.store(record, expected)).await
    }
}

/// A client that takes a step before each request and after its response.
#[derive(Clone)]
struct Http(Client<HttpConnector, Full<Bytes>>);

impl Service<Request<Full<Bytes>>> for Http {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper_util::client::legacy::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        Box::pin(stepping(self.0.call(request)))
    }
}

/// Runs as the process, if the environment says so.
pub(crate) fn run() {
    let (Ok(path), Ok(url)) = (env::var("STORE"), env::var("SERVER")) else {
        return;
    };
    let changes: u64 = env::var("CHANGES").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let http = Http(Client::builder(TokioExecutor::new()).build_http());
        let source = Source::new(Stepping(FileStore::new(path)));
        let provider = ControlM::new(http, url.parse().unwrap(), source).unwrap();
        let session = Session::builder(provider)
            .login_timeout(TIMEOUT)
            .password_retention(RETENTION)
            .build();
        match session.token().await {
            Ok(_) => say(LOGGED_IN),
            Err(error) => return say_why(&error),
        }
        for number in 0..changes {
            let new = format!("{}-{number}-{{\"\\\u{e9}", std::process::id());
            match session.change_password(PasswordChange::to(new)).await {
                Ok(()) => say(CHANGED),
                Err(error) => say_why(&error),
            }
        }
        // The token may have died meanwhile.
        let _ = session.logout().await;
        say(DONE);
    });
    // Without the output of the test harness.
    std::process::exit(0);
}

fn say_why(error: &Error) {
    let is_later = error
        .retry_after()
        .is_some_and(|delay| delay > Duration::from_secs(1));
    say(match error.kind() {
        ErrorKind::Unavailable if is_later => LATER,
        ErrorKind::Unavailable | ErrorKind::Uncertain | ErrorKind::DeadlineExceeded => BUSY,
        _ => {
            eprintln!("{error:?}");
            FAILED
        }
    });
}

/// A process that runs.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(store: &Path, url: &str, changes: u64, dies_at: Option<usize>) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "as_a_process_of_its_own", "--nocapture", "-q"])
            .env("STORE", store)
            .env("SERVER", url)
            .env("CHANGES", changes.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(at) = dies_at {
            command.env("DIES_AT", at.to_string());
        }
        Self(command.spawn().unwrap())
    }

    /// Kills it after so many steps, unless it ends before. Returns what it said.
    pub(crate) fn until(mut self, steps: usize) -> Vec<u8> {
        let mut out = self.0.stdout.take().unwrap();
        let mut said = Vec::new();
        let mut taken = 0;
        let mut byte = [0];
        while taken < steps && out.read(&mut byte).unwrap() == 1 {
            match byte[0] {
                STEP => taken += 1,
                LOGGED_IN | CHANGED | BUSY | LATER | FAILED | DONE => {}
                // The output of the test harness.
                _ => continue,
            }
            said.push(byte[0]);
        }
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        said
    }
}

//! A process that changes its password, kept in a file, and dies: whenever that
//! is, the next one logs in, and no account is locked.
//!
//! The process is this test itself, run once more. It writes a byte for each
//! step, of its own and of the server's, and dies at the step that it is told,
//! or is killed after as many as chance says, by the environment variable `SEED`.

mod chance;

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use chance::chance;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tower::Service;
use tower_reauth::controlm::ControlM;
use tower_reauth::controlm::emulator::{Emulator, Server};
use tower_reauth::credentials::{FileStore, Trying, Unresolved};
use tower_reauth::{CredentialSource, Credentials, PasswordChange, Session, Source, SourceError};

/// A step was taken.
const STEP: u8 = b'.';
/// It is logged in.
const LOGGED_IN: u8 = b'!';
/// It could not log in, or the password could not be changed.
const FAILED: u8 = b'?';
/// It has done all that it was to do.
const DONE: u8 = b'=';

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
    // A parent that has gone takes no more.
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

impl CredentialSource for Stepping {
    async fn fetch(&self) -> Result<Credentials, SourceError> {
        stepping(self.0.fetch()).await
    }

    async fn prepare(&self, new: Credentials) -> Result<(), SourceError> {
        stepping(self.0.prepare(new)).await
    }

    async fn promote(&self) -> Result<(), SourceError> {
        stepping(self.0.promote()).await
    }

    async fn withdraw(&self) -> Result<(), SourceError> {
        stepping(self.0.withdraw()).await
    }

    async fn unresolved(&self) -> Result<Option<Unresolved>, SourceError> {
        stepping(self.0.unresolved()).await
    }

    async fn trying(&self, which: Option<Trying>) -> Result<(), SourceError> {
        stepping(self.0.trying(which)).await
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

/// What the process does, if it is one: otherwise an empty test.
#[test]
fn as_a_process_of_its_own() {
    let (Ok(path), Ok(url)) = (env::var("STORE"), env::var("SERVER")) else {
        return;
    };
    let changes: u64 = env::var("CHANGES").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ended = runtime.block_on(async {
        let http = Http(Client::builder(TokioExecutor::new()).build_http());
        let source = Source::new(Stepping(FileStore::new(path)));
        let provider = ControlM::new(http, url.parse()?, source)?;
        let session = Session::new(provider);
        session.token().await?;
        say(LOGGED_IN);
        for number in 0..changes {
            let new = format!("{}-{number}-{{\"\\\u{e9}", std::process::id());
            session.change_password(PasswordChange::to(new)).await?;
        }
        session.logout().await?;
        Ok::<_, tower_reauth::BoxError>(())
    });
    match ended {
        Ok(()) => say(DONE),
        Err(error) => {
            eprintln!("{error:?}");
            say(FAILED);
        }
    }
    // Without what the test harness says.
    std::process::exit(0);
}

/// A process under way.
struct Process(Child);

impl Process {
    fn start(store: &Path, server: &Server, changes: u64, dies_at: Option<usize>) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "as_a_process_of_its_own", "--nocapture", "-q"])
            .env("STORE", store)
            .env("SERVER", server.url().to_string())
            .env("CHANGES", changes.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(at) = dies_at {
            command.env("DIES_AT", at.to_string());
        }
        Self(command.spawn().unwrap())
    }

    /// Lets it go on until it has taken so many steps, or ends, and kills it
    /// there. What it said by then.
    fn until(mut self, steps: usize) -> Vec<u8> {
        let mut out = self.0.stdout.take().unwrap();
        let mut said = Vec::new();
        let mut taken = 0;
        let mut byte = [0];
        while taken < steps && out.read(&mut byte).unwrap() == 1 {
            match byte[0] {
                STEP => taken += 1,
                LOGGED_IN | FAILED | DONE => {}
                // The test harness's own words.
                _ => continue,
            }
            said.push(byte[0]);
        }
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        said
    }
}

struct World {
    runtime: tokio::runtime::Runtime,
    emulator: Emulator,
    server: Server,
    directory: PathBuf,
}

impl World {
    fn new(name: &str, lock_after: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let emulator = Emulator::builder()
            .user("emuser", "first")
            .lock_after(lock_after)
            .build();
        let server = runtime.block_on(emulator.serve("127.0.0.1:0")).unwrap();
        let directory = env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let world = Self {
            runtime,
            emulator,
            server,
            directory,
        };
        world.begin_anew();
        world
    }

    fn store(&self) -> PathBuf {
        self.directory.join("credentials.json")
    }

    /// Puts file and account back to the start.
    fn begin_anew(&self) {
        let text = r#"{ "username": "emuser", "password": "first" }"#;
        fs::write(self.store(), text).unwrap();
        self.emulator.set_password("emuser", "first");
        self.emulator.unlock("emuser");
    }

    fn process(&self, changes: u64, dies_at: Option<usize>) -> Process {
        Process::start(&self.store(), &self.server, changes, dies_at)
    }

    /// What must be true whenever a process has died.
    fn check(&self, said: &[u8], how: &str) {
        assert!(!said.contains(&FAILED), "{how}: it failed");
        let text = fs::read_to_string(self.store()).unwrap();
        let kept: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(kept["password"].is_string(), "{how}: {text}");
        let files = fs::read_dir(&self.directory).unwrap().count();
        assert!(files <= 2, "{how}: {files} files");
    }

    /// The next start logs in, and tidies up.
    fn comes_back(&self, how: &str) {
        let said = self.process(0, None).until(usize::MAX);
        assert!(said.contains(&LOGGED_IN) && said.contains(&DONE), "{how}");
        self.check(&said, how);
        let text = fs::read_to_string(self.store()).unwrap();
        assert!(!text.contains("new_password"), "{how}: {text}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
        let _ = &self.runtime;
    }
}

#[test]
fn a_process_killed_a_thousand_times_always_comes_back() {
    let mut chance = chance();
    // Two processes in a row that die between noting an attempt and making it
    // may cost two failed logins: what was noted cannot be told from what was
    // done. The third is always right.
    let world = World::new("killed", 3);
    let (mut logged_in, mut changed) = (0, 0);
    for round in 0..1000 {
        let steps = 1 + chance.usize(..60);
        let how = format!("round {round}, killed after {steps} steps");
        let said = world.process(u64::MAX, None).until(steps);
        world.check(&said, &how);
        logged_in += usize::from(said.contains(&LOGGED_IN));
        if round % 50 == 49 {
            world.comes_back(&how);
        }
        changed = world.emulator.account().password_changes;
    }
    world.comes_back("at last");
    // Otherwise nothing was tried.
    assert!(logged_in > 500 && changed > 500, "{logged_in}, {changed}");
}

#[test]
fn a_process_that_dies_at_any_step_and_again_at_any_step_comes_back() {
    let world = World::new("dies", 2);
    let whole = world.process(1, None).until(usize::MAX);
    assert_eq!(whole.last(), Some(&DONE));
    let steps = whole.iter().filter(|what| **what == STEP).count();
    assert!(steps > 15, "{steps} steps");
    for first in 1..=steps {
        for second in (1..=steps).step_by(2) {
            world.begin_anew();
            let how = format!("dies at {first}, and then at {second}");
            for at in [first, second] {
                let said = world.process(1, Some(at)).until(usize::MAX);
                world.check(&said, &how);
            }
            world.comes_back(&how);
        }
    }
}

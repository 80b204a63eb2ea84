//! Runs an emulated Control-M session server, for a client in any language.
//!
//! ```text
//! cargo run --example emulator -- --port 8080 --lifetime 5s
//! cargo run --example emulator -- --port 8443 --tls --cert-out emulator.pem
//! ```
//!
//! It logs each call as one line, and says at its end, on Ctrl-C, what it has
//! seen: how many sessions were opened, and what became of each. It listens on
//! this machine only.

use std::ffi::OsString;
use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::uri::PathAndQuery;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower_reauth::BoxError;
use tower_reauth::controlm::emulator::{Call, DeadToken, Emulator};

const USAGE: &str = "\
usage: emulator [options]

  --port <port>           listen on this port of 127.0.0.1; 8080 by default,
                          and 0 for any that is free
  --base-path <path>      the path that all calls lie under; /automation-api
                          by default
  --tls                   serve https, with a new self-signed certificate for
                          localhost and 127.0.0.1
  --cert-out <file>       write that certificate to this file, as PEM, instead
                          of printing it

  --user <name>           the one user; emuser by default
  --password <password>   the user's password; emupass by default
  --lifetime <time>       end a session this long after its login; 30m by default
  --idle <time>           end a session that was not used for this long
  --dead-token <status>   answer a dead token with 401 (the default) or 500
  --lock-after <n>        lock the user after n failed logins in a row
  --unlock-after <time>   unlock the user after this long
  --max-sessions <n>      fail logins while n sessions are live
  --min-password <n>      refuse new passwords of fewer characters
  --password-change-ends-sessions
                          end the user's sessions when its password is changed
  --latency <time>        answer each call after this long
  --login-latency <time>  answer a login after this much longer

  -h, --help              print this

A time is a number and a unit: 250ms, 5s, 30m, 2h.";

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}\n\nSee --help.");
            return ExitCode::from(2);
        }
    };
    match run(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), BoxError> {
    // Before anybody can know the address, so that no signal is missed.
    let told_to_end = told_to_end()?;

    let emulator = options.emulator();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))
        .await
        .map_err(|error| format!("cannot listen on port {}: {error}", options.port))?;
    let tls = match &options.tls {
        None => None,
        Some(tls) => Some(self_signed(tls.cert_out.as_deref())?),
    };

    let scheme = tls.as_ref().map_or("http", |_| "https");
    let address = listener.local_addr()?;
    println!("url   {scheme}://{address}{}", options.base_path);
    println!("user  {}", options.user);

    tokio::select! {
        () = accept(&listener, &emulator, tls) => {}
        () = told_to_end => {}
    }
    println!("\n{}", emulator.account());
    Ok(())
}

async fn accept(listener: &TcpListener, emulator: &Emulator, tls: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve(stream, emulator.clone(), tls.clone()));
            }
            Err(error) => {
                // Such as too many open files: that passes, but not at once.
                eprintln!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, emulator: Emulator, tls: Option<TlsAcceptor>) {
    // A connection that cannot have it sends its small answers later, and no worse.
    let _ = stream.set_nodelay(true);
    let served = match tls {
        None => emulator.serve_connection(stream).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => emulator.serve_connection(stream).await,
            Err(error) => Err(error.into()),
        },
    };
    if let Err(error) = served {
        eprintln!("a connection broke: {error}");
    }
}

/// Resolves on Ctrl-C, and on Unix on SIGTERM.
#[cfg(unix)]
fn told_to_end() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}

/// Resolves on Ctrl-C, and on Unix on SIGTERM.
#[cfg(not(unix))]
fn told_to_end() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    })
}

/// A certificate for this machine alone, and what serves with it.
fn self_signed(cert_out: Option<&Path>) -> Result<TlsAcceptor, BoxError> {
    let names = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
    let made = rcgen::generate_simple_self_signed(names)?;
    let pem = made.cert.pem();
    match cert_out {
        None => print!("{pem}"),
        Some(file) => std::fs::write(file, pem)
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?,
    }
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Prints a call as one line.
fn log(call: &Call) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 is wrong anyway.
    let now = TimeOfDay(now.unwrap_or_default());
    let status = call
        .status
        .map_or("closed".to_owned(), |status| status.as_u16().to_string());
    // Escaped, as it is whatever somebody sent, and this is one line.
    let user = call.user.as_deref().unwrap_or("-").escape_debug();
    println!(
        "{now} {:<4} {} {status} {user} {:.1?}",
        call.method, call.path, call.elapsed
    );
}

/// The time of the day, in UTC.
struct TimeOfDay(Duration);

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0.as_secs(), self.0.subsec_millis());
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

// What the command line says.

struct Options {
    port: u16,
    base_path: BasePath,
    tls: Option<Tls>,
    user: String,
    password: String,
    lifetime: Option<Duration>,
    idle: Option<Duration>,
    dead_token: DeadToken,
    lock_after: Option<NonZeroU32>,
    unlock_after: Option<Duration>,
    max_sessions: Option<usize>,
    min_password: Option<usize>,
    password_change_ends_sessions: bool,
    latency: Duration,
    login_latency: Duration,
}

struct Tls {
    cert_out: Option<PathBuf>,
}

impl Options {
    /// `None` is a call for help.
    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, BadFlag> {
        use lexopt::prelude::*;

        let mut options = Self {
            port: 8080,
            base_path: BasePath("/automation-api".to_owned()),
            tls: None,
            user: "emuser".to_owned(),
            password: "emupass".to_owned(),
            lifetime: None,
            idle: None,
            dead_token: DeadToken::default(),
            lock_after: None,
            unlock_after: None,
            max_sessions: None,
            min_password: None,
            password_change_ends_sessions: false,
            latency: Duration::ZERO,
            login_latency: Duration::ZERO,
        };
        let (mut tls, mut cert_out) = (false, None);
        let mut parser = lexopt::Parser::from_iter(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("port") => options.port = of("--port", &mut parser)?,
                Long("base-path") => options.base_path = of("--base-path", &mut parser)?,
                Long("tls") => tls = true,
                Long("cert-out") => cert_out = Some(parser.value()?.into()),
                Long("user") => options.user = parser.value()?.string()?,
                Long("password") => options.password = of_secret("--password", &mut parser)?,
                Long("lifetime") => options.lifetime = Some(time("--lifetime", &mut parser)?),
                Long("idle") => options.idle = Some(time("--idle", &mut parser)?),
                Long("dead-token") => {
                    options.dead_token = match of("--dead-token", &mut parser)? {
                        401 => DeadToken::Unauthorized,
                        500 => DeadToken::ServerError,
                        status => {
                            return Err(BadFlag(format!(
                                "--dead-token: {status} is neither 401 nor 500"
                            )));
                        }
                    }
                }
                Long("lock-after") => options.lock_after = Some(of("--lock-after", &mut parser)?),
                Long("unlock-after") => {
                    options.unlock_after = Some(time("--unlock-after", &mut parser)?);
                }
                Long("max-sessions") => {
                    options.max_sessions = Some(of("--max-sessions", &mut parser)?);
                }
                Long("min-password") => {
                    options.min_password = Some(of("--min-password", &mut parser)?);
                }
                Long("password-change-ends-sessions") => {
                    options.password_change_ends_sessions = true;
                }
                Long("latency") => options.latency = time("--latency", &mut parser)?,
                Long("login-latency") => {
                    options.login_latency = time("--login-latency", &mut parser)?;
                }
                Short('h') | Long("help") => return Ok(None),
                Short(_) | Long(_) | Value(_) => return Err(argument.unexpected().into()),
            }
        }
        if tls {
            options.tls = Some(Tls { cert_out });
        } else if cert_out.is_some() {
            return Err(BadFlag("--cert-out needs --tls".to_owned()));
        }
        Ok(Some(options))
    }

    fn emulator(&self) -> Emulator {
        let mut emulator = Emulator::builder()
            .base_path(&self.base_path.0)
            .user(&self.user, &self.password)
            .dead_token(self.dead_token)
            .latency(self.latency)
            .login_latency(self.login_latency)
            .on_call(log);
        if let Some(lifetime) = self.lifetime {
            emulator = emulator.lifetime(lifetime);
        }
        if let Some(idle) = self.idle {
            emulator = emulator.idle(idle);
        }
        if let Some(failures) = self.lock_after {
            emulator = emulator.lock_after(failures.get());
        }
        if let Some(delay) = self.unlock_after {
            emulator = emulator.unlock_after(delay);
        }
        if let Some(sessions) = self.max_sessions {
            emulator = emulator.max_sessions(sessions);
        }
        if let Some(characters) = self.min_password {
            emulator = emulator.min_password(characters);
        }
        if self.password_change_ends_sessions {
            emulator = emulator.password_change_ends_sessions();
        }
        emulator.build()
    }
}

/// The value of a flag.
fn of<T>(flag: &str, parser: &mut lexopt::Parser) -> Result<T, BadFlag>
where
    T: FromStr<Err: fmt::Display>,
{
    let value = parser.value()?;
    let text = value.to_string_lossy();
    text.parse()
        .map_err(|error| BadFlag(format!("{flag}: {text:?}: {error}")))
}

/// The value of a flag that no error may show.
fn of_secret(flag: &str, parser: &mut lexopt::Parser) -> Result<String, BadFlag> {
    let value = parser.value()?;
    value
        .into_string()
        .map_err(|_| BadFlag(format!("{flag}: is not Unicode")))
}

fn time(flag: &str, parser: &mut lexopt::Parser) -> Result<Duration, BadFlag> {
    of::<Time>(flag, parser).map(|time| time.0)
}

/// A duration, as the command line has it.
struct Time(Duration);

impl FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            _ => return Err("is no time: try 250ms, 5s, 30m, or 2h"),
        };
        let number: u32 = match number.parse() {
            Ok(number) => number,
            Err(_) => return Err("is no time: it needs a whole number, and not so large a one"),
        };
        Ok(Self(Duration::from_millis(u64::from(number) * millis)))
    }
}

/// A path, without a slash at its end.
struct BasePath(String);

impl FromStr for BasePath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = match text.trim_matches('/') {
            "" => return Ok(Self(String::new())),
            path => format!("/{path}"),
        };
        match PathAndQuery::from_str(&path) {
            // What follows a `#` is dropped without a word.
            Ok(parsed) if parsed.path() == path && path.is_ascii() => Ok(Self(path)),
            Ok(_) | Err(_) => Err("is no path of a URL"),
        }
    }
}

impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with the command line.
struct BadFlag(String);

impl fmt::Display for BadFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<lexopt::Error> for BadFlag {
    fn from(error: lexopt::Error) -> Self {
        Self(error.to_string())
    }
}

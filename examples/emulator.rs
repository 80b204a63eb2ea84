//! Serves an embedded Control-M session server to clients in any language.
//!
//! ```sh
//! cargo run --example emulator -- --port 8080
//! cargo run --example emulator -- --port 8443 --tls --lifetime 5s
//! ```

use std::{
    error::Error,
    ffi::OsStr,
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use http::{StatusCode, uri::Scheme};
use lexopt::{Arg, Parser, ValueExt};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use tower_reauth::controlm::emulator::{
    Emulator, EmulatorBuilder, Fault, PasswordChangeEnds, Server, Target,
};

const HELP: &str = "\
Serves an embedded Control-M session server, and prints each call.

Usage: cargo run --example emulator -- [OPTIONS]

  --host ADDRESS              IP address to listen on [127.0.0.1]
  --port PORT                 0 is any free port [8080]
  --base-path PATH            [/automation-api]
  --tls                       HTTPS, with a new self-signed certificate
  --cert-out FILE             where to write the certificate, as PEM
                              [tower-reauth-emulator.pem in the temporary folder]

  --user NAME --password TEXT a user who may log in; may be given several times
                              [emuser, empass]
  --lifetime TIME             of each session since its login, or 'none' [30m]
  --idle TIME                 of each session since its last use [none]
  --dead-token-as 401|500     status for a dead token [401]
  --lock-after N              failed logins in a row until a user is locked [never]
  --lock-for TIME             until such a user is unlocked [for ever]
  --max-sessions N            live at once [no limit]
  --min-password N            characters of a new password [1]
  --change-ends WHICH         sessions that a password change ends:
                              none, others or all [none]
  --wrong-current-as STATUS   status for a wrong current password [400]
  --latency TIME              of each call [0]
  --login-latency TIME        of each login [as --latency]
  --fail N:STATUS             answer the next N requests with this status

  -h, --help                  print this

TIME is a number with ms, s, m or h, such as 250ms. Ctrl-C or SIGTERM stops the
server and prints the account.
";

type BoxError = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::parse(Parser::from_env()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\nTry --help.");
            return ExitCode::from(2);
        }
    };
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), BoxError> {
    let emulator = options.emulator.on_call(|call| println!("{call}")).build();
    let listener = TcpListener::bind((options.host, options.port))
        .await
        .map_err(|error| format!("cannot listen on port {}: {error}", options.port))?;
    let stop = stop_signal()?;

    let server = match options.tls {
        Some(certificate) => serve_tls(&emulator, listener, options.host, &certificate)?,
        None => emulator.serve_with(listener, Scheme::HTTP, |tcp| std::future::ready(Ok(tcp)))?,
    };
    println!("serving {}", server.url());
    println!("users: {}", options.users.join(", "));

    stop.await;
    // Cut off connections that do not finish in time.
    let _ = tokio::time::timeout(Duration::from_secs(2), server.shutdown()).await;
    println!("{}", emulator.account());
    Ok(())
}

fn serve_tls(
    emulator: &Emulator,
    listener: TcpListener,
    host: IpAddr,
    file: &Path,
) -> Result<Server, BoxError> {
    let names = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
        host.to_string(),
    ];
    let made = rcgen::generate_simple_self_signed(names)?;
    std::fs::write(file, made.cert.pem())
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    println!("certificate: {}", file.display());

    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_no_client_auth()
    .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::from(key))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(config));

    Ok(emulator.serve_with(listener, Scheme::HTTPS, move |tcp| tls.accept(tcp))?)
}

struct Options {
    host: IpAddr,
    port: u16,
    /// The file for the certificate, with `--tls`.
    tls: Option<PathBuf>,
    users: Vec<String>,
    emulator: EmulatorBuilder,
}

impl Options {
    /// Returns `None` for `--help`.
    fn parse(flags: Parser) -> Result<Option<Self>, String> {
        let mut current = String::new();
        Self::read(flags, &mut current).map_err(|error| match error {
            // This error does not name its flag.
            lexopt::Error::ParsingFailed { .. } => format!("--{current}: {error}"),
            other => other.to_string(),
        })
    }

    fn read(mut flags: Parser, current: &mut String) -> Result<Option<Self>, lexopt::Error> {
        let mut options = Self {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 8080,
            tls: None,
            users: Vec::new(),
            emulator: Emulator::builder(),
        };
        let (mut tls, mut certificate, mut user) = (false, None, None);
        while let Some(flag) = flags.next()? {
            if let Arg::Long(name) = flag {
                name.clone_into(current);
            }
            let emulator = options.emulator;
            options.emulator = match flag {
                Arg::Short('h') | Arg::Long("help") => return Ok(None),
                Arg::Long("host") => {
                    options.host = flags.value()?.parse()?;
                    emulator
                }
                Arg::Long("port") => {
                    options.port = flags.value()?.parse()?;
                    emulator
                }
                Arg::Long("tls") => {
                    tls = true;
                    emulator
                }
                Arg::Long("cert-out") => {
                    certificate = Some(PathBuf::from(flags.value()?));
                    emulator
                }
                Arg::Long("user") => {
                    let name = flags.value()?.string()?;
                    if let Some(earlier) = user.replace(name) {
                        return Err(format!("--user {earlier} needs a --password").into());
                    }
                    emulator
                }
                Arg::Long("password") => {
                    let name = user.take().ok_or("--password needs a --user before it")?;
                    options.users.push(name.clone());
                    emulator.user(name, flags.value()?.string()?)
                }
                Arg::Long("base-path") => emulator.base_path(flags.value()?.string()?),
                Arg::Long("lifetime") => emulator.lifetime(time_or_none(&flags.value()?)?),
                Arg::Long("idle") => emulator.idle_timeout(time_or_none(&flags.value()?)?),
                Arg::Long("dead-token-as") => {
                    emulator.dead_token_as(match flags.value()?.string()?.as_str() {
                        "401" => StatusCode::UNAUTHORIZED,
                        "500" => StatusCode::INTERNAL_SERVER_ERROR,
                        other => {
                            return Err(
                                format!("--dead-token-as is 401 or 500, not {other}").into()
                            );
                        }
                    })
                }
                Arg::Long("lock-after") => emulator.lock_after(flags.value()?.parse::<u32>()?),
                Arg::Long("lock-for") => emulator.lock_for(flags.value()?.parse_with(time)?),
                Arg::Long("max-sessions") => {
                    emulator.max_sessions(flags.value()?.parse::<usize>()?)
                }
                Arg::Long("min-password") => emulator.min_password_length(flags.value()?.parse()?),
                Arg::Long("change-ends") => {
                    emulator.password_change_ends(match flags.value()?.string()?.as_str() {
                        "none" => PasswordChangeEnds::NoSession,
                        "others" => PasswordChangeEnds::OtherSessions,
                        "all" => PasswordChangeEnds::EverySession,
                        other => {
                            return Err(format!(
                                "--change-ends is none, others or all, not {other}"
                            )
                            .into());
                        }
                    })
                }
                Arg::Long("wrong-current-as") => {
                    emulator.wrong_current_password_as(flags.value()?.parse()?)
                }
                Arg::Long("latency") => emulator.latency(flags.value()?.parse_with(time)?),
                Arg::Long("login-latency") => {
                    emulator.login_latency(flags.value()?.parse_with(time)?)
                }
                Arg::Long("fail") => {
                    let (times, status) = flags.value()?.parse_with(failures)?;
                    (0..times).fold(emulator, |emulator, _| {
                        emulator.fault(Target::Any, Fault::status(status))
                    })
                }
                Arg::Short(_) | Arg::Long(_) | Arg::Value(_) => return Err(flag.unexpected()),
            };
        }
        if let Some(name) = user {
            return Err(format!("--user {name} needs a --password").into());
        }
        if certificate.is_some() && !tls {
            return Err("--cert-out needs --tls".into());
        }
        if tls {
            let temporary = || std::env::temp_dir().join("tower-reauth-emulator.pem");
            options.tls = Some(certificate.unwrap_or_else(temporary));
        }
        if options.users.is_empty() {
            options.users.push("emuser with password empass".to_owned());
        }
        Ok(Some(options))
    }
}

fn time_or_none(value: &OsStr) -> Result<Option<Duration>, lexopt::Error> {
    if value == "none" {
        return Ok(None);
    }
    value.to_owned().parse_with(time).map(Some)
}

fn time(text: &str) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ if text == "0" => 0.0,
        _ => return Err("a time needs a unit: ms, s, m or h".to_owned()),
    };
    let number = text[..text.len() - unit.len()].parse::<f64>();
    let number = number.map_err(|_| "a time is a number and a unit".to_owned())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

fn failures(text: &str) -> Result<(u32, StatusCode), String> {
    let (times, status) = text
        .split_once(':')
        .ok_or("it is N:STATUS, such as 3:503")?;
    let times = times.parse().map_err(|_| "N is not a number")?;
    let status = status.parse().map_err(|_| "STATUS is not an HTTP status")?;
    Ok((times, status))
}

/// Registers for Ctrl-C and SIGTERM. The future resolves at either.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        );
        Ok(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        Options::parse(Parser::from_args(line.split_whitespace()))
    }

    #[test]
    fn the_help_lists_every_option() {
        let flags = include_str!("emulator.rs").split("Arg::Long(\"").skip(1);
        let known: BTreeSet<_> = flags.filter_map(|rest| rest.split('"').next()).collect();
        let lines = HELP.lines().filter(|line| line.starts_with("  -"));
        let words = lines.flat_map(str::split_whitespace);
        let words = words.filter_map(|word| word.strip_prefix("--"));
        let listed: BTreeSet<_> = words.map(|word| word.trim_end_matches(']')).collect();
        assert_eq!(known, listed);
    }

    #[test]
    fn every_option_accepts_the_values_in_the_help() {
        let line = "--host ::1 --port 0 --base-path /ctm --tls --cert-out x.pem \
            --user a --password b --user c --password d --lifetime none --idle 1.5h \
            --dead-token-as 500 --lock-after 3 --lock-for 1m --max-sessions 9 \
            --min-password 8 --change-ends others --wrong-current-as 401 \
            --latency 250ms --login-latency 2s --fail 3:503";
        let options = parse(line).unwrap().unwrap();
        assert_eq!((options.host.to_string(), options.port), ("::1".into(), 0));
        assert_eq!(options.users, ["a", "c"]);
        assert_eq!(options.tls.as_deref(), Some(Path::new("x.pem")));

        let options = parse("").unwrap().unwrap();
        assert!(options.host.is_loopback() && options.port == 8080 && options.tls.is_none());
        assert!(parse("--help").unwrap().is_none() && parse("-h").unwrap().is_none());
        for wrong in [
            "more",
            "--insecure",
            "--lifetime 5",
            "--dead-token-as 403",
            "--change-ends some",
            "--fail 503",
            "--user a",
            "--password b",
            "--cert-out x.pem",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}

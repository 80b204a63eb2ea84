//! Logs in to a Control-M server, reads its list of servers through the
//! session, and logs out.
//!
//! ```text
//! cargo run --example controlm -- --url https://ctm.example.com:8443/automation-api --user emuser
//! ```
//!
//! The password is read from the environment variable `CONTROLM_PASSWORD`, or from
//! a prompt. With `--ca-file` the certificates in that PEM file are trusted instead
//! of the system's. The file may contain the server's self-signed certificate. Get
//! it from the administrator, or, over a network that you trust, with
//! `openssl s_client -connect <host>:8443 </dev/null | openssl x509`.

use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use tower::{ServiceBuilder, ServiceExt};
use tower_reauth::client::{self, HttpsClient};
use tower_reauth::controlm::ControlM;
use tower_reauth::{BoxError, Credentials, Session};

const USAGE: &str = "\
usage: controlm --url <address> --user <name> [--ca-file <file>]

  --url <address>   the Automation API, such as https://ctm.example.com:8443/automation-api
  --user <name>     the user to log in as; the password is read from the
                    environment variable CONTROLM_PASSWORD, or from a prompt
  --ca-file <file>  trust the certificates in this PEM file instead of the
                    system's; it may be the server's self-signed one";

/// The timeout of the request.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The maximum length of the response in bytes.
const MAX_LENGTH: usize = 16 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os()) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options).await {
        Ok(servers) => {
            println!("{servers}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprint!("{}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<String, BoxError> {
    let http = match &options.ca_file {
        Some(file) => client::https().ca_file(file).build()?,
        None => client::https().build()?,
    };
    let password = match std::env::var("CONTROLM_PASSWORD") {
        Ok(password) => password,
        Err(_) => rpassword::prompt_password(format!("Password of {}: ", options.user))
            .map_err(|error| Failed::to("ask for the password", error))?,
    };
    list_servers(options, password, http).await
}

pub(crate) async fn list_servers(
    options: &Options,
    password: String,
    http: HttpsClient,
) -> Result<String, BoxError> {
    let credentials = Credentials::new(&options.user, password);
    let provider = ControlM::new(http.clone(), options.url.clone(), credentials)
        .map_err(|error| Failed::to(format!("use the address {}", options.url), error))?;
    let session = Session::new(provider);
    let client = ServiceBuilder::new().layer(session.layer()).service(http);

    let base = options.url.to_string();
    let servers = format!("{}/config/servers", base.trim_end_matches('/'));
    let request = Request::get(&servers)
        .header(http::header::ACCEPT, "application/json")
        .body(Full::<Bytes>::default())?;

    let read = async {
        let response = client.oneshot(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_LENGTH)
            .collect()
            .await?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        if status.is_success() {
            Ok(body)
        } else {
            Err(BoxError::from(format!("{status}: {body}")))
        }
    };
    let read = match tokio::time::timeout(TIMEOUT, read).await {
        Ok(read) => read,
        Err(elapsed) => Err(elapsed.into()),
    };

    // Log out even if the request failed: the server limits the number of sessions.
    let logout = session.logout().await;
    let read = read.map_err(|error| Failed::to(format!("read {servers}"), error))?;
    logout.map_err(|error| Failed::to("log out", error))?;
    Ok(read)
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) url: Uri,
    pub(crate) user: String,
    pub(crate) ca_file: Option<PathBuf>,
}

impl Options {
    /// Returns `None` for `--help`.
    pub(crate) fn parse(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Option<Self>, lexopt::Error> {
        use lexopt::prelude::*;

        let (mut url, mut user, mut ca_file) = (None, None, None);
        let mut parser = lexopt::Parser::from_iter(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("url") => url = Some(parser.value()?.parse()?),
                Long("user") => user = Some(parser.value()?.string()?),
                Long("ca-file") => ca_file = Some(parser.value()?.into()),
                Short('h') | Long("help") => return Ok(None),
                Short(_) | Long(_) | Value(_) => return Err(argument.unexpected()),
            }
        }
        Ok(Some(Self {
            url: url.ok_or("--url is missing")?,
            user: user.ok_or("--user is missing")?,
            ca_file,
        }))
    }
}

#[derive(Debug)]
struct Failed {
    what: String,
    source: BoxError,
}

impl Failed {
    fn to(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self {
            what: what.into(),
            source: source.into(),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.what)
    }
}

impl StdError for Failed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

/// Prints an error and its sources, one per line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", self.0)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            writeln!(f, "  because: {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

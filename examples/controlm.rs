//! Logs in to a Control-M server, reads its list of servers through the
//! session, and logs out.
//!
//! ```text
//! cargo run --example controlm -- --url https://ctm.example.com:8443/automation-api --user emuser
//! ```
//!
//! The password is asked for, or read from the environment variable
//! `CONTROLM_PASSWORD`. With `--ca-file` the certificates in that PEM file are
//! trusted instead of the system's. It may hold the self-signed certificate
//! that the server came with, got from its administrator, or with
//! `openssl s_client -connect <host>:8443 </dev/null | openssl x509` over a
//! network that you trust.

use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tower::{ServiceBuilder, ServiceExt};
use tower_reauth::controlm::ControlM;
use tower_reauth::{BoxError, Credentials, Session};

const USAGE: &str = "\
usage: controlm --url <address> --user <name> [--ca-file <file>]

  --url <address>   the Automation API, such as https://ctm.example.com:8443/automation-api
  --user <name>     the user to log in as; the password is asked for, or read
                    from the environment variable CONTROLM_PASSWORD
  --ca-file <file>  trust the certificates in this PEM file instead of the
                    system's; it may be the server's own, self-signed one";

/// How long the server may take for its list.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long that list may be.
const LONGEST: usize = 16 << 20;

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
    let password = match std::env::var("CONTROLM_PASSWORD") {
        Ok(password) => password,
        Err(_) => rpassword::prompt_password(format!("Password of {}: ", options.user))
            .map_err(|error| Failed::to("ask for the password", error))?,
    };
    let tls = match &options.ca_file {
        Some(file) => trusting(file)?,
        None => trusting_the_system()?,
    };
    list_servers(options, password, tls).await
}

pub(crate) async fn list_servers(
    options: &Options,
    password: String,
    tls: ClientConfig,
) -> Result<String, BoxError> {
    // The session keeps tokens from plain http to other machines.
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .build();
    let http = Client::builder(TokioExecutor::new()).build(https);

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
        let body = Limited::new(response.into_body(), LONGEST)
            .collect()
            .await?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        if status.is_success() {
            Ok(body)
        } else {
            Err(BoxError::from(format!("{status}: {body}")))
        }
    };
    let read = match tokio::time::timeout(PATIENCE, read).await {
        Ok(read) => read,
        Err(elapsed) => Err(elapsed.into()),
    };

    // Whatever became of the call: sessions that nobody ends pile up.
    let logout = session.logout().await;
    let read = read.map_err(|error| Failed::to(format!("read {servers}"), error))?;
    logout.map_err(|error| Failed::to("log out", error))?;
    Ok(read)
}

// What the command line says.

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) url: Uri,
    pub(crate) user: String,
    pub(crate) ca_file: Option<PathBuf>,
}

impl Options {
    /// `None` is a call for help.
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

// Whom to trust.

fn trusting_the_system() -> Result<ClientConfig, BoxError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let error = found.errors.into_iter().next();
        let error = error.map_or_else(|| "there are none".into(), BoxError::from);
        return Err(Failed::to("find the system's certificates", error).into());
    }
    Ok(versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn trusting(file: &Path) -> Result<ClientConfig, BoxError> {
    let failed = |error| Failed::to(format!("read certificates from {}", file.display()), error);
    let given: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| failed(error.into()))?;
    if given.is_empty() {
        return Err(failed("there are none in it".into()).into());
    }
    trusting_only(given).map_err(|error| failed(error).into())
}

pub(crate) fn trusting_only(given: Vec<CertificateDer<'static>>) -> Result<ClientConfig, BoxError> {
    let mut roots = RootCertStore::empty();
    for certificate in &given {
        roots.add(certificate.clone())?;
    }
    let webpki = WebPkiServerVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::new(ring::default_provider()),
    )
    .build()?;
    Ok(versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OrItself { webpki, given }))
        .with_no_client_auth())
}

fn versions() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
}

/// Verifies a server as rustls does, with one exception.
///
/// Many a self-signed certificate says of itself that it is a CA, and rustls
/// takes no CA for a server, not even one that it trusts. Here it does if the
/// server's certificate is, byte for byte, one that the user gave, and names
/// the host. That it has not expired was looked at before.
#[derive(Debug)]
struct OrItself {
    webpki: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for OrItself {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verdict {
            Err(error) if is_a_ca_as_a_server(&error) && self.given.contains(end_entity) => {
                let certificate = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&certificate, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

fn is_a_ca_as_a_server(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
        }
        _ => false,
    }
}

// What went wrong.

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

/// An error and its sources, a line each.
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

//! A ready HTTPS client of hyper: HTTP/1 and HTTP/2, pooled connections, rustls.
//!
//! It trusts the system's certificates, or those in a PEM file. Where a
//! server came with a certificate that it signed itself, as Control-M's does,
//! that very certificate in a file is all that is needed:
//!
//! ```no_run
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_reauth::{Credentials, Session, client, controlm::ControlM};
//!
//! # async fn run() -> Result<(), tower_reauth::BoxError> {
//! let http = client::https().ca_file("/etc/ctm/server.pem").build()?;
//! let provider = ControlM::new(
//!     http.clone(),
//!     "https://ctm:8443/automation-api".parse()?,
//!     Credentials::new("emuser", "s3cret"),
//! )?;
//! let session = Session::new(provider);
//! let client = ServiceBuilder::new().layer(session.layer()).service(http);
//!
//! let request = Request::get("https://ctm:8443/automation-api/config/servers");
//! let response = client.oneshot(request.body(Full::<Bytes>::default())?).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Whom it trusts
//!
//! A server is trusted if its certificate
//!
//! - leads to a CA that is trusted; or
//! - is, byte for byte, a certificate that is trusted, whoever signed it.
//!
//! Trusted are the system's certificates or, where some are given, those
//! *instead*. In both cases the server's certificate must name the host among
//! its subject alternative names, and today must be within its dates. There is
//! no way to switch that off: for a certificate that has another name, send
//! requests to that name and let the resolver find it. A trusted certificate
//! that is no CA's vouches for itself only, never for one that its key has
//! signed. Certificates are read when the client is built; when they change,
//! build another one. Revocation is not looked at.
//!
//! # What it does not do
//!
//! It follows no redirect, goes through no proxy, sends no client certificate
//! and has no timeouts: put tower's `Timeout` around the session's layer. It
//! does ask after an HTTP/2 connection on which an answer is awaited and nothing
//! arrives, after 20 s and for 20 s more: all requests share that one, and a
//! timeout that gives up a request would leave them a dead connection.
//! A server that speaks HTTP/2 is spoken to in that, where nothing is upgraded by
//! a 101. Plain `http` passes, and it is the session that keeps its token from
//! there.
//! Where more is wanted, hyper-util's client, reqwest, or any other tower
//! service is as good.

use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_native_certs::CertificateResult;
use tower_service::Service;

use crate::BoxError;

/// How long an HTTP/2 connection may be silent before it is asked after, and
/// how long it has for the answer.
const SILENCE: Duration = Duration::from_secs(20);

/// An HTTPS client that is still to be built.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower_reauth::client::{self, BuildError, HttpsClient};
///
/// # fn build() -> Result<(), BuildError> {
/// let of_the_system: HttpsClient = client::https().build()?;
/// let of_a_file: HttpsClient = client::https().ca_file("ca.pem").build()?;
/// # Ok(())
/// # }
/// ```
pub fn https() -> Builder {
    Builder { given: Vec::new() }
}

/// How to build an [`HttpsClient`]; made by [`https`].
#[derive(Clone, Debug)]
#[must_use = "a client is made by `build`"]
pub struct Builder {
    given: Vec<Given>,
}

/// Where certificates are given.
#[derive(Clone)]
enum Given {
    File(PathBuf),
    Pem(Vec<u8>),
}

// By hand: there may be keys between the certificates.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Pem(_) => f.debug_tuple("Pem").finish_non_exhaustive(),
        }
    }
}

impl Builder {
    /// Trusts the certificates in this PEM file, instead of the system's.
    ///
    /// It may hold CAs, servers' own certificates, self-signed or not, or both;
    /// keys and text between them are skipped. Called several times, all of the
    /// files are trusted. See [the module's docs](self#whom-it-trusts).
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.given.push(Given::File(path.into()));
        self
    }

    /// As [`ca_file`](Builder::ca_file), for PEM text that is in memory.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.given.push(Given::Pem(pem.into()));
        self
    }

    /// Builds the client. Files are read here, and block for as long as that takes.
    ///
    /// # Errors
    ///
    /// A [`BuildError`] where there is nobody to trust, or where one of the
    /// certificates given cannot be used.
    pub fn build<B>(self) -> Result<HttpsClient<B>, BuildError>
    where
        B: Body + Send,
        B::Data: Send,
    {
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(self.tls()?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(connector());
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(SILENCE)
            .http2_keep_alive_timeout(SILENCE)
            .build(https);
        Ok(HttpsClient { client })
    }

    fn tls(&self) -> Result<ClientConfig, BuildError> {
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let trusted = match self.given.is_empty() {
            true => of_the_system(rustls_native_certs::load_native_certs())?,
            false => of_those_given(&self.given)?,
        };
        let verifier = Verifier::new(trusted, &ring);
        let tls = ClientConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for them");
        Ok(tls
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth())
    }
}

/// What opens the connections that TLS is spoken over.
fn connector() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    // Which schemes there are is the business of the one around it.
    tcp.enforce_http(false);
    // HTTP/2 writes a request in pieces, and the second would wait for the
    // server to acknowledge the first.
    tcp.set_nodelay(true);
    tcp
}

/// A ready HTTPS client: a tower service for requests with bodies `B`.
///
/// Cheap to clone, and all clones share its connections. Which version of HTTP
/// is spoken is agreed upon with each server (ALPN); over plain `http` it is
/// HTTP/1. Made by [`https`].
///
/// Its errors are hyper-util's, boxed. Why a server is not trusted is a
/// `rustls::Error` within an `io::Error` among the sources.
pub struct HttpsClient<B = Full<Bytes>> {
    client: legacy::Client<HttpsConnector<HttpConnector>, B>,
}

impl<B> Clone for HttpsClient<B> {
    fn clone(&self) -> Self {
        let client = self.client.clone();
        Self { client }
    }
}

impl<B> fmt::Debug for HttpsClient<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsClient").finish_non_exhaustive()
    }
}

/// Requires `B: Unpin`, because the body is sent by a task of its own.
impl<B> Service<Request<B>> for HttpsClient<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        ResponseFuture {
            response: self.client.request(request),
        }
    }
}

/// The response of an [`HttpsClient`].
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    response: legacy::ResponseFuture,
}

impl Future for ResponseFuture {
    type Output = Result<Response<Incoming>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.response).poll(cx).map_err(Into::into)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

// Whom to trust.

/// What a server's certificate may be, or be signed by.
struct Trusted {
    certificates: Vec<CertificateDer<'static>>,
    /// The CAs among them.
    issuers: RootCertStore,
}

impl Trusted {
    fn nobody() -> Self {
        Self {
            certificates: Vec::new(),
            issuers: RootCertStore::empty(),
        }
    }

    fn add(&mut self, certificate: CertificateDer<'static>) -> Result<(), rustls::Error> {
        if may_issue(&certificate)? {
            self.issuers.add(certificate.clone())?;
        }
        self.certificates.push(certificate);
        Ok(())
    }
}

/// The system's certificates, without those that cannot be used.
fn of_the_system(found: CertificateResult) -> Result<Trusted, BuildError> {
    let mut trusted = Trusted::nobody();
    for certificate in found.certs {
        // One of hundreds is no loss.
        let _ = trusted.add(certificate);
    }
    if trusted.certificates.is_empty() {
        let first = found.errors.into_iter().next();
        return Err(BuildError::NoSystemRoots {
            source: first.map(Into::into),
        });
    }
    Ok(trusted)
}

/// All that was given, or an error: what is left out would be missed only when
/// a server is refused.
fn of_those_given(given: &[Given]) -> Result<Trusted, BuildError> {
    let mut trusted = Trusted::nobody();
    for source in given {
        for certificate in source.read()? {
            trusted
                .add(certificate)
                .map_err(|error| source.unusable(error))?;
        }
    }
    Ok(trusted)
}

impl Given {
    fn read(&self) -> Result<Vec<CertificateDer<'static>>, BuildError> {
        let read: Result<Vec<_>, PemError> = match self {
            Self::Pem(pem) => CertificateDer::pem_slice_iter(pem).collect(),
            Self::File(file) => {
                let pem = fs::read(file).map_err(|source| BuildError::Unreadable {
                    file: file.clone(),
                    source,
                })?;
                CertificateDer::pem_slice_iter(&pem).collect()
            }
        };
        let certificates = read.map_err(|error| self.unusable(without_text(error)))?;
        if certificates.is_empty() {
            return Err(BuildError::NoCertificate { file: self.file() });
        }
        Ok(certificates)
    }

    fn unusable(&self, error: impl Into<BoxError>) -> BuildError {
        BuildError::Unusable {
            file: self.file(),
            source: error.into(),
        }
    }

    fn file(&self) -> Option<PathBuf> {
        match self {
            Self::File(file) => Some(file.clone()),
            Self::Pem(_) => None,
        }
    }
}

/// What is wrong with PEM text, without the line that it quotes: where line breaks
/// were lost, a key stands in that.
fn without_text(error: PemError) -> BoxError {
    match error {
        PemError::IllegalSectionStart { .. } => {
            "a line that begins a section does not end there".into()
        }
        PemError::MissingSectionEnd { .. } => "a section has no line that ends it".into(),
        other => other.into(),
    }
}

/// Verifies a server by the certificates that are trusted.
///
/// webpki alone would not do. It refuses a server's certificate that says that
/// it is a CA, as many a self-signed one does, though it be trusted; it takes
/// none that is trusted while its issuer is unknown; and where it trusts one
/// that is no CA's, it trusts each that is signed with the key of that.
#[derive(Debug)]
struct Verifier {
    trusted: Vec<CertificateDer<'static>>,
    /// By the CAs among those trusted, if there are any.
    by_issuer: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(trusted: Trusted, crypto: &Arc<CryptoProvider>) -> Self {
        let by_issuer = (!trusted.issuers.is_empty()).then(|| {
            let issuers = Arc::new(trusted.issuers);
            WebPkiServerVerifier::builder_with_provider(issuers, crypto.clone())
                .build()
                .expect("there are roots, and no revocation lists")
        });
        Self {
            trusted: trusted.certificates,
            by_issuer,
            algorithms: crypto.signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.trusted.contains(end_entity) {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            is_ca(&certificate, now)?;
            verify_server_name(&certificate, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        match &self.by_issuer {
            Some(webpki) => webpki.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether others are to be trusted because of this certificate.
fn may_issue(certificate: &CertificateDer<'_>) -> Result<bool, rustls::Error> {
    let certificate = match ParsedCertificate::try_from(certificate) {
        Ok(certificate) => certificate,
        // It may be a root of version 1, which cannot say that it is a CA's.
        Err(_) => return Ok(true),
    };
    match is_ca(&certificate, UnixTime::now()) {
        // Its dates are looked at when it is used, which may be another day.
        Err(rustls::Error::InvalidCertificate(
            CertificateError::ExpiredContext {
                not_after: within, ..
            }
            | CertificateError::NotValidYetContext {
                not_before: within, ..
            },
        )) => is_ca(&certificate, within),
        verdict => verdict,
    }
}

/// Whether a certificate is a CA's. One that is not must be good for a server,
/// and in either case `now` must be within its dates.
///
/// webpki tells none of that by itself. It looks at the dates first, then at
/// whether it is a CA's, then at its purpose, and for its issuer last: with no
/// issuers at all, what it complains of is the answer.
fn is_ca(certificate: &ParsedCertificate<'_>, now: UnixTime) -> Result<bool, rustls::Error> {
    let nobody = RootCertStore::empty();
    match verify_server_cert_signed_by_trust_anchor(certificate, &nobody, &[], now, &[]) {
        Ok(()) | Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            Ok(false)
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
            if other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) =>
        {
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// Why there is no client: there is nobody whom it could trust, or not all of
/// those whom it was to.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The system has no root certificates, or none that can be read. Install
    /// them (the package is most often called `ca-certificates`), say where
    /// they are in the environment variable `SSL_CERT_FILE`, or give some with
    /// [`Builder::ca_file`].
    #[non_exhaustive]
    NoSystemRoots {
        /// The first that could not be read.
        source: Option<BoxError>,
    },
    /// The file could not be read. See that it is there, and that this process
    /// may read it.
    #[non_exhaustive]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no certificate in it. PEM is expected, which has a line
    /// `-----BEGIN CERTIFICATE-----`; make it of a binary one (DER) with
    /// `openssl x509 -inform der -in server.cer -out server.pem`.
    #[non_exhaustive]
    NoCertificate {
        /// The file, or `None` for text that was given.
        file: Option<PathBuf>,
    },
    /// One of its certificates is broken, or for something else than servers.
    /// Remove it, or get it anew.
    #[non_exhaustive]
    Unusable {
        /// The file, or `None` for text that was given.
        file: Option<PathBuf>,
        /// What is wrong with it.
        source: BoxError,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pem = |file: &Option<PathBuf>| match file {
            Some(file) => file.display().to_string(),
            None => "the PEM text that was given".to_owned(),
        };
        match self {
            Self::NoSystemRoots { .. } => f.write_str(
                "the system has no root certificates: install them, name them in SSL_CERT_FILE, or give a CA file",
            ),
            Self::Unreadable { file, .. } => write!(f, "cannot read {}", file.display()),
            Self::NoCertificate { file } => write!(
                f,
                "no certificate in {}: it has no line -----BEGIN CERTIFICATE-----",
                pem(file)
            ),
            Self::Unusable { file, .. } => {
                write!(f, "cannot use a certificate in {}", pem(file))
            }
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoSystemRoots { source } => source.as_deref().map(|source| source as _),
            Self::Unreadable { source, .. } => Some(source),
            Self::NoCertificate { .. } => None,
            Self::Unusable { source, .. } => Some(&**source),
        }
    }
}

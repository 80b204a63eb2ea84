//! A ready HTTPS client of hyper: HTTP/1 and HTTP/2, pooled connections, rustls.
//!
//! It trusts the system's root certificates, or the certificates in a PEM file.
//! A server with a self-signed certificate, as Control-M's has by default, needs
//! only that certificate in a file:
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
//! # Which servers it trusts
//!
//! The trusted certificates are those given, or else the system's. The client
//! accepts a server's certificate that
//!
//! - a trusted CA signed, directly or through intermediate certificates; or
//! - equals a trusted certificate byte for byte, whoever signed it.
//!
//! In both cases the certificate must name the host among its subject
//! alternative names, and it must be in date. This cannot be disabled: if the
//! certificate has another name, send requests to that name and make it resolve
//! to the server. Only a given certificate without any such name, as old servers
//! have it, is accepted for every host.
//!
//! A given certificate that is not a CA, or of X.509 version 1, vouches for itself
//! only: the client does not accept certificates that its key signed. A CA vouches for
//! those too, so a self-signed certificate of a server is better not marked as one
//! (`-addext basicConstraints=critical,CA:FALSE` for `openssl req -x509`).
//! Certificates are read when the client is built; build a new client when they
//! change. Revocation is not checked.
//!
//! # What it does not do
//!
//! The client follows no redirects, uses no proxy and sends no client
//! certificate. It has no timeouts: put tower's `Timeout` around the session's
//! layer. It pings an HTTP/2 connection from which a response is awaited and
//! nothing has arrived for 20 s, and drops it after another 20 s without an
//! answer. All requests share that connection, and a timeout that only drops a
//! request would leave them a dead one. If the server offers HTTP/2, the client
//! uses it, and HTTP/2 has no upgrades (101). The client sends plain `http`
//! requests too; the session decides where its token may go.
//! If you need more, use hyper-util's client, reqwest, or any other tower service.

mod error;
mod tls;
mod version_1;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
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
use tower_service::Service;

use self::tls::Pem;
use crate::BoxError;

pub use error::BuildError;

/// How long an awaited HTTP/2 connection may be silent before it is pinged, and
/// how long the answer may take.
const SILENCE: Duration = Duration::from_secs(20);

/// Starts to build an HTTPS client.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower_reauth::client::{self, BuildError, HttpsClient};
///
/// # fn build() -> Result<(), BuildError> {
/// let with_system_roots: HttpsClient = client::https().build()?;
/// let with_a_file: HttpsClient = client::https().ca_file("ca.pem").build()?;
/// # Ok(())
/// # }
/// ```
pub fn https() -> Builder {
    Builder { pems: Vec::new() }
}

/// A builder of an [`HttpsClient`], returned by [`https`].
#[derive(Clone, Debug)]
#[must_use = "call `build` to get a client"]
pub struct Builder {
    pems: Vec<Pem>,
}

impl Builder {
    /// Trusts the certificates in this PEM file instead of the system's.
    ///
    /// The file may hold CAs and servers' own certificates, self-signed or not.
    /// Keys and text between them are skipped. Further calls add more files. See
    /// [which servers it trusts](self#which-servers-it-trusts).
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.pems.push(Pem::File(path.into()));
        self
    }

    /// As [`ca_file`](Builder::ca_file), for PEM text in memory.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.pems.push(Pem::Text(pem.into()));
        self
    }

    /// Builds the client. Reads the files, and blocks meanwhile.
    ///
    /// # Errors
    ///
    /// A [`BuildError`] if there is no certificate to trust, or if a given
    /// certificate is unusable.
    pub fn build<B>(self) -> Result<HttpsClient<B>, BuildError>
    where
        B: Body + Send,
        B::Data: Send,
    {
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls::config(&self.pems)?)
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
}

/// Opens the TCP connections below TLS.
fn connector() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    // The HTTPS connector around it checks the scheme.
    tcp.enforce_http(false);
    // HTTP/2 writes a request in pieces: without this, the second would wait
    // until the server acknowledges the first.
    tcp.set_nodelay(true);
    tcp
}

/// A ready HTTPS client: a tower service for requests with bodies `B`.
///
/// Cheap to clone; all clones share its connections. The HTTP version is
/// negotiated with each server (ALPN), and is HTTP/1 over plain `http`. Built by
/// [`https`].
///
/// Its errors are hyper-util's, boxed. If a server's certificate is not trusted, the
/// error names [`ca_file`](Builder::ca_file) and hyper-util's is its source. A
/// `rustls::Error` inside an `io::Error` among the sources says why.
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

/// Requires `B: Unpin`, because hyper sends the body from its own task.
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
        let response = Pin::new(&mut self.response).poll(cx);
        response.map_err(error::of_request)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

//! Why an HTTPS client could not be built, or does not trust a server.

use std::fmt;
use std::io;
use std::iter;
use std::path::PathBuf;

use hyper_util::client::legacy;
use rustls::CertificateError;

use crate::BoxError;

/// An error of [`Builder::build`](super::Builder::build): there is no
/// certificate to trust, or a certificate is unusable.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The system has no root certificates, or none that can be read. Install
    /// them (the package is often called `ca-certificates`), name their file in
    /// the environment variable `SSL_CERT_FILE`, or give some with
    /// [`Builder::ca_file`](super::Builder::ca_file).
    #[non_exhaustive]
    NoSystemRoots {
        /// The error of the first file that could not be read.
        source: Option<BoxError>,
    },
    /// The file could not be read. Check that it exists and that this process
    /// may read it.
    #[non_exhaustive]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file holds no certificate. The format is PEM, which has a line
    /// `-----BEGIN CERTIFICATE-----`. Convert a binary file (DER) with
    /// `openssl x509 -inform der -in server.cer -out server.pem`.
    #[non_exhaustive]
    NoCertificate {
        /// The file, or `None` for text in memory.
        file: Option<PathBuf>,
    },
    /// A certificate is broken, or it is not for servers. Remove it or replace it.
    #[non_exhaustive]
    Unusable {
        /// The file, or `None` for text in memory.
        file: Option<PathBuf>,
        /// What is wrong with the certificate.
        source: BoxError,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pem = |file: &Option<PathBuf>| match file {
            Some(file) => file.display().to_string(),
            None => "the PEM text".to_owned(),
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

/// The most errors of a chain that are read: it may be a cycle.
const MOST_CAUSES: usize = 32;

/// Boxes the error of a request. If the server's certificate is not trusted, the text
/// names the way out.
pub(super) fn of_request(error: legacy::Error) -> BoxError {
    match untrusted(&error) {
        Some(why) => Box::new(Untrusted {
            why: why.to_string(),
            source: error,
        }),
        None => error.into(),
    }
}

/// Returns the error of TLS if a certificate or a CA is missing among the trusted ones.
fn untrusted<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let causes = iter::successors(Some(error), |error| {
        match error.downcast_ref::<io::Error>() {
            // The error inside an `io::Error` is not its source.
            Some(error) => error.get_ref().map(|inside| inside as _),
            None => error.source(),
        }
    });
    let mut causes = causes
        .take(MOST_CAUSES)
        .filter_map(|cause| cause.downcast_ref());
    causes.find(|error| {
        // rustls has no variant for a CA that is used as a server's certificate.
        let is_missing = |error: &CertificateError| {
            matches!(
                error,
                CertificateError::UnknownIssuer | CertificateError::Other(_)
            )
        };
        matches!(error, rustls::Error::InvalidCertificate(error) if is_missing(error))
    })
}

/// The server's certificate is not trusted.
#[derive(Debug)]
struct Untrusted {
    why: String,
    source: legacy::Error,
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the server's certificate is not trusted (if it is the right server, give its \
             certificate or its CA to `ca_file`): {}",
            self.why
        )
    }
}

impl std::error::Error for Untrusted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

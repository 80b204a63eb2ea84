//! Why an HTTPS client could not be built.

use std::fmt;
use std::io;
use std::path::PathBuf;

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

//! TLS: which servers are trusted.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_native_certs::CertificateResult;

use super::error::BuildError;
use super::version_1::Version1;
use crate::BoxError;
use crate::text::BOM;

/// PEM text that holds certificates to trust.
#[derive(Clone)]
pub(super) enum Pem {
    File(PathBuf),
    Text(Vec<u8>),
}

/// Hides the text, which may hold keys between the certificates.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Text(_) => f.debug_tuple("Text").finish_non_exhaustive(),
        }
    }
}

/// Trusts the certificates in `pems`, or the system's if there are none.
pub(super) fn config(pems: &[Pem]) -> Result<ClientConfig, BuildError> {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let mut verifier = Verifier {
        trusted: Vec::new(),
        is_given: !pems.is_empty(),
        issuers: RootCertStore::empty(),
        algorithms: ring.signature_verification_algorithms,
    };
    match verifier.is_given {
        true => trust_given(&mut verifier, pems)?,
        false => trust_system(&mut verifier, rustls_native_certs::load_native_certs())?,
    }
    let tls = ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions");
    Ok(tls
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

/// Trusts the system's certificates, except those that cannot be parsed.
fn trust_system(verifier: &mut Verifier, found: CertificateResult) -> Result<(), BuildError> {
    for certificate in found.certs {
        let _ = verifier.trust_root(certificate);
    }
    if verifier.trusted.is_empty() {
        let first = found.errors.into_iter().next();
        return Err(BuildError::NoSystemRoots {
            source: first.map(Into::into),
        });
    }
    Ok(())
}

/// Trusts every certificate in `pems`. Fails if one is unusable: a certificate
/// that was left out would be missed only when a server is refused.
fn trust_given(verifier: &mut Verifier, pems: &[Pem]) -> Result<(), BuildError> {
    for pem in pems {
        for certificate in pem.certificates()? {
            verifier
                .trust(certificate)
                .map_err(|error| pem.unusable(error))?;
        }
    }
    Ok(())
}

impl Pem {
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, BuildError> {
        let read = match self {
            Self::Text(text) => read(text),
            Self::File(file) => {
                let text = fs::read(file).map_err(|source| BuildError::Unreadable {
                    file: file.clone(),
                    source,
                })?;
                read(&text)
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
            Self::Text(_) => None,
        }
    }
}

/// Reads the certificates in PEM text. A mark may stand before any section, since files
/// are put together.
fn read(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut certificates = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut marks = rest.windows(BOM.len());
        let end = marks.position(|window| window == BOM);
        let (part, behind) = match end {
            Some(end) => (&rest[..end], &rest[end + BOM.len()..]),
            None => (rest, &[][..]),
        };
        for certificate in CertificateDer::pem_slice_iter(part) {
            certificates.push(certificate?);
        }
        rest = behind;
    }
    Ok(certificates)
}

/// Removes the line that a PEM error quotes. It holds the key if the text has no
/// line breaks.
fn without_text(error: PemError) -> BoxError {
    match error {
        PemError::IllegalSectionStart { .. } => {
            "a line that begins a section does not end there".into()
        }
        PemError::MissingSectionEnd { .. } => "a section has no line that ends it".into(),
        other => other.into(),
    }
}

/// Verifies a server with webpki, and also accepts a server's own certificate
/// that was given.
///
/// webpki accepts such a certificate only if another one that is trusted signed
/// it, and never if it is marked as a CA, as many self-signed ones are, or of
/// version 1.
#[derive(Debug)]
struct Verifier {
    trusted: Vec<CertificateDer<'static>>,
    /// Whether `trusted` were given, instead of the system's.
    is_given: bool,
    /// The CAs among `trusted`.
    issuers: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    /// Trusts a certificate that was given.
    fn trust(&mut self, certificate: CertificateDer<'static>) -> Result<(), rustls::Error> {
        match CertificateKind::of(&certificate)? {
            CertificateKind::Ca => self.issuers.add(certificate.clone())?,
            // A server's key must not sign certificates for other servers, and nothing
            // shows that one of version 1 is more than a server's.
            CertificateKind::EndEntity | CertificateKind::Version1 => {}
        }
        self.trusted.push(certificate);
        Ok(())
    }

    /// Trusts a root of the system, which is a CA by the system's word.
    fn trust_root(&mut self, certificate: CertificateDer<'static>) -> Result<(), rustls::Error> {
        if Version1::read(&certificate).is_some() {
            self.issuers.add(certificate.clone())?;
        }
        self.trust(certificate)
    }

    /// Verifies a server by its own certificate, which is trusted.
    fn verify_trusted(
        &self,
        certificate: &CertificateDer<'_>,
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if self.is_given
            && let Some(certificate) = Version1::read(certificate)
        {
            return certificate.verify_dates(now);
        }
        let certificate = ParsedCertificate::try_from(certificate)?;
        verify_without_issuer(&certificate, now)?;
        match verify_server_name(&certificate, server_name) {
            // It names no host, and was given as it is.
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented,
                ..
            })) if self.is_given && presented.is_empty() => Ok(()),
            verified => verified,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.trusted.contains(end_entity) {
            self.verify_trusted(end_entity, server_name, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.issuers,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match Version1::read(certificate) {
            Some(own) => own.verify_tls12_signature(message, signature, &self.algorithms),
            None => verify_tls12_signature(message, certificate, signature, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match Version1::read(certificate) {
            Some(own) => own.verify_tls13_signature(message, signature, &self.algorithms),
            None => verify_tls13_signature(message, certificate, signature, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

enum CertificateKind {
    /// It may sign others.
    Ca,
    /// It may not.
    EndEntity,
    /// It does not say.
    Version1,
}

/// Verifies a certificate's dates and purpose, and returns its kind.
///
/// webpki checks the dates first, then refuses a CA, then checks the purpose,
/// and looks for an issuer last. Without any issuer, its error is the answer.
fn verify_without_issuer(
    certificate: &ParsedCertificate<'_>,
    now: UnixTime,
) -> Result<CertificateKind, rustls::Error> {
    let issuers = RootCertStore::empty();
    match verify_server_cert_signed_by_trust_anchor(certificate, &issuers, &[], now, &[]) {
        Ok(()) | Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            Ok(CertificateKind::EndEntity)
        }
        // rustls has no variant for a CA that is used as a server's certificate.
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) => {
            Ok(CertificateKind::Ca)
        }
        Err(error) => Err(error),
    }
}

impl CertificateKind {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        if Version1::read(certificate).is_some() {
            return Ok(Self::Version1);
        }
        let certificate = ParsedCertificate::try_from(certificate)?;
        match verify_without_issuer(&certificate, UnixTime::now()) {
            // Its dates are checked when it is used, which may be another day.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::ExpiredContext {
                    not_after: bound, ..
                }
                | CertificateError::NotValidYetContext {
                    not_before: bound, ..
                },
            )) => verify_without_issuer(&certificate, bound),
            kind => kind,
        }
    }
}

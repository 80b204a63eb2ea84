//! Certificates of X.509 version 1, which webpki does not read.
//!
//! Such a certificate has no extensions: it names no host, and nothing shows whether it
//! may sign others. Some appliances still make one for themselves.

use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, PeerMisbehaved};

use crate::date;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The parts of a certificate of version 1 that a client needs.
pub(super) struct Version1<'a> {
    not_before: UnixTime,
    not_after: UnixTime,
    /// The public key, with its algorithm.
    key: &'a [u8],
}

impl<'a> Version1<'a> {
    /// Reads a certificate (RFC 5280, section 4.1). Returns `None` if it is of another
    /// version, or broken.
    pub(super) fn read(certificate: &'a CertificateDer<'_>) -> Option<Self> {
        let mut certificate = Der(certificate).content(SEQUENCE)?;
        let mut fields = certificate.content(SEQUENCE)?;
        // Later versions begin with their version.
        fields.content(INTEGER)?;
        let _signature = fields.content(SEQUENCE)?;
        let _issuer = fields.content(SEQUENCE)?;
        let mut validity = fields.content(SEQUENCE)?;
        let _subject = fields.content(SEQUENCE)?;
        let (_, _, key) = fields.next().filter(|(tag, ..)| *tag == SEQUENCE)?;
        Some(Self {
            not_before: validity.time()?,
            not_after: validity.time()?,
            key,
        })
    }

    /// Checks the dates.
    pub(super) fn verify_dates(&self, now: UnixTime) -> Result<(), rustls::Error> {
        let (not_before, not_after) = (self.not_before, self.not_after);
        if now.as_secs() < not_before.as_secs() {
            let time = now;
            return Err(CertificateError::NotValidYetContext { time, not_before }.into());
        }
        if now.as_secs() > not_after.as_secs() {
            let time = now;
            return Err(CertificateError::ExpiredContext { time, not_after }.into());
        }
        Ok(())
    }

    /// Verifies a signature of the handshake of TLS 1.2.
    pub(super) fn verify_tls12_signature(
        &self,
        message: &[u8],
        signature: &DigitallySignedStruct,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let unreadable = || rustls::Error::from(CertificateError::BadEncoding);
        let mut key = Der(self.key).content(SEQUENCE).ok_or_else(unreadable)?;
        let algorithm = key.content(SEQUENCE).ok_or_else(unreadable)?;
        let bits = key.content(BIT_STRING).ok_or_else(unreadable)?;
        // A key is a number of whole bytes.
        let bits = bits.0.strip_prefix(&[0]).ok_or_else(unreadable)?;
        let mut schemes = algorithms.mapping.iter();
        let (_, candidates) = schemes
            .find(|(scheme, _)| *scheme == signature.scheme)
            .ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        let mut candidates = candidates.iter();
        candidates
            .find(|candidate| candidate.public_key_alg_id().as_ref() == algorithm.0)
            .and_then(|fit| {
                fit.verify_signature(bits, message, signature.signature())
                    .ok()
            })
            .map(|()| HandshakeSignatureValid::assertion())
            .ok_or_else(|| CertificateError::BadSignature.into())
    }

    /// Verifies a signature of the handshake of TLS 1.3.
    pub(super) fn verify_tls13_signature(
        &self,
        message: &[u8],
        signature: &DigitallySignedStruct,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(self.key);
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }
}

/// The elements of a DER value that are still to be read.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Returns the next element: its tag, its content, and the element with both.
    fn next(&mut self) -> Option<(u8, Der<'a>, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match first {
            0..=0x7F => (usize::from(first), rest),
            0x81 | 0x82 => {
                let (length, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
                let add = |sum, byte: &u8| sum << 8 | usize::from(*byte);
                (length.iter().fold(0, add), rest)
            }
            // Of another length, or longer than any certificate.
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let (element, _) = self.0.split_at(self.0.len() - rest.len());
        self.0 = rest;
        Some((tag, Der(content), element))
    }

    /// Returns the content of the next element, if that has this tag.
    fn content(&mut self, expected: u8) -> Option<Der<'a>> {
        let (tag, content, _) = self.next()?;
        (tag == expected).then_some(content)
    }

    /// Returns the next element as a time (RFC 5280, section 4.1.2.5).
    fn time(&mut self) -> Option<UnixTime> {
        let (tag, content, _) = self.next()?;
        let text = std::str::from_utf8(content.0).ok()?.strip_suffix('Z')?;
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (year, rest) = match tag {
            UTC_TIME => {
                let (year, rest) = text.split_at_checked(2)?;
                let year: i64 = year.parse().ok()?;
                (if year < 50 { 2000 } else { 1900 } + year, rest)
            }
            GENERALIZED_TIME => {
                let (year, rest) = text.split_at_checked(4)?;
                (year.parse().ok()?, rest)
            }
            _ => return None,
        };
        let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
        let [month, day, hour, minute, second] = [part(0)?, part(2)?, part(4)?, part(6)?, part(8)?];
        if rest.len() != 10 || !(1..=12).contains(&month) {
            return None;
        }
        let seconds = date::days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        // Before 1970 is long past in any case.
        let seconds = u64::try_from(seconds).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

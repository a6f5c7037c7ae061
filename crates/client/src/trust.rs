//! Trust in server certificates.
//!
//! A server on private hardware usually has a self-signed certificate. The client trusts it by the
//! fingerprint that the server prints: exactly this certificate, whatever its issuer and its name.
//! The server still proves that it has the certificate's key.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex},
};

use strongroom_base::lock;

use aws_lc_rs::digest;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs as provider},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};

use crate::ClientError;

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// A text is no fingerprint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is SHA-256 in 64 hexadecimal digits, with or without colons")]
pub struct NotAFingerprint;

impl Fingerprint {
    /// That of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let digest = digest::digest(&digest::SHA256, certificate);
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(bytes)
    }
}

impl FromStr for Fingerprint {
    type Err = NotAFingerprint;

    fn from_str(text: &str) -> Result<Self, NotAFingerprint> {
        let text = text.trim();
        let hex = match text.get(..7) {
            Some(prefix) if prefix.eq_ignore_ascii_case("sha256:") => text.get(7..),
            _ => Some(text),
        };
        let hex: Vec<u8> = hex.unwrap_or_default().bytes().filter(|byte| *byte != b':').collect();
        let mut bytes = [0; 32];
        let (pairs, rest) = hex.as_chunks::<2>();
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return Err(NotAFingerprint);
        }
        for (to, pair) in bytes.iter_mut().zip(pairs) {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.contains('+'));
            *to = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or(NotAFingerprint)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As servers and browsers print them, so that people can compare.
        self.0.iter().enumerate().try_for_each(|(index, byte)| {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")
        })
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whom to believe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The authorities that the system trusts.
    #[default]
    System,
    /// Those in this file, and no others.
    CaFile(PathBuf),
    /// Exactly this certificate.
    Fingerprint(Fingerprint),
}

/// The fingerprint of the certificate that was refused last.
pub(crate) type Refused = Arc<Mutex<Option<Fingerprint>>>;

/// TLS that believes so.
pub(crate) fn tls(trust: &Trust, refused: Refused) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(provider::default_provider());
    let failed = |error: TlsError| ClientError::Settings(format!("TLS cannot be used: {error}"));
    let rule: Arc<dyn ServerCertVerifier> = match trust {
        Trust::System => {
            Arc::new(rustls_platform_verifier::Verifier::new(provider.clone()).map_err(failed)?)
        }
        Trust::CaFile(file) => {
            let roots = Arc::new(roots(file)?);
            WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|error| ClientError::Settings(format!("{}: {error}", file.display())))?
        }
        Trust::Fingerprint(only) => Arc::new(Pinned { only: *only, provider: provider.clone() }),
    };
    let verifier = Arc::new(Remembering { rule, refused });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// TLS that believes one certificate, for other clients than that of the API.
pub fn pinned(only: Fingerprint) -> Result<ClientConfig, ClientError> {
    tls(&Trust::Fingerprint(only), Refused::default())
}

fn roots(file: &Path) -> Result<RootCertStore, ClientError> {
    let wrong =
        |reason: String| ClientError::Settings(format!("the CA file {} {reason}", file.display()));
    let pem = fs::read(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(format!("is not PEM: {error}")))?;
        roots.add(certificate).map_err(|error| wrong(format!("cannot be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(wrong("has no certificate".to_owned()));
    }
    Ok(roots)
}

/// Believes one certificate, if its key signs the handshake.
#[derive(Debug)]
struct Pinned {
    only: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if Fingerprint::of(end_entity) == self.only {
            return Ok(ServerCertVerified::assertion());
        }
        Err(TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks by another verifier, and remembers the refused certificate for the error message.
#[derive(Debug)]
struct Remembering {
    rule: Arc<dyn ServerCertVerifier>,
    refused: Refused,
}

impl ServerCertVerifier for Remembering {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let verdict = self.rule.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        if verdict.is_err() {
            let mut refused = lock(&self.refused);
            *refused = Some(Fingerprint::of(end_entity));
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.rule.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.rule.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.rule.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_people_copy_them() {
        let plain = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        let one: Fingerprint = plain.parse().expect("parses");
        assert_eq!(colons.parse(), Ok(one));
        assert_eq!(format!(" SHA256:{colons}\n").parse(), Ok(one));
        assert_eq!(one.to_string(), colons);
        for wrong in ["", "ab", &"ab".repeat(31), &"+b".repeat(32), &"äb".repeat(22)] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(NotAFingerprint), "{wrong}");
        }
    }

    #[test]
    fn a_ca_file_must_have_certificates() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.pem");
        fs::write(&file, "nothing").expect("written");
        let refused = Refused::default();
        assert!(tls(&Trust::CaFile(file), refused.clone()).is_err());
        assert!(tls(&Trust::CaFile("/does/not/exist".into()), refused).is_err());
    }
}

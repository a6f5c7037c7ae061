//! Certificates: those that are given, or one of the server's own.
//!
//! A certificate that the server makes is self-signed and for all names and addresses of its
//! machine; it is generated again when these change or its expiry is near, and clients that know it by its
//! fingerprint need the new one then. Files that change are read again while the server runs;
//! if the new files are invalid, the previous certificate stays in use.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, UdpSocket},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use aws_lc_rs::digest;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs as provider},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use x509_parser::{extensions::GeneralName, prelude::*};

use crate::HttpError;

/// How long a certificate lasts that the server makes: long, because a client that trusts it does so by
/// its fingerprint.
const LASTS: SignedDuration = SignedDuration::from_hours(24 * 1826);

/// How long before its expiry it is generated again.
const RENEWED: SignedDuration = SignedDuration::from_hours(24 * 60);

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and those above it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whether the server makes them.
    pub own: bool,
}

impl CertificateFiles {
    /// Files that the server makes, in a folder of its own.
    pub fn own(folder: &Path) -> Self {
        Self { certificate: folder.join("certificate.pem"), key: folder.join("key.pem"), own: true }
    }

    fn changed(&self) -> Option<(SystemTime, SystemTime)> {
        let time = |path| fs::metadata(path).and_then(|found| found.modified()).ok();
        Some((time(&self.certificate)?, time(&self.key)?))
    }

    fn fault(&self, reason: impl std::fmt::Display) -> HttpError {
        HttpError::Certificate { path: self.certificate.clone(), reason: reason.to_string() }
    }

    fn read_chain(&self) -> Result<Vec<CertificateDer<'static>>, HttpError> {
        let read = CertificateDer::pem_file_iter(&self.certificate).map_err(|e| self.fault(e))?;
        let chain: Vec<_> = read.collect::<Result<_, _>>().map_err(|e| self.fault(e))?;
        if chain.is_empty() { Err(self.fault("it has no certificate")) } else { Ok(chain) }
    }

    /// What is known of the certificate.
    pub fn facts(&self) -> Result<CertificateFacts, HttpError> {
        let chain = self.read_chain()?;
        let first = chain.first().ok_or_else(|| self.fault("it has no certificate"))?;
        facts_of(first).map_err(|reason| self.fault(reason))
    }

    fn read(&self) -> Result<CertifiedKey, HttpError> {
        let chain = self.read_chain()?;
        let wrong = |reason: String| HttpError::Certificate { path: self.key.clone(), reason };
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| wrong(e.to_string()))?;
        let provider = provider::default_provider();
        CertifiedKey::from_der(chain, key, &provider).map_err(|e| wrong(e.to_string()))
    }
}

/// What is known of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// SHA-256 of it, in hexadecimal with colons.
    pub fingerprint: String,
    /// When it ends.
    pub ends: Timestamp,
    /// Names and addresses that it is for.
    pub names: Vec<String>,
}

fn facts_of(der: &CertificateDer<'_>) -> Result<CertificateFacts, String> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let ends = parsed.validity().not_after.timestamp();
    let ends = Timestamp::from_second(ends).map_err(|error| error.to_string())?;
    let mut names = Vec::new();
    let found = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    for name in found.map(|found| &found.value.general_names).into_iter().flatten() {
        match name {
            GeneralName::DNSName(name) => names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                names.extend(address.map(|address| address.to_string()));
            }
            _ => {}
        }
    }
    names.sort();
    Ok(CertificateFacts { fingerprint: fingerprint(der), ends, names })
}

fn fingerprint(der: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, der);
    let pairs: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

/// Names and addresses of this machine, for its certificate: its host's name, where it listens, and what else
/// the operator has named.
pub fn names(host: &str, listen: IpAddr, more: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.push(host.to_owned());
    // Which address would be used to reach somebody far away; nothing is sent.
    for (own, far) in [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")] {
        let address = UdpSocket::bind(own).and_then(|socket| {
            socket.connect(far)?;
            socket.local_addr()
        });
        names.extend(address.map(|address| address.ip().to_string()));
    }
    if !listen.is_unspecified() {
        names.push(listen.to_string());
    }
    names.extend(more.iter().cloned());
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    names
}

/// Makes the server's own certificate, unless there is one that is good.
pub fn ensure(files: &CertificateFiles, names: &[String], now: Timestamp) -> Result<(), HttpError> {
    if !files.own || is_good(files, names, now) {
        return Ok(());
    }
    let params = params(names, "Strongroom", now)?;
    let key = KeyPair::generate().map_err(bug)?;
    let certificate = params.self_signed(&key).map_err(bug)?;
    write(&files.key, &key.serialize_pem(), 0o600)?;
    write(&files.certificate, &certificate.pem(), 0o644)
}

/// As [`ensure`], with an authority above the certificate: clients such as QEMU trust no certificate that is not one of
/// an authority. Returns the file of the authority. Its key is not kept: it has signed this one certificate.
pub fn ensure_with_authority(
    files: &CertificateFiles,
    names: &[String],
    now: Timestamp,
) -> Result<PathBuf, HttpError> {
    let path = files.certificate.with_file_name("authority.pem");
    let is_signed = || {
        let authority = CertificateDer::from_pem_file(&path).ok()?;
        Some(files.read_chain().ok()?.get(1)? == &authority)
    };
    if is_good(files, names, now) && is_signed() == Some(true) {
        return Ok(path);
    }
    let mut above = params(&[], "Strongroom authority", now)?;
    above.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    above.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    above.extended_key_usages.clear();
    let issuer_key = KeyPair::generate().map_err(bug)?;
    let authority = above.self_signed(&issuer_key).map_err(bug)?;
    let mut params = params(names, "Strongroom", now)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().map_err(bug)?;
    let issuer = Issuer::from_params(&above, &issuer_key);
    let certificate = params.signed_by(&key, &issuer).map_err(bug)?;
    write(&files.key, &key.serialize_pem(), 0o600)?;
    write(&path, &authority.pem(), 0o644)?;
    let chain = format!("{}{}", certificate.pem(), authority.pem());
    write(&files.certificate, &chain, 0o644)?;
    Ok(path)
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn bug(error: rcgen::Error) -> HttpError {
    HttpError::Bug(format!("making a certificate: {error}"))
}

/// Whether there is a certificate with its key, for all these names, that does not end soon.
fn is_good(files: &CertificateFiles, names: &[String], now: Timestamp) -> bool {
    files.read().is_ok()
        && files.facts().is_ok_and(|facts| {
            facts.ends.duration_since(now) > RENEWED
                && names.iter().all(|name| facts.names.contains(name))
        })
}

/// What is in a certificate that is made now.
fn params(names: &[String], name: &str, now: Timestamp) -> Result<CertificateParams, HttpError> {
    let mut params =
        CertificateParams::new(names).map_err(|error| HttpError::Names(error.to_string()))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let day = |time: Timestamp| {
        let date = time.to_zoned(TimeZone::UTC).date();
        let part = |part: i8| u8::try_from(part).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    let yesterday = now.checked_sub(SignedDuration::from_hours(24)).unwrap_or(now);
    params.not_before = day(yesterday);
    params.not_after = day(now.checked_add(LASTS).unwrap_or(Timestamp::MAX));
    Ok(params)
}

/// Writes a file in whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), HttpError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(HttpError::local("make", folder))?;
    let unfinished = path.with_extension("new");
    let failed = |error| HttpError::local("write", path)(error);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    let mut file =
        options.write(true).create_new(true).mode(mode).open(&unfinished).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&unfinished, path).map_err(failed)
}

/// The certificate that is shown to clients; it may be replaced.
#[derive(Debug)]
pub struct Shown {
    files: CertificateFiles,
    now: RwLock<Arc<CertifiedKey>>,
    changed: RwLock<Option<(SystemTime, SystemTime)>>,
}

impl Shown {
    /// Of these files.
    pub fn new(files: CertificateFiles) -> Result<Arc<Self>, HttpError> {
        let changed = RwLock::new(files.changed());
        let now = RwLock::new(Arc::new(files.read()?));
        Ok(Arc::new(Self { files, now, changed }))
    }

    /// Reads the files again if they have changed.
    pub fn refresh(&self) {
        let changed = self.files.changed();
        {
            let mut last = self.changed.write().unwrap_or_else(PoisonError::into_inner);
            if changed.is_none() || *last == changed {
                return;
            }
            *last = changed;
        }
        match self.files.read() {
            Ok(key) => {
                *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
                let fingerprint = self.files.facts().map(|facts| facts.fingerprint);
                let fingerprint = fingerprint.unwrap_or_default();
                tracing::info!(fingerprint, "another certificate is shown from now on");
            }
            Err(error) => {
                tracing::error!(%error, "the new certificate is of no use; the old one is used on");
            }
        }
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// How connections are encrypted.
pub fn encryption(shown: Arc<Shown>) -> Result<Arc<ServerConfig>, HttpError> {
    let provider: Arc<CryptoProvider> = Arc::new(provider::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Bug(format!("TLS: {error}")))?;
    let mut config = config.with_no_client_auth().with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// How connections of clients that must show a certificate are encrypted. `authorities` is a file of PEM with the
/// certificates of those who vouch for clients.
pub fn encryption_for_known(
    shown: Arc<Shown>,
    authorities: &Path,
) -> Result<Arc<ServerConfig>, HttpError> {
    let provider: Arc<CryptoProvider> = Arc::new(provider::default_provider());
    let bad = |reason: String| HttpError::Certificate { path: authorities.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    let found =
        CertificateDer::pem_file_iter(authorities).map_err(|error| bad(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(bad("it holds no certificate".to_owned()));
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| bad(error.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| HttpError::Bug(format!("TLS: {error}")))?;
    Ok(Arc::new(config.with_client_cert_verifier(verifier).with_cert_resolver(shown)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_kept_and_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = CertificateFiles::own(&folder.path().join("tls"));
        let names = names("backup.example", IpAddr::from([127, 0, 0, 1]), &[]);
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        ensure(&files, &names, now).expect("made");
        let facts = files.facts().expect("read");
        assert_eq!(facts.names, names);
        assert_eq!(facts.fingerprint.len(), 95);
        ensure(&files, &names, now).expect("kept");
        assert_eq!(files.facts().expect("read"), facts);
        let shown = Shown::new(files.clone()).expect("is shown");
        let late = facts.ends.checked_sub(SignedDuration::from_hours(24)).expect("a time");
        ensure(&files, &names, late).expect("made anew");
        let renewed = files.facts().expect("read");
        assert_ne!(renewed.fingerprint, facts.fingerprint);
        shown.refresh();
        let now = shown.now.read().expect("locks").clone();
        assert_eq!(fingerprint(now.cert.first().expect("one")), renewed.fingerprint);
        fs::write(&files.certificate, "nonsense").expect("writes");
        shown.refresh();
        assert_eq!(shown.now.read().expect("locks").cert, now.cert);
        ensure(&files, &["other.example".to_owned()], late).expect("made anew");
        assert!(files.facts().expect("read").names.contains(&"other.example".to_owned()));
    }
}

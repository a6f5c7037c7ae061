//! Trust in the certificates of services.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use reqwest::Certificate;

use crate::StorageClientError;

/// Whose certificates are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those of the authorities that the system trusts.
    #[default]
    System,
    /// The certificates in this file, those that they have signed, and no others.
    CaFile(PathBuf),
}

/// Whether a host with its port is this machine.
pub(crate) fn is_here(authority: &str) -> bool {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    matches!(host, "localhost" | "[::1]") || host.ends_with(".localhost") || {
        host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
    }
}

/// The certificates of a file.
pub(crate) fn certificates(file: &Path) -> Result<Vec<Certificate>, StorageClientError> {
    let wrong = |reason: &str| {
        StorageClientError::Settings(format!("the CA file {} {reason}", file.display()))
    };
    let pem = fs::read(file).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|_| wrong("is not PEM"))?;
    if certificates.is_empty() { Err(wrong("has no certificate")) } else { Ok(certificates) }
}

/// The certificate's fault among the causes of an error.
pub(crate) fn distrust(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return matches!(tls, rustls::Error::InvalidCertificate(_)).then(|| tls.to_string());
        }
        // An I/O error hides the error that it was made of from `source`.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => {
                let inner: &(dyn Error + 'static) = inner;
                Some(inner)
            }
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_must_have_certificates() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.pem");
        fs::write(&file, "nothing").expect("written");
        assert!(certificates(&file).is_err());
        assert!(certificates(&folder.path().join("missing")).is_err());
    }
}

//! TLS to etcd: rustls with ring.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::options::Tls;
use crate::{Error, Result};

/// Where Debian and its kin keep whom the system trusts.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

pub(super) fn config(tls: &Tls) -> Result<Arc<ClientConfig>> {
    let ca = tls.ca.as_deref().unwrap_or(Path::new(SYSTEM_ROOTS));
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(ca)?);
    if added == 0 {
        return Err(bad(ca, "it holds no certificate of an authority"));
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(ca, &e.to_string()))?
        .with_root_certificates(roots);
    let config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|e| bad(key, &e.to_string()))?;
            builder.with_client_auth_cert(chain, private).map_err(|e| bad(certificate, &e.to_string()))?
        }
    };
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(|all| all.collect::<std::result::Result<_, _>>())
        .map_err(|e| bad(file, &e.to_string()))?;
    match found.is_empty() {
        true => Err(bad(file, "it holds no certificate")),
        false => Ok(found),
    }
}

fn bad(file: &Path, reason: &str) -> Error {
    Error::Tls { subject: file.display().to_string(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_certificates_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.pem");
        for text in [
            None,
            Some(""),
            Some("not a certificate"),
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ] {
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            let error = config(&Tls { ca: Some(file.clone()), client: None }).unwrap_err();
            assert_eq!(error.code(), "HF0422", "{text:?}");
            assert!(error.to_string().contains("ca.pem"), "{error}");
        }
    }
}

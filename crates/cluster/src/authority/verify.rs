//! TLS 1.3 between machines. Chain, purpose, name and possession of the key are proved here; dates are judged after.

use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, RootCertStore,
    ServerConfig, SignatureScheme,
};

use super::{Certificate, Error, Fingerprint, Identity, Result, Validity};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(made)?;
    Ok(Arc::new(roots))
}

fn made(error: impl std::fmt::Display) -> Error {
    Error::Make(error.to_string())
}

/// For the side that is called. Who shows no certificate gets in, as somebody without a name: it may want to join.
pub fn server_config(identity: &Identity) -> Result<Arc<ServerConfig>> {
    let inner = WebPkiClientVerifier::builder_with_provider(roots(&identity.ca)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(made)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(made)?
        .with_client_cert_verifier(Arc::new(AnyDate(inner)))
        .with_single_cert(identity.chain(), identity.key.clone_key())
        .map_err(made)?;
    // A resumed session would not prove anything again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For the side that calls, which says whom it wants.
pub fn client_config(identity: &Identity) -> Result<Arc<ClientConfig>> {
    let inner = WebPkiServerVerifier::builder_with_provider(roots(&identity.ca)?, provider()).build().map_err(made)?;
    let mut config = client(Arc::new(AnyDate(inner)))?
        .with_client_auth_cert(identity.chain(), identity.key.clone_key())
        .map_err(made)?;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// For who has a token only: any machine of the cluster whose authority has this fingerprint.
pub fn pinned(fingerprint: Fingerprint) -> Result<Arc<ClientConfig>> {
    let mut config = client(Arc::new(Pinned { fingerprint, provider: provider() }))?.with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

type Client = tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::client::WantsClientCert>;

fn client(verifier: Arc<dyn ServerCertVerifier>) -> Result<Client> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(made)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

/// Verifies as `V` does, at a time at which the certificate is valid.
#[derive(Debug)]
struct AnyDate<V: ?Sized>(Arc<V>);

fn within(certificate: &CertificateDer<'_>, now: UnixTime) -> UnixTime {
    let at = |wall_ms: u64| UnixTime::since_unix_epoch(Duration::from_millis(wall_ms));
    let Some(certificate) = Certificate::read(certificate) else { return now };
    match certificate.validity(now.as_secs().saturating_mul(1000)) {
        Validity::Good => now,
        Validity::Expired => at(certificate.not_after_wall_ms.saturating_sub(1000)),
        Validity::NotYet => at(certificate.not_before_wall_ms),
    }
}

impl ServerCertVerifier for AnyDate<WebPkiServerVerifier> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, TlsError> {
        let now = within(end_entity, now);
        self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

impl ClientCertVerifier for AnyDate<dyn ClientCertVerifier> {
    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, TlsError> {
        self.0.verify_client_cert(end_entity, intermediates, within(end_entity, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The chain must end in the authority that the token names.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, TlsError> {
        let unknown = || TlsError::InvalidCertificate(CertificateError::UnknownIssuer);
        let ca = intermediates.iter().find(|c| Fingerprint::of(c) == self.fingerprint).ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &[], now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

//! Keys, requests and certificates.

use std::net::IpAddr;
use std::time::Duration;

use holdfast_policy::time::millis;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber, date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::{AUTHORITY_VALID, BACKDATED, Certificate, Error, Fingerprint, REQUEST_BYTES_MAX, Result};

/// An uncompressed point on P-256.
const POINT_BYTES: usize = 65;
/// RFC 5280 allows 20 bytes; 16 random ones never meet again.
const SERIAL_BYTES: usize = 16;

/// Who a certificate is for. Nothing of it is taken from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// As [`super::dns_name`] makes it.
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// A key that never leaves its machine, and the request for a certificate for it.
pub struct Request {
    pub key_pem: String,
    pub request_pem: String,
}

impl Request {
    pub fn new() -> Result<Request> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(made)?;
        Request::for_key(&key)
    }

    /// Renewal keeps the key: two files could not be replaced at once.
    pub fn again(key_pem: &str) -> Result<Request> {
        Request::for_key(&KeyPair::from_pem(key_pem).map_err(made)?)
    }

    fn for_key(key: &KeyPair) -> Result<Request> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(key).map_err(made)?;
        Ok(Request { key_pem: key.serialize_pem(), request_pem: request.pem().map_err(made)? })
    }
}

/// What the authority gave out.
#[derive(Clone, Debug)]
pub struct Issued {
    pub pem: String,
    pub certificate: Certificate,
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub ca_pem: String,
    pub(super) key_pem: String,
    pub fingerprint: Fingerprint,
}

impl Authority {
    pub fn create(cluster: &str, wall_ms: u64) -> Result<Authority> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(made)?;
        let mut params = params(&format!("holdfast {cluster}"), wall_ms, AUTHORITY_VALID)?;
        // It signs machines, and no other authority.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(made)?;
        Authority::load(&certificate.pem(), &key.serialize_pem())
    }

    pub fn load(ca_pem: &str, key_pem: &str) -> Result<Authority> {
        let key = KeyPair::from_pem(key_pem).map_err(made)?;
        let der = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|e| Error::Make(e.to_string()))?;
        let certificate = Certificate::read(&der).ok_or_else(|| Error::Make("its certificate is damaged".into()))?;
        if certificate.key != Fingerprint::of(&key.subject_public_key_info()) {
            return Err(Error::Make("key and certificate of the authority do not belong together".into()));
        }
        Ok(Authority {
            issuer: Issuer::from_ca_cert_der(&der, key).map_err(made)?,
            ca_pem: ca_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            fingerprint: Fingerprint::of(&der),
        })
    }

    /// Of the request only the public key is used, after its owner has proved to have the other half.
    pub fn issue(&self, request_pem: &str, subject: &Subject, wall_ms: u64, valid: Duration) -> Result<Issued> {
        let refused = |reason: &str| Error::Request { reason: reason.to_owned() };
        if request_pem.len() > REQUEST_BYTES_MAX {
            return Err(refused("it is too long"));
        }
        let request = CertificateSigningRequestParams::from_pem(request_pem).map_err(|e| refused(&e.to_string()))?;
        let key = &request.public_key;
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != POINT_BYTES {
            return Err(refused("the key is not of ECDSA P-256"));
        }
        if Fingerprint::of(&key.subject_public_key_info())
            == Fingerprint::of(&self.issuer.key().subject_public_key_info())
        {
            return Err(refused("the key is the authority's own"));
        }
        let mut params = params(&subject.name, wall_ms, valid)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let name = Ia5String::try_from(subject.name.clone()).map_err(made)?;
        params.subject_alt_names.push(SanType::DnsName(name));
        params.subject_alt_names.extend(subject.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        let signed = params.signed_by(key, &self.issuer).map_err(made)?;
        let certificate = Certificate::read(signed.der()).ok_or_else(|| refused("what was made is damaged"))?;
        Ok(Issued { pem: signed.pem(), certificate })
    }
}

fn params(name: &str, wall_ms: u64, valid: Duration) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = date_time_ymd(1970, 1, 1);
    let at = |wall_ms: u64| epoch + Duration::from_millis(wall_ms);
    // A short one must have its half life ahead.
    params.not_before = at(wall_ms.saturating_sub(millis(BACKDATED.min(valid / 4))));
    params.not_after = at(wall_ms.saturating_add(millis(valid)));
    let mut serial = [0; SERIAL_BYTES];
    SystemRandom::new().fill(&mut serial).map_err(|_| Error::Make("no random numbers".into()))?;
    // A serial number is positive and has no leading zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn made(error: impl std::fmt::Display) -> Error {
    Error::Make(error.to_string())
}

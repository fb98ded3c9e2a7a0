//! What stands in a certificate.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ring::digest::{SHA256, digest};
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// SHA-256 of a certificate, or of a public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub fn of(bytes: &[u8]) -> Fingerprint {
        let mut all = [0; 32];
        all.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Fingerprint(all)
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Fingerprint {
    type Err = ();

    fn from_str(text: &str) -> Result<Fingerprint, ()> {
        let mut all = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(());
        }
        for (byte, digits) in all.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(drop)?;
            *byte = u8::from_str_radix(digits, 16).map_err(drop)?;
        }
        Ok(Fingerprint(all))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Good,
    Expired,
    /// Or a clock is wrong.
    NotYet,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub not_before_wall_ms: u64,
    pub not_after_wall_ms: u64,
    /// Of its public key.
    pub key: Fingerprint,
    pub serial: String,
}

impl Certificate {
    pub fn read(der: &CertificateDer<'_>) -> Option<Certificate> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let (mut names, mut addresses) = (Vec::new(), Vec::new());
        if let Ok(Some(all)) = parsed.subject_alternative_name() {
            for name in &all.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        let wall_ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        Some(Certificate {
            names,
            addresses,
            not_before_wall_ms: wall_ms(parsed.validity().not_before.timestamp()),
            not_after_wall_ms: wall_ms(parsed.validity().not_after.timestamp()),
            key: Fingerprint::of(parsed.public_key().raw),
            serial: parsed.raw_serial_as_string().replace(':', ""),
        })
    }

    pub fn validity(&self, wall_ms: u64) -> Validity {
        if wall_ms < self.not_before_wall_ms {
            Validity::NotYet
        } else if wall_ms >= self.not_after_wall_ms {
            Validity::Expired
        } else {
            Validity::Good
        }
    }

    /// From then on it should be renewed.
    pub fn half_life_wall_ms(&self) -> u64 {
        self.not_before_wall_ms + self.not_after_wall_ms.saturating_sub(self.not_before_wall_ms) / 2
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

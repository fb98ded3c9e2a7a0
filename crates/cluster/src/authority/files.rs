//! `DATA/tls/`: PEM files that only the agent's user can read.

use std::path::{Path, PathBuf};

use holdfast_host::files;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{Authority, Certificate, Error, Fingerprint, Result};

/// A certificate or a key is some 1 KiB.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What a machine shows to others.
pub struct Identity {
    pub(super) ca: CertificateDer<'static>,
    node: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
    pub certificate: Certificate,
    /// Of the authority.
    pub fingerprint: Fingerprint,
    pub key_pem: String,
    ca_pem: String,
}

impl Identity {
    /// With the authority's own certificate: who joins knows nothing but its fingerprint.
    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.node.clone(), self.ca.clone()]
    }

    /// Also whether key and certificate belong together; not whether the authority has signed it.
    pub fn load(ca_pem: &str, node_pem: &str, key_pem: &str) -> Result<Identity> {
        let bad = |what: &str, e: &dyn std::fmt::Display| Error::Make(format!("{what}: {e}"));
        let certificate = |what, pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| bad(what, &e));
        let (ca, node) = (certificate("ca.pem", ca_pem)?, certificate("node.pem", node_pem)?);
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| bad("node.key", &e))?;
        let read = Certificate::read(&node).ok_or_else(|| bad("node.pem", &"it is damaged"))?;
        let pair = rcgen::KeyPair::from_pem(key_pem).map_err(|e| bad("node.key", &e))?;
        if Fingerprint::of(&rcgen::PublicKeyData::subject_public_key_info(&pair)) != read.key {
            return Err(bad("node.key", &"it does not belong to node.pem"));
        }
        let fingerprint = Fingerprint::of(&ca);
        Ok(Identity {
            ca,
            node,
            key,
            certificate: read,
            fingerprint,
            key_pem: key_pem.to_owned(),
            ca_pem: ca_pem.to_owned(),
        })
    }
}

#[derive(Clone, Debug)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    pub fn new(data_dir: &Path) -> Files {
        Files { dir: data_dir.join("tls") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.path(name);
        let bytes = files::read_optional(&path, FILE_BYTES_MAX)?;
        let text = |bytes| String::from_utf8(bytes).map_err(|e| Error::File { path, reason: e.to_string() });
        bytes.map(text).transpose()
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        files::create_dir(&self.dir)?;
        Ok(files::write_atomic(&self.path(name), text.as_bytes())?)
    }

    /// `None` on a machine that does not keep the authority's key.
    pub fn authority(&self) -> Result<Option<Authority>> {
        let (Some(key), Some(ca)) = (self.read("ca.key")?, self.read("ca.pem")?) else { return Ok(None) };
        Authority::load(&ca, &key).map(Some).map_err(|e| self.named("ca.key", &e))
    }

    /// `None` before it has joined.
    pub fn identity(&self) -> Result<Option<Identity>> {
        let all = (self.read("ca.pem")?, self.read("node.pem")?, self.read("node.key")?);
        let (Some(ca), Some(node), Some(key)) = all else { return Ok(None) };
        Identity::load(&ca, &node, &key).map(Some).map_err(|e| self.named("node.pem", &e))
    }

    /// Changes with the files.
    pub fn stamp(&self) -> Vec<Option<(std::time::SystemTime, u64)>> {
        let one =
            |name: &str| std::fs::metadata(self.path(name)).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
        ["ca.pem", "ca.key", "node.pem", "node.key"].map(one).to_vec()
    }

    pub fn keep_authority(&self, authority: &Authority) -> Result<()> {
        self.write("ca.key", &authority.key_pem)?;
        self.write("ca.pem", &authority.ca_pem)
    }

    /// The certificate comes last: before it is there, this machine has none.
    pub fn keep_joined(&self, ca_pem: &str, node_pem: &str, key_pem: &str) -> Result<()> {
        Identity::load(ca_pem, node_pem, key_pem)?;
        self.write("node.key", key_pem)?;
        self.write("ca.pem", ca_pem)?;
        self.write("node.pem", node_pem)
    }

    /// For the same key.
    pub fn keep_renewed(&self, node_pem: &str, before: &Identity) -> Result<()> {
        Identity::load(&before.ca_pem, node_pem, &before.key_pem)?;
        self.write("node.pem", node_pem)
    }

    fn named(&self, name: &str, error: &Error) -> Error {
        Error::File { path: self.path(name), reason: error.to_string() }
    }
}

/// Without the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?}, {})", self.certificate.names, self.fingerprint)
    }
}

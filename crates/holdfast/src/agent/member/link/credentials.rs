//! What lies in `DATA/tls/`, as it is now: commands write there while the agent runs.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_cluster::authority::{self, Authority, Error, Files, Identity, Validity};
use holdfast_host::clock;
use tokio::sync::watch;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

/// This machine's certificate, ready for use.
pub(crate) struct Shown {
    pub(crate) identity: Identity,
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
}

#[derive(Default)]
pub(crate) struct Credentials {
    /// Rises with each change: connections of an older one are not used.
    pub(super) number: u64,
    pub(crate) shown: Option<Shown>,
    /// Only where the authority's key is kept.
    pub(crate) authority: Option<Authority>,
    /// Why the files cannot be used.
    pub(crate) trouble: Option<String>,
}

impl Credentials {
    pub(crate) fn validity(&self) -> Option<Validity> {
        self.shown.as_ref().map(|shown| shown.identity.certificate.validity(clock::wall_ms()))
    }

    fn load(files: &Files, number: u64) -> Credentials {
        let load = || -> Result<Credentials, Error> {
            let shown = files.identity()?.map(|identity| {
                let server = authority::server_config(&identity)?;
                let client = authority::client_config(&identity)?;
                Ok::<_, Error>(Shown { identity, server, client })
            });
            let authority = files.authority()?;
            Ok(Credentials { number, shown: shown.transpose()?, authority, trouble: None })
        };
        load().unwrap_or_else(|error| {
            tracing::warn!(code = error.code(), %error, "the certificates of this machine cannot be used");
            Credentials { number, trouble: Some(error.to_string()), ..Credentials::default() }
        })
    }
}

type Stamp = Vec<Option<(std::time::SystemTime, u64)>>;

pub(crate) struct Keeper {
    pub(super) files: Files,
    stamp: Mutex<Stamp>,
    current: watch::Sender<Arc<Credentials>>,
}

impl Keeper {
    pub(crate) fn new(data_dir: &Path) -> Keeper {
        let files = Files::new(data_dir);
        let stamp = files.stamp();
        let current = Arc::new(Credentials::load(&files, 0));
        Keeper { files, stamp: Mutex::new(stamp), current: watch::Sender::new(current) }
    }

    pub(super) fn now(&self) -> Arc<Credentials> {
        self.current.borrow().clone()
    }

    /// Reads the files again when they have changed. What was good stays in use while what is there now is not.
    pub(super) fn refresh(&self) {
        let stamp = self.files.stamp();
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == stamp {
            return;
        }
        let loaded = Credentials::load(&self.files, self.now().number + 1);
        *known = stamp;
        if loaded.trouble.is_none() || self.now().shown.is_none() {
            self.current.send_replace(Arc::new(loaded));
        }
    }
}

//! What an authority answers when it does not do it.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} cannot be used: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error(transparent)]
    Host(#[from] holdfast_host::files::Error),
    #[error("there is an authority already (fingerprint {fingerprint})")]
    Exists { fingerprint: String },
    #[error("this machine has no authority: {reason}")]
    Missing { reason: String },
    #[error("the token is refused: {reason}")]
    Token { reason: &'static str },
    #[error("who answers is not of the cluster that the token names")]
    Stranger,
    #[error("the request for a certificate is refused: {reason}")]
    Request { reason: String },
    #[error("`{name}` cannot stand in a certificate: {reason}")]
    Name { name: String, reason: &'static str },
    #[error("{node} has a certificate already, for another key")]
    Taken { node: String },
    #[error("{node} may not be renewed: {reason}")]
    Renewal { node: String, reason: &'static str },
    #[error("a certificate cannot be made: {0}")]
    Make(String),
    #[error(transparent)]
    Store(#[from] crate::Error),
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Error::File { .. } | Error::Make(_) => "HF0376",
            Error::Host(e) => e.code(),
            Error::Exists { .. } => "HF0377",
            Error::Missing { .. } => "HF0378",
            Error::Token { .. } => "HF0379",
            Error::Stranger => "HF0380",
            Error::Request { .. } | Error::Name { .. } => "HF0381",
            Error::Taken { .. } => "HF0384",
            Error::Renewal { .. } => "HF0386",
            Error::Store(e) => e.code(),
        }
    }

    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Host(e) => return e.hint(),
            Error::Store(e) => return e.hint(),
            Error::File { .. } => "look at it: openssl x509 -in FILE -noout -subject -dates",
            Error::Exists { .. } => "other machines join it: holdfast cluster token",
            Error::Missing { .. } => "holdfast cluster init makes one, once for the whole cluster",
            Error::Token { .. } => "make another one on a member: holdfast cluster token",
            Error::Stranger => "compare the address with the machine that printed the token; nothing was sent to it",
            Error::Name { .. } => "name this machine with --node: small letters, digits and `-`",
            Error::Taken { .. } => "a token for that name replaces it: holdfast cluster token --for NAME",
            Error::Renewal { .. } => "holdfast cluster renew NODE, on any member",
            Error::Request { .. } | Error::Make(_) => return None,
        };
        Some(text.into())
    }
}

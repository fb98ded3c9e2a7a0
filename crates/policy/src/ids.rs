//! The names of things, as every crate and every stored record spells them.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

/// A machine in the cluster; on one machine its host name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub Arc<str>);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for NodeId {
    fn from(name: &str) -> Self {
        NodeId(name.into())
    }
}

/// One running copy of a service: `web-2`. Ordinals count from 1.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    pub service: Arc<str>,
    pub ordinal: u32,
}

impl InstanceId {
    pub fn new(service: impl Into<Arc<str>>, ordinal: u32) -> Self {
        InstanceId { service: service.into(), ordinal }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.service, self.ordinal)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `text` is not `NAME-ORDINAL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnInstance(pub String);

impl fmt::Display for NotAnInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not an instance id such as web-2", self.0)
    }
}

impl std::error::Error for NotAnInstance {}

impl FromStr for InstanceId {
    type Err = NotAnInstance;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (service, ordinal) = text.rsplit_once('-').ok_or_else(|| NotAnInstance(text.into()))?;
        match ordinal.parse() {
            Ok(n) if n > 0 && !service.is_empty() => Ok(InstanceId::new(service, n)),
            _ => Err(NotAnInstance(text.into())),
        }
    }
}

/// Which life of an instance is meant. `generation` counts shims (the agent hands it out, durable and
/// strictly rising); `run` counts children of that shim, from 1. Run 0 means that none was spawned yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation {
    pub generation: u64,
    pub run: u32,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.run)
    }
}

impl FromStr for Incarnation {
    type Err = NotAnInstance;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (generation, run) = text.split_once('.')?;
            Some(Incarnation { generation: generation.parse().ok()?, run: run.parse().ok()? })
        };
        parse().ok_or_else(|| NotAnInstance(text.into()))
    }
}

/// What an endpoint is to its peers. Databases and standby tiers give the other values meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Role {
    #[default]
    Active,
    Standby,
}

/// Where an instance answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub addr: SocketAddr,
    pub node: NodeId,
    pub zone: Option<Arc<str>>,
    pub role: Role,
    /// Epoch of the decision that made it so; a balancer refuses a lower one.
    pub epoch: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_id_reads_back_what_it_prints() {
        for text in ["web-1", "two-words-12"] {
            assert_eq!(text.parse::<InstanceId>().unwrap().to_string(), text);
        }
        for text in ["web", "web-", "-1", "web-0", "web-x"] {
            assert!(text.parse::<InstanceId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_later_generation_is_later_whatever_the_run() {
        let old = Incarnation { generation: 3, run: 90 };
        let new = Incarnation { generation: 4, run: 0 };
        assert!(new > old);
        assert_eq!("4.0".parse::<Incarnation>().unwrap(), new);
    }
}

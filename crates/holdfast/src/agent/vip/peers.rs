//! The other nodes that may carry an address, asked when the store does not answer.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use holdfast_policy::vip::Peers as Found;

/// Written against the agents' link, which asks every other balancer node at once and waits a bounded time.
pub(crate) trait Peers: Send + Sync {
    /// Whether there are any.
    fn others(&self) -> bool;

    /// [`Found::AllClear`] only when every one of them answered so. A [`quick`](holdfast_policy::vip::quick) question is
    /// answered in time or not at all.
    fn ask(&self, address: IpAddr, quick: bool) -> Pin<Box<dyn Future<Output = Found> + Send + '_>>;
}

/// One node only.
pub(crate) struct Alone;

impl Peers for Alone {
    fn others(&self) -> bool {
        false
    }

    fn ask(&self, _: IpAddr, _: bool) -> Pin<Box<dyn Future<Output = Found> + Send + '_>> {
        Box::pin(std::future::ready(Found::AllClear))
    }
}

//! Accepting: one task per socket, each connection a task of its own.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use crate::core::{Balancer, Common, Core, Process};
use crate::wire::answer::Refusal;
use crate::wire::session::Session;

/// Out of descriptors or memory: accepting again at once would only burn CPU.
const PAUSE: Duration = Duration::from_millis(50);

/// A client connection, counted until dropped.
struct Counted {
    process: Arc<Process>,
    common: Arc<Common>,
}

impl Counted {
    fn new(core: &Core, common: Arc<Common>) -> Counted {
        core.process.connections.fetch_add(1, Relaxed);
        common.connections.fetch_add(1, Relaxed);
        Counted { process: core.process.clone(), common }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.process.connections.fetch_sub(1, Relaxed);
        self.common.connections.fetch_sub(1, Relaxed);
    }
}

/// Accepts until its task is aborted.
pub(super) async fn run(core: Rc<Core>, balancer: Rc<Balancer>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => take(&core, &balancer, stream, peer),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(balancer = balancer.name, %error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn take(core: &Rc<Core>, balancer: &Rc<Balancer>, stream: TcpStream, peer: SocketAddr) {
    let Some(route) = balancer.route() else { return };
    if route.common.connections.load(Relaxed) >= route.limits.connections {
        let mut out = Vec::new();
        Refusal::Full.write(&mut out, false, 1, false);
        // A fresh socket has room; whoever cannot take it is closed all the same.
        let _ = stream.try_write(&out);
        return;
    }
    let _ = SockRef::from(&stream).set_tcp_nodelay(true);
    let counted = Counted::new(core, route.common.clone());
    let session = Session::new(core, balancer.clone(), stream, peer);
    tokio::task::spawn_local(async move {
        session.run().await;
        drop(counted);
    });
}

/// The connection was gone before it was accepted.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

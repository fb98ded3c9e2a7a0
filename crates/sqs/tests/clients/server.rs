//! The face behind a real HTTP server on a free port of the loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use holdfast_sqs::{BODY_BYTES_MAX, Face, Keys, Options};

use crate::memory::Memory;

pub(crate) struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(keys: Keys) -> Server {
        let options = Options { region: "eu-west-1".into(), account: "000000000000".into(), keys, base: None };
        let face = Arc::new(Face::new(Arc::new(Memory::default()), options));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has free ports");
        let address = listener.local_addr().expect("a listener has an address");
        Server { address, task: tokio::spawn(accept(listener, face)) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, face: Arc<Face<Memory>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let face = face.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&face, request));
            // The client may go away at any time.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(face: &Face<Memory>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let response = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => face.handle(head, body.to_bytes()).await.map(Full::new),
        Err(_) => face.too_large(&head).map(Full::new),
    };
    Ok(response)
}

//! From a request to its answer: who asks, for which action, and what the backend says to it.

mod batch;
mod checks;
mod messages;
mod moves;
mod outgoing;
mod queues;
mod received;
mod session;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Response;
use http::header::{HOST, HeaderMap};
use http::request::Parts;

use crate::action::Action;
use crate::address::Home;
use crate::auth::{Keyring, Keys};
use crate::backend::Backend;
use crate::fault::{Fault, Result, TOO_LARGE};
use crate::limits::BODY_BYTES_MAX;
use crate::wire::{Answer, Call, Protocol};
use session::Session;

/// What a face says about itself, and who may use it.
#[derive(Debug)]
pub struct Options {
    /// In the ARNs of queues, such as `eu-west-1`. Clients may sign for any region.
    pub region: String,
    /// 12 digits, in the ARNs and URLs of queues.
    pub account: String,
    pub keys: Keys,
    /// Beginning of the URLs of queues, such as `https://sqs.example.org`. `None`: as the client called, by its `Host`
    /// and by `X-Forwarded-Proto` where a proxy took the encryption off.
    pub base: Option<String>,
}

/// SQS over a [`Backend`].
pub struct Face<B> {
    backend: Arc<B>,
    home: Home,
    base: Option<String>,
    keys: Keyring,
    requests: RequestIds,
}

impl<B: Backend> Face<B> {
    pub fn new(backend: Arc<B>, options: Options) -> Face<B> {
        let Options { region, account, keys, base } = options;
        let base = base.map(|base| base.trim_end_matches('/').to_owned());
        let keys = Keyring::new(keys);
        Face { backend, home: Home { region, account }, base, keys, requests: RequestIds::new() }
    }

    /// Answers one request. Every error is an answer, too. A receive takes up to 20 seconds; dropping it ends it.
    pub async fn handle(&self, head: Parts, body: Bytes) -> Response<Bytes> {
        let request = self.requests.next();
        let protocol = Protocol::of(&head);
        let outcome = self.answer(protocol, &head, &body, &request).await;
        protocol.respond(outcome, &request)
    }

    /// The answer to a request whose body is longer than [`BODY_BYTES_MAX`], for a caller that stopped reading there.
    pub fn too_large(&self, head: &Parts) -> Response<Bytes> {
        let fault = Fault::new(TOO_LARGE, format!("The request is longer than {BODY_BYTES_MAX} bytes."));
        Protocol::of(head).respond(Err(fault), &self.requests.next())
    }

    async fn answer(&self, protocol: Protocol, head: &Parts, body: &[u8], request: &str) -> Result<Answer> {
        let who = self.keys.verify(head, body, now_s())?;
        let call = Call::new(protocol, head, body, request)?;
        let base = self.base.clone().unwrap_or_else(|| base(&head.headers));
        let session = Session { backend: &*self.backend, home: &self.home, base, who, call: &call };
        match call.action {
            Action::AddPermission => session.add_permission(call.read()?).await,
            Action::CancelMessageMoveTask => session.cancel_move(call.read()?).await,
            Action::ChangeMessageVisibility => session.change_visibility(call.read()?).await,
            Action::ChangeMessageVisibilityBatch => session.change_visibility_batch(call.read()?).await,
            Action::CreateQueue => session.create_queue(call.read()?).await,
            Action::DeleteMessage => session.delete_message(call.read()?).await,
            Action::DeleteMessageBatch => session.delete_message_batch(call.read()?).await,
            Action::DeleteQueue => session.delete_queue(call.read()?).await,
            Action::GetQueueAttributes => session.get_queue_attributes(call.read()?).await,
            Action::GetQueueUrl => session.get_queue_url(call.read()?).await,
            Action::ListDeadLetterSourceQueues => session.list_dead_letter_sources(call.read()?).await,
            Action::ListMessageMoveTasks => session.list_moves(call.read()?).await,
            Action::ListQueues => session.list_queues(call.read()?).await,
            Action::ListQueueTags => session.list_tags(call.read()?).await,
            Action::PurgeQueue => session.purge_queue(call.read()?).await,
            Action::ReceiveMessage => session.receive_message(call.read()?).await,
            Action::RemovePermission => session.remove_permission(call.read()?).await,
            Action::SendMessage => session.send_message(call.read()?).await,
            Action::SendMessageBatch => session.send_message_batch(call.read()?).await,
            Action::SetQueueAttributes => session.set_queue_attributes(call.read()?).await,
            Action::StartMessageMoveTask => session.start_move(call.read()?).await,
            Action::TagQueue => session.tag_queue(call.read()?).await,
            Action::UntagQueue => session.untag_queue(call.read()?).await,
        }
    }
}

/// Where the client found this face.
fn base(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = if text("x-forwarded-proto") == Some("https") { "https" } else { "http" };
    format!("{scheme}://{}", text(HOST.as_str()).unwrap_or("localhost"))
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Ids that look like UUIDs: a counter, keyed afresh in each process.
struct RequestIds {
    key: RandomState,
    count: AtomicU64,
}

impl RequestIds {
    fn new() -> RequestIds {
        RequestIds { key: RandomState::new(), count: AtomicU64::new(0) }
    }

    fn next(&self) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let (high, low) = (self.key.hash_one(count), self.key.hash_one(!count));
        let id = u128::from(high) << 64 | u128::from(low);
        let (a, b, c, d) = (id >> 96, id >> 80 & 0xffff, id >> 64 & 0xffff, id >> 48 & 0xffff);
        format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{:012x}", id & 0xffff_ffff_ffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_differ_and_have_the_form_of_a_uuid() {
        let ids = RequestIds::new();
        let (one, two) = (ids.next(), ids.next());
        assert_ne!(one, two);
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    }

    #[test]
    fn the_base_is_what_the_client_called() {
        let mut headers = HeaderMap::new();
        assert_eq!(base(&headers), "http://localhost");
        headers.insert(HOST, "q.example:81".parse().unwrap());
        assert_eq!(base(&headers), "http://q.example:81");
        headers.insert("x-forwarded-proto", "https".parse().unwrap());
        assert_eq!(base(&headers), "https://q.example:81");
    }
}

//! Send, receive, delete, change visibility.

use super::batch::{self, Sorted, failed, only, same_length};
use super::checks::{fifo_id, range, receipt, required, wrong_type};
use super::outgoing;
use super::received::Wanted;
use super::session::Session;
use crate::address::is_fifo;
use crate::backend::{Backend, Receive};
use crate::fault::{BATCH_TOO_LONG, Fault, INVALID_PARAMETER, Result};
use crate::limits::{MESSAGE_BYTES_MAX, RECEIVE_MAX, VISIBILITY_MAX_S, WAIT_MAX_S};
use crate::shapes::{
    Batch, BatchAnswer, ChangeMessageVisibility, DeleteMessage, ReceiveMessage, ReceiveMessageAnswer, SendMessage,
};
use crate::wire::Answer;

impl<B: Backend> Session<'_, B> {
    pub(super) async fn send_message(&self, request: SendMessage<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let (message, digests) = outgoing::check(request, is_fifo(&queue), &self.who.id)?;
        let sent = only(self.backend.send(&queue, vec![message]).await?)?;
        self.write(&digests.answer(None, sent))
    }

    pub(super) async fn send_message_batch(&self, request: Batch<'_, SendMessage<'_>>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let is_fifo = is_fifo(&queue);
        let entries = batch::entries(request.entries)?;
        check_batch(&entries, is_fifo)?;
        let Sorted { ids, good, failed: mut refused } =
            Sorted::new(entries, |mut entry| (entry.id.take(), outgoing::check(entry, is_fifo, &self.who.id)))?;
        let (messages, digests): (Vec<_>, Vec<_>) = good.into_iter().unzip();
        let asked = messages.len();
        let results = if asked == 0 { vec![] } else { self.backend.send(&queue, messages).await? };
        same_length(asked, results.len())?;
        let mut successful = Vec::with_capacity(asked);
        for ((id, digests), result) in ids.into_iter().zip(digests).zip(results) {
            match result {
                Ok(sent) => successful.push(digests.answer(Some(id), sent)),
                Err(error) => refused.push(failed(id, error.into())),
            }
        }
        self.write(&BatchAnswer { successful, failed: refused })
    }

    pub(super) async fn receive_message(&self, request: ReceiveMessage<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let system = [request.message_system_attribute_names, request.attribute_names];
        let wanted = Wanted::new(system, request.message_attribute_names)?;
        let messages_max = range("MaxNumberOfMessages", request.max_number_of_messages, 1, RECEIVE_MAX)?.unwrap_or(1);
        let visibility_timeout = range("VisibilityTimeout", request.visibility_timeout, 0, VISIBILITY_MAX_S)?;
        let wait = range("WaitTimeSeconds", request.wait_time_seconds, 0, WAIT_MAX_S)?;
        let attempt_id = fifo_id("ReceiveRequestAttemptId", request.receive_request_attempt_id)?;
        if let Some(id) = attempt_id.as_ref().filter(|_| !is_fifo(&queue)) {
            return Err(wrong_type("ReceiveRequestAttemptId", id));
        }
        let receive = Receive { messages_max, visibility_timeout, wait, attempt_id };
        let received = self.backend.receive(&queue, receive).await?;
        let messages: Option<Vec<_>> = received.iter().map(|message| wanted.show(message, self.home)).collect();
        let messages = messages.ok_or_else(|| Fault::internal("the attributes of a message cannot be read"))?;
        self.write(&ReceiveMessageAnswer { messages })
    }

    pub(super) async fn delete_message(&self, request: DeleteMessage<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let receipt = receipt(request.receipt_handle)?;
        only(self.backend.acknowledge(&queue, vec![receipt]).await?)?;
        self.done()
    }

    pub(super) async fn delete_message_batch(&self, request: Batch<'_, DeleteMessage<'_>>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let entries = batch::entries(request.entries)?;
        let Sorted { ids, good, failed } = Sorted::new(entries, |entry| (entry.id, receipt(entry.receipt_handle)))?;
        let results = if good.is_empty() { vec![] } else { self.backend.acknowledge(&queue, good).await? };
        self.write(&batch::answer(ids, results, failed)?)
    }

    pub(super) async fn change_visibility(&self, mut request: ChangeMessageVisibility<'_>) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let change = change(&mut request)?;
        only(self.backend.change_visibility(&queue, vec![change]).await?)?;
        self.done()
    }

    pub(super) async fn change_visibility_batch(
        &self,
        request: Batch<'_, ChangeMessageVisibility<'_>>,
    ) -> Result<Answer> {
        let queue = self.queue(request.queue_url.as_ref())?;
        let entries = batch::entries(request.entries)?;
        let Sorted { ids, good, failed } = Sorted::new(entries, |mut entry| {
            let change = change(&mut entry);
            (entry.id, change)
        })?;
        let results = if good.is_empty() { vec![] } else { self.backend.change_visibility(&queue, good).await? };
        self.write(&batch::answer(ids, results, failed)?)
    }
}

/// A batch is refused as a whole when it is too long, or when a FIFO queue would get a message without a group.
fn check_batch(entries: &[SendMessage], is_fifo: bool) -> Result<()> {
    let bytes: usize = entries.iter().map(outgoing::size_bytes).sum();
    if bytes > MESSAGE_BYTES_MAX {
        let message =
            format!("Batch requests cannot be longer than {MESSAGE_BYTES_MAX} bytes. You have sent {bytes} bytes.");
        return Err(Fault::new(BATCH_TOO_LONG, message));
    }
    if is_fifo && entries.iter().any(|entry| entry.message_group_id.is_none()) {
        // A single message without its group is a `MissingParameter`; SQS calls a batch with one invalid.
        return Err(Fault { kind: INVALID_PARAMETER, ..Fault::missing("MessageGroupId") });
    }
    Ok(())
}

/// Receipt and seconds.
fn change(entry: &mut ChangeMessageVisibility) -> Result<(String, u32)> {
    let receipt = receipt(entry.receipt_handle.take())?;
    let seconds = range("VisibilityTimeout", entry.visibility_timeout, 0, VISIBILITY_MAX_S)?;
    Ok((receipt, required("VisibilityTimeout", seconds)?))
}

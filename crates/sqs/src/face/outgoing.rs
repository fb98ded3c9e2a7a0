//! A message on its way in: checked, digested, and ready for the backend.

use super::checks::{fifo_id, range, required, wrong_type};
use crate::attributes::{self, Packed, is_xml_text};
use crate::backend::{Outgoing, Sent};
use crate::digest::{Hex, md5};
use crate::fault::{Fault, INVALID_CONTENTS, INVALID_PARAMETER, Result};
use crate::limits::{DELAY_MAX_S, MESSAGE_BYTES_MAX};
use crate::shapes::{SendMessage, SendMessageAnswer, Text};

/// Digests of what was sent, for the answer.
#[derive(Debug)]
pub(super) struct Digests {
    body: Hex<32>,
    attributes: Option<Hex<32>>,
    system_attributes: Option<Hex<32>>,
}

impl Digests {
    pub(super) fn answer<'a>(self, id: Option<Text<'a>>, sent: Sent) -> SendMessageAnswer<'a> {
        SendMessageAnswer {
            id,
            message_id: sent.message_id,
            body_md5: self.body,
            attributes_md5: self.attributes,
            system_attributes_md5: self.system_attributes,
            sequence_number: sent.sequence.map(sequence_number),
        }
    }
}

/// 20 digits, so that clients may compare them as texts.
pub(super) fn sequence_number(sequence: u64) -> String {
    format!("{sequence:020}")
}

/// Checks one message, alone or of a batch.
pub(super) fn check(message: SendMessage, is_fifo: bool, sender: &str) -> Result<(Outgoing, Digests)> {
    let body = required("MessageBody", message.message_body)?;
    if body.is_empty() {
        return Err(Fault::missing("MessageBody"));
    }
    if !is_xml_text(&body) {
        let allowed = "#x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF";
        let message = format!("The message has characters outside of XML; allowed are {allowed}.");
        return Err(Fault::new(INVALID_CONTENTS, message));
    }
    let packed = Packed::new(message.message_attributes.as_ref())?;
    let trace = attributes::trace_header(message.message_system_attributes.as_ref())?;
    let delay = range("DelaySeconds", message.delay_seconds, 0, DELAY_MAX_S)?;
    let digests = Digests {
        body: md5(body.as_bytes()),
        attributes: packed.md5,
        system_attributes: trace.as_ref().map(|(_, md5)| *md5),
    };
    let outgoing = Outgoing {
        body: body.into_string(),
        attributes: packed.bytes,
        trace_header: trace.map(|(header, _)| header),
        delay,
        group: fifo_id("MessageGroupId", message.message_group_id)?,
        deduplication_id: fifo_id("MessageDeduplicationId", message.message_deduplication_id)?,
        sender: sender.to_owned(),
    };
    let outgoing = if is_fifo { fifo(outgoing)? } else { standard(outgoing)? };
    if outgoing.size_bytes() > MESSAGE_BYTES_MAX {
        let message = format!(
            "One or more parameters are invalid. Reason: Message must be shorter than {MESSAGE_BYTES_MAX} bytes."
        );
        return Err(Fault::new(INVALID_PARAMETER, message));
    }
    Ok((outgoing, digests))
}

/// A FIFO queue delays all its messages alike. A delay of nothing is what some clients always send.
fn fifo(mut message: Outgoing) -> Result<Outgoing> {
    if message.group.is_none() {
        return Err(Fault::missing("MessageGroupId"));
    }
    match message.delay.take() {
        None | Some(0) => Ok(message),
        Some(delay) => Err(wrong_type("DelaySeconds", delay)),
    }
}

/// Groups are welcome in standard queues, for fairness between them.
fn standard(message: Outgoing) -> Result<Outgoing> {
    match &message.deduplication_id {
        Some(id) => Err(wrong_type("MessageDeduplicationId", id)),
        None => Ok(message),
    }
}

/// Bytes that count against the largest batch, before anything is checked.
pub(super) fn size_bytes(message: &SendMessage) -> usize {
    let attributes = message.message_attributes.iter().flat_map(|map| &map.items);
    let sizes = attributes.map(|(name, value)| {
        let text = |text: &Option<Text>| text.as_ref().map_or(0, |text| text.len());
        let binary = value.binary_value.as_ref().map_or(0, |bytes| bytes.0.len());
        name.len() + text(&value.data_type) + text(&value.string_value) + binary
    });
    message.message_body.as_ref().map_or(0, |body| body.len()) + sizes.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(is_fifo: bool, json: serde_json::Value) -> Result<(Outgoing, Digests)> {
        let text = json.to_string();
        check(serde_json::from_str(&text).unwrap(), is_fifo, "me")
    }

    #[test]
    fn a_message_with_everything() {
        let (message, digests) = checked(
            true,
            serde_json::json!({
                "MessageBody": "msg", "DelaySeconds": 0, "MessageGroupId": "g", "MessageDeduplicationId": "d",
                "MessageAttributes": { "Foo": { "DataType": "String", "StringValue": "Bar" } },
                "MessageSystemAttributes": { "AWSTraceHeader": { "DataType": "String", "StringValue": "Root=1" } },
            }),
        )
        .unwrap();
        assert_eq!(message.size_bytes(), 3 + 3 + 6 + 3);
        assert_eq!((message.delay, message.group.as_deref(), message.sender.as_str()), (None, Some("g"), "me"));
        assert_eq!(message.trace_header.as_deref(), Some("Root=1"));
        let answer = digests.answer(None, Sent { message_id: "m".into(), sequence: Some(7) });
        let answer = serde_json::to_value(answer).unwrap();
        assert_eq!(answer["MD5OfMessageBody"], "6e2baaf3b97dbeef01c0043275f9a0e7");
        assert_eq!(answer["MD5OfMessageAttributes"], "ae7155c6026991b6d54b11589678bf9c");
        assert_eq!(answer["SequenceNumber"], "00000000000000000007");
        assert!(answer["MD5OfMessageSystemAttributes"].is_string() && answer.get("Id").is_none());
    }

    #[test]
    fn what_a_message_must_not_be() {
        let long = "x".repeat(MESSAGE_BYTES_MAX + 1);
        for (is_fifo, json, code) in [
            (false, serde_json::json!({}), "MissingParameter"),
            (false, serde_json::json!({ "MessageBody": "" }), "MissingParameter"),
            (false, serde_json::json!({ "MessageBody": "\u{1}" }), "InvalidMessageContents"),
            (false, serde_json::json!({ "MessageBody": long }), "InvalidParameterValue"),
            (false, serde_json::json!({ "MessageBody": "x", "DelaySeconds": 901 }), "InvalidParameterValue"),
            (false, serde_json::json!({ "MessageBody": "x", "MessageDeduplicationId": "d" }), "InvalidParameterValue"),
            (false, serde_json::json!({ "MessageBody": "x", "MessageGroupId": "" }), "InvalidParameterValue"),
            (true, serde_json::json!({ "MessageBody": "x" }), "MissingParameter"),
            (
                true,
                serde_json::json!({ "MessageBody": "x", "MessageGroupId": "g", "DelaySeconds": 2 }),
                "InvalidParameterValue",
            ),
        ] {
            assert_eq!(checked(is_fifo, json).unwrap_err().kind.code, code);
        }
        let most = "x".repeat(MESSAGE_BYTES_MAX);
        assert!(checked(false, serde_json::json!({ "MessageBody": most, "MessageGroupId": "tenant" })).is_ok());
    }

    #[test]
    fn the_size_before_and_after_the_checks_is_the_same() {
        let text = serde_json::json!({
            "MessageBody": "äb",
            "MessageAttributes": {
                "Foo": { "DataType": "String.x", "StringValue": "Bar" },
                "B": { "DataType": "Binary", "BinaryValue": "AAEC" },
            },
        })
        .to_string();
        let message: SendMessage = serde_json::from_str(&text).unwrap();
        let before = size_bytes(&message);
        assert_eq!(before, check(message, false, "me").unwrap().0.size_bytes());
    }
}

//! The answers. Empty lists are left out where SQS leaves them out.

use std::borrow::Cow;

use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

use super::Text;
use crate::digest::Hex;

/// An answer of actions that say no more than that it was done.
#[derive(Debug, Serialize)]
pub(crate) struct Done {}

/// A map in the order in which it was made.
#[derive(Debug)]
pub(crate) struct Table<K, V>(pub(crate) Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// Bytes, base64 on the wire of both protocols.
#[derive(Debug)]
pub(crate) struct Bytes64<'a>(pub(crate) &'a [u8]);

impl Serialize for Bytes64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct QueueUrlAnswer {
    pub(crate) queue_url: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListQueuesAnswer {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) queue_urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListDeadLetterSourceQueuesAnswer {
    /// The one list that the model writes small.
    #[serde(rename = "queueUrls")]
    pub(crate) queue_urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_token: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetQueueAttributesAnswer {
    pub(crate) attributes: Table<&'static str, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListQueueTagsAnswer {
    pub(crate) tags: Table<String, String>,
}

/// Answer of `SendMessage`, and an entry of that of `SendMessageBatch`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SendMessageAnswer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<Text<'a>>,
    pub(crate) message_id: String,
    #[serde(rename = "MD5OfMessageBody")]
    pub(crate) body_md5: Hex<32>,
    #[serde(rename = "MD5OfMessageAttributes", skip_serializing_if = "Option::is_none")]
    pub(crate) attributes_md5: Option<Hex<32>>,
    #[serde(rename = "MD5OfMessageSystemAttributes", skip_serializing_if = "Option::is_none")]
    pub(crate) system_attributes_md5: Option<Hex<32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sequence_number: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct BatchAnswer<'a, T> {
    pub(crate) successful: Vec<T>,
    pub(crate) failed: Vec<Failed<'a>>,
}

/// An entry of a batch that was changed or deleted.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Succeeded<'a> {
    pub(crate) id: Text<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Failed<'a> {
    pub(crate) id: Text<'a>,
    pub(crate) sender_fault: bool,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReceiveMessageAnswer<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) messages: Vec<Message<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Message<'a> {
    pub(crate) message_id: &'a str,
    pub(crate) receipt_handle: &'a str,
    #[serde(rename = "MD5OfBody")]
    pub(crate) body_md5: Hex<32>,
    pub(crate) body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attributes: Option<Table<&'static str, Cow<'a, str>>>,
    #[serde(rename = "MD5OfMessageAttributes", skip_serializing_if = "Option::is_none")]
    pub(crate) attributes_md5: Option<Hex<32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message_attributes: Option<Table<&'a str, AttributeValue<'a>>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AttributeValue<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) string_value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) binary_value: Option<Bytes64<'a>>,
    pub(crate) data_type: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct StartMessageMoveTaskAnswer {
    pub(crate) task_handle: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CancelMessageMoveTaskAnswer {
    pub(crate) approximate_number_of_messages_moved: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListMessageMoveTasksAnswer {
    pub(crate) results: Vec<MoveTaskAnswer>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct MoveTaskAnswer {
    /// Only of a task that can still be cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task_handle: Option<String>,
    pub(crate) status: &'static str,
    pub(crate) source_arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) destination_arn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_number_of_messages_per_second: Option<u32>,
    pub(crate) approximate_number_of_messages_moved: u64,
    pub(crate) approximate_number_of_messages_to_move: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure_reason: Option<String>,
    /// Milliseconds since 1970.
    pub(crate) started_timestamp: u64,
}

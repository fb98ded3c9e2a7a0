//! The requests. A message, a receipt and a change of visibility look alike alone and as an entry of a batch.

use serde::Deserialize;

use super::{Blob, List, Map, Text};
use crate::limits::{
    ATTRIBUTE_NAMES_MAX, ENTRIES_MAX, MESSAGE_ATTRIBUTES_MAX, POLICY_ACCOUNTS_MAX, POLICY_ACTIONS_MAX,
    QUEUE_ATTRIBUTES_MAX, TAGS_MAX,
};

pub(crate) type Names<'a> = List<Text<'a>, ATTRIBUTE_NAMES_MAX>;
pub(crate) type QueueAttributeMap<'a> = Map<'a, Text<'a>, QUEUE_ATTRIBUTES_MAX>;
pub(crate) type MessageAttributeMap<'a> = Map<'a, MessageAttributeValue<'a>, MESSAGE_ATTRIBUTES_MAX>;
pub(crate) type TagMap<'a> = Map<'a, Text<'a>, TAGS_MAX>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AddPermission<'a> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
    pub(crate) label: Option<Text<'a>>,
    #[serde(rename = "AWSAccountIds")]
    pub(crate) accounts: Option<List<Text<'a>, POLICY_ACCOUNTS_MAX>>,
    pub(crate) actions: Option<List<Text<'a>, POLICY_ACTIONS_MAX>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RemovePermission<'a> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
    pub(crate) label: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CancelMessageMoveTask<'a> {
    #[serde(borrow)]
    pub(crate) task_handle: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListMessageMoveTasks<'a> {
    #[serde(borrow)]
    pub(crate) source_arn: Option<Text<'a>>,
    pub(crate) max_results: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct StartMessageMoveTask<'a> {
    #[serde(borrow)]
    pub(crate) source_arn: Option<Text<'a>>,
    pub(crate) destination_arn: Option<Text<'a>>,
    pub(crate) max_number_of_messages_per_second: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CreateQueue<'a> {
    #[serde(borrow)]
    pub(crate) queue_name: Option<Text<'a>>,
    pub(crate) attributes: Option<QueueAttributeMap<'a>>,
    /// The one member that the model writes small.
    #[serde(rename = "tags")]
    pub(crate) tags: Option<TagMap<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SetQueueAttributes<'a> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
    pub(crate) attributes: Option<QueueAttributeMap<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetQueueAttributes<'a> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
    pub(crate) attribute_names: Option<Names<'a>>,
}

/// `DeleteQueue`, `PurgeQueue` and `ListQueueTags`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct OfQueue<'a> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GetQueueUrl<'a> {
    #[serde(borrow)]
    pub(crate) queue_name: Option<Text<'a>>,
    #[serde(rename = "QueueOwnerAWSAccountId")]
    pub(crate) owner: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListQueues<'a> {
    #[serde(borrow)]
    pub(crate) queue_name_prefix: Option<Text<'a>>,
    pub(crate) next_token: Option<Text<'a>>,
    pub(crate) max_results: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListDeadLetterSourceQueues<'a> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
    pub(crate) next_token: Option<Text<'a>>,
    pub(crate) max_results: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TagQueue<'a> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
    pub(crate) tags: Option<TagMap<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UntagQueue<'a> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
    pub(crate) tag_keys: Option<List<Text<'a>, TAGS_MAX>>,
}

/// A value of a message attribute. Lists are in the model, and SQS refuses them.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct MessageAttributeValue<'a> {
    #[serde(borrow)]
    pub(crate) data_type: Option<Text<'a>>,
    pub(crate) string_value: Option<Text<'a>>,
    pub(crate) binary_value: Option<Blob>,
}

/// `SendMessage`, and an entry of `SendMessageBatch`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SendMessage<'a> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
    pub(crate) id: Option<Text<'a>>,
    pub(crate) message_body: Option<Text<'a>>,
    pub(crate) delay_seconds: Option<i64>,
    pub(crate) message_attributes: Option<MessageAttributeMap<'a>>,
    pub(crate) message_system_attributes: Option<MessageAttributeMap<'a>>,
    pub(crate) message_deduplication_id: Option<Text<'a>>,
    pub(crate) message_group_id: Option<Text<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ReceiveMessage<'a> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
    /// The older name of the next.
    pub(crate) attribute_names: Option<Names<'a>>,
    pub(crate) message_system_attribute_names: Option<Names<'a>>,
    pub(crate) message_attribute_names: Option<Names<'a>>,
    pub(crate) max_number_of_messages: Option<i64>,
    pub(crate) visibility_timeout: Option<i64>,
    pub(crate) wait_time_seconds: Option<i64>,
    pub(crate) receive_request_attempt_id: Option<Text<'a>>,
}

/// `DeleteMessage`, and an entry of `DeleteMessageBatch`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DeleteMessage<'a> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
    pub(crate) id: Option<Text<'a>>,
    pub(crate) receipt_handle: Option<Text<'a>>,
}

/// `ChangeMessageVisibility`, and an entry of `ChangeMessageVisibilityBatch`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ChangeMessageVisibility<'a> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
    pub(crate) id: Option<Text<'a>>,
    pub(crate) receipt_handle: Option<Text<'a>>,
    pub(crate) visibility_timeout: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", bound(deserialize = "T: Deserialize<'de>"))]
pub(crate) struct Batch<'a, T> {
    #[serde(borrow)]
    pub(crate) queue_url: Option<Text<'a>>,
    pub(crate) entries: Option<List<T, ENTRIES_MAX>>,
}

/// What is alike in the entries of batches.
pub(crate) trait Entry {
    fn id(&self) -> Option<&str>;
}

impl Entry for SendMessage<'_> {
    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
}

impl Entry for DeleteMessage<'_> {
    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
}

impl Entry for ChangeMessageVisibility<'_> {
    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
}

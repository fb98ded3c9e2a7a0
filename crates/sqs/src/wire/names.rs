//! How the query protocol calls the members of the model: lists and maps by what is in them.

use crate::action::Action;

/// The element of a member in the form and in the XML of an action.
pub(super) fn element(action: Action, member: &'static str) -> &'static str {
    match member {
        "AWSAccountIds" => "AWSAccountId",
        "Actions" => "ActionName",
        "AttributeNames" => "AttributeName",
        "Attributes" => "Attribute",
        "Entries" => entry(action),
        "Failed" => "BatchResultErrorEntry",
        "MessageAttributeNames" => "MessageAttributeName",
        "MessageAttributes" => "MessageAttribute",
        "MessageSystemAttributeNames" => "MessageSystemAttributeName",
        "MessageSystemAttributes" => "MessageSystemAttribute",
        "Messages" => "Message",
        "QueueUrls" | "queueUrls" => "QueueUrl",
        "Results" => "ListMessageMoveTasksResultEntry",
        "Successful" => success(action),
        "TagKeys" => "TagKey",
        "Tags" | "tags" => "Tag",
        same => same,
    }
}

fn entry(action: Action) -> &'static str {
    match action {
        Action::ChangeMessageVisibilityBatch => "ChangeMessageVisibilityBatchRequestEntry",
        Action::DeleteMessageBatch => "DeleteMessageBatchRequestEntry",
        _ => "SendMessageBatchRequestEntry",
    }
}

fn success(action: Action) -> &'static str {
    match action {
        Action::ChangeMessageVisibilityBatch => "ChangeMessageVisibilityBatchResultEntry",
        Action::DeleteMessageBatch => "DeleteMessageBatchResultEntry",
        _ => "SendMessageBatchResultEntry",
    }
}

/// What a map calls the key of each of its entries; the other half is `Value`.
pub(super) fn key(map: &str) -> &'static str {
    if map == "Tag" { "Key" } else { "Name" }
}

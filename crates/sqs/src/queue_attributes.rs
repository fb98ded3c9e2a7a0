//! Attributes of queues, from the texts that clients send to numbers and back.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use crate::address::{Home, is_fifo};
use crate::backend::{Attributes, Change, Queue, Redrive, RedriveAllow, Scope};
use crate::fault::{Fault, INVALID_ATTRIBUTE_NAME, INVALID_ATTRIBUTE_VALUE, INVALID_PARAMETER, Result, quoted};
use crate::limits::{
    DATA_KEY_REUSE_MAX_S, DATA_KEY_REUSE_MIN_S, DELAY_MAX_S, KEPT_BYTES_MAX, QUEUE_ATTRIBUTES_MAX, QUEUE_SIZE_MAX,
    QUEUE_SIZE_MIN, RECEIVES_MAX, REDRIVE_SOURCES_MAX, RETENTION_MAX_S, RETENTION_MIN_S, VISIBILITY_MAX_S, WAIT_MAX_S,
};
use crate::shapes::{QueueAttributeMap, Table, Text};

/// All that can be asked for, in the order in which `All` gives it.
const NAMES: &[&str] = &[
    "QueueArn",
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
    "CreatedTimestamp",
    "LastModifiedTimestamp",
    "VisibilityTimeout",
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "DelaySeconds",
    "ReceiveMessageWaitTimeSeconds",
    "Policy",
    "RedrivePolicy",
    "RedriveAllowPolicy",
    "FifoQueue",
    "ContentBasedDeduplication",
    "DeduplicationScope",
    "FifoThroughputLimit",
    "KmsMasterKeyId",
    "KmsDataKeyReusePeriodSeconds",
    "SqsManagedSseEnabled",
];
const FIFO_ONLY: &[&str] = &["ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"];

pub(crate) fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Attributes of a queue that is to be created.
pub(crate) fn created(home: &Home, queue: &str, map: &QueueAttributeMap) -> Result<Attributes> {
    let wants_fifo = map.items.iter().any(|(name, value)| &**name == "FifoQueue" && &**value == "true");
    if wants_fifo != is_fifo(queue) {
        let rule =
            if wants_fifo { "The name of a FIFO queue must end with .fifo" } else { "Only FifoQueue allows .fifo" };
        return Err(Fault::value("QueueName", queue, &format!("{rule}.")));
    }
    let change = changed(home, queue, map)?;
    let default = Attributes::default();
    let scope = change.deduplication_scope.unwrap_or(default.deduplication_scope);
    let limit = change.throughput_limit.unwrap_or(default.throughput_limit);
    if limit == Scope::MessageGroup && scope == Scope::Queue {
        return Err(per_group_needs_scope());
    }
    Ok(Attributes {
        fifo: is_fifo(queue),
        visibility_timeout: change.visibility_timeout.unwrap_or(default.visibility_timeout),
        delay: change.delay.unwrap_or(default.delay),
        retention: change.retention.unwrap_or(default.retention),
        size_max: change.size_max.unwrap_or(default.size_max),
        wait: change.wait.unwrap_or(default.wait),
        redrive: change.redrive.flatten(),
        redrive_allow: change.redrive_allow.unwrap_or(default.redrive_allow),
        content_based_deduplication: change.content_based_deduplication.unwrap_or(default.content_based_deduplication),
        deduplication_scope: scope,
        throughput_limit: limit,
        kept: change.kept.into_iter().filter(|(_, value)| !value.is_empty()).collect(),
    })
}

pub(crate) fn changed(home: &Home, queue: &str, map: &QueueAttributeMap) -> Result<Change> {
    if map.count > QUEUE_ATTRIBUTES_MAX {
        return Err(Fault::new(
            INVALID_PARAMETER,
            format!("There are not {} attributes that could be set.", map.count),
        ));
    }
    let mut change = Change::default();
    for (name, value) in &map.items {
        apply(&mut change, home, queue, name, value)?;
    }
    let kept = |name: &str| change.kept.get(name).map(String::as_str);
    if kept("SqsManagedSseEnabled") == Some("true") && kept("KmsMasterKeyId").is_some_and(|id| !id.is_empty()) {
        let message =
            "Only one kind of server-side encryption can be on: either KmsMasterKeyId or SqsManagedSseEnabled.";
        return Err(Fault::new(INVALID_ATTRIBUTE_NAME, message));
    }
    if change.throughput_limit == Some(Scope::MessageGroup) && change.deduplication_scope == Some(Scope::Queue) {
        return Err(per_group_needs_scope());
    }
    Ok(change)
}

fn apply(change: &mut Change, home: &Home, queue: &str, name: &str, value: &str) -> Result<()> {
    if FIFO_ONLY.contains(&name) && !is_fifo(queue) {
        let message = format!("{name} can be set only when FifoQueue is true.");
        return Err(Fault::new(INVALID_ATTRIBUTE_NAME, message));
    }
    match name {
        "VisibilityTimeout" => change.visibility_timeout = Some(number(name, value, 0, VISIBILITY_MAX_S)?),
        "DelaySeconds" => change.delay = Some(number(name, value, 0, DELAY_MAX_S)?),
        "MessageRetentionPeriod" => change.retention = Some(number(name, value, RETENTION_MIN_S, RETENTION_MAX_S)?),
        "MaximumMessageSize" => change.size_max = Some(number(name, value, QUEUE_SIZE_MIN, QUEUE_SIZE_MAX)?),
        "ReceiveMessageWaitTimeSeconds" => change.wait = Some(number(name, value, 0, WAIT_MAX_S)?),
        "RedrivePolicy" if value.is_empty() => change.redrive = Some(None),
        "RedrivePolicy" => change.redrive = Some(Some(redrive(home, queue, value)?)),
        "RedriveAllowPolicy" if value.is_empty() => change.redrive_allow = Some(RedriveAllow::All),
        "RedriveAllowPolicy" => change.redrive_allow = Some(redrive_allow(home, value)?),
        "ContentBasedDeduplication" => change.content_based_deduplication = Some(boolean(name, value)?),
        "DeduplicationScope" => {
            change.deduplication_scope = Some(scope(name, value, ["queue", "messageGroup"])?);
        }
        "FifoThroughputLimit" => {
            change.throughput_limit = Some(scope(name, value, ["perQueue", "perMessageGroupId"])?);
        }
        "FifoQueue" if !is_fifo(queue) => return Err(unknown(name)),
        "FifoQueue" if value == "true" => {}
        "FifoQueue" => return Err(wrong(name, " Reason: Modifying queue type is not supported.")),
        "Policy" | "KmsMasterKeyId" | "KmsDataKeyReusePeriodSeconds" | "SqsManagedSseEnabled" => {
            keep(&mut change.kept, name, value)?;
        }
        _ => return Err(unknown(name)),
    }
    Ok(())
}

/// What has no effect here is checked all the same, so that a mistake shows at once.
fn keep(kept: &mut BTreeMap<String, String>, name: &str, value: &str) -> Result<()> {
    if value.len() > KEPT_BYTES_MAX {
        return Err(wrong(name, " Reason: It is too long."));
    }
    match name {
        _ if value.is_empty() => {}
        "Policy" if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(value).is_err() => {
            return Err(wrong(name, ""));
        }
        "KmsDataKeyReusePeriodSeconds" => drop(number(name, value, DATA_KEY_REUSE_MIN_S, DATA_KEY_REUSE_MAX_S)?),
        "SqsManagedSseEnabled" => drop(boolean(name, value)?),
        _ => {}
    }
    kept.insert(name.to_owned(), value.to_owned());
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedrivePolicy {
    dead_letter_target_arn: Option<String>,
    max_receive_count: Option<Count>,
}

/// SDKs send a number, older tools a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Number(i64),
    Text(String),
}

fn redrive(home: &Home, queue: &str, value: &str) -> Result<Redrive> {
    let refused = |reason: &str| Fault::value("RedrivePolicy", value, reason);
    let policy: RedrivePolicy =
        serde_json::from_str(value).map_err(|_| refused("Redrive policy is not a valid JSON map."))?;
    let absent = |what: &str| refused(&format!("Redrive policy does not contain mandatory attribute: {what}."));
    let arn = policy.dead_letter_target_arn.ok_or_else(|| absent("deadLetterTargetArn"))?;
    let count = match policy.max_receive_count.ok_or_else(|| absent("maxReceiveCount"))? {
        Count::Number(number) => Some(number),
        Count::Text(text) => text.parse().ok(),
    };
    let target = home.name_in_arn(&arn).ok_or_else(|| refused("Invalid value for deadLetterTargetArn."))?;
    if is_fifo(target) != is_fifo(queue) {
        return Err(refused("Dead-letter queue must be same type of queue as the source."));
    }
    let receives_max = count.filter(|count| (1..=RECEIVES_MAX).contains(count)).and_then(|count| count.try_into().ok());
    let receives_max = receives_max
        .ok_or_else(|| refused("Invalid value for maxReceiveCount, valid values are from 1 to 1000 both inclusive."))?;
    Ok(Redrive { target: target.to_owned(), receives_max })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RedriveAllowPolicy {
    redrive_permission: String,
    source_queue_arns: Option<Vec<String>>,
}

fn redrive_allow(home: &Home, value: &str) -> Result<RedriveAllow> {
    let refused = |reason: &str| Fault::value("RedriveAllowPolicy", value, reason);
    let policy: RedriveAllowPolicy =
        serde_json::from_str(value).map_err(|_| refused("It is not a JSON map with redrivePermission."))?;
    let arns = policy.source_queue_arns;
    match &*policy.redrive_permission {
        "allowAll" if arns.is_none() => Ok(RedriveAllow::All),
        "denyAll" if arns.is_none() => Ok(RedriveAllow::None),
        "byQueue" => {
            let arns = arns.filter(|arns| (1..=REDRIVE_SOURCES_MAX).contains(&arns.len()));
            let arns = arns.ok_or_else(|| refused("byQueue needs 1 to 10 sourceQueueArns."))?;
            let names: Option<Vec<String>> = arns.iter().map(|arn| home.name_in_arn(arn).map(str::to_owned)).collect();
            names.map(RedriveAllow::Queues).ok_or_else(|| refused("sourceQueueArns holds what is no queue."))
        }
        "allowAll" | "denyAll" => Err(refused("sourceQueueArns is only for byQueue.")),
        _ => Err(refused("redrivePermission is allowAll, denyAll or byQueue.")),
    }
}

/// The attributes of `names` that the queue has; none are asked for by none.
pub(crate) fn shown(home: &Home, queue: &Queue, names: &[Text]) -> Result<Table<&'static str, String>> {
    if let Some(name) = names.iter().find(|name| &***name != "All" && !is_known(name)) {
        return Err(unknown(name));
    }
    let all = names.iter().any(|name| &**name == "All");
    let wanted = NAMES.iter().filter(|name| all || names.iter().any(|n| &&**n == *name));
    Ok(Table(wanted.filter_map(|name| Some((*name, value(home, queue, name)?))).collect()))
}

fn value(home: &Home, queue: &Queue, name: &str) -> Option<String> {
    let attributes = &queue.attributes;
    let fifo = attributes.fifo;
    Some(match name {
        "QueueArn" => home.arn(&queue.name),
        "ApproximateNumberOfMessages" => queue.visible.to_string(),
        "ApproximateNumberOfMessagesNotVisible" => queue.in_flight.to_string(),
        "ApproximateNumberOfMessagesDelayed" => queue.delayed.to_string(),
        "CreatedTimestamp" => queue.created_s.to_string(),
        "LastModifiedTimestamp" => queue.modified_s.to_string(),
        "VisibilityTimeout" => attributes.visibility_timeout.to_string(),
        "MaximumMessageSize" => attributes.size_max.to_string(),
        "MessageRetentionPeriod" => attributes.retention.to_string(),
        "DelaySeconds" => attributes.delay.to_string(),
        "ReceiveMessageWaitTimeSeconds" => attributes.wait.to_string(),
        "RedrivePolicy" => {
            let redrive = attributes.redrive.as_ref()?;
            let arn = home.arn(&redrive.target);
            json!({ "deadLetterTargetArn": arn, "maxReceiveCount": redrive.receives_max }).to_string()
        }
        "RedriveAllowPolicy" => match &attributes.redrive_allow {
            RedriveAllow::All => return None,
            RedriveAllow::None => json!({ "redrivePermission": "denyAll" }).to_string(),
            RedriveAllow::Queues(names) => {
                let arns: Vec<String> = names.iter().map(|name| home.arn(name)).collect();
                json!({ "redrivePermission": "byQueue", "sourceQueueArns": arns }).to_string()
            }
        },
        "FifoQueue" => fifo.then(|| "true".to_owned())?,
        "ContentBasedDeduplication" => fifo.then(|| attributes.content_based_deduplication.to_string())?,
        "DeduplicationScope" if fifo => match attributes.deduplication_scope {
            Scope::Queue => "queue".to_owned(),
            Scope::MessageGroup => "messageGroup".to_owned(),
        },
        "FifoThroughputLimit" if fifo => match attributes.throughput_limit {
            Scope::Queue => "perQueue".to_owned(),
            Scope::MessageGroup => "perMessageGroupId".to_owned(),
        },
        // Nothing is encrypted here unless somebody says that it is.
        "SqsManagedSseEnabled" => attributes.kept.get(name).cloned().unwrap_or_else(|| "false".to_owned()),
        kept => attributes.kept.get(kept)?.clone(),
    })
}

fn number(name: &str, value: &str, min: i64, max: i64) -> Result<u32> {
    let number = value.parse().ok().filter(|number| (min..=max).contains(number));
    number.and_then(|number: i64| number.try_into().ok()).ok_or_else(|| wrong(name, ""))
}

fn boolean(name: &str, value: &str) -> Result<bool> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(wrong(name, "")),
    }
}

fn scope(name: &str, value: &str, [queue, group]: [&str; 2]) -> Result<Scope> {
    match value {
        _ if value == queue => Ok(Scope::Queue),
        _ if value == group => Ok(Scope::MessageGroup),
        _ => Err(wrong(name, "")),
    }
}

fn wrong(name: &str, reason: &str) -> Fault {
    Fault::new(INVALID_ATTRIBUTE_VALUE, format!("Invalid value for the parameter {name}.{reason}"))
}

pub(crate) fn unknown(name: &str) -> Fault {
    Fault::new(INVALID_ATTRIBUTE_NAME, format!("Unknown Attribute {}.", quoted(name)))
}

fn per_group_needs_scope() -> Fault {
    wrong("FifoThroughputLimit", " Reason: perMessageGroupId needs the DeduplicationScope messageGroup.")
}

#[cfg(test)]
mod tests;

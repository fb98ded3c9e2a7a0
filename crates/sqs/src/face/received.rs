//! Received messages as clients asked for them: which attributes, and their digest.

use std::borrow::Cow;

use super::outgoing::sequence_number;
use crate::address::Home;
use crate::attributes::{self, Attribute, TRACE_HEADER, Value};
use crate::backend::Received;
use crate::digest::{md5, md5_of};
use crate::fault::{Fault, Result};
use crate::limits::ATTRIBUTE_NAMES_MAX;
use crate::queue_attributes;
use crate::shapes::{AttributeValue, Bytes64, Message, Names, Table, Text};

const SYSTEM_NAMES: &[&str] = &[
    "SenderId",
    "SentTimestamp",
    "ApproximateReceiveCount",
    "ApproximateFirstReceiveTimestamp",
    "SequenceNumber",
    "MessageDeduplicationId",
    "MessageGroupId",
    TRACE_HEADER,
    "DeadLetterQueueSourceArn",
];

/// The attributes that a receive asks for.
#[derive(Debug, Default)]
pub(super) struct Wanted<'a> {
    system: Vec<&'static str>,
    own: Vec<Text<'a>>,
}

impl<'a> Wanted<'a> {
    /// System attributes have two lists of names, the older and the newer; they add up.
    pub(super) fn new(system: [Option<Names>; 2], own: Option<Names<'a>>) -> Result<Wanted<'a>> {
        let mut wanted = Vec::new();
        for list in system.into_iter().flatten() {
            bounded(list.count)?;
            for name in &list.items {
                match SYSTEM_NAMES.iter().find(|known| **known == &**name) {
                    Some(known) => wanted.push(*known),
                    None if &**name == "All" => wanted.extend(SYSTEM_NAMES),
                    // The older list is typed as names of queue attributes, which no message has.
                    None if queue_attributes::is_known(name) => {}
                    None => return Err(queue_attributes::unknown(name)),
                }
            }
        }
        let own = own.unwrap_or_default();
        bounded(own.count)?;
        Ok(Wanted { system: wanted, own: own.items })
    }

    fn wants(&self, name: &str) -> bool {
        self.own.iter().any(|wanted| match &**wanted {
            "All" | "*" => true,
            wanted => wanted.strip_suffix(".*").map_or(wanted == name, |prefix| name.starts_with(prefix)),
        })
    }

    /// `None` if the backend gave back other attributes than it got.
    pub(super) fn show<'m>(&self, message: &'m Received, home: &Home) -> Option<Message<'m>> {
        let all = if self.own.is_empty() { vec![] } else { attributes::unpack(&message.attributes)? };
        let count = all.len();
        let own: Vec<Attribute> = all.into_iter().filter(|attribute| self.wants(attribute.name)).collect();
        // All of them is what is stored; a choice is digested anew.
        let attributes_md5 = match own.len() {
            n if n > 0 && n == count => Some(md5_of(message.attributes.get(1..))),
            _ => attributes::md5_of_attributes(&own),
        };
        let system = SYSTEM_NAMES.iter().filter(|name| self.system.contains(name));
        let system: Vec<_> = system.filter_map(|name| Some((*name, value(message, name, home)?))).collect();
        Some(Message {
            message_id: &message.message_id,
            receipt_handle: &message.receipt,
            body_md5: md5(message.body.as_bytes()),
            body: &message.body,
            attributes: (!system.is_empty()).then_some(Table(system)),
            attributes_md5,
            message_attributes: (!own.is_empty()).then(|| Table(own.into_iter().map(shown).collect())),
        })
    }
}

fn bounded(count: usize) -> Result<()> {
    if count <= ATTRIBUTE_NAMES_MAX {
        return Ok(());
    }
    Err(Fault::value("AttributeNames", count, &format!("At most {ATTRIBUTE_NAMES_MAX} names can be asked for.")))
}

fn value<'m>(message: &'m Received, name: &str, home: &Home) -> Option<Cow<'m, str>> {
    let text = |text: &'m Option<String>| text.as_deref().map(Cow::Borrowed);
    match name {
        "SenderId" => Some(Cow::Borrowed(&*message.sender)),
        "SentTimestamp" => Some(message.sent_ms.to_string().into()),
        "ApproximateReceiveCount" => Some(message.receives.to_string().into()),
        "ApproximateFirstReceiveTimestamp" => Some(message.first_received_ms.to_string().into()),
        "SequenceNumber" => message.sequence.map(|sequence| sequence_number(sequence).into()),
        "MessageDeduplicationId" => text(&message.deduplication_id),
        "MessageGroupId" => text(&message.group),
        TRACE_HEADER => text(&message.trace_header),
        _ => message.dead_letter_source.as_deref().map(|queue| home.arn(queue).into()),
    }
}

fn shown(attribute: Attribute<'_>) -> (&str, AttributeValue<'_>) {
    let (string_value, binary_value) = match attribute.value {
        Value::Text(text) => (Some(text), None),
        Value::Bytes(bytes) => (None, Some(Bytes64(bytes))),
    };
    (attribute.name, AttributeValue { string_value, binary_value, data_type: attribute.data_type })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Packed;
    use crate::shapes::MessageAttributeMap;

    fn message() -> Received {
        let text = r#"{"Hello": {"DataType": "String", "StringValue": "There"},
            "General": {"DataType": "String", "StringValue": "Kenobi"},
            "Help.Me": {"DataType": "String", "StringValue": "Me"}}"#;
        let map: MessageAttributeMap = serde_json::from_str(text).unwrap();
        Received {
            message_id: "m".into(),
            receipt: "h".into(),
            body: "msg".into(),
            attributes: Packed::new(Some(&map)).unwrap().bytes,
            trace_header: None,
            sender: "me".into(),
            sent_ms: 1,
            first_received_ms: 2,
            receives: 3,
            group: Some("g".into()),
            deduplication_id: None,
            sequence: Some(4),
            dead_letter_source: Some("source".into()),
        }
    }

    fn names(names: &[&str]) -> Option<Names<'static>> {
        Some(serde_json::from_str(serde_json::json!(names).to_string().leak()).unwrap())
    }

    fn shown(system: &[&str], own: &[&str]) -> serde_json::Value {
        let home = Home { region: "r".into(), account: "1".into() };
        let wanted = Wanted::new([names(system), None], names(own)).unwrap();
        serde_json::to_value(wanted.show(&message(), &home).unwrap()).unwrap()
    }

    #[test]
    fn filters_and_digests_are_those_of_aws() {
        // Recorded from AWS, as public tests of an emulator hold them.
        for (filter, count, md5) in [
            (&["All"][..], 3, "4c360f3fdafd970e05fae2f149d997f5"),
            (&["*"], 3, "4c360f3fdafd970e05fae2f149d997f5"),
            (&[".*"], 3, "4c360f3fdafd970e05fae2f149d997f5"),
            (&["Hello", "General"], 2, "fca026605781cb4126a1e9044df24232"),
            (&["Hello", "Other"], 1, "a311262e065454b75da111d535b8dacd"),
            (&["Hel.*"], 2, "83fee93c1bcd8b9a5a923ffacdc636c7"),
        ] {
            let message = shown(&[], filter);
            assert_eq!(message["MD5OfMessageAttributes"], md5, "{filter:?}");
            assert_eq!(message["MessageAttributes"].as_object().unwrap().len(), count);
        }
        for filter in [&[][..], &["Other"], &["AWS."], &["..foo"]] {
            let message = shown(&[], filter);
            assert!(message.get("MessageAttributes").is_none() && message.get("MD5OfMessageAttributes").is_none());
        }
    }

    #[test]
    fn system_attributes_are_texts() {
        assert_eq!(
            shown(&["All"], &[])["Attributes"],
            serde_json::json!({
                "SenderId": "me", "SentTimestamp": "1", "ApproximateReceiveCount": "3",
                "ApproximateFirstReceiveTimestamp": "2", "SequenceNumber": "00000000000000000004",
                "MessageGroupId": "g",
                "DeadLetterQueueSourceArn": "arn:aws:sqs:r:1:source",
            })
        );
        assert_eq!(shown(&["SenderId", "QueueArn"], &[])["Attributes"], serde_json::json!({ "SenderId": "me" }));
        assert!(shown(&["AWSTraceHeader"], &[]).get("Attributes").is_none());
        assert!(Wanted::new([None, names(&["Nonsense"])], None).is_err());
        assert!(Wanted::new([None, None], names(&["x"; ATTRIBUTE_NAMES_MAX + 1])).is_err());
    }

    #[test]
    fn foreign_attributes_are_noticed() {
        let broken = Received { attributes: vec![9, 9], ..message() };
        let home = Home { region: "r".into(), account: "1".into() };
        assert!(Wanted::new([None, None], names(&["All"])).unwrap().show(&broken, &home).is_none());
    }
}

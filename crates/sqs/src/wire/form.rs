//! Requests of the query protocol: `Entry.1.Attribute.2.Name=…`, read as a format of serde.
//!
//! The parameters are sorted by name, so that everything below one name lies together and a part of the tree is a
//! slice with the length of the prefix that was read. The types say what is wanted; nothing recurses further than they.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::names;
use crate::action::Action;
use crate::limits::PARAMETERS_MAX;

/// Decoded parameters of a request, sorted by name.
#[derive(Debug, Default)]
pub(super) struct Form<'a>(Vec<Parameter<'a>>);

type Parameter<'a> = (Cow<'a, str>, Cow<'a, str>);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Error(String);

impl<'a> Form<'a> {
    /// `query` and `body` are form-encoded.
    pub(super) fn parse(query: &'a [u8], body: &'a [u8]) -> Result<Form<'a>, Error> {
        let pairs = form_urlencoded::parse(query).chain(form_urlencoded::parse(body));
        let mut parameters: Vec<Parameter> = pairs.take(PARAMETERS_MAX + 1).collect();
        if parameters.len() > PARAMETERS_MAX {
            return Err(Error(format!("more than {PARAMETERS_MAX} parameters")));
        }
        parameters.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Form(parameters))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(n, _)| n.as_ref().cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    pub(super) fn read<'s, T: de::Deserialize<'s>>(&'s self, action: Action) -> Result<T, Error> {
        T::deserialize(Node { action, element: "", parameters: &self.0, at: 0 })
    }
}

/// The parameters below one name.
#[derive(Clone, Copy)]
struct Node<'s> {
    action: Action,
    /// Last part of the name.
    element: &'static str,
    /// One at least, except at the root.
    parameters: &'s [Parameter<'s>],
    /// Bytes of their names that were read, the point after them included. One with a value has no more.
    at: usize,
}

impl<'s> Node<'s> {
    fn rest(&self, parameter: &'s Parameter<'s>) -> &'s str {
        parameter.0.get(self.at..).unwrap_or("")
    }

    /// What is below `element`, or its value.
    fn child(&self, element: &'static str) -> Option<Node<'s>> {
        let is_below = |parameter: &&'s Parameter<'s>| {
            let rest = self.rest(parameter).strip_prefix(element);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let start = self.parameters.iter().position(|p| is_below(&p))?;
        let count = self.parameters[start..].iter().take_while(is_below).count();
        let parameters = &self.parameters[start..start + count];
        Some(Node { action: self.action, element, parameters, at: self.at + element.len() + 1 })
    }

    fn value(&self) -> Result<&'s str, Error> {
        match self.parameters {
            [(name, value), ..] if self.at > name.len() => Ok(value),
            _ => Err(Error(format!("a value was expected of {}", self.element))),
        }
    }

    /// Elements of a list, by number. `Name=value` is a list of one, `Name=` is how SDKs write an empty one.
    fn elements(&self) -> Result<Vec<Node<'s>>, Error> {
        if let Ok(value) = self.value() {
            return Ok(if value.is_empty() { vec![] } else { vec![*self] });
        }
        let mut found: Vec<(u32, Node<'s>)> = Vec::new();
        let mut left = self.parameters;
        while let [first, ..] = left {
            let number = self.rest(first).split('.').next().unwrap_or_default();
            let same = |p: &&'s Parameter<'s>| self.rest(p).split('.').next() == Some(number);
            let count = left.iter().take_while(same).count();
            let index =
                number.parse().map_err(|_| Error(format!("{}.{number} is no element of a list", self.element)))?;
            let (parameters, others) = left.split_at(count);
            found.push((index, Node { parameters, at: self.at + number.len() + 1, ..*self }));
            left = others;
        }
        found.sort_by_key(|(index, _)| *index);
        Ok(found.into_iter().map(|(_, node)| node).collect())
    }

    /// Entries of a map. `Attribute.Name=…&Attribute.Value=…` without a number is a map of one.
    fn entries(&self) -> Result<Vec<(Node<'s>, Node<'s>)>, Error> {
        let key = names::key(self.element);
        let elements = if self.child(key).is_some() { vec![*self] } else { self.elements()? };
        let half = |node: &Node<'s>, name| {
            node.child(name).ok_or_else(|| Error(format!("{}.{name} is missing", node.element)))
        };
        elements.iter().map(|node| Ok((half(node, key)?, half(node, "Value")?))).collect()
    }
}

impl<'de> Deserializer<'de> for Node<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.value()?)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = self.value()?.trim();
        visitor.visit_i64(value.parse().map_err(|_| Error(format!("{} is no whole number", self.element)))?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Elements(self.elements()?.into_iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Entries { left: self.entries()?.into_iter(), value: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        members: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(Members { node: self, left: members.iter(), value: None })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct enum identifier
    }
}

struct Elements<'s>(std::vec::IntoIter<Node<'s>>);

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.0.next().map(|node| seed.deserialize(node)).transpose()
    }
}

struct Entries<'s> {
    left: std::vec::IntoIter<(Node<'s>, Node<'s>)>,
    value: Option<Node<'s>>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some((key, value)) = self.left.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.value.take().ok_or_else(|| Error("a value without its name".into()))?)
    }
}

/// The members of a structure that are there; parameters of other names are passed over.
struct Members<'s> {
    node: Node<'s>,
    left: std::slice::Iter<'static, &'static str>,
    value: Option<Node<'s>>,
}

impl<'de> MapAccess<'de> for Members<'de> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        for member in self.left.by_ref() {
            if let Some(child) = self.node.child(names::element(self.node.action, member)) {
                self.value = Some(child);
                let name: BorrowedStrDeserializer<Error> = BorrowedStrDeserializer::new(member);
                return seed.deserialize(name).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(self.value.take().ok_or_else(|| Error("a value without its name".into()))?)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Error {
        Error(message.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::shapes::{Batch, CreateQueue, List, ReceiveMessage, SendMessage, UntagQueue};

    fn form(text: &str) -> Form<'_> {
        Form::parse(b"", text.as_bytes()).unwrap()
    }

    #[test]
    fn a_batch_with_attributes() {
        let form = form(
            "Action=SendMessageBatch&QueueUrl=http%3A%2F%2Fh%2F1%2Fq&Version=2012-11-05\
             &SendMessageBatchRequestEntry.10.Id=last&SendMessageBatchRequestEntry.10.MessageBody=c\
             &SendMessageBatchRequestEntry.2.Id=b&SendMessageBatchRequestEntry.2.MessageBody=two+words\
             &SendMessageBatchRequestEntry.2.DelaySeconds=7\
             &SendMessageBatchRequestEntry.2.MessageAttribute.1.Name=a.b\
             &SendMessageBatchRequestEntry.2.MessageAttribute.1.Value.DataType=Binary\
             &SendMessageBatchRequestEntry.2.MessageAttribute.1.Value.BinaryValue=AP8%3D\
             &SendMessageBatchRequestEntry.2.MessageSystemAttribute.1.Name=AWSTraceHeader\
             &SendMessageBatchRequestEntry.2.MessageSystemAttribute.1.Value.StringValue=Root",
        );
        let batch: Batch<SendMessage> = form.read(Action::SendMessageBatch).unwrap();
        assert_eq!(batch.queue_url.as_deref(), Some("http://h/1/q"));
        let entries = batch.entries.unwrap().items;
        assert_eq!(entries.iter().map(|e| e.id.as_deref().unwrap()).collect::<Vec<_>>(), ["b", "last"]);
        assert_eq!((entries[0].message_body.as_deref(), entries[0].delay_seconds), (Some("two words"), Some(7)));
        let attributes = &entries[0].message_attributes.as_ref().unwrap().items;
        assert_eq!((&*attributes[0].0, attributes[0].1.data_type.as_deref()), ("a.b", Some("Binary")));
        assert_eq!(attributes[0].1.binary_value.as_ref().unwrap().0, [0, 255]);
        let system = &entries[0].message_system_attributes.as_ref().unwrap().items;
        assert_eq!(system[0].1.string_value.as_deref(), Some("Root"));
    }

    #[test]
    fn tags_and_attributes_and_old_spellings() {
        let form = form(
            "QueueName=q&Attribute.1.Name=VisibilityTimeout&Attribute.1.Value=5&Attribute.2.Name=DelaySeconds\
             &Attribute.2.Value=&Tag.1.Key=k&Tag.1.Value=v",
        );
        let create: CreateQueue = form.read(Action::CreateQueue).unwrap();
        let attributes = create.attributes.unwrap().items;
        assert_eq!(
            attributes.iter().map(|(k, v)| (&**k, &**v)).collect::<Vec<_>>(),
            [("VisibilityTimeout", "5"), ("DelaySeconds", "")]
        );
        assert_eq!(&*create.tags.unwrap().items[0].1, "v");
        let one = Form::parse(b"Attribute.Name=Policy", b"Attribute.Value=x").unwrap();
        let create: CreateQueue = one.read(Action::CreateQueue).unwrap();
        assert_eq!(&*create.attributes.unwrap().items[0].0, "Policy");
    }

    #[test]
    fn lists_of_one_and_of_none() {
        let one = form("AttributeName=All&MessageAttributeName=&MaxNumberOfMessages=3");
        let receive: ReceiveMessage = one.read(Action::ReceiveMessage).unwrap();
        assert_eq!(&*receive.attribute_names.unwrap().items[0], "All");
        assert_eq!(receive.message_attribute_names.unwrap().count, 0);
        assert_eq!(receive.max_number_of_messages, Some(3));
        let two = form("TagKey.2=b&TagKey.1=a");
        let keys: UntagQueue = two.read(Action::UntagQueue).unwrap();
        assert_eq!(keys.tag_keys.unwrap().items.iter().map(|t| t.to_string()).collect::<Vec<_>>(), ["a", "b"]);
    }

    proptest! {
        /// Whatever a client sends arrives the same in both protocols.
        #[test]
        fn a_form_and_json_say_the_same(
            bodies in prop::collection::vec(any::<String>(), 1..12),
            attributes in prop::collection::btree_map(any::<String>(), any::<String>(), 0..4),
            delay in any::<i64>(),
        ) {
            let mut form = form_urlencoded::Serializer::new(String::new());
            let mut entries = vec![];
            for (n, body) in bodies.iter().enumerate() {
                let mut put = |name: &str, value: &str| {
                    form.append_pair(&format!("SendMessageBatchRequestEntry.{}.{name}", n + 1), value);
                };
                put("Id", &n.to_string());
                put("MessageBody", body);
                put("DelaySeconds", &delay.to_string());
                for (m, (name, value)) in attributes.iter().enumerate() {
                    put(&format!("MessageAttribute.{}.Name", m + 1), name);
                    put(&format!("MessageAttribute.{}.Value.DataType", m + 1), "String");
                    put(&format!("MessageAttribute.{}.Value.StringValue", m + 1), value);
                }
                let typed = |value: &String| json!({ "DataType": "String", "StringValue": value });
                let map: serde_json::Map<_, _> = attributes.iter().map(|(k, v)| (k.clone(), typed(v))).collect();
                let map = if map.is_empty() { serde_json::Value::Null } else { map.into() };
                let entry = json!({ "Id": n.to_string(), "MessageBody": body, "DelaySeconds": delay });
                entries.push(entry);
                entries[n]["MessageAttributes"] = map;
            }
            let (text, json) = (form.finish(), json!({ "Entries": entries }).to_string());
            let form = Form::parse(b"", text.as_bytes()).unwrap();
            let ours: Batch<SendMessage> = form.read(Action::SendMessageBatch).unwrap();
            let theirs: Batch<SendMessage> = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(format!("{:?}", ours.entries.map(sorted)), format!("{:?}", theirs.entries.map(sorted)));
        }

        #[test]
        fn foreign_forms_never_panic(text in "([A-Z.]{0,4}|Attribute|Name|Value|1|=|&|%[0-9a-f]{0,2}){0,30}") {
            let form = Form::parse(text.as_bytes(), b"").unwrap();
            let _ = form.read::<CreateQueue>(Action::CreateQueue);
            let _ = form.read::<Batch<SendMessage>>(Action::SendMessageBatch);
        }
    }

    /// JSON maps have no order of their own.
    fn sorted<'a, const MAX: usize>(mut list: List<SendMessage<'a>, MAX>) -> List<SendMessage<'a>, MAX> {
        for entry in &mut list.items {
            if let Some(map) = &mut entry.message_attributes {
                map.items.sort_by(|a, b| a.0.cmp(&b.0));
            }
        }
        list
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let wrong = |text: &str| form(text).read::<ReceiveMessage>(Action::ReceiveMessage).unwrap_err().to_string();
        assert_eq!(wrong("MaxNumberOfMessages=many"), "MaxNumberOfMessages is no whole number");
        assert_eq!(wrong("AttributeName.x=All"), "AttributeName.x is no element of a list");
        assert_eq!(wrong("WaitTimeSeconds.1=4"), "a value was expected of WaitTimeSeconds");
        let many = "a=1&".repeat(PARAMETERS_MAX + 1);
        assert!(Form::parse(many.as_bytes(), b"").is_err());
    }
}

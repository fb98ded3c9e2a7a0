//! Answers of the query protocol, written as a format of serde: lists without a wrapper, maps as named pairs.

use std::fmt;

use serde::ser::{self, Impossible, Serialize, Serializer};

use super::names;
use crate::action::Action;
use crate::fault::Fault;

const NAMESPACE: &str = "http://queue.amazonaws.com/doc/2012-11-05/";
const PROLOG: &str = "<?xml version=\"1.0\"?>";

#[derive(Debug)]
pub(super) struct Error(String);

/// An answer into `out`. Silent actions have no element for their result.
pub(super) fn write(out: &mut String, action: Action, answer: &impl Serialize, request: &str) -> Result<(), Error> {
    let name = action.name();
    for part in [PROLOG, "<", name, "Response xmlns=\"", NAMESPACE, "\">"] {
        out.push_str(part);
    }
    if !action.is_silent() {
        out.extend(["<", name, "Result>"]);
        answer.serialize(Element { out, action, name: "" })?;
        out.extend(["</", name, "Result>"]);
    }
    out.push_str("<ResponseMetadata>");
    leaf(out, "RequestId", request);
    out.extend(["</ResponseMetadata></", name, "Response>"]);
    Ok(())
}

pub(super) fn write_fault(out: &mut String, fault: &Fault, request: &str) {
    out.extend([PROLOG, "<ErrorResponse xmlns=\"", NAMESPACE, "\"><Error>"]);
    leaf(out, "Type", fault.kind.side());
    leaf(out, "Code", fault.kind.code);
    leaf(out, "Message", &fault.message);
    out.push_str("<Detail/></Error>");
    leaf(out, "RequestId", request);
    out.push_str("</ErrorResponse>");
}

fn leaf(out: &mut String, name: &str, text: &str) {
    out.extend(["<", name, ">"]);
    escape(out, text);
    out.extend(["</", name, ">"]);
}

/// Readers turn a carriage return into a line feed unless it is a reference. What XML cannot hold is replaced.
fn escape(out: &mut String, text: &str) {
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        let reference = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '\r' => "&#xD;",
            '\t' | '\n' => continue,
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => "\u{fffd}",
            _ => continue,
        };
        out.push_str(&text[plain..at]);
        out.push_str(reference);
        plain = at + c.len_utf8();
    }
    out.push_str(&text[plain..]);
}

/// Writes a value as the element `name`; as the members of what is open already where the name is empty.
struct Element<'o> {
    out: &'o mut String,
    action: Action,
    name: &'static str,
}

impl Element<'_> {
    fn again(&mut self, name: &'static str) -> Element<'_> {
        Element { out: self.out, action: self.action, name }
    }

    fn open(&mut self) {
        if !self.name.is_empty() {
            self.out.extend(["<", self.name, ">"]);
        }
    }

    fn close(&mut self) {
        if !self.name.is_empty() {
            self.out.extend(["</", self.name, ">"]);
        }
    }

    fn show(self, value: impl fmt::Display) -> Result<(), Error> {
        leaf(self.out, self.name, &value.to_string());
        Ok(())
    }
}

/// What no answer contains.
fn never<T>() -> Result<T, Error> {
    Err(Error("the query protocol has no such value".into()))
}

impl<'o> Serializer for Element<'o> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Element<'o>;
    type SerializeTuple = Impossible<(), Error>;
    type SerializeTupleStruct = Impossible<(), Error>;
    type SerializeTupleVariant = Impossible<(), Error>;
    type SerializeMap = Element<'o>;
    type SerializeStruct = Element<'o>;
    type SerializeStructVariant = Impossible<(), Error>;

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.show(value)
    }

    fn serialize_i8(self, value: i8) -> Result<(), Error> {
        self.show(value)
    }

    fn serialize_i16(self, value: i16) -> Result<(), Error> {
        self.show(value)
    }

    fn serialize_i32(self, value: i32) -> Result<(), Error> {
        self.show(value)
    }

    fn serialize_i64(self, value: i64) -> Result<(), Error> {
        self.show(value)
    }

    fn serialize_u8(self, value: u8) -> Result<(), Error> {
        self.show(value)
    }

    fn serialize_u16(self, value: u16) -> Result<(), Error> {
        self.show(value)
    }

    fn serialize_u32(self, value: u32) -> Result<(), Error> {
        self.show(value)
    }

    fn serialize_u64(self, value: u64) -> Result<(), Error> {
        self.show(value)
    }

    fn serialize_f32(self, _: f32) -> Result<(), Error> {
        never()
    }

    fn serialize_f64(self, _: f64) -> Result<(), Error> {
        never()
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.show(value)
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        leaf(self.out, self.name, value);
        Ok(())
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Error> {
        never()
    }

    fn serialize_none(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Error> {
        never()
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), Error> {
        never()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Element<'o>, Error> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Error> {
        never()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Error> {
        never()
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        never()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Element<'o>, Error> {
        Ok(self)
    }

    fn serialize_struct(mut self, _: &'static str, _: usize) -> Result<Element<'o>, Error> {
        self.open();
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        never()
    }
}

impl ser::SerializeSeq for Element<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let name = self.name;
        value.serialize(self.again(name))
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

impl ser::SerializeMap for Element<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.open();
        let name = names::key(self.name);
        key.serialize(self.again(name))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(self.again("Value"))?;
        self.close();
        Ok(())
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}

impl ser::SerializeStruct for Element<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, member: &'static str, value: &T) -> Result<(), Error> {
        let name = names::element(self.action, member);
        value.serialize(self.again(name))
    }

    fn end(mut self) -> Result<(), Error> {
        self.close();
        Ok(())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Error {
        Error(message.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::digest::md5;
    use crate::fault::NO_QUEUE;
    use crate::shapes::{AttributeValue, Bytes64, Done, ListQueueTagsAnswer, Message, ReceiveMessageAnswer, Table};

    fn written(action: Action, answer: &impl Serialize) -> String {
        let mut out = String::new();
        write(&mut out, action, answer, "r-1").unwrap();
        let (head, tail) = (out.find("xmlns").unwrap(), out.find("<ResponseMetadata>").unwrap());
        assert!(out[head..].starts_with("xmlns=\"http://queue.amazonaws.com/doc/2012-11-05/\">"));
        assert!(out[tail..].starts_with("<ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata></"));
        out[head + 51..tail].to_owned()
    }

    #[test]
    fn a_received_message() {
        let value = AttributeValue { string_value: None, binary_value: Some(Bytes64(&[0, 255])), data_type: "Binary" };
        let message = Message {
            message_id: "m",
            receipt_handle: "h",
            body_md5: md5(b"a<b"),
            body: "a<b&c\r\n",
            attributes: Some(Table(vec![("SenderId", Cow::Borrowed("me"))])),
            attributes_md5: None,
            message_attributes: Some(Table(vec![("x", value)])),
        };
        assert_eq!(
            written(Action::ReceiveMessage, &ReceiveMessageAnswer { messages: vec![message] }),
            "<ReceiveMessageResult><Message><MessageId>m</MessageId><ReceiptHandle>h</ReceiptHandle>\
             <MD5OfBody>4fb1a6e46c18a2d99f5a2f96c2ec1fdf</MD5OfBody><Body>a&lt;b&amp;c&#xD;\n</Body>\
             <Attribute><Name>SenderId</Name><Value>me</Value></Attribute><MessageAttribute><Name>x</Name><Value>\
             <BinaryValue>AP8=</BinaryValue><DataType>Binary</DataType></Value></MessageAttribute></Message>\
             </ReceiveMessageResult>"
                .replace("4fb1a6e46c18a2d99f5a2f96c2ec1fdf", md5(b"a<b").as_str())
        );
    }

    #[test]
    fn tags_are_keys_and_silent_actions_say_nothing() {
        let tags = ListQueueTagsAnswer { tags: Table(vec![("k".to_owned(), "v".to_owned())]) };
        assert_eq!(
            written(Action::ListQueueTags, &tags),
            "<ListQueueTagsResult><Tag><Key>k</Key><Value>v</Value></Tag></ListQueueTagsResult>"
        );
        assert_eq!(written(Action::DeleteMessage, &Done {}), "");
        assert_eq!(
            written(Action::ReceiveMessage, &ReceiveMessageAnswer { messages: vec![] }),
            "<ReceiveMessageResult></ReceiveMessageResult>"
        );
    }

    #[test]
    fn a_fault_holds_what_xml_can_hold() {
        let mut out = String::new();
        write_fault(&mut out, &Fault::new(NO_QUEUE, "no \u{1} \u{fffe}"), "r");
        assert!(out.contains(
            "<Error><Type>Sender</Type><Code>AWS.SimpleQueueService.NonExistentQueue</Code>\
             <Message>no \u{fffd} \u{fffd}</Message><Detail/></Error><RequestId>r</RequestId>"
        ));
    }
}

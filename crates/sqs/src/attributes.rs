//! Message attributes: checked, digested, and packed for their way through the backend.
//!
//! The packing is the text that SQS's digest is made of, after a byte of version: attributes by name, and of each
//! name, type, kind of value (1 text, 2 bytes) and value, with their lengths in four bytes, big-endian. So the digest
//! of all attributes, and of any choice of them, is that of slices of what was stored.

use crate::backend::Outgoing;
use crate::digest::{Hex, md5_of};
use crate::fault::{Fault, INVALID_CONTENTS, INVALID_PARAMETER, Result, quoted};
use crate::limits::{ATTRIBUTE_NAME_MAX, MESSAGE_ATTRIBUTES_MAX, NUMBER_DIGITS_MAX, TRACE_HEADER_MAX};
use crate::shapes::{MessageAttributeMap, MessageAttributeValue};

const VERSION: u8 = 1;
const KIND_TEXT: u8 = 1;
const KIND_BYTES: u8 = 2;
/// What the packing adds to each attribute: three lengths and the kind.
const OVERHEAD_BYTES: usize = 13;
pub(crate) const TRACE_HEADER: &str = "AWSTraceHeader";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    pub(crate) name: &'a str,
    pub(crate) data_type: &'a str,
    pub(crate) value: Value<'a>,
}

/// What is sent along with a body.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    /// Empty without attributes.
    pub(crate) bytes: Vec<u8>,
    pub(crate) md5: Option<Hex<32>>,
}

impl Packed {
    /// Checks the attributes of a message.
    pub(crate) fn new(map: Option<&MessageAttributeMap>) -> Result<Packed> {
        let Some(map) = map.filter(|map| map.count > 0) else { return Ok(Packed::default()) };
        if map.count > MESSAGE_ATTRIBUTES_MAX {
            let message = format!("A message can have {MESSAGE_ATTRIBUTES_MAX} attributes, not {}.", map.count);
            return Err(Fault::new(INVALID_PARAMETER, message));
        }
        let mut attributes = Vec::with_capacity(map.items.len());
        for (name, value) in &map.items {
            check_name(name)?;
            attributes.push(check_value(name, value)?);
        }
        attributes.sort_unstable_by_key(|attribute| attribute.name);
        if let Some(twice) = attributes.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(refused(twice[0].name, "is there more than once"));
        }
        let bytes = pack(&attributes);
        Ok(Packed { md5: Some(md5_of([&bytes[1..]])), bytes })
    }
}

/// The trace header of a message's system attributes, and their digest.
pub(crate) fn trace_header(map: Option<&MessageAttributeMap>) -> Result<Option<(String, Hex<32>)>> {
    let Some(map) = map.filter(|map| map.count > 0) else { return Ok(None) };
    let [(name, value)] = &map.items[..] else {
        return Err(Fault::new(INVALID_PARAMETER, "AWSTraceHeader is the only system attribute of a message."));
    };
    if &**name != TRACE_HEADER {
        return Err(Fault::value("MessageSystemAttributes", &**name, "Only AWSTraceHeader is supported."));
    }
    let attribute = check_value(name, value)?;
    let Value::Text(text) = attribute.value else { return Err(refused(name, "must be of the type String")) };
    if text.len() > TRACE_HEADER_MAX {
        return Err(refused(name, "is longer than 1024 bytes"));
    }
    Ok(Some((text.to_owned(), md5_of([&pack(&[attribute])[1..]]))))
}

/// By name. `None` if the bytes are not what this version packs.
pub(crate) fn unpack(bytes: &[u8]) -> Option<Vec<Attribute<'_>>> {
    let Some((version, mut left)) = bytes.split_first() else { return Some(vec![]) };
    if *version != VERSION {
        return None;
    }
    let mut attributes = Vec::new();
    while !left.is_empty() {
        let name = take_text(&mut left)?;
        let data_type = take_text(&mut left)?;
        let (kind, rest) = left.split_first()?;
        left = rest;
        let value = match *kind {
            KIND_TEXT => Value::Text(take_text(&mut left)?),
            KIND_BYTES => Value::Bytes(take(&mut left)?),
            _ => return None,
        };
        attributes.push(Attribute { name, data_type, value });
    }
    Some(attributes)
}

/// Digest of attributes that are in the order of their names.
pub(crate) fn md5_of_attributes(attributes: &[Attribute]) -> Option<Hex<32>> {
    (!attributes.is_empty()).then(|| md5_of([&pack(attributes)[1..]]))
}

impl Outgoing {
    /// What counts against a queue's largest message: body, and names, types and values of the attributes, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.body.len() + size_bytes(&self.attributes)
    }
}

/// Names, types and values of packed attributes, in bytes.
pub(crate) fn size_bytes(packed: &[u8]) -> usize {
    let count = unpack(packed).map_or(0, |attributes| attributes.len());
    packed.len().saturating_sub(1 + count * OVERHEAD_BYTES)
}

fn pack(attributes: &[Attribute]) -> Vec<u8> {
    let size = |a: &Attribute| OVERHEAD_BYTES + a.name.len() + a.data_type.len() + a.value.bytes().len();
    let mut out = Vec::with_capacity(1 + attributes.iter().map(size).sum::<usize>());
    out.push(VERSION);
    for attribute in attributes {
        put(&mut out, attribute.name.as_bytes());
        put(&mut out, attribute.data_type.as_bytes());
        out.push(if matches!(attribute.value, Value::Text(_)) { KIND_TEXT } else { KIND_BYTES });
        put(&mut out, attribute.value.bytes());
    }
    out
}

impl Value<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Value::Text(text) => text.as_bytes(),
            Value::Bytes(bytes) => bytes,
        }
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a request is far shorter than 4 GiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn take<'a>(left: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = left.split_first_chunk::<4>()?;
    let (bytes, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *left = rest;
    Some(bytes)
}

fn take_text<'a>(left: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take(left)?).ok()
}

fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let reserved = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let wrong = if name.is_empty() || name.len() > ATTRIBUTE_NAME_MAX {
        "must have a name of 1 to 256 characters"
    } else if !name.chars().all(allowed) {
        "has a name with other characters than letters, digits, underscores, hyphens and periods"
    } else if name.starts_with('.') || name.ends_with('.') || name.contains("..") {
        "has a name that begins or ends with a period, or has two in a row"
    } else if reserved("aws.") || reserved("amazon.") {
        "has a name with a reserved prefix"
    } else {
        return Ok(());
    };
    Err(refused(name, wrong))
}

fn check_value<'a>(name: &'a str, value: &'a MessageAttributeValue) -> Result<Attribute<'a>> {
    let data_type = value.data_type.as_deref().filter(|t| !t.is_empty());
    let data_type = data_type.ok_or_else(|| refused(name, "must contain a non-empty type"))?;
    if data_type.len() > ATTRIBUTE_NAME_MAX || !is_xml_text(data_type) {
        return Err(refused(name, "has a type that is too long or has characters that are not allowed"));
    }
    let base = data_type.split('.').next().unwrap_or_default();
    let value = match (base, value.string_value.as_deref(), &value.binary_value) {
        (_, Some(_), Some(_)) => return Err(refused(name, "must contain one value, not two")),
        ("String" | "Number", Some(text), _) if !text.is_empty() => Value::Text(text),
        ("Binary", _, Some(bytes)) if !bytes.0.is_empty() => Value::Bytes(&bytes.0),
        ("String" | "Number" | "Binary", _, _) => {
            return Err(refused(name, &format!("must contain a non-empty value of type '{base}'")));
        }
        _ => return Err(refused(name, "has a type that does not begin with String, Number or Binary")),
    };
    match value {
        Value::Text(text) if !is_xml_text(text) => Err(Fault::new(
            INVALID_CONTENTS,
            format!("The attribute '{}' has characters outside of XML.", quoted(name)),
        )),
        Value::Text(text) if base == "Number" && !is_number(text) => Err(refused(name, "is not a number")),
        value => Ok(Attribute { name, data_type, value }),
    }
}

/// Sign, digits with a point, exponent; at most 38 significant digits.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let digits = |text: &str| text.bytes().filter(u8::is_ascii_digit).count();
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let whole = |text: &str| !text.is_empty() && text.len() <= 3 && digits(text) == text.len();
    let points = mantissa.matches('.').count();
    let significant = mantissa.trim_start_matches(['0', '.']);
    digits(mantissa) > 0
        && points <= 1
        && digits(mantissa) + points == mantissa.len()
        && digits(significant) <= NUMBER_DIGITS_MAX
        && whole(exponent)
}

/// Only characters of XML 1.0: what SQS lets through in bodies and attributes.
pub(crate) fn is_xml_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.iter().any(|b| *b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r')) {
        return false;
    }
    // U+FFFE and U+FFFF are the other two that a Rust string can hold and XML cannot; both begin with this byte.
    !(bytes.contains(&0xef) && text.contains(['\u{fffe}', '\u{ffff}']))
}

fn refused(name: &str, why: &str) -> Fault {
    Fault::new(INVALID_PARAMETER, format!("Message (user) attribute '{}' {why}.", quoted(name)))
}

#[cfg(test)]
mod tests;

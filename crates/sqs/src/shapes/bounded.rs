//! Building blocks of requests: text that is borrowed where it can be, and lists and maps that cannot grow.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text of the request itself unless it had escapes. (`Option<Cow<str>>` would always be copied.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    pub(crate) fn into_string(self) -> String {
        self.0.into_owned()
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Text<'a> {
        Text(Cow::Borrowed(text))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text)))
    }
}

/// Bytes, base64 on the wire of both protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blob(pub(crate) Vec<u8>);

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map(Blob).map_err(|_| D::Error::custom("a binary value is not base64"))
    }
}

/// At most `MAX` elements; what comes after them is counted and dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List<T, const MAX: usize> {
    pub(crate) items: Vec<T>,
    pub(crate) count: usize,
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        List { items: Vec::new(), count: 0 }
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < MAX {
            match seq.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(List { count: items.len(), items }),
            }
        }
        let mut count = items.len();
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(List { items, count })
    }
}

/// At most `MAX` entries, in the order in which they came; a name may be there twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Map<'a, V, const MAX: usize> {
    pub(crate) items: Vec<(Text<'a>, V)>,
    pub(crate) count: usize,
}

impl<V, const MAX: usize> Default for Map<'_, V, MAX> {
    fn default() -> Self {
        Map { items: Vec::new(), count: 0 }
    }
}

impl<'de: 'a, 'a, V: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Map<'a, V, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct PairsVisitor<V, const MAX: usize>(PhantomData<V>);

impl<'de, V: Deserialize<'de>, const MAX: usize> Visitor<'de> for PairsVisitor<V, MAX> {
    type Value = Map<'de, V, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < MAX {
            match map.next_entry()? {
                Some(item) => items.push(item),
                None => return Ok(Map { count: items.len(), items }),
            }
        }
        let mut count = items.len();
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Map { items, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_borrowed_where_it_can_be() {
        let plain: Option<Text> = serde_json::from_str("\"plain\"").unwrap();
        assert!(matches!(plain, Some(Text(Cow::Borrowed("plain")))));
        let escaped: Text = serde_json::from_str(r#""a\nb""#).unwrap();
        assert_eq!(&*escaped, "a\nb");
    }

    #[test]
    fn lists_and_maps_stop_growing_and_go_on_counting() {
        let list: List<u8, 2> = serde_json::from_str("[1, 2, {}, null]").unwrap();
        assert_eq!((list.items, list.count), (vec![1, 2], 4));
        let map: Map<u8, 1> = serde_json::from_str(r#"{"a": 1, "b": []}"#).unwrap();
        assert_eq!((map.items.len(), map.count), (1, 2));
        let short: List<u8, 2> = serde_json::from_str("[1]").unwrap();
        assert_eq!(short.count, 1);
    }

    #[test]
    fn a_blob_is_base64() {
        assert_eq!(serde_json::from_str::<Blob>("\"AP8=\"").unwrap(), Blob(vec![0, 255]));
        assert!(serde_json::from_str::<Blob>("\"AP8\"").is_err());
    }
}

//! Checks that several actions share.

use crate::fault::{Fault, INVALID_PARAMETER, INVALID_RECEIPT, Result, quoted};
use crate::limits::{FIFO_ID_MAX, RECEIPT_HANDLE_MAX, TAG_KEY_MAX, TAG_VALUE_MAX, TAGS_MAX};
use crate::shapes::{TagMap, Text};

pub(super) fn required<T>(parameter: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Fault::missing(parameter))
}

/// A whole number within bounds, where one is given.
pub(super) fn range(parameter: &str, value: Option<i64>, min: i64, max: i64) -> Result<Option<u32>> {
    let Some(value) = value else { return Ok(None) };
    let number = Some(value).filter(|v| (min..=max).contains(v)).and_then(|v| u32::try_from(v).ok());
    let reason = format!("It must be an integer between {min} and {max}.");
    number.map(Some).ok_or_else(|| Fault::value(parameter, value, &reason))
}

/// Group, deduplication and attempt ids: 1 to 128 letters, digits and punctuation of ASCII.
pub(super) fn fifo_id(parameter: &str, id: Option<Text>) -> Result<Option<String>> {
    let Some(id) = id else { return Ok(None) };
    if id.is_empty() || id.len() > FIFO_ID_MAX || !id.bytes().all(|b| b.is_ascii_graphic()) {
        let reason = "It must be 1 to 128 alphanumeric or punctuation characters.";
        return Err(Fault::value(parameter, &*id, reason));
    }
    Ok(Some(id.into_string()))
}

/// What a queue of the other type would take.
pub(super) fn wrong_type(parameter: &str, value: impl std::fmt::Display) -> Fault {
    Fault::value(parameter, value, "The parameter is not valid for this type of queue.")
}

pub(super) fn receipt(handle: Option<Text>) -> Result<String> {
    let handle = required("ReceiptHandle", handle)?;
    if handle.is_empty() || handle.len() > RECEIPT_HANDLE_MAX || !handle.bytes().all(|b| b.is_ascii_graphic()) {
        let message = format!("The input receipt handle \"{}\" is not a valid receipt handle.", quoted(&handle));
        return Err(Fault::new(INVALID_RECEIPT, message));
    }
    Ok(handle.into_string())
}

/// Tags to be set, as far as they can be checked without those that the queue has.
pub(super) fn tags(map: TagMap) -> Result<Vec<(String, String)>> {
    if map.count > TAGS_MAX {
        return Err(too_many_tags(map.count));
    }
    let check = |(key, value): (Text, Text)| {
        tag_key(&key)?;
        if value.chars().count() > TAG_VALUE_MAX {
            return Err(Fault::value("Tag.Value", &*value, "It must be at most 256 characters long."));
        }
        Ok((key.into_string(), value.into_string()))
    };
    map.items.into_iter().map(check).collect()
}

pub(super) fn tag_key(key: &str) -> Result<()> {
    if key.is_empty() || key.chars().count() > TAG_KEY_MAX {
        return Err(Fault::value("Tag.Key", key, "It must be 1 to 128 characters long."));
    }
    if key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
        return Err(Fault::value("Tag.Key", key, "The prefix aws: is reserved."));
    }
    Ok(())
}

pub(super) fn too_many_tags(count: usize) -> Fault {
    Fault::new(INVALID_PARAMETER, format!("A queue can have {TAGS_MAX} tags; the request names {count}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<Text<'_>> {
        Some(Text::from(text))
    }

    #[test]
    fn ranges_include_their_ends() {
        assert_eq!(range("P", None, 1, 10).unwrap(), None);
        assert_eq!((range("P", Some(1), 1, 10).unwrap(), range("P", Some(10), 1, 10).unwrap()), (Some(1), Some(10)));
        assert!(range("P", Some(0), 1, 10).is_err() && range("P", Some(i64::MIN), 1, 10).is_err());
        let message = range("P", Some(11), 1, 10).unwrap_err().message;
        assert_eq!(message, "Value 11 for parameter P is invalid. Reason: It must be an integer between 1 and 10.");
    }

    #[test]
    fn ids_and_handles_are_printable_and_bounded() {
        assert_eq!(fifo_id("G", text("a!~")).unwrap().as_deref(), Some("a!~"));
        for bad in ["", "a b", "ä", &"x".repeat(129)] {
            assert_eq!(fifo_id("G", text(bad)).unwrap_err().kind, INVALID_PARAMETER, "{bad}");
        }
        assert_eq!(receipt(text("h/+=")).unwrap(), "h/+=");
        for bad in ["", "a b", &"x".repeat(1025)] {
            assert_eq!(receipt(text(bad)).unwrap_err().kind, INVALID_RECEIPT, "{bad}");
        }
        assert_eq!(receipt(None).unwrap_err().kind.code, "MissingParameter");
    }

    #[test]
    fn tag_keys() {
        assert!(tag_key("team").is_ok() && tag_key("ä").is_ok());
        assert!(tag_key("").is_err() && tag_key("AWS:x").is_err() && tag_key(&"x".repeat(129)).is_err());
    }
}

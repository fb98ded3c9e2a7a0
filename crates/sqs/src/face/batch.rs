//! What all batches share: 1 to 10 entries with distinct ids, and an answer for each.

use crate::backend;
use crate::fault::{BATCH_IDS_NOT_DISTINCT, EMPTY_BATCH, Fault, INVALID_BATCH_ID, Kind, Result, TOO_MANY_ENTRIES};
use crate::limits::{ENTRIES_MAX, ENTRY_ID_MAX};
use crate::shapes::{BatchAnswer, Entry, Failed, List, Succeeded, Text};

/// The entries of a batch, after what makes SQS refuse a batch as a whole.
pub(super) fn entries<T: Entry>(list: Option<List<T, ENTRIES_MAX>>) -> Result<Vec<T>> {
    let list = list.unwrap_or_default();
    let refuse = |kind: &'static Kind, message: String| Err(Fault::new(kind, message));
    if list.count == 0 {
        return refuse(EMPTY_BATCH, "There should be at least one entry in the request.".to_owned());
    }
    if list.count > ENTRIES_MAX {
        return refuse(
            TOO_MANY_ENTRIES,
            format!("Maximum number of entries per request are {ENTRIES_MAX}. You have sent {}.", list.count),
        );
    }
    for (n, entry) in list.items.iter().enumerate() {
        let id = entry.id().ok_or_else(|| Fault::missing("Id"))?;
        if !is_id(id) {
            let rule = "A batch entry id is 1 to 80 alphanumeric characters, hyphens and underscores.";
            return refuse(INVALID_BATCH_ID, rule.to_owned());
        }
        if list.items[..n].iter().any(|other| other.id() == Some(id)) {
            return refuse(BATCH_IDS_NOT_DISTINCT, format!("Id {id} repeated."));
        }
    }
    Ok(list.items)
}

fn is_id(id: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !id.is_empty() && id.len() <= ENTRY_ID_MAX && id.bytes().all(allowed)
}

pub(super) fn failed<'a>(id: Text<'a>, fault: Fault) -> Failed<'a> {
    Failed { id, sender_fault: fault.kind.is_senders(), code: fault.kind.code, message: fault.message }
}

/// Entries that passed their checks, with their ids, and those that did not.
pub(super) struct Sorted<'a, T> {
    pub(super) ids: Vec<Text<'a>>,
    pub(super) good: Vec<T>,
    pub(super) failed: Vec<Failed<'a>>,
}

impl<'a, T> Sorted<'a, T> {
    pub(super) fn new<E>(entries: Vec<E>, check: impl Fn(E) -> (Option<Text<'a>>, Result<T>)) -> Result<Self> {
        let mut sorted = Sorted { ids: Vec::new(), good: Vec::new(), failed: Vec::new() };
        for entry in entries {
            let (id, checked) = check(entry);
            let id = id.ok_or_else(|| Fault::missing("Id"))?;
            match checked {
                Ok(good) => {
                    sorted.ids.push(id);
                    sorted.good.push(good);
                }
                Err(fault) => sorted.failed.push(failed(id, fault)),
            }
        }
        Ok(sorted)
    }
}

/// The answer of entries that say no more than that it was done.
pub(super) fn answer<'a>(
    ids: Vec<Text<'a>>,
    results: Vec<backend::Result<()>>,
    mut refused: Vec<Failed<'a>>,
) -> Result<BatchAnswer<'a, Succeeded<'a>>> {
    same_length(ids.len(), results.len())?;
    let mut successful = Vec::with_capacity(ids.len());
    for (id, result) in ids.into_iter().zip(results) {
        match result {
            Ok(()) => successful.push(Succeeded { id }),
            Err(error) => refused.push(failed(id, error.into())),
        }
    }
    Ok(BatchAnswer { successful, failed: refused })
}

/// The backend owes an answer for each entry.
pub(super) fn same_length(asked: usize, answered: usize) -> Result<()> {
    if asked == answered { Ok(()) } else { Err(Fault::internal("entries were left without an answer")) }
}

/// Its answer to a single entry.
pub(super) fn only<T>(mut results: Vec<backend::Result<T>>) -> Result<T> {
    same_length(1, results.len())?;
    Ok(results.remove(0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::{Batch, DeleteMessage};

    fn check(ids: &[&str]) -> Result<usize> {
        let entries_json: Vec<_> = ids.iter().map(|id| serde_json::json!({ "Id": id, "ReceiptHandle": "h" })).collect();
        let text = serde_json::json!({ "Entries": entries_json }).to_string();
        let batch: Batch<DeleteMessage> = serde_json::from_str(&text).unwrap();
        entries(batch.entries).map(|entries| entries.len())
    }

    #[test]
    fn a_batch_has_one_to_ten_distinct_ids() {
        let ten: Vec<String> = (0..11).map(|n| format!("id-{n}")).collect();
        let ids: Vec<&str> = ten.iter().map(String::as_str).collect();
        assert_eq!(check(&ids[..10]).unwrap(), 10);
        assert_eq!(check(&[]).unwrap_err().kind, EMPTY_BATCH);
        assert!(check(&ids).unwrap_err().message.ends_with("You have sent 11."));
        assert_eq!(check(&["a", "b", "a"]).unwrap_err().kind, BATCH_IDS_NOT_DISTINCT);
        for bad in ["", "a:b", "ä", &"x".repeat(81)] {
            assert_eq!(check(&[bad]).unwrap_err().kind, INVALID_BATCH_ID, "{bad}");
        }
        assert_eq!(entries::<DeleteMessage>(None).unwrap_err().kind, EMPTY_BATCH);
    }

    #[test]
    fn a_backend_that_forgets_an_entry_is_noticed() {
        assert_eq!(only::<()>(vec![]).unwrap_err().kind.code, "InternalFailure");
        assert!(answer(vec![], vec![Ok(())], vec![]).is_err());
    }
}

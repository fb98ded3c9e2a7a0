//! Errors as clients know them: shape of the JSON protocol, code of the older query protocol, HTTP status.

use std::fmt;

use http::StatusCode;

use crate::backend;
use crate::limits::QUOTED_MAX;

/// An error on its way to the client. Messages never hold secrets or signatures that were worked out here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: &'static Kind,
    pub(crate) message: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Name of the model the shape is from.
    pub(crate) model: &'static str,
    pub(crate) shape: &'static str,
    /// What the query protocol calls it; JSON tells it in `x-amzn-query-error`, and entries of batches use it.
    pub(crate) code: &'static str,
    pub(crate) status: StatusCode,
}

/// Shapes of SQS's own model.
const SQS: &str = "com.amazonaws.sqs";
/// Shapes that all AWS services share.
const SHARED: &str = "com.amazon.coral.service";

macro_rules! kinds {
    ($($name:ident: $model:ident $shape:literal $code:literal $status:ident;)*) => {
        $(pub(crate) const $name: &Kind =
            &Kind { model: $model, shape: $shape, code: $code, status: StatusCode::$status };)*
        #[cfg(test)]
        pub(crate) const KINDS: &[&Kind] = &[$($name),*];
    };
}

kinds! {
    BATCH_IDS_NOT_DISTINCT: SQS "BatchEntryIdsNotDistinct"
        "AWS.SimpleQueueService.BatchEntryIdsNotDistinct" BAD_REQUEST;
    BATCH_TOO_LONG: SQS "BatchRequestTooLong" "AWS.SimpleQueueService.BatchRequestTooLong" BAD_REQUEST;
    EMPTY_BATCH: SQS "EmptyBatchRequest" "AWS.SimpleQueueService.EmptyBatchRequest" BAD_REQUEST;
    INVALID_ADDRESS: SQS "InvalidAddress" "InvalidAddress" NOT_FOUND;
    INVALID_ATTRIBUTE_NAME: SQS "InvalidAttributeName" "InvalidAttributeName" BAD_REQUEST;
    INVALID_ATTRIBUTE_VALUE: SQS "InvalidAttributeValue" "InvalidAttributeValue" BAD_REQUEST;
    INVALID_BATCH_ID: SQS "InvalidBatchEntryId" "AWS.SimpleQueueService.InvalidBatchEntryId" BAD_REQUEST;
    INVALID_CONTENTS: SQS "InvalidMessageContents" "InvalidMessageContents" BAD_REQUEST;
    NOT_IN_FLIGHT: SQS "MessageNotInflight" "AWS.SimpleQueueService.MessageNotInflight" BAD_REQUEST;
    OVER_LIMIT: SQS "OverLimit" "OverLimit" FORBIDDEN;
    PURGE_IN_PROGRESS: SQS "PurgeQueueInProgress" "AWS.SimpleQueueService.PurgeQueueInProgress" FORBIDDEN;
    DELETED_RECENTLY: SQS "QueueDeletedRecently" "AWS.SimpleQueueService.QueueDeletedRecently" BAD_REQUEST;
    NO_QUEUE: SQS "QueueDoesNotExist" "AWS.SimpleQueueService.NonExistentQueue" BAD_REQUEST;
    QUEUE_EXISTS: SQS "QueueNameExists" "QueueAlreadyExists" BAD_REQUEST;
    INVALID_RECEIPT: SQS "ReceiptHandleIsInvalid" "ReceiptHandleIsInvalid" BAD_REQUEST;
    THROTTLED: SQS "RequestThrottled" "RequestThrottled" BAD_REQUEST;
    NOT_FOUND: SQS "ResourceNotFoundException" "ResourceNotFoundException" NOT_FOUND;
    TOO_MANY_ENTRIES: SQS "TooManyEntriesInBatchRequest"
        "AWS.SimpleQueueService.TooManyEntriesInBatchRequest" BAD_REQUEST;
    UNSUPPORTED: SQS "UnsupportedOperation" "AWS.SimpleQueueService.UnsupportedOperation" BAD_REQUEST;
    INVALID_PARAMETER: SHARED "InvalidParameterValueException" "InvalidParameterValue" BAD_REQUEST;
    MISSING_PARAMETER: SHARED "MissingRequiredParameterException" "MissingParameter" BAD_REQUEST;
    UNKNOWN_ACTION: SHARED "UnknownOperationException" "InvalidAction" BAD_REQUEST;
    MISSING_ACTION: SHARED "MissingActionException" "MissingAction" BAD_REQUEST;
    MALFORMED: SHARED "SerializationException" "MalformedInput" BAD_REQUEST;
    ACCESS_DENIED: SHARED "AccessDeniedException" "AccessDenied" FORBIDDEN;
    INCOMPLETE_SIGNATURE: SHARED "IncompleteSignatureException" "IncompleteSignature" FORBIDDEN;
    UNKNOWN_KEY: SHARED "UnrecognizedClientException" "InvalidClientTokenId" FORBIDDEN;
    WRONG_SIGNATURE: SHARED "InvalidSignatureException" "SignatureDoesNotMatch" FORBIDDEN;
    TOO_LARGE: SHARED "RequestEntityTooLargeException" "RequestEntityTooLarge" PAYLOAD_TOO_LARGE;
    INTERNAL: SHARED "InternalFailure" "InternalFailure" INTERNAL_SERVER_ERROR;
    UNAVAILABLE: SHARED "ServiceUnavailableException" "ServiceUnavailable" SERVICE_UNAVAILABLE;
}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

impl Kind {
    /// The client sent what it should not have, as opposed to: something here does not work.
    pub(crate) fn is_senders(&self) -> bool {
        self.status.is_client_error()
    }

    /// `Sender` or `Receiver`.
    pub(crate) fn side(&self) -> &'static str {
        if self.is_senders() { "Sender" } else { "Receiver" }
    }
}

impl Fault {
    pub(crate) fn new(kind: &'static Kind, message: impl Into<String>) -> Fault {
        Fault { kind, message: message.into() }
    }

    pub(crate) fn missing(parameter: &str) -> Fault {
        Fault::new(MISSING_PARAMETER, format!("The request must contain the parameter {parameter}."))
    }

    /// A parameter whose value is not allowed.
    pub(crate) fn value(parameter: &str, value: impl fmt::Display, reason: &str) -> Fault {
        let value = quoted(&value.to_string());
        Fault::new(INVALID_PARAMETER, format!("Value {value} for parameter {parameter} is invalid. Reason: {reason}"))
    }

    /// What the backend promises and did not keep. Nothing the client could do about it.
    pub(crate) fn internal(what: &str) -> Fault {
        Fault::new(INTERNAL, format!("The request failed inside the service: {what}."))
    }

    pub(crate) fn no_queue() -> Fault {
        Fault::new(NO_QUEUE, "The specified queue does not exist.")
    }
}

/// The beginning of foreign text.
pub(crate) fn quoted(text: &str) -> String {
    if text.chars().nth(QUOTED_MAX).is_none() {
        return text.to_owned();
    }
    text.chars().take(QUOTED_MAX).chain("...".chars()).collect()
}

impl From<backend::Error> for Fault {
    fn from(error: backend::Error) -> Fault {
        use backend::Error;
        let kind = match &error {
            Error::QueueDoesNotExist => return Fault::no_queue(),
            Error::QueueNameExists(_) => QUEUE_EXISTS,
            Error::QueueDeletedRecently => DELETED_RECENTLY,
            Error::PurgeQueueInProgress => PURGE_IN_PROGRESS,
            Error::OverLimit(_) => OVER_LIMIT,
            Error::ReceiptHandleIsInvalid(_) => INVALID_RECEIPT,
            Error::MessageNotInflight => NOT_IN_FLIGHT,
            Error::ResourceNotFound(_) => NOT_FOUND,
            Error::InvalidParameterValue(_) => INVALID_PARAMETER,
            Error::MissingParameter(_) => MISSING_PARAMETER,
            Error::UnsupportedOperation(_) => UNSUPPORTED,
            Error::Throttled(_) => THROTTLED,
            Error::Unavailable(_) => UNAVAILABLE,
        };
        Fault::new(kind, sentence(error.to_string()))
    }
}

/// Errors of the backend begin small, as Rust's do; what clients read are sentences.
fn sentence(text: String) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return text };
    let end = if text.ends_with('.') { "" } else { "." };
    format!("{}{}{end}", first.to_uppercase(), chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_codes_are_told_apart() {
        for (n, kind) in KINDS.iter().enumerate() {
            assert!(KINDS[..n].iter().all(|k| k.shape != kind.shape && k.code != kind.code), "{kind:?} is there twice");
        }
    }

    #[test]
    fn a_backend_error_becomes_a_sentence() {
        let fault = Fault::from(backend::Error::MessageNotInflight);
        assert_eq!((fault.kind.shape, &*fault.message), ("MessageNotInflight", "The message is not in flight."));
        assert_eq!(Fault::from(backend::Error::Unavailable("no disk".into())).kind.side(), "Receiver");
    }

    #[test]
    fn foreign_text_is_cut() {
        assert_eq!(quoted("short"), "short");
        assert_eq!(quoted(&"ä".repeat(QUOTED_MAX)).chars().count(), QUOTED_MAX);
        assert_eq!(quoted(&"ä".repeat(QUOTED_MAX + 1)).chars().count(), QUOTED_MAX + 3);
    }
}

//! Every limit of the face, with its reason. "SQS" as reason means: clients count on exactly this number.

/// Body and attributes of one message, and of all messages of a batch, in bytes: SQS since 2025, 256 KiB before.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1_048_576;

/// Largest body of a request that the caller should read, in bytes.
///
/// A message set holds 1 MiB, and a JSON writer may spend six bytes on each of them (`\u0041`; form encoding spends
/// three); 2 MiB remain for names and ids around it. What is larger is no request that could succeed.
pub const BODY_BYTES_MAX: usize = 8 * 1_048_576;

/// Entries of a batch: SQS.
pub(crate) const ENTRIES_MAX: usize = 10;
/// Characters of an entry's id, and of a permission's label: SQS.
pub(crate) const ENTRY_ID_MAX: usize = 80;
/// Characters of a queue's name, `.fifo` included: SQS.
pub(crate) const QUEUE_NAME_MAX: usize = 80;
/// Message attributes of a message: SQS.
pub(crate) const MESSAGE_ATTRIBUTES_MAX: usize = 10;
/// Bytes of a message attribute's name, and of its type: SQS.
pub(crate) const ATTRIBUTE_NAME_MAX: usize = 256;
/// Significant digits of a `Number`: SQS.
pub(crate) const NUMBER_DIGITS_MAX: usize = 38;
/// Bytes of `AWSTraceHeader`. SQS names none; X-Ray's own headers stay far below.
pub(crate) const TRACE_HEADER_MAX: usize = 1_024;
/// Characters of a message group, deduplication or receive attempt id: SQS.
pub(crate) const FIFO_ID_MAX: usize = 128;
/// Bytes of a receipt handle: SQS promises no more than 1,024 characters.
pub(crate) const RECEIPT_HANDLE_MAX: usize = 1_024;
/// Seconds of a visibility timeout, 12 hours: SQS.
pub(crate) const VISIBILITY_MAX_S: i64 = 43_200;
/// Seconds of a delay, 15 minutes: SQS.
pub(crate) const DELAY_MAX_S: i64 = 900;
/// Seconds that a receive waits: SQS.
pub(crate) const WAIT_MAX_S: i64 = 20;
/// Seconds that a queue keeps its messages, a minute to 14 days: SQS.
pub(crate) const RETENTION_MIN_S: i64 = 60;
pub(crate) const RETENTION_MAX_S: i64 = 1_209_600;
/// Bytes that a queue's `MaximumMessageSize` can be: SQS.
pub(crate) const QUEUE_SIZE_MIN: i64 = 1_024;
pub(crate) const QUEUE_SIZE_MAX: i64 = 1_048_576;
/// Seconds of `KmsDataKeyReusePeriodSeconds`, a minute to a day: SQS.
pub(crate) const DATA_KEY_REUSE_MIN_S: i64 = 60;
pub(crate) const DATA_KEY_REUSE_MAX_S: i64 = 86_400;
/// Messages of one receive: SQS.
pub(crate) const RECEIVE_MAX: i64 = 10;
/// Names of attributes that a request asks for. SQS names none; more than there are attributes is a mistake.
pub(crate) const ATTRIBUTE_NAMES_MAX: usize = 64;
/// Attributes of a queue in one request: SQS has 22.
pub(crate) const QUEUE_ATTRIBUTES_MAX: usize = 32;
/// Bytes of an attribute that is only kept, such as `Policy`. SQS allows 20 KB for a policy.
pub(crate) const KEPT_BYTES_MAX: usize = 20_480;
/// Queues of one page of a list: SQS.
pub(crate) const PAGE_MAX: i64 = 1_000;
/// Bytes of a `NextToken`: a queue's name in base64, with room.
pub(crate) const TOKEN_BYTES_MAX: usize = 256;
/// Tags of a queue: SQS.
pub(crate) const TAGS_MAX: usize = 50;
/// Characters of a tag's key: SQS.
pub(crate) const TAG_KEY_MAX: usize = 128;
/// Characters of a tag's value: SQS.
pub(crate) const TAG_VALUE_MAX: usize = 256;
/// `maxReceiveCount`: SQS.
pub(crate) const RECEIVES_MAX: i64 = 1_000;
/// Queues that a redrive allow policy names: SQS.
pub(crate) const REDRIVE_SOURCES_MAX: usize = 10;
/// Messages a second of a move: SQS.
pub(crate) const MOVE_RATE_MAX: i64 = 500;
/// Moves that a list shows: SQS.
pub(crate) const MOVES_MAX: i64 = 10;
/// Bytes of a task handle: the queue's name and the backend's handle in base64, with room.
pub(crate) const TASK_HANDLE_MAX: usize = 1_024;
/// Actions of one statement of a policy: SQS.
pub(crate) const POLICY_ACTIONS_MAX: usize = 7;
/// Accounts of one statement of a policy. SQS names none; the policy's size ends it at about 400.
pub(crate) const POLICY_ACCOUNTS_MAX: usize = 50;
/// Parameters of a request in the query protocol: ten entries with ten attributes of four parameters are 450.
pub(crate) const PARAMETERS_MAX: usize = 2_000;
/// Seconds that a signature's date may be off: AWS.
pub(crate) const CLOCK_SKEW_MAX_S: u64 = 900;
/// Seconds that a presigned request may be good for, 7 days: AWS.
pub(crate) const PRESIGNED_MAX_S: u64 = 604_800;
/// Headers that a signature names. SDKs sign about ten.
pub(crate) const SIGNED_HEADERS_MAX: usize = 64;
/// Bytes of an access key's id: AWS uses 20.
pub(crate) const ACCESS_KEY_ID_MAX: usize = 128;
/// Characters of foreign text that an error repeats, so that no answer is as long as its request.
pub(crate) const QUOTED_MAX: usize = 128;

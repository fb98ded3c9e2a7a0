//! What every engine decides alike about a message: whether it is taken, whether it is known, and what becomes of it.

use holdfast_policy::queue::{Next, Reason, Record, Report, due, reported};
use holdfast_policy::rng::Rng;
use ring::digest;

use super::entry::{Entry, PLACE_BITS, random};
use super::receipt::Receipt;
use super::{Acknowledged, DEDUPLICATION_MS, IN_FLIGHT_MAX, MessageId, New, Sent, Spec, VISIBILITY_MAX_MS};
use crate::clock::Millis;
use crate::error::{Error, Result};

/// Messages of one group in flight at once: a receive takes no more, and a second one takes none.
pub(crate) const GROUP_IN_FLIGHT_MAX: u32 = 10;
/// Dead letters and expired messages that one receive clears away before it answers with what it has.
pub(crate) const CLEARED_MAX: u32 = 100;

/// What is known of a message before it has a place.
pub(crate) enum Judged {
    Refused(Error),
    /// It was sent before.
    Known(Sent),
    Fresh {
        uid: MessageId,
        remember: Vec<Remember>,
    },
}

/// A key that remembers a message.
#[derive(Clone, Debug)]
pub(crate) struct Remember {
    pub(crate) key: String,
    pub(crate) until: Millis,
    /// Of what must be the same when the key is used again; empty when the key says it all.
    pub(crate) hash: Vec<u8>,
}

/// A message that a key remembers, with the hash beside it.
pub(crate) type Seen = (Vec<u8>, Sent);

/// Looks each key of the message up by `seen`.
pub(crate) fn judge(
    entry: &Entry,
    message: &New,
    now: Millis,
    mut seen: impl FnMut(&str) -> Result<Option<Seen>>,
) -> Result<Judged> {
    if let Some(error) = refusal(entry, message) {
        return Ok(Judged::Refused(error));
    }
    let remember = keys(entry, message, now);
    for known in &remember {
        match seen(&known.key)? {
            Some((hash, sent)) if hash == known.hash => return Ok(Judged::Known(sent)),
            Some(_) => {
                let key = message.idempotency.clone().unwrap_or_default();
                return Ok(Judged::Refused(Error::KeyReused { queue: entry.name.clone(), key }));
            }
            None => {}
        }
    }
    Ok(Judged::Fresh { uid: random()?, remember })
}

/// That of its deduplication, then that of the caller.
pub(crate) fn keys(entry: &Entry, message: &New, now: Millis) -> Vec<Remember> {
    let mut keys = Vec::new();
    if let Some(key) = deduplication_key(entry, message) {
        keys.push(Remember { key, until: now + DEDUPLICATION_MS, hash: Vec::new() });
    }
    if let Some(given) = &message.idempotency {
        let same = message.fingerprint.as_deref().unwrap_or(&message.body);
        let hash = digest::digest(&digest::SHA256, same.as_bytes()).as_ref().to_vec();
        keys.push(Remember { key: format!("i:{given}"), until: later(now, entry.spec.idempotency_ms), hash });
    }
    keys
}

/// When the message can be received; 0 is at once.
pub(crate) fn due_of_new(entry: &Entry, message: &New, now: Millis) -> Millis {
    match message.delay_ms.unwrap_or(entry.spec.delay_ms) {
        0 => 0,
        delay => later(now, delay),
    }
}

pub(crate) fn later(now: Millis, ms: u64) -> Millis {
    now.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX / 2))
}

/// What depends on the queue; everything else the face has checked.
fn refusal(entry: &Entry, message: &New) -> Option<Error> {
    let queue = || entry.name.clone();
    let invalid = |reason: String| Some(Error::Invalid { queue: queue(), reason });
    let size = message.body.len() + message.attributes.len();
    if size > entry.spec.size_max as usize {
        return invalid(format!("a message of {size} bytes, at most {} are allowed", entry.spec.size_max));
    }
    if !entry.spec.fifo {
        return message
            .deduplication
            .is_some()
            .then(|| invalid("MessageDeduplicationId is for FIFO queues".into()))
            .flatten();
    }
    if message.group.is_none() {
        return Some(Error::Missing { queue: queue(), what: "MessageGroupId" });
    }
    if message.deduplication.is_none() && !entry.spec.content_based_deduplication {
        return Some(Error::Missing {
            queue: queue(),
            what: "MessageDeduplicationId, unless it has ContentBasedDeduplication",
        });
    }
    if message.delay_ms.is_some_and(|delay| delay != entry.spec.delay_ms) {
        return invalid("a message of a FIFO queue has no delay of its own".into());
    }
    None
}

pub(crate) fn deduplication_id(entry: &Entry, message: &New) -> Option<String> {
    if !entry.spec.fifo {
        return None;
    }
    message.deduplication.clone().or_else(|| {
        let hash = digest::digest(&digest::SHA256, message.body.as_bytes());
        Some(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    })
}

fn deduplication_key(entry: &Entry, message: &New) -> Option<String> {
    let id = deduplication_id(entry, message)?;
    let group = message.group.as_deref().filter(|_| entry.spec.deduplicate_in_group);
    Some(match group {
        // A group has no line feed in its name.
        Some(group) => format!("g:{group}\n{id}"),
        None => format!("d:{id}"),
    })
}

/// How a message is held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) record: Record,
    pub(crate) due: Millis,
    pub(crate) since: Millis,
}

/// `Ok(None)` for a message that was purged since.
pub(crate) fn check(entry: &Entry, receipt: Option<Receipt>) -> Result<Option<Receipt>> {
    let refused = |reason| Error::Receipt { queue: entry.name.clone(), reason };
    let receipt = receipt.ok_or_else(|| refused("nobody here made it"))?;
    if receipt.id >> PLACE_BITS != entry.number {
        return Err(refused("it is of another queue"));
    }
    Ok(entry.holds(receipt.id).then_some(receipt))
}

/// Whether the message is to be deleted. `claim` is the one that the receipt belongs to, `is_there` asks for the message
/// when that is gone or somebody else's.
pub(crate) fn acknowledged(
    entry: &Entry,
    claim: Option<Claim>,
    strict: bool,
    now: Millis,
    is_there: impl FnOnce() -> Result<bool>,
) -> Result<Result<Acknowledged>> {
    let expired = Error::Receipt { queue: entry.name.clone(), reason: "it has expired" };
    Ok(match claim {
        Some(claim) if claim.due <= now && (strict || entry.spec.fifo) => Err(expired),
        Some(_) => Ok(Acknowledged::Deleted),
        None if (strict || entry.spec.fifo) && is_there()? => Err(expired),
        None if strict => Err(Error::NotInFlight),
        None => Ok(Acknowledged::Stale),
    })
}

/// The claim, when it still holds.
pub(crate) fn in_flight(claim: Option<Claim>, now: Millis) -> Result<Claim> {
    claim.filter(|claim| claim.due > now).ok_or(Error::NotInFlight)
}

/// When the message can be received again.
pub(crate) fn held(entry: &Entry, claim: Option<Claim>, ms: u64, now: Millis) -> Result<Millis> {
    let claim = in_flight(claim, now)?;
    let due = later(now, ms);
    if due - claim.since > VISIBILITY_MAX_MS {
        let reason = "a message is held for 12 hours at most, counted from its receive".into();
        return Err(Error::Invalid { queue: entry.name.clone(), reason });
    }
    Ok(due)
}

/// What a worker's report makes of the record, and what comes next.
pub(crate) fn after_report(spec: &Spec, claim: Claim, report: Report, seed: u64) -> (Record, Next) {
    let record = Record {
        failures: claim.record.failures + 1,
        crashes: claim.record.crashes + u32::from(report == Report::Crashed),
        ..claim.record
    };
    (record, reported(&spec.limits(), record, report, &mut Rng::from_seed(seed)))
}

/// What a receive makes of a message that is due.
pub(crate) enum Offer {
    HandOut,
    Expired,
    Bury(Reason),
}

pub(crate) fn offer(spec: &Spec, record: Record, sent: Millis, now: Millis) -> Offer {
    if later(sent, spec.retention_ms) <= now {
        return Offer::Expired;
    }
    match due(&spec.limits(), record) {
        Some(reason) => Offer::Bury(reason),
        None => Offer::HandOut,
    }
}

/// Of a message at the front of its group: its id, when it is due, how often it was received.
pub(crate) type Front = (i64, Millis, u32);

/// The first of a group and when the group may be received; `None` when it is empty.
pub(crate) fn group_due(front: &[Front], now: Millis) -> Option<(i64, Millis)> {
    let (head, head_due, _) = front.first().copied()?;
    let in_flight = front.iter().filter(|(_, due, receives)| *receives > 0 && *due > now).map(|(_, due, _)| *due);
    Some((head, in_flight.max().unwrap_or(if head_due > now { head_due } else { 0 })))
}

pub(crate) fn check_in_flight(queue: &str, counted: u32, many: u32) -> Result<()> {
    match counted + many > IN_FLIGHT_MAX {
        true => Err(Error::InFlight { queue: queue.to_owned(), limit: IN_FLIGHT_MAX }),
        false => Ok(()),
    }
}

/// Whether the same queue is made again.
pub(crate) fn check_same(name: &str, known: &Spec, spec: &Spec) -> Result<()> {
    match (Spec { declared: false, ..known.clone() }) == (Spec { declared: false, ..spec.clone() }) {
        true => Ok(()),
        false => Err(Error::QueueExists { queue: name.to_owned(), what: "definition" }),
    }
}

/// What a queue in the file makes of the one that is there.
pub(crate) fn declare(name: &str, known: &mut Spec, spec: &Spec) -> Result<()> {
    if known.fifo != spec.fifo {
        return Err(Error::QueueExists { queue: name.to_owned(), what: "type (FIFO or not)" });
    }
    // What only clients set stays.
    let kept = std::mem::take(&mut known.kept);
    *known = Spec { kept, ..spec.clone() };
    Ok(())
}

/// The dead-letter queue exists, is of the same type, takes them, and is another one.
pub(crate) fn check_dead_letter(name: &str, spec: &Spec, to: Option<&Spec>) -> Result<()> {
    let Some(dead) = &spec.dead_letter else { return Ok(()) };
    let invalid = |reason: String| Err(Error::Invalid { queue: name.to_owned(), reason });
    if dead.queue == name {
        return invalid("it cannot be its own dead-letter queue".into());
    }
    match to {
        None => invalid(format!("its dead-letter queue `{}` does not exist", dead.queue)),
        Some(to) if to.fifo != spec.fifo => {
            invalid(format!("its dead-letter queue `{}` is of another type (FIFO or not)", dead.queue))
        }
        Some(to) if !to.dead_letter_of.allows(name) => {
            invalid(format!("`{}` does not take dead letters of it", dead.queue))
        }
        Some(_) => Ok(()),
    }
}

/// Whether messages of one queue may be moved to the other.
pub(crate) fn check_move(from: &Entry, to: &Entry) -> Result<()> {
    let invalid = |reason: &str| Error::Invalid { queue: from.name.clone(), reason: reason.to_owned() };
    if to.number == from.number {
        return Err(invalid("it cannot be moved into itself"));
    }
    if to.spec.fifo != from.spec.fifo {
        return Err(invalid("the destination is of another type (FIFO or not)"));
    }
    Ok(())
}

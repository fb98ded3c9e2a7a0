//! When a request that no instance could answer may be kept in a queue and delivered later, and in which order.
//!
//! Whoever gets 202 relies on one delivery that counts. So a request that an instance may have acted on is kept only when a
//! second time does no harm, a read never (nobody waits for its answer any more), and nothing of which a part is missing.

use super::Failure;

/// Largest body that is kept: a message holds 1 MiB, base64 adds a third, and the headers need room too.
pub const BODY_BYTES_MAX: u64 = 512 << 10;

/// Longest name of a group, as in SQS.
pub const GROUP_BYTES_MAX: usize = 128;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// None is ready, or all are out of rotation.
    NotReady,
    /// There are some, at their limit. They work, and a client that is told to slow down can; a queue would hide that.
    Full,
    /// The last try ended like this.
    Failed(Failure),
}

/// What is known of the request.
#[derive(Clone, Copy, Debug)]
pub struct Unanswered {
    pub lack: Lack,
    /// GET, HEAD, OPTIONS, TRACE: asked for its answer only.
    pub safe: bool,
    /// By its method, or because it carries an idempotency key.
    pub idempotent: bool,
    /// Some try went so far that an instance may have acted.
    pub acted: bool,
    pub upgrade: bool,
    /// `None` when its length is not known before its end.
    pub body_bytes: Option<u64>,
    /// Nothing of the body is lost.
    pub replayable: bool,
}

pub fn may_keep(request: &Unanswered) -> bool {
    let absent = match request.lack {
        Lack::NotReady => true,
        Lack::Full => false,
        Lack::Failed(Failure::NotConnected | Failure::Unsent | Failure::NoAnswer { .. }) => true,
        // An answer, or an instance that is still at it.
        Lack::Failed(Failure::Status | Failure::TimedOut | Failure::Started) => false,
    };
    let whole = request.replayable && request.body_bytes.is_some_and(|bytes| bytes <= BODY_BYTES_MAX);
    absent && whole && !request.safe && !request.upgrade && (request.idempotent || !request.acted)
}

/// Whether a try that ended like this may have had an effect.
pub fn may_have_acted(failure: Failure) -> bool {
    !matches!(failure, Failure::NotConnected | Failure::Unsent)
}

/// RFC 9110 section 9.2.1.
pub fn is_safe(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE")
}

/// The message group of a request: the value of the header that orders, or its path; all are one group when none orders.
pub fn group(key: Option<Option<&str>>, target: &str) -> String {
    let path = target.split('?').next().unwrap_or(target);
    let name = match key {
        None => "all",
        Some(Some(value)) if !value.is_empty() => value,
        Some(_) => path,
    };
    if name.len() <= GROUP_BYTES_MAX {
        return name.to_owned();
    }
    let mut end = GROUP_BYTES_MAX - 17;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{:016x}", &name[..end], fnv(name.as_bytes()))
}

/// What a second request with the same idempotency key must have in common with the first. Headers are left out: those that
/// trace and date a request differ from try to try.
pub fn fingerprint(method: &str, target: &str, body: &[u8]) -> String {
    format!("{method} {target} {} {:016x}", body.len(), fnv(body))
}

/// FNV-1a. It tells a mistake, not an attack: who holds a key can use it up anyway.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POST: Unanswered = Unanswered {
        lack: Lack::NotReady,
        safe: false,
        idempotent: false,
        acted: false,
        upgrade: false,
        body_bytes: Some(100),
        replayable: true,
    };
    const KEYED: Unanswered = Unanswered { idempotent: true, ..POST };

    #[test]
    fn every_row_of_the_table() {
        use Failure::*;
        let failed = |failure, request: Unanswered| Unanswered {
            lack: Lack::Failed(failure),
            acted: may_have_acted(failure),
            ..request
        };
        let table = [
            (POST, true),
            (failed(NotConnected, POST), true),
            (failed(Unsent, POST), true),
            (failed(NoAnswer { pooled: false }, POST), false),
            (failed(NoAnswer { pooled: true }, POST), false),
            (failed(NoAnswer { pooled: false }, KEYED), true),
            (failed(Status, KEYED), false),
            (failed(TimedOut, KEYED), false),
            (failed(Started, KEYED), false),
            // An earlier try may have acted, the last was not even connected.
            (Unanswered { acted: true, ..failed(NotConnected, POST) }, false),
            (Unanswered { acted: true, ..failed(NotConnected, KEYED) }, true),
            (Unanswered { acted: true, ..POST }, false),
            (Unanswered { lack: Lack::Full, ..POST }, false),
            (Unanswered { safe: true, ..KEYED }, false),
            (Unanswered { upgrade: true, ..POST }, false),
            (Unanswered { body_bytes: None, ..POST }, false),
            (Unanswered { body_bytes: Some(0), ..POST }, true),
            (Unanswered { body_bytes: Some(BODY_BYTES_MAX), ..POST }, true),
            (Unanswered { body_bytes: Some(BODY_BYTES_MAX + 1), ..POST }, false),
            (Unanswered { replayable: false, ..POST }, false),
        ];
        for (request, want) in table {
            assert_eq!(may_keep(&request), want, "{request:?}");
        }
    }

    #[test]
    fn a_group_is_the_header_or_the_path_and_never_too_long() {
        assert_eq!(group(None, "/orders?a=1"), "all");
        assert_eq!(group(Some(Some("ann")), "/orders"), "ann");
        assert_eq!(group(Some(None), "/orders?a=1"), "/orders");
        assert_eq!(group(Some(Some("")), "/orders"), "/orders");
        let long = |end: &str| group(Some(Some(&format!("{}{end}", "ü".repeat(100)))), "/");
        assert!(long("a").len() <= GROUP_BYTES_MAX);
        assert_ne!(long("a"), long("b"), "what is cut off still tells them apart");
        assert_eq!(long("a"), long("a"));
    }

    #[test]
    fn a_repeated_request_has_the_same_fingerprint_and_another_one_has_not() {
        let first = fingerprint("POST", "/orders", b"{}");
        assert_eq!(first, fingerprint("POST", "/orders", b"{}"));
        for other in [
            fingerprint("PUT", "/orders", b"{}"),
            fingerprint("POST", "/other", b"{}"),
            fingerprint("POST", "/orders", b"[]"),
        ] {
            assert_ne!(first, other);
        }
    }
}

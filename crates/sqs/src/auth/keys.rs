//! Access keys and what each may do.

use std::fmt;

use crate::action::Class;

/// Who may call.
#[derive(Debug)]
pub enum Keys {
    /// Everybody: any signature is accepted, and none. For loopback and tests.
    Any,
    /// Only who signs with one of these.
    Known(Vec<Key>),
}

/// One access key. It may do nothing unless a class is allowed and a pattern matches.
#[derive(Debug)]
pub struct Key {
    /// `AWS_ACCESS_KEY_ID` of the client, at most 128 characters; also `SenderId` of its messages.
    pub id: String,
    pub secret: Secret,
    /// Names of queues; `*` stands for any characters.
    pub queues: Vec<String>,
    /// `SendMessage` and its batch.
    pub send: bool,
    /// Receive, delete, change visibility.
    pub receive: bool,
    /// Create, delete, purge, attributes, tags, permissions, moves.
    pub manage: bool,
}

/// A secret access key. Never shown, overwritten when dropped.
pub struct Secret(Box<[u8]>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into().into_bytes().into_boxed_slice())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // Without a reader the compiler may leave the writing out.
        std::hint::black_box(&self.0);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

impl Key {
    pub(crate) fn permits(&self, queue: &str, class: Class) -> bool {
        let class = match class {
            Class::Look => self.send || self.receive || self.manage,
            Class::Send => self.send,
            Class::Receive => self.receive,
            Class::Manage => self.manage,
        };
        class && self.queues.iter().any(|pattern| matches(pattern, queue))
    }
}

/// `*` is any run of characters. After each `*` the first fit of the next piece is as good as any later one.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(mut left) = pieces.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return left.is_empty() };
    for piece in pieces {
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("orders", "orders", true),
            ("orders", "orders2", false),
            ("*", "", true),
            ("*", "orders.fifo", true),
            ("orders-*", "orders-", true),
            ("orders-*", "order", false),
            ("*.fifo", "a.fifo", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
            ("a**", "a", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn classes() {
        let key = Key {
            id: "K".into(),
            secret: Secret::new("hidden"),
            queues: vec!["a*".into(), "b".into()],
            send: true,
            receive: false,
            manage: false,
        };
        assert!(key.permits("a1", Class::Send) && key.permits("b", Class::Look));
        assert!(
            !key.permits("a1", Class::Receive) && !key.permits("c", Class::Send) && !key.permits("b", Class::Manage)
        );
        assert!(!format!("{key:?}").contains("hidden"));
    }
}

//! The name of one attempt: what every call carries, and what every answer must name.

use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// The work of a step.
    Do,
    /// Its compensation.
    Undo,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Operation::Do => "do",
            Operation::Undo => "undo",
        }
    }
}

/// As text `RUN/ROUND/STEP/ITEM/OPERATION/ATTEMPT`: `transfer-17/1/charge/0/do/2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub run: String,
    /// Counts from 1. Work that is done anew gets a new round, and with it new rows in the barriers of participants.
    pub round: u32,
    pub step: String,
    /// Place in a fan-out, from 0; 0 for other steps.
    pub item: u32,
    pub operation: Operation,
    /// Counts from 1 within all the others.
    pub attempt: u32,
}

impl Key {
    /// What is the same for all attempts: a participant does this once, however often it is called.
    pub fn barrier(&self) -> String {
        format!("{}/{}/{}/{}/{}", self.run, self.round, self.step, self.item, self.operation.name())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.barrier(), self.attempt)
    }
}

/// `text` is not a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAKey(pub String);

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a key such as transfer-17/1/charge/0/do/2", self.0)
    }
}

impl std::error::Error for NotAKey {}

impl FromStr for Key {
    type Err = NotAKey;
    fn from_str(text: &str) -> Result<Key, NotAKey> {
        let parse = || {
            let parts: Vec<&str> = text.split('/').collect();
            let [run, round, step, item, operation, attempt] = <[&str; 6]>::try_from(parts).ok()?;
            let operation = match operation {
                "do" => Operation::Do,
                "undo" => Operation::Undo,
                _ => return None,
            };
            let (run, step) = (run.to_owned(), step.to_owned());
            let (round, item, attempt) = (round.parse().ok()?, item.parse().ok()?, attempt.parse().ok()?);
            (!run.is_empty() && !step.is_empty()).then_some(Key { run, round, step, item, operation, attempt })
        };
        parse().ok_or_else(|| NotAKey(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_what_it_prints() {
        for text in ["transfer-17/1/charge/0/do/2", "r/4/notify/999/undo/30"] {
            assert_eq!(text.parse::<Key>().unwrap().to_string(), text);
        }
        for text in ["", "r/1/s/0/do", "r/1/s/0/redo/1", "r/x/s/0/do/1", "/1/s/0/do/1", "r/1//0/do/1", "r/1/s/0/do/1/2"]
        {
            assert_eq!(text.parse::<Key>(), Err(NotAKey(text.into())));
        }
        assert_eq!("r/2/s/0/undo/9".parse::<Key>().unwrap().barrier(), "r/2/s/0/undo");
    }
}

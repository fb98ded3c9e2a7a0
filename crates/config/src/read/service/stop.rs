//! `stop`.

use toml::de::{DeTable, DeValue};

use crate::keys::STOP;
use crate::model::Stop;
use crate::reader::{Fault, Findings, Reader, integer, unknown_word};

/// Signals by name with their Linux numbers (the same on x86-64 and arm64).
const SIGNALS: [(&str, i32); 10] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("WINCH", 28),
];

/// Real-time signals end here.
const SIGNAL_MAX: i64 = 64;

pub(super) fn read(out: &mut Findings, service: &Reader<'_>) -> Stop {
    let empty = DeTable::new();
    let table = service.inner_or_empty(out, "stop", &STOP, &empty);
    Stop {
        command: table.argv(out, "command"),
        signal: table.form(out, "signal", signal).expect("the catalogue gives a default"),
        grace: table.duration(out, "grace"),
        drain: table.duration(out, "drain"),
    }
}

pub(crate) fn signal_name(number: i32) -> Option<&'static str> {
    SIGNALS.iter().find(|(_, n)| *n == number).map(|(name, _)| *name)
}

fn signal(value: &DeValue<'_>) -> Result<i32, Fault> {
    match value {
        DeValue::String(text) => {
            let upper = text.to_ascii_uppercase();
            let name = upper.strip_prefix("SIG").unwrap_or(&upper);
            let names = SIGNALS.map(|(name, _)| name);
            SIGNALS
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, number)| *number)
                .ok_or_else(|| unknown_word(name, &names))
        }
        DeValue::Integer(n) => match integer(n) {
            Some(n) if (1..=SIGNAL_MAX).contains(&n) => Ok(n as i32),
            _ => Err(Fault::value("must be 1 to 64")),
        },
        other => Err(Fault::kind("the name or number of a signal", other)),
    }
}

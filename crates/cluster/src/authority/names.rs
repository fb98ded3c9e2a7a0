//! Names of machines as certificates have them.

use super::{Error, Result};

/// No such domain can exist outside: these names mean machines of a cluster and nothing else.
const SUFFIX: &str = "holdfast";
/// As DNS limits them.
const LABEL_CHARS_MAX: usize = 63;
const NAME_CHARS_MAX: usize = 253;

/// `n1` of `main` is `n1.main.holdfast`.
pub fn dns_name(node: &str, cluster: &str) -> Result<String> {
    let bad = |reason| Error::Name { name: node.to_owned(), reason };
    let strange = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.');
    for part in [node, cluster] {
        if part.contains(strange) {
            return Err(bad("only small letters, digits, `-` and `.` can"));
        }
        if part.split('.').any(|l| l.is_empty() || l.len() > LABEL_CHARS_MAX || l.starts_with('-') || l.ends_with('-'))
        {
            return Err(bad("its parts have 1 to 63 characters and no `-` at an end"));
        }
    }
    let name = format!("{node}.{cluster}.{SUFFIX}");
    if name.len() > NAME_CHARS_MAX {
        return Err(bad("it is too long"));
    }
    Ok(name)
}

/// The machine that a certificate of the cluster's authority is for.
pub fn node_of<'a>(names: &'a [String], cluster: &str) -> Option<&'a str> {
    let end = format!(".{cluster}.{SUFFIX}");
    names.iter().find_map(|name| name.strip_suffix(&end)).filter(|node| !node.is_empty())
}

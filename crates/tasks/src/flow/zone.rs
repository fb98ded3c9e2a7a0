//! Time zones as this machine knows them.

use std::io::Read;
use std::path::Path;

use holdfast_policy::schedule::{TZIF_BYTES_MAX, Zone};

/// Where every distribution keeps them.
const DIRECTORY: &str = "/usr/share/zoneinfo";

/// The error is a sentence.
pub(super) fn read(name: &str) -> Result<Zone, String> {
    if matches!(name, "" | "UTC") {
        return Ok(Zone::utc());
    }
    // The name comes from the file; it must not lead out of the directory.
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.');
    if !name.split('/').all(plain) {
        return Err(format!("`{name}` is not the name of a time zone"));
    }
    let path = Path::new(DIRECTORY).join(name);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&path).map_err(|e| format!("time zone `{name}`: {}: {e}", path.display()))?;
    file.take(TZIF_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("time zone `{name}`: {}: {e}", path.display()))?;
    Zone::from_tzif(&bytes).map_err(|e| format!("time zone `{name}`: {e}"))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn zones_are_read_by_name_and_nothing_else_is() {
        assert!(read("UTC").is_ok());
        for name in ["../../../etc/passwd", "Europe/../..", "/etc/passwd", "Nowhere/Land", "Europe"] {
            let error = read(name).expect_err(name);
            assert!(error.contains(name), "{error}");
        }
    }
}

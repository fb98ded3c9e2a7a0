//! Whether running instances are what the file asks for.

use crate::effective::service;
use crate::keys::Change;
use crate::model::Service;

/// Changes exactly when instances must be replaced: a hash of every setting that the catalogue marks so.
///
/// Defaults are left out, so that a key that a later release adds does not replace what runs (an upgrade of the agent
/// restarts nothing). FNV-1a, because the value is stored and must not depend on the release or the compiler.
pub fn definition_hash(definition: &Service) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let settings = service(definition);
    let counted = settings.iter().filter(|s| s.change == Change::Replaces && !s.is_default);
    counted
        .flat_map(|s| [s.key.as_str(), "\0", s.value(), "\0"])
        .flat_map(str::bytes)
        .fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

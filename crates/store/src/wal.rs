//! Damage in the middle of a WAL. SQLite takes the first frame that does not fit for the end of the file, because after a
//! power cut that is what it is; where later commits follow such a frame it would forget them without a word.
//!
//! The format is that of <https://www.sqlite.org/fileformat2.html#walformat>. Each commit is synced before the next one is
//! written (`Sync::Full`), so what a power cut tears is the last transaction, and no frame follows from its end.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The last bit says that checksums take words the big end first.
const MAGIC: u32 = 0x377f_0682;
const PAGE_BYTES: std::ops::RangeInclusive<usize> = 512..=65_536;
/// Written whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// Where the part that can be read ends, and that there is more behind it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) at_byte: u64,
}

pub(crate) fn path_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Reads the WAL of this file as SQLite would, and on behind the first frame that does not fit.
pub(crate) fn damage(file: &Path) -> std::io::Result<Option<Damage>> {
    match File::open(path_of(file)) {
        Ok(wal) => scan(&mut BufReader::with_capacity(1 << 20, wal)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the last frame was, of those from the first on that does not fit.
enum Behind {
    Nothing,
    /// The end of a transaction: the one that a power cut may have torn.
    Commit,
}

fn scan(wal: &mut impl Read) -> std::io::Result<Option<Damage>> {
    let mut header = [0; HEADER_BYTES];
    if !fill(wal, &mut header)? {
        return Ok(None);
    }
    let page_bytes = word(&header, 8) as usize;
    let mut sum = Sum { big_end_first: word(&header, 0) & 1 == 1, words: (0, 0) };
    sum.add(&header[..24]);
    let is_header = word(&header, 0) & !1 == MAGIC && PAGE_BYTES.contains(&page_bytes);
    if !is_header || sum.words != (word(&header, 24), word(&header, 28)) {
        return without_header(wal, &header);
    }
    let big_end_first = sum.big_end_first;
    let mut bad: Option<(u64, Behind)> = None;
    // As the frame before says it, which is not what it is when that one is damaged.
    let mut told = sum.words;
    let mut frame = vec![0; FRAME_HEADER_BYTES + page_bytes];
    let mut at_byte = HEADER_BYTES as u64;
    while fill(wal, &mut frame)? {
        let salts = salts(&frame, &header);
        let checksum = (word(&frame, 16), word(&frame, 20));
        // Of one that lies across sectors, half may be of an earlier round of the file.
        let is_commit = word(&frame, 4) != 0 && at_byte / SECTOR_BYTES == (at_byte + 15) / SECTOR_BYTES;
        let follows = |words| {
            let mut sum = Sum { big_end_first, words };
            sum.add(&frame[..8]);
            sum.add(&frame[FRAME_HEADER_BYTES..]);
            salts == [true, true] && sum.words == checksum && word(&frame, 0) != 0
        };
        match &mut bad {
            None if follows(told) => {}
            None => {
                let ours = salts[0] || salts[1];
                bad = Some((at_byte, if ours && is_commit { Behind::Commit } else { Behind::Nothing }));
            }
            // Left over from an earlier torn transaction it would not follow from the frame before it.
            Some((from, Behind::Commit)) if follows(told) => return Ok(Some(Damage { at_byte: *from })),
            Some((_, behind)) if salts == [true, true] => {
                *behind = if is_commit { Behind::Commit } else { Behind::Nothing };
            }
            Some((_, behind)) => *behind = Behind::Nothing,
        }
        told = checksum;
        at_byte += frame.len() as u64;
    }
    Ok(None)
}

/// The header is synced before the first frame behind it is written: frames that belong to it say that it was whole.
fn without_header(wal: &mut impl Read, header: &[u8]) -> std::io::Result<Option<Damage>> {
    let mut frame = [0; FRAME_HEADER_BYTES];
    let ours = fill(wal, &mut frame)? && salts(&frame, header) != [false, false] && word(&frame, 0) != 0;
    Ok(ours.then_some(Damage { at_byte: 0 }))
}

/// Which of the two salts are those of the header; a frame of an earlier round of the file shares neither.
fn salts(frame: &[u8], header: &[u8]) -> [bool; 2] {
    [8, 12].map(|at| word(frame, at) == word(header, at + 8))
}

/// Fills it whole, or says that the file ends before.
fn fill(wal: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match wal.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The running checksum over all frames up to one.
struct Sum {
    big_end_first: bool,
    words: (u32, u32),
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let (mut first, mut second) = self.words;
        let read = if self.big_end_first { u32::from_be_bytes } else { u32::from_le_bytes };
        for pair in bytes.chunks_exact(8) {
            first = first.wrapping_add(read([pair[0], pair[1], pair[2], pair[3]])).wrapping_add(second);
            second = second.wrapping_add(read([pair[4], pair[5], pair[6], pair[7]])).wrapping_add(first);
        }
        self.words = (first, second);
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    const COMMITS: usize = 6;

    /// A WAL with these commits, as a killed process leaves it, and where each of them ends.
    fn written() -> (Vec<u8>, Vec<usize>) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("x.db");
        let db = Connection::open(&file).expect("opens");
        db.execute_batch(
            "PRAGMA page_size = 512; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (x)",
        )
        .expect("made");
        let mut ends = Vec::new();
        for n in 0..COMMITS {
            db.execute("INSERT INTO t VALUES (hex(randomblob(600)) || ?1)", [n as i64]).expect("inserted");
            ends.push(std::fs::metadata(path_of(&file)).expect("there").len() as usize);
        }
        (std::fs::read(path_of(&file)).expect("read"), ends)
    }

    fn found(wal: &[u8]) -> Option<Damage> {
        scan(&mut &*wal).expect("memory is readable")
    }

    #[test]
    fn a_flipped_bit_is_found_wherever_later_commits_follow() {
        let (whole, ends) = written();
        assert_eq!(found(&whole), None);
        // One later commit is enough for all but the few frames whose header lies across sectors.
        for at in 0..ends[COMMITS - 3] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            let damage = found(&flipped).unwrap_or_else(|| panic!("byte {at}"));
            assert!(damage.at_byte <= at as u64, "{damage:?}, byte {at}");
        }
    }

    /// At every byte, also with another round of the file behind it.
    #[test]
    fn what_a_power_cut_tears_is_no_damage() {
        let ((whole, ends), (earlier, _)) = (written(), written());
        for end in HEADER_BYTES..whole.len() {
            assert_eq!(found(&whole[..end]), None, "{end} bytes");
            if end > ends[COMMITS - 2] {
                let mut over = earlier.clone();
                over.resize(over.len().max(end), 0);
                over[..end].copy_from_slice(&whole[..end]);
                assert_eq!(found(&over), None, "{end} bytes over an earlier round");
            }
        }
    }

    /// The frames of the last transaction reach the disk in any order.
    #[test]
    fn a_last_transaction_with_holes_is_no_damage() {
        let (whole, ends) = written();
        let frame = FRAME_HEADER_BYTES + 512;
        for hole in (ends[COMMITS - 2]..whole.len()).step_by(frame) {
            let mut holed = whole.clone();
            holed[hole..hole + frame].fill(0);
            assert_eq!(found(&holed), None, "a hole at {hole}");
            let mut torn = whole.clone();
            torn[hole + frame / 2..hole + frame].fill(0);
            assert_eq!(found(&torn), None, "half a frame at {hole}");
        }
    }

    /// A long transaction was torn, then a shorter one in its place, then one more was written: none of it is damage.
    #[test]
    fn what_torn_transactions_left_behind_is_no_damage() {
        let (whole, ends) = written();
        let frame = FRAME_HEADER_BYTES + 512;
        let mut left = whole[..ends[1]].to_vec();
        left.extend(vec![0; frame]);
        // The end of a transaction, with the same salts, and then a longer one that does not follow from it.
        left.extend(&whole[ends[3] - frame..ends[3]]);
        left.extend(&whole[ends[4]..ends[5]]);
        assert_eq!(found(&left), None);
    }

    #[test]
    fn what_is_no_wal_is_left_to_sqlite() {
        for text in [&b""[..], b"short", &[0; 4096], &b"what is this? ".repeat(99)] {
            assert_eq!(found(text), None);
        }
        assert_eq!(damage(Path::new("/nonexistent/x.db")).expect("no error"), None);
    }
}

//! A file of fixed size that keeps the newest records: preallocated, so that a full disk does not stop it.
//!
//! Layout: a header slot, then `slots` slots of `slot_bytes`. A slot is checksum (u32), length (u32), sequence (u64),
//! payload. Record `n` (from 1) lives in slot `(n - 1) % slots`; a reader that fell behind learns how many it lost.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;

use crate::event::Event;
use crate::files::FILE_MODE;

const MAGIC: &[u8; 8] = b"HFRING1\n";
const HEADER_BYTES: usize = 16;

/// Number and size of slots; a file made with other numbers is replaced by its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub slots: u32,
    /// Header of 16 bytes and payload.
    pub slot_bytes: u32,
}

/// A shim writes about three events per restart; with the longest back-off (60 s) this holds an hour and more of an
/// absent agent, in 256 KiB.
pub const EVENTS: Shape = Shape { slots: 256, slot_bytes: 1024 };

impl Shape {
    fn file_bytes(self) -> u64 {
        u64::from(self.slot_bytes) * (u64::from(self.slots) + 1)
    }

    fn offset(self, seq: u64) -> u64 {
        u64::from(self.slot_bytes) * (1 + (seq - 1) % u64::from(self.slots))
    }

    fn header(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.slots.to_le_bytes());
        bytes.extend(self.slot_bytes.to_le_bytes());
        bytes
    }

    fn read(file: &File) -> io::Result<Shape> {
        let mut head = [0u8; 16];
        file.read_exact_at(&mut head, 0)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let shape = Shape { slots: word(8), slot_bytes: word(12) };
        let sane = shape.slots > 0 && shape.slots <= 1 << 20 && (32..=1 << 20).contains(&shape.slot_bytes);
        if &head[..8] == MAGIC && sane {
            Ok(shape)
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "not a ring file"))
        }
    }
}

/// FNV-1a: finds torn and overwritten slots; nobody forges them.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// A valid record in `slot`, or nothing.
fn decode(slot: &[u8]) -> Option<(u64, &[u8])> {
    let sum = u32::from_le_bytes(slot.get(0..4)?.try_into().ok()?);
    let len = u32::from_le_bytes(slot.get(4..8)?.try_into().ok()?) as usize;
    let seq = u64::from_le_bytes(slot.get(8..16)?.try_into().ok()?);
    let payload = slot.get(HEADER_BYTES..HEADER_BYTES.checked_add(len)?)?;
    (seq > 0 && checksum(&slot[4..HEADER_BYTES + len]) == sum).then_some((seq, payload))
}

/// The one writer of a ring.
#[derive(Debug)]
pub struct Ring {
    file: File,
    shape: Shape,
    last: u64,
}

impl Ring {
    /// Opens or creates the file with real zeros, so that later writes need no space. Goes on after the last record
    /// found; a file of another shape or with a damaged header is begun anew.
    pub fn open(path: &Path, shape: Shape) -> io::Result<Ring> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        let intact =
            file.metadata()?.len() == shape.file_bytes() && Shape::read(&file).is_ok_and(|found| found == shape);
        if !intact {
            let mut zeros = vec![0u8; shape.file_bytes() as usize];
            zeros[..HEADER_BYTES].copy_from_slice(&shape.header());
            file.set_len(0)?;
            file.write_all_at(&zeros, 0)?;
        }
        let mut ring = Ring { file, shape, last: 0 };
        if intact {
            ring.last = ring.scan()?;
        }
        Ok(ring)
    }

    fn scan(&self) -> io::Result<u64> {
        let mut last = 0;
        let mut slot = vec![0u8; self.shape.slot_bytes as usize];
        for i in 1..=u64::from(self.shape.slots) {
            self.file.read_exact_at(&mut slot, self.shape.offset(i))?;
            last = last.max(decode(&slot).map_or(0, |(seq, _)| seq));
        }
        Ok(last)
    }

    /// Sequence of the newest record, 0 when empty.
    pub fn last(&self) -> u64 {
        self.last
    }

    pub fn payload_bytes_max(&self) -> usize {
        self.shape.slot_bytes as usize - HEADER_BYTES
    }

    /// Writes the next record into its slot and returns its sequence. Not yet durable; see [`Ring::sync`].
    pub fn append(&mut self, payload: &[u8]) -> io::Result<u64> {
        if payload.len() > self.payload_bytes_max() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "record larger than a slot"));
        }
        let seq = self.last + 1;
        let mut slot = vec![0u8; 4];
        slot.extend((payload.len() as u32).to_le_bytes());
        slot.extend(seq.to_le_bytes());
        slot.extend(payload);
        let sum = checksum(&slot[4..]);
        slot[..4].copy_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&slot, self.shape.offset(seq))?;
        self.last = seq;
        Ok(seq)
    }

    pub fn append_json<T: Serialize>(&mut self, record: &T) -> io::Result<u64> {
        self.append(&serde_json::to_vec(record)?)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// What a reader found after the record it knew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub records: Vec<(u64, Vec<u8>)>,
    /// Records that were overwritten before they were read, or were damaged.
    pub lost: u64,
    /// Pass this to the next read.
    pub last: u64,
}

/// Reads a ring that another process may be writing.
#[derive(Debug)]
pub struct RingReader {
    file: File,
    shape: Shape,
}

impl RingReader {
    pub fn open(path: &Path) -> io::Result<RingReader> {
        let file = File::open(path)?;
        let shape = Shape::read(&file)?;
        Ok(RingReader { file, shape })
    }

    /// Whether record `seq` is still where it was written.
    pub fn holds(&self, seq: u64) -> io::Result<bool> {
        Ok(seq > 0 && self.found_at(seq)?.is_ok_and(|found| found == seq))
    }

    /// The sequence in the slot of record `seq`, 0 when it was never written; an error when it is damaged.
    fn found_at(&self, seq: u64) -> io::Result<Result<u64, ()>> {
        let mut slot = vec![0u8; self.shape.slot_bytes as usize];
        self.file.read_exact_at(&mut slot, self.shape.offset(seq))?;
        Ok(match decode(&slot) {
            Some((found, _)) => Ok(found),
            None if slot.iter().all(|byte| *byte == 0) => Ok(0),
            None => Err(()),
        })
    }

    /// Records are written one after the other: if the next slot holds an older one or none, `seq` is the newest.
    /// Two slots tell what a caller who asks often wants to know.
    fn is_newest(&self, seq: u64) -> io::Result<bool> {
        Ok(self.holds(seq)? && self.found_at(seq + 1)?.is_ok_and(|found| found < seq))
    }

    /// All records after `seq` (0 for everything kept), oldest first.
    pub fn read_after(&self, seq: u64) -> io::Result<Batch> {
        if self.is_newest(seq)? {
            return Ok(Batch { last: seq, ..Batch::default() });
        }
        let mut records = Vec::new();
        let mut slot = vec![0u8; self.shape.slot_bytes as usize];
        for i in 1..=u64::from(self.shape.slots) {
            self.file.read_exact_at(&mut slot, self.shape.offset(i))?;
            if let Some((found, payload)) = decode(&slot).filter(|(found, _)| *found > seq) {
                records.push((found, payload.to_vec()));
            }
        }
        records.sort_by_key(|(found, _)| *found);
        let last = records.last().map_or(seq, |(found, _)| *found);
        let lost = (last - seq) - records.len() as u64;
        Ok(Batch { records, lost, last })
    }
}

/// A ring of [`Event`]s.
#[derive(Debug)]
pub struct EventRing {
    ring: Ring,
}

impl EventRing {
    pub fn open(path: &Path) -> io::Result<EventRing> {
        Ring::open(path, EVENTS).map(|ring| EventRing { ring })
    }

    /// Gives the event its `seq` and writes it. What does not fit into a slot is shortened: inputs first, then the reason.
    pub fn append(&mut self, mut event: Event) -> io::Result<Event> {
        event.seq = self.ring.last() + 1;
        let room = self.ring.payload_bytes_max();
        let mut bytes = serde_json::to_vec(&event)?;
        while bytes.len() > room && event.inputs.pop().is_some() {
            bytes = serde_json::to_vec(&event)?;
        }
        while bytes.len() > room && !event.reason.is_empty() {
            // JSON escapes make a character longer than its bytes, so cut and look again.
            let keep = event.reason.chars().count() / 2;
            event.reason = event.reason.chars().take(keep).collect();
            bytes = serde_json::to_vec(&event)?;
        }
        self.ring.append(&bytes)?;
        Ok(event)
    }

    pub fn last(&self) -> u64 {
        self.ring.last()
    }

    pub fn sync(&self) -> io::Result<()> {
        self.ring.sync()
    }
}

/// Events of a ring after `seq`; a record that does not parse counts as lost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Events {
    pub events: Vec<Event>,
    pub lost: u64,
    pub last: u64,
}

impl RingReader {
    pub fn events_after(&self, seq: u64) -> io::Result<Events> {
        let batch = self.read_after(seq)?;
        let total = batch.records.len();
        let events: Vec<Event> =
            batch.records.iter().filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok()).collect();
        Ok(Events { lost: batch.lost + (total - events.len()) as u64, events, last: batch.last })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: Shape = Shape { slots: 8, slot_bytes: 64 };

    proptest! {
        /// However writes, reopenings and reads interleave, each record is read once or counted as lost.
        #[test]
        fn every_record_is_read_or_counted(steps in proptest::collection::vec((0u64..20, any::<bool>()), 1..20)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ring");
            let mut ring = Ring::open(&path, SMALL).unwrap();
            let (mut written, mut seen, mut known) = (0u64, 0u64, 0u64);
            for (count, reopen) in steps {
                for _ in 0..count {
                    written += 1;
                    prop_assert_eq!(ring.append(written.to_string().as_bytes()).unwrap(), written);
                }
                if reopen {
                    drop(ring);
                    ring = Ring::open(&path, SMALL).unwrap();
                    prop_assert_eq!(ring.last(), written);
                }
                let batch = RingReader::open(&path).unwrap().read_after(known).unwrap();
                prop_assert_eq!(batch.lost, (written - known).saturating_sub(8));
                for (seq, payload) in &batch.records {
                    prop_assert_eq!(payload, &seq.to_string().into_bytes());
                }
                known = batch.last;
                seen += batch.records.len() as u64 + batch.lost;
                prop_assert_eq!(seen, written);
            }
        }
    }

    #[test]
    fn a_torn_slot_is_counted_as_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let mut ring = Ring::open(&path, SMALL).unwrap();
        for word in ["one", "two", "three"] {
            ring.append(word.as_bytes()).unwrap();
        }
        ring.file.write_all_at(b"X", SMALL.offset(2) + 16).unwrap();
        let batch = RingReader::open(&path).unwrap().read_after(0).unwrap();
        assert_eq!((batch.records.len(), batch.lost, batch.last), (2, 1, 3));
    }

    #[test]
    fn an_event_too_long_for_its_slot_is_shortened_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut ring = EventRing::open(&path).unwrap();
        let event = Event::now("n", "shim/web-1", "1.1", "instance/web-1")
            .change("running", "backoff", "\"quoted\" ".repeat(400))
            .with("code", "x".repeat(3000));
        let kept = ring.append(event).unwrap();
        let read = RingReader::open(&path).unwrap().events_after(0).unwrap();
        assert_eq!(read.events, [kept]);
        assert_eq!((read.events[0].to.as_str(), read.lost), ("backoff", 0));
    }

    #[test]
    fn a_file_that_is_no_ring_is_replaced_by_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        std::fs::write(&path, b"garbage").unwrap();
        assert!(RingReader::open(&path).is_err());
        Ring::open(&path, SMALL).unwrap().append(b"x").unwrap();
        assert_eq!(RingReader::open(&path).unwrap().read_after(0).unwrap().records.len(), 1);
    }
}

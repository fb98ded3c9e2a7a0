//! What is on a disk after a power cut, worked out from what was written and synced before it.

use std::path::Path;

use super::On;

const FILES: [On; 2] = [On::Wal, On::Main];
/// Written whole or not at all.
const SECTOR_BYTES: usize = 512;
/// Operation, file, offset, length.
const HEAD_BYTES: usize = 14;

enum Op {
    Write { offset: usize, data: std::ops::Range<usize> },
    Sync,
    Cut { length: usize },
}

/// What the layer recorded, in order.
pub(in crate::queues) struct Record {
    bytes: Vec<u8>,
    /// With the file and the place in the record where it ends.
    ops: Vec<(On, Op, u64)>,
}

/// A file as its disk has it, and what was written since its last sync.
#[derive(Clone, Default)]
struct Held {
    synced: Vec<u8>,
    waiting: Vec<usize>,
}

/// What is left.
pub(in crate::queues) struct Media {
    pub(in crate::queues) main: Vec<u8>,
    pub(in crate::queues) wal: Vec<u8>,
}

impl Record {
    pub(in crate::queues) fn read(path: &Path) -> Record {
        let bytes = std::fs::read(path).expect("recorded");
        let mut ops = Vec::new();
        let mut at = 0;
        // The last one may be half written, when the process was killed.
        while at + HEAD_BYTES <= bytes.len() {
            let offset = i64::from_ne_bytes(bytes[at + 2..at + 10].try_into().expect("eight")) as usize;
            let length = u32::from_ne_bytes(bytes[at + 10..at + 14].try_into().expect("four")) as usize;
            let (kind, file) = (bytes[at], FILES[usize::from(bytes[at + 1])]);
            at += HEAD_BYTES;
            let op = match kind {
                0 if at + length > bytes.len() => break,
                0 => Op::Write { offset, data: at..at + length },
                1 => Op::Sync,
                _ => Op::Cut { length: offset },
            };
            if kind == 0 {
                at += length;
            }
            ops.push((file, op, at as u64));
        }
        Record { bytes, ops }
    }

    pub(in crate::queues) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The power goes at this place of the record. `keeps` says of each sector that was not synced whether it is there.
    pub(in crate::queues) fn power_cut(&self, at: u64, mut keeps: impl FnMut() -> bool) -> Media {
        let mut held = [Held::default(), Held::default()];
        for (number, (file, op, _)) in self.ops.iter().enumerate().take_while(|(_, (_, _, end))| *end <= at) {
            let held = &mut held[*file as usize];
            match op {
                Op::Sync => {
                    for waiting in std::mem::take(&mut held.waiting) {
                        self.apply(waiting, &mut held.synced, &mut || true);
                    }
                }
                Op::Write { .. } | Op::Cut { .. } => held.waiting.push(number),
            }
        }
        let [wal, main] = held.map(|held| {
            let mut left = held.synced;
            held.waiting.into_iter().for_each(|waiting| self.apply(waiting, &mut left, &mut keeps));
            left
        });
        Media { main, wal }
    }

    fn apply(&self, number: usize, file: &mut Vec<u8>, keeps: &mut impl FnMut() -> bool) {
        match &self.ops[number].1 {
            Op::Sync => {}
            Op::Cut { length } if keeps() => file.resize(*length, 0),
            Op::Cut { .. } => {}
            Op::Write { offset, data } => {
                let mut at = *offset;
                let end = offset + data.len();
                while at < end {
                    let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                    if keeps() {
                        if file.len() < next {
                            file.resize(next, 0);
                        }
                        let from = data.start + at - offset;
                        file[at..next].copy_from_slice(&self.bytes[from..from + next - at]);
                    }
                    at = next;
                }
            }
        }
    }

    /// Where in the last round of the WAL the commits end that were synced by this place of the record; 0 when the round
    /// began later, so that all of them are in the main file.
    pub(in crate::queues) fn wal_end(&self, at: u64) -> u64 {
        let mut written = 0;
        let mut synced = 0;
        for (file, op, end) in &self.ops {
            match (file, op) {
                (On::Wal, Op::Write { offset: 0, .. }) if *end > at => return 0,
                _ if *end > at => {}
                (On::Wal, Op::Write { offset: 0, data }) => (written, synced) = (data.len(), 0),
                (On::Wal, Op::Write { offset, data }) => written = written.max(offset + data.len()),
                (On::Wal, Op::Sync) => synced = written,
                _ => {}
            }
        }
        synced as u64
    }

    /// Where each transaction of the last round of the WAL ends.
    pub(in crate::queues) fn commit_ends(&self) -> Vec<u64> {
        let (mut ends, mut written) = (Vec::new(), 0);
        for (file, op, _) in &self.ops {
            match (file, op) {
                (On::Wal, Op::Write { offset: 0, data }) => {
                    ends.clear();
                    written = data.len();
                }
                (On::Wal, Op::Write { offset, data }) => written = written.max(offset + data.len()),
                (On::Wal, Op::Sync) if ends.last() != Some(&(written as u64)) => ends.push(written as u64),
                _ => {}
            }
        }
        ends
    }
}

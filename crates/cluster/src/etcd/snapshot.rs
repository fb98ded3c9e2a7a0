//! A copy of a member's database: the stream of its pages, with a checksum at the end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::Deserialize;
use serde_json::json;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::client::{Client, read_streamed};
use super::connection::Lines;
use super::failure::Failure;
use super::wire::{Bytes, unsigned};
use crate::{Error, Result};

/// etcd sends pieces of 32 KiB.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Between two pieces.
const SILENCE_MAX: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
struct Piece {
    #[serde(default, deserialize_with = "unsigned")]
    remaining_bytes: u64,
    #[serde(default)]
    blob: Bytes,
}

/// `file` is there whole or not at all.
pub(super) async fn save(client: &Client, index: usize, file: &Path) -> Result<u64> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let saved = save_part(client, index, &part).await;
    let moved = match saved {
        Ok(bytes) => fs::rename(&part, file).await.map(|()| bytes).map_err(|e| bad(file, &e)),
        Err(error) => Err(error),
    };
    if moved.is_err() {
        drop(fs::remove_file(&part).await);
    }
    moved
}

async fn save_part(client: &Client, index: usize, part: &Path) -> Result<u64> {
    let mut lines = client
        .stream(index, "/v3/maintenance/snapshot", &json!({}), LINE_BYTES_MAX)
        .await
        .map_err(|failure| failure.into_error(client.name(index)))?;
    let mut out = File::create(part).await.map_err(|e| bad(part, &e))?;
    let mut sum = Checksum::new();
    let mut remaining = None;
    while let Some(piece) = next(&mut lines).await.map_err(|failure| failure.into_error(client.name(index)))? {
        out.write_all(&piece.blob.0).await.map_err(|e| bad(part, &e))?;
        sum.add(&piece.blob.0);
        remaining = Some(piece.remaining_bytes);
    }
    out.sync_all().await.map_err(|e| bad(part, &e))?;
    match remaining == Some(0) && sum.holds() {
        true => Ok(sum.bytes),
        false => Err(Error::Unavailable {
            reason: format!("{}: the copy of the database is not complete", client.name(index)),
        }),
    }
}

async fn next(lines: &mut Lines) -> std::result::Result<Option<Piece>, Failure> {
    let silent = |_| Failure::Unknown(format!("no piece of the copy within {SILENCE_MAX:?}"));
    match timeout(SILENCE_MAX, lines.next()).await.map_err(silent)?? {
        Some(line) => read_streamed(&line).map(Some),
        None => Ok(None),
    }
}

fn bad(file: &Path, error: &std::io::Error) -> Error {
    Error::Setup { what: format!("snapshot file {}", file.display()), reason: error.to_string() }
}

/// SHA-256 of everything but the last 32 bytes, which it must be.
struct Checksum {
    digest: Context,
    tail: Vec<u8>,
    bytes: u64,
}

impl Checksum {
    fn new() -> Checksum {
        Checksum { digest: Context::new(&SHA256), tail: Vec::new(), bytes: 0 }
    }

    fn add(&mut self, blob: &[u8]) {
        self.bytes += blob.len() as u64;
        self.tail.extend_from_slice(blob);
        let done = self.tail.len().saturating_sub(SHA256_OUTPUT_LEN);
        self.digest.update(&self.tail[..done]);
        self.tail.drain(..done);
    }

    fn holds(&self) -> bool {
        self.digest.clone().finish().as_ref() == self.tail.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_holds_however_the_pieces_fall_and_only_then() {
        let body: Vec<u8> = (0..1000u32).map(|n| (n * 7) as u8).collect();
        let mut file = body.clone();
        file.extend_from_slice(ring::digest::digest(&SHA256, &body).as_ref());
        for piece in [1, 5, 31, 32, 33, 1032] {
            let mut sum = Checksum::new();
            file.chunks(piece).for_each(|blob| sum.add(blob));
            assert!(sum.holds(), "{piece}");
            assert_eq!(sum.bytes, 1032);
        }
        let mut cut = Checksum::new();
        cut.add(&file[..1031]);
        assert!(!cut.holds());
        assert!(!Checksum::new().holds());
    }
}

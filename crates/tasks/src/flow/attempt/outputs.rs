//! What attempts leave: their outputs, and the end of what they print.

use std::path::{Path, PathBuf};

use holdfast_policy::flow::{Key, Value};

use super::command::token;
use crate::flow::Ground;
use crate::flow::value::from_text;

/// Of an output that goes on in the state of its run; a larger one stays in its file, and the state has the name of it.
pub(super) const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Of what is printed: more than that stays in a file of the run, its end in the table.
const TABLE_BYTES_MAX: usize = 4 * 1024;

pub(super) fn dir(ground: &Ground, run: &str) -> PathBuf {
    ground.files.join(run)
}

/// Where a program may write its output to.
pub(super) fn output_file(ground: &Ground, key: &Key) -> PathBuf {
    dir(ground, &key.run).join(format!("{}.out", token(key)))
}

fn log_file(files: &Path, key: &Key) -> PathBuf {
    files.join(&key.run).join(format!("{}.log", token(key)))
}

/// All of a large log; `None` when there is no more than the table has.
pub(crate) fn read_log(files: &Path, key: &Key) -> Option<String> {
    let bytes = std::fs::read(log_file(files, key)).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// For the table: the end of it. What is longer is kept in a file.
pub(super) fn keep_log(ground: &Ground, key: &Key, bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return None;
    }
    if bytes.len() > TABLE_BYTES_MAX {
        let kept = holdfast_host::files::create_dir(&dir(ground, &key.run))
            .and_then(|()| holdfast_host::files::write_atomic(&log_file(&ground.files, key), bytes));
        if let Err(error) = kept {
            tracing::warn!(%key, %error, "only the end of what a step printed is kept");
        }
    }
    let end = &bytes[bytes.len().saturating_sub(TABLE_BYTES_MAX)..];
    Some(String::from_utf8_lossy(end).into_owned())
}

/// What the program wrote into its file; else its last line when that is JSON; else all that it printed.
pub(super) fn of_program(ground: &Ground, key: &Key, printed: &[u8]) -> Value {
    let file = output_file(ground, key);
    let size = std::fs::metadata(&file).map_or(0, |m| m.len());
    if size > OUTPUT_BYTES_MAX as u64 {
        return in_file(&file, size);
    }
    if size > 0
        && let Ok(bytes) = std::fs::read(&file)
    {
        drop(std::fs::remove_file(&file));
        return from_text(String::from_utf8_lossy(&bytes).trim_end_matches('\n'));
    }
    drop(std::fs::remove_file(&file));
    let text = String::from_utf8_lossy(printed);
    let last = text.trim_end().lines().last().unwrap_or_default();
    match serde_json::from_str(last) {
        Ok(json) => crate::flow::value::from_json(json),
        Err(_) => Value::Text(text.trim_end_matches('\n').to_owned()),
    }
}

/// Of an answer.
pub(super) fn of_answer(ground: &Ground, key: &Key, bytes: &[u8]) -> Value {
    if bytes.len() <= OUTPUT_BYTES_MAX {
        return from_text(&String::from_utf8_lossy(bytes));
    }
    let file = output_file(ground, key);
    let kept = holdfast_host::files::create_dir(&dir(ground, &key.run))
        .and_then(|()| holdfast_host::files::write_atomic(&file, bytes));
    match kept {
        Ok(()) => in_file(&file, bytes.len() as u64),
        Err(error) => {
            tracing::warn!(%key, %error, "a large answer is not kept");
            Value::Null
        }
    }
}

fn in_file(file: &Path, bytes: u64) -> Value {
    let fields = [("file", Value::Text(file.display().to_string())), ("bytes", Value::Number(bytes as f64))];
    Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

/// Of a run that is forgotten.
pub(in crate::flow) fn forget_files(files: &Path, run: &str) {
    match std::fs::remove_dir_all(files.join(run)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::debug!(run, %error, "files of a run stay");
        }
        _ => {}
    }
}

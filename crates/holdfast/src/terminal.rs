//! Colour, width and one-line progress, only where there is a terminal to show them.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

/// Columns assumed when nobody says.
const WIDTH: usize = 80;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    color: bool,
}

impl Style {
    pub(crate) fn stdout() -> Self {
        Style { color: colour_allowed(std::io::stdout().is_terminal()) }
    }

    pub(crate) fn stderr() -> Self {
        Style { color: colour_allowed(std::io::stderr().is_terminal()) }
    }

    pub(crate) fn is_colored(self) -> bool {
        self.color
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.paint("36", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// <https://no-color.org>, <https://bixense.com/clicolors>, and no escape codes into a pipe unasked.
fn colour_allowed(terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
    if std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) {
        return false;
    }
    set("CLICOLOR_FORCE") || (terminal && std::env::var_os("TERM").is_none_or(|t| t != "dumb"))
}

pub(crate) fn width() -> usize {
    columns(&std::io::stdout())
}

pub(crate) fn width_of_stderr() -> usize {
    columns(&std::io::stderr())
}

fn columns(stream: &(impl IsTerminal + AsFd)) -> usize {
    if !stream.is_terminal() {
        // Whoever reads a pipe wants all of it.
        return usize::MAX;
    }
    rustix::termios::tcgetwinsize(stream).map_or(WIDTH, |size| match size.ws_col {
        0 => WIDTH,
        columns => usize::from(columns),
    })
}

/// Breaks a text at spaces: its first line begins in column `first`, the others are indented by `indent`.
pub(crate) fn wrap(text: &str, first: usize, indent: usize, width: usize) -> String {
    let mut out = String::new();
    let mut used = first;
    for (n, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if n > 0 && used + 1 + length > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            used = indent;
        } else if n > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out
}

/// `1 instance`, `2 instances`.
pub(crate) fn plural(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// A line on stderr that is written over while something takes longer than a person likes to wait.
#[derive(Debug)]
pub(crate) struct Progress {
    live: bool,
    last: String,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        Progress { live: !quiet && std::io::stderr().is_terminal(), last: String::new() }
    }

    pub(crate) fn show(&mut self, text: &str) {
        if !self.live || text == self.last {
            return;
        }
        let room = width_of_stderr().saturating_sub(1);
        let cut: String = text.chars().take(room).collect();
        let _ = write!(std::io::stderr(), "\r\x1b[2K{cut}");
        self.last = text.to_owned();
    }

    pub(crate) fn clear(&mut self) {
        if self.live && !self.last.is_empty() {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
            self.last.clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// `1.2s`, `3m05s`, `2h10m`, `4d3h`: two units at most.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..=9 => format!("{:.1}s", duration.as_secs_f64()),
        10..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Plain columns padded to the widest cell; the last one is cut to the terminal's width.
pub(crate) fn table(rows: &[Vec<String>], width: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().filter_map(|r| r.get(c)).map(|cell| visible(cell)).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        let mut used = 0;
        for (c, cell) in row.iter().enumerate() {
            if c + 1 == row.len() {
                line.push_str(&cut(cell, width.saturating_sub(used)));
            } else {
                let pad = widths[c] - visible(cell) + 2;
                line.push_str(cell);
                line.push_str(&" ".repeat(pad));
                used += widths[c] + 2;
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Characters that take room, escape sequences not counted.
fn visible(text: &str) -> usize {
    let mut count = 0;
    let mut escaped = false;
    for c in text.chars() {
        match (escaped, c) {
            (false, '\x1b') => escaped = true,
            (true, 'm') => escaped = false,
            (true, _) => {}
            (false, _) => count += 1,
        }
    }
    count
}

fn cut(text: &str, room: usize) -> String {
    if visible(text) <= room || room == 0 {
        return text.to_owned();
    }
    if text.contains('\x1b') {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let cases = [
            (12, "12ms"),
            (1_500, "1.5s"),
            (59_000, "59s"),
            (65_000, "1m05s"),
            (7_800_000, "2h10m"),
            (90_000_000, "1d1h"),
        ];
        for (ms, want) in cases {
            assert_eq!(human(Duration::from_millis(ms)), want);
        }
    }

    #[test]
    fn long_texts_are_broken_at_spaces() {
        assert_eq!(wrap("one two three", 4, 2, 12), "one two\n  three");
        assert_eq!(wrap("one", 4, 2, 5), "one");
        assert_eq!(wrap("one two", 4, 2, usize::MAX), "one two");
    }

    #[test]
    fn a_table_fits_its_width_and_ignores_colour_when_it_pads() {
        let rows = vec![
            vec!["NAME".into(), "STATE".into(), "WHY".into()],
            vec!["web-1".into(), "\x1b[32mready\x1b[0m".into(), "x".repeat(100)],
        ];
        let text = table(&rows, 40);
        assert!(text.lines().all(|l| visible(l) <= 40), "{text}");
        assert!(text.starts_with("NAME   STATE  WHY\n"), "{text}");
    }
}

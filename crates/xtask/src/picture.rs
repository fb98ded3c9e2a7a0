//! A terminal's text as an SVG, for the README: what the program printed, in the colours it printed it in.

use std::fmt::Write;

/// Of a monospace glyph at the font size below, in SVG units. Lines are stretched to it, so that columns stand under
/// each other in whatever monospace font the reader has.
const GLYPH_WIDTH: f64 = 8.4;
const LINE_HEIGHT: f64 = 19.0;
const FONT_SIZE: f64 = 14.0;
const MARGIN: f64 = 22.0;
const TITLE_HEIGHT: f64 = 34.0;

const GROUND: &str = "#0d1117";
const TEXT: &str = "#d0d7de";
const DIM: &str = "#7d8590";

/// How a run of text is drawn.
#[derive(Clone, Copy, Default, PartialEq)]
struct Pen {
    colour: Option<&'static str>,
    bold: bool,
}

impl Pen {
    /// Parameters of an escape sequence that sets colours; what is not known changes nothing.
    fn set(&mut self, parameters: &str) {
        for parameter in parameters.split(';') {
            match parameter {
                "" | "0" => *self = Pen::default(),
                "1" => self.bold = true,
                "2" => self.colour = Some(DIM),
                "31" => self.colour = Some("#ff7b72"),
                "32" => self.colour = Some("#56d364"),
                "33" => self.colour = Some("#e3b341"),
                "36" => self.colour = Some("#76e3ea"),
                _ => {}
            }
        }
    }
}

/// A window named `title` with `text` in it; lines that begin with `$ ` are what was typed.
pub(crate) fn svg(title: &str, text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let columns = lines.iter().map(|line| plain(line).chars().count()).max().unwrap_or(0);
    let width = columns as f64 * GLYPH_WIDTH + 2.0 * MARGIN;
    let height = TITLE_HEIGHT + lines.len() as f64 * LINE_HEIGHT + 1.5 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">\n\
         <title>{title}</title>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{:.0}\" height=\"{:.0}\" rx=\"9\" fill=\"{GROUND}\" stroke=\"#30363d\"/>\n",
        width - 1.0,
        height - 1.0,
        title = escaped(title)
    );
    for (n, colour) in ["#ff5f57", "#febc2e", "#28c840"].iter().enumerate() {
        let x = MARGIN + 18.0 * n as f64;
        let _ = writeln!(out, "<circle cx=\"{x}\" cy=\"{}\" r=\"5.5\" fill=\"{colour}\"/>", TITLE_HEIGHT / 2.0 + 2.0);
    }
    let _ = writeln!(
        out,
        "<g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace\" \
         font-size=\"{FONT_SIZE}\" fill=\"{TEXT}\" xml:space=\"preserve\" style=\"white-space:pre\">\n\
         <text x=\"{:.0}\" y=\"{:.0}\" fill=\"{DIM}\" font-size=\"12.5\" text-anchor=\"middle\">{}</text>",
        width / 2.0,
        TITLE_HEIGHT / 2.0 + 6.0,
        escaped(title)
    );
    for (n, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
        let y = TITLE_HEIGHT + MARGIN / 2.0 + LINE_HEIGHT * (n as f64 + 0.75);
        let length = plain(line).chars().count() as f64 * GLYPH_WIDTH;
        let _ = writeln!(
            out,
            "<text x=\"{MARGIN}\" y=\"{y:.1}\" textLength=\"{length:.1}\" lengthAdjust=\"spacingAndGlyphs\">{}</text>",
            drawn(line)
        );
    }
    out + "</g>\n</svg>\n"
}

/// Without escape sequences.
pub(crate) fn plain(line: &str) -> String {
    runs(line).into_iter().map(|(_, text)| text).collect()
}

fn drawn(line: &str) -> String {
    if let Some(typed) = line.strip_prefix("$ ") {
        return format!(
            "<tspan fill=\"#56d364\">$</tspan> <tspan fill=\"#f0f6fc\" font-weight=\"bold\">{}</tspan>",
            escaped(typed)
        );
    }
    let mut out = String::new();
    for (pen, text) in runs(line) {
        let mut attributes = pen.colour.map_or_else(String::new, |colour| format!(" fill=\"{colour}\""));
        if pen.bold {
            attributes += " font-weight=\"bold\"";
        }
        match attributes.is_empty() {
            true => out += &escaped(&text),
            false => out += &format!("<tspan{attributes}>{}</tspan>", escaped(&text)),
        }
    }
    out
}

/// The line cut where its colours change.
fn runs(line: &str) -> Vec<(Pen, String)> {
    let mut pen = Pen::default();
    let mut runs: Vec<(Pen, String)> = Vec::new();
    for (n, part) in line.split("\x1b[").enumerate() {
        let text = match part.split_once('m') {
            Some((parameters, text)) if n > 0 => {
                pen.set(parameters);
                text
            }
            _ => part,
        };
        if !text.is_empty() {
            runs.push((pen, text.to_owned()));
        }
    }
    runs
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_has_the_colours_that_were_printed() {
        let picture = svg("shop", "$ holdfast drill --all\n\nweb-kill  a<b  \x1b[1;32mpassed\x1b[0m m\n");
        assert!(
            picture.contains(">web-kill  a&lt;b  <tspan fill=\"#56d364\" font-weight=\"bold\">passed</tspan> m</text>"),
            "{picture}"
        );
        assert!(picture.contains("font-weight=\"bold\">holdfast drill --all</tspan>"), "{picture}");
        assert_eq!(picture.matches("<text ").count(), 3, "the title and two lines");
        assert_eq!(plain("a \x1b[32mb\x1b[0m c"), "a b c");
    }
}

//! A terminal's text as an SVG, for the README: what the program printed, coloured by its words.

use std::fmt::Write;

/// Of a monospace glyph at the font size below, in SVG units.
const GLYPH_WIDTH: f64 = 7.83;
const LINE_HEIGHT: f64 = 18.0;
const FONT_SIZE: f64 = 13.0;
const MARGIN: f64 = 16.0;

/// Words that are drawn in a colour of their own.
const COLOURS: &[(&str, &str)] = &[
    ("passed", "#7ee787"),
    ("ready", "#7ee787"),
    ("FAILED", "#ff7b72"),
    ("failed", "#ff7b72"),
    ("refused", "#e3b341"),
    ("degraded", "#e3b341"),
];

pub(crate) fn svg(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let columns = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let width = columns as f64 * GLYPH_WIDTH + 2.0 * MARGIN;
    let height = lines.len() as f64 * LINE_HEIGHT + 2.0 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>\n\
         <g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, monospace\" font-size=\"{FONT_SIZE}\" fill=\"#c9d1d9\" xml:space=\"preserve\">\n"
    );
    for (n, line) in lines.iter().enumerate() {
        let y = MARGIN + LINE_HEIGHT * (n as f64 + 0.75);
        // Writing into a String cannot fail.
        let _ = writeln!(out, "<text x=\"{MARGIN}\" y=\"{y:.1}\">{}</text>", coloured(line));
    }
    out + "</g>\n</svg>\n"
}

fn coloured(line: &str) -> String {
    let escaped = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    if line.starts_with('$') {
        return format!("<tspan fill=\"#79c0ff\">{escaped}</tspan>");
    }
    let mut out = String::new();
    for (n, word) in escaped.split(' ').enumerate() {
        if n > 0 {
            out.push(' ');
        }
        match COLOURS.iter().find(|(name, _)| *name == word.trim_end_matches([',', '.', ':'])) {
            Some((_, colour)) => drop(write!(out, "<tspan fill=\"{colour}\">{word}</tspan>")),
            None => out.push_str(word),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_coloured() {
        let picture = svg("$ holdfast drill --all\nweb-kill  a<b  passed\n");
        assert!(picture.contains("a&lt;b") && picture.contains("<tspan fill=\"#7ee787\">passed</tspan>"));
        assert!(picture.contains("<tspan fill=\"#79c0ff\">$ holdfast drill --all</tspan>"));
        assert_eq!(picture.matches("<text ").count(), 2);
    }
}

//! `holdfast explain HF0042`: the page of an error code.

use super::print_text;
use crate::failure::{Exit, Failure};
use crate::terminal::{width, wrap};

/// Wider lines are harder to read than more of them.
const WIDTH_MAX: usize = 100;

pub(super) fn run(code: &str) -> Result<Exit, Failure> {
    let code = code.to_ascii_uppercase();
    if let Some(page) = holdfast_observe::codes::explain(&code) {
        print_text(&wrapped(page, width().min(WIDTH_MAX)));
        return Ok(Exit::Ok);
    }
    let near = holdfast_observe::codes::near(&code);
    let failure = Failure::new("HF0706", format!("there is no error code `{code}`")).exit(Exit::Usage);
    Err(match near.as_slice() {
        [] => failure.hint("codes look like HF0101"),
        near => failure.hint(format!("did you mean {}?", near.join(" or "))),
    })
}

/// Paragraphs and items of a page, as wide as the terminal; what stands between fences stays as it is.
fn wrapped(page: &str, width: usize) -> String {
    let mut fenced = false;
    let mut text = String::new();
    for line in page.lines() {
        fenced ^= line.starts_with("```");
        let indent = if line.starts_with("- ") { 2 } else { 0 };
        match fenced {
            true => text += line,
            false => text += &wrap(line, 0, indent, width),
        }
        text.push('\n');
    }
    text
}

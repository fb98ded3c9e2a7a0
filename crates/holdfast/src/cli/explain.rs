//! `holdfast explain HF0042`: the page of an error code.

use super::print_text;
use crate::failure::{Exit, Failure};

pub(super) fn run(code: &str) -> Result<Exit, Failure> {
    let code = code.to_ascii_uppercase();
    if let Some(page) = holdfast_observe::codes::explain(&code) {
        print_text(page);
        return Ok(Exit::Ok);
    }
    let near = holdfast_observe::codes::near(&code);
    let failure = Failure::new("HF0706", format!("there is no error code `{code}`")).exit(Exit::Usage);
    Err(match near.as_slice() {
        [] => failure.hint("codes look like HF0101"),
        near => failure.hint(format!("did you mean {}?", near.join(" or "))),
    })
}

//! Whatever stands in the file, reading it ends with an answer that can be printed.

use std::path::Path;

use proptest::prelude::*;

use crate::reference::{EXAMPLE, EXAMPLE_TASKS};
use crate::*;

use super::environment;

fn survives(text: &str) {
    let (found, source) = match parse(text, Path::new("x.toml"), &environment()) {
        Ok(loaded) => {
            show(&loaded.config);
            (loaded.warnings, loaded.source)
        }
        Err(failed) => {
            assert!(failed.diagnostics.iter().any(Diagnostic::is_error));
            (failed.diagnostics, failed.source)
        }
    };
    render(&found, &source, true, 20);
    render(&found, &source, false, 80);
    to_json(&found, &source);
}

const PIECES: [&str; 28] = [
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "=",
    ",",
    "\n",
    "\"\"\"",
    "#",
    "é",
    "\u{1F600}",
    "\t",
    "true",
    "-1",
    "1e999",
    "[service.a]\n",
    "99999999999999999999",
    "after = [\"web\"]\n",
    "replicas = 4294967295\n",
    "port = 65535\n",
    "\u{0}",
    "0x",
    "${",
    "[workflow.report.step.extract]\n",
    "after = [\"extract\", \"tell\"]\n",
    "queue = \"orders-dead\"\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_text(text in "\\PC{0,200}") {
        survives(&text);
    }

    #[test]
    fn a_valid_file_with_pieces_cut_out_and_put_in(
        example in prop::sample::select(vec![EXAMPLE, EXAMPLE_TASKS]),
        edits in prop::collection::vec((0.0..1.0f64, 0usize..40, 0usize..PIECES.len()), 1..6),
    ) {
        let mut text = example.to_owned();
        for (place, cut, piece) in edits {
            let near = |n: usize| (0..=n.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let start = near((text.len() as f64 * place) as usize);
            let end = near(start + cut).max(start);
            text.replace_range(start..end, PIECES[piece]);
        }
        survives(&text);
    }
}

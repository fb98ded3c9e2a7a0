//! What people read: each `messages/NAME.toml` and, in `NAME.txt`, all that is said of it. `UPDATE_EXPECT=1` renews the texts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use expect_test::expect_file;

use crate::*;

use super::environment;

fn found(text: &str, name: &str) -> (Vec<Diagnostic>, Source) {
    match parse(text, Path::new(name), &environment()) {
        Ok(loaded) => (loaded.warnings, loaded.source),
        Err(failed) => (failed.diagnostics, failed.source),
    }
}

fn samples() -> Vec<PathBuf> {
    let files = std::fs::read_dir(std::path::absolute("src/tests/messages").unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect()
}

#[test]
fn all_that_is_wrong_is_told_as_it_was_written_down() {
    let mut codes = BTreeSet::from([code::UNREADABLE, code::NOT_THERE]);
    for path in samples() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (found, source) = found(&std::fs::read_to_string(&path).unwrap(), name);
        codes.extend(found.iter().map(|d| d.code));
        let bare: Vec<&Diagnostic> = found.iter().filter(|d| d.hint.is_none()).collect();
        assert!(bare.is_empty(), "{name}: without a hint: {bare:#?}");
        let text = render(&found, &source, false, 80);
        let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{name}: wider than 80 columns: {wide:#?}");
        assert!(!text.contains("hunter2") && !text.contains("s3cret"), "{name} shows a secret");
        expect_file![path.with_extension("txt")].assert_eq(&format!("{text}\n{}\n", summary(&found)));
    }
    let silent: Vec<&(&str, &str)> = code::ALL.iter().filter(|(code, _)| !codes.contains(code)).collect();
    assert!(silent.is_empty(), "no sample gives {silent:?}");
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let load = |name: &str| Config::load(&dir.path().join(name)).unwrap_err();
    std::fs::write(dir.path().join("latin"), b"a = 1\nb = \"\xff\"\n").unwrap();
    std::fs::write(dir.path().join("large"), vec![b'#'; 5 << 20]).unwrap();
    for (name, said) in
        [("absent", "No such file"), ("latin", "not UTF-8 text (line 2)"), ("large", "larger than 4 MiB")]
    {
        let failed = load(name);
        let text = render(&failed.diagnostics, &failed.source, false, 200);
        assert!(text.starts_with("error[HF0101]: ") && text.contains(said), "{text}");
    }
}

#[test]
fn a_file_on_disk_is_read_against_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("holdfast.toml");
    std::fs::write(&path, "[service.web]\ncommand = [\"no-such-program\"]\nenv_files = [\"web.env\"]\n").unwrap();
    let loaded = Config::load(&path).unwrap();
    let web = &loaded.config.services["web"];
    assert_eq!((&web.workdir, &web.env_files[0]), (&dir.path().to_owned(), &dir.path().join("web.env")));
    assert!(!loaded.config.node.name.is_empty());
    let said: Vec<String> = loaded.warnings.iter().map(|w| format!("{} {}", w.code, w.message)).collect();
    let program = "HF0149 there is no program `no-such-program` in PATH";
    let file = format!("HF0149 there is no file {}", dir.path().join("web.env").display());
    assert_eq!(said, [program.to_owned(), file]);
}

#[test]
fn what_workers_and_workflows_need_is_looked_for_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("holdfast.toml");
    let text = r#"
        [key.web]
        id = "WEB"
        secret = { file = "/no/such/secret" }
        [queue.mail]
        dead_letter = { queue = "graves" }
        [queue.graves]
        [worker.mail]
        queue = "mail"
        command = ["./no-worker"]
        env = { TOKEN = { file = "no-token" } }
        [workflow.w]
        schedule = "@daily"
        timezone = "Europe/Atlantis"
        [workflow.w.step.a]
        command = ["true"]
        undo = { command = ["no-undo"] }
    "#;
    std::fs::write(&path, text).unwrap();
    let loaded = Config::load(&path).unwrap();
    let base = dir.path().display();
    let said: Vec<&str> = loaded.warnings.iter().map(|w| w.message.as_str()).collect();
    let expected = [
        "there is no file /no/such/secret".to_owned(),
        format!("there is no program {base}/./no-worker"),
        format!("there is no file {base}/no-token"),
        "there is no time zone Europe/Atlantis in /usr/share/zoneinfo".to_owned(),
        "there is no program `no-undo` in PATH".to_owned(),
    ];
    assert_eq!(said, expected);
    assert!(loaded.warnings.iter().all(|w| w.code == code::NOT_THERE));
}

#[test]
fn long_lines_and_wide_characters_keep_carets_under_their_text() {
    let long = format!(
        "[service.web]\ncommand = [\"{}\", 5, \"{}\"]\nzone = \"東京\"\t# \u{1b}[31m\n",
        "x".repeat(90),
        "y".repeat(90)
    );
    let (found, source) = found(&long, "long.toml");
    expect_test::expect![[r#"
        error[HF0104]: `service.web.command` must be an array of
          texts alone, not an array
          --> long.toml:2:11
           |
         2 | command = ["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...
           |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
           |           an element is a whole number
           |
          hint: put every element in quotes

        error[HF0102]: this is not valid TOML
          --> long.toml:3:15
           |
         3 | zone = "東京"    # �[31m
           |                    ^
           |                   invalid comment character, expected
           |                   printable characters
           |
          hint: a line is KEY = VALUE, [TABLE] or # a comment
    "#]]
    .assert_eq(&render(&found, &source, false, 60));
    let colored = render(&found, &source, true, 60);
    assert!(colored.contains("\u{1b}[1;31merror[HF0104]\u{1b}[0m"));
}

#[test]
fn programs_get_the_same_as_people() {
    let (found, source) = found("[service.web]\ncommand = [\"web\"]\nreplica = 3\n", "a.toml");
    expect_test::expect![[r#"[{"code":"HF0103","column":1,"file":"a.toml","hint":"write `replicas`","labels":[{"column":1,"end_column":8,"end_line":3,"line":3,"text":"did you mean `replicas`?"}],"line":3,"message":"`service.web` has no key `replica`","severity":"error"}]"#]].assert_eq(&to_json(&found, &source).to_string());
}

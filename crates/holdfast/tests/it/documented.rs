//! The files of the how-to pages about queues and workflows are right, and do what the pages say.

use crate::site::{Site, free_port};

/// The blocks of a page in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/how-to").join(page);
    let text = std::fs::read_to_string(path).expect("the page is there");
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

/// All TOML of a page, as one file.
fn file_of(page: &str) -> String {
    blocks(page, "toml").join("\n")
}

/// The one block of TOML with this beginning.
pub(crate) fn block(page: &str, beginning: &str) -> String {
    let block = blocks(page, "toml").into_iter().find(|block| block.starts_with(beginning));
    block.unwrap_or_else(|| panic!("{page} has no {beginning}"))
}

#[test]
fn what_is_said_of_queues() {
    let (tasks, public) = (free_port(), free_port());
    let text = file_of("queues.md")
        .replace("/usr/local/bin/send-mail", "/bin/cat")
        .replace("10.0.0.5:9324", &format!("127.0.0.1:{tasks}"))
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{public}"))
        .replace("/etc/holdfast/shop.secret", "{dir}/secret");
    let site =
        Site::new(&format!("{text}\n[service.shop]\ncommand = [\"{{origin}}\", \"{{port}}\"]\nport = \"auto\"\n"));
    std::fs::write(site.path().join("secret"), "a secret of the shop").expect("written");
    site.up();
    site.ok(&["queue", "send", "mail", r#"{"to": "ops@example.org"}"#]);
    site.wait_for("the mail to be sent", || site.ok(&["worker", "attempts", "mailer"]).contains("done"));
    assert!(site.ok(&["queue", "list"]).contains("0 in mail-dead"));
}

#[test]
fn what_is_said_of_workflows() {
    let text = file_of("workflows.md")
        .replace("/opt/report/extract", "/bin/echo")
        .replace("/opt/report/render", "/bin/echo")
        .replace("/opt/report/complain", "/bin/echo");
    let tasks = free_port();
    let site = Site::new(&format!("[tasks]\nlisten = \"127.0.0.1:{tasks}\"\n{text}"));
    site.up();
    let ran = site.ok(&["run", "report", "--param", "day=2026-11-25", "--wait"]);
    assert!(ran.contains("report-1  succeeded") && ran.contains("skipped"), "{ran}");
    assert!(
        site.ok(&["runs", "logs", "report-1", "render"]).contains("2026-11-25"),
        "the output of one is the input of the next"
    );
    site.ok(&["runs", "show", "report-1", "--svg", "report.svg"]);
    assert!(std::fs::read_to_string(site.path().join("report.svg")).expect("written").starts_with("<svg"));
    assert!(site.ok(&["runs", "schedules"]).contains("Europe/Berlin"));
}

//! The files of the how-to pages about queues and workflows are right, and do what the pages say.

use std::process::{Command, Output, Stdio};

use holdfast_tasks::postgres::fixture::Server;

use crate::environment::Environment;
use crate::site::{Site, free_port};

/// The blocks of a page in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/how-to").join(page);
    let text = std::fs::read_to_string(path).expect("the page is there");
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

/// All TOML of a page, as one file; without what says where else the queues can be kept.
fn file_of(page: &str) -> String {
    let blocks: Vec<String> = blocks(page, "toml").into_iter().filter(|block| !block.contains("\npostgres")).collect();
    blocks.join("\n")
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
fn what_is_said_of_postgresql() {
    let server = Server::shared();
    let text = blocks("queues.md", "toml").into_iter().find(|block| block.contains("\npostgres")).expect("it is said");
    let url = text.split('"').find(|part| part.starts_with("postgres://")).expect("a URL").to_owned();
    let text = text
        .replace(&url, &server.url(&server.database()))
        .replace("0.0.0.0:9324", &format!("127.0.0.1:{}", free_port()))
        .replace("/run/secrets/postgres", "{dir}/secret")
        .replace("/run/secrets/queue-key", "{dir}/secret");
    let site = Site::new(&text);
    std::fs::write(site.path().join("secret"), "a secret of the shop").expect("written");
    site.up();
    site.ok(&["queue", "send", "orders", "one"]);
    assert!(site.ok(&["queue", "list"]).contains("orders"));
    assert!(site.ok(&["queue", "peek", "orders"]).contains("one"));
}

/// The program of the page, first as it stands there, then with the key of the page.
#[test]
fn what_is_said_of_programs_and_keys() {
    let python = match Environment::of_python(&["boto3==1.43.11"]) {
        Ok(environment) => environment.path("bin/python"),
        Err(reason) => return eprintln!("skipped: there is no boto3: {reason}"),
    };
    let address = format!("127.0.0.1:{}", free_port());
    let program = blocks("queues.md", "python").concat().replace("127.0.0.1:9324", &address);
    let send = |program: &str| -> Output {
        let mut python = Command::new(&python);
        python.args(["-c", program]).stdin(Stdio::null()).output().expect("python starts")
    };
    let queue = block("queues.md", "[queue.mail]").replace("/usr/local/bin/send-mail", "/bin/cat");
    let site = Site::new(&format!("[tasks]\nlisten = \"{address}\"\n{queue}"));
    site.up();
    let done = || site.ok(&["worker", "attempts", "mailer"]).matches("done").count();
    let sent = send(&program);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    site.wait_for("the message to be worked on", || done() == 1);

    std::fs::write(site.path().join("secret"), "a secret of the shop").expect("written");
    let keys = block("queues.md", "[tasks]").replace("10.0.0.5:9324", &address);
    site.write(&format!("{}\n{queue}", keys.replace("/etc/holdfast/shop.secret", "{dir}/secret")));
    site.up();
    site.wait_for("only who has a key to send", || !send(&program).status.success());
    let before = done();
    let signed = program.replace("key_id=\"any\"", "key_id=\"SHOPKEY\"");
    let sent = send(&signed.replace("access_key=\"any\"", "access_key=\"a secret of the shop\""));
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    site.wait_for("the signed message to be worked on", || done() > before);
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

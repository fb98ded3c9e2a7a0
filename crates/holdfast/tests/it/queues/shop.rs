//! The shop's orders, from the queue through the saga into the books of the warehouse and of the payments: the files of
//! `examples/shop`, the real programs, and deaths on the way.

use std::path::Path;

use super::*;

const ORDERS: usize = 24;
/// The cards of 29 and 38 are refused.
const FIRST: usize = 20;
const STOCK: u64 = 1_000_000;

fn shop() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop").canonicalize().expect("the shop is there")
}

/// Only what orders pass behind the queue, as the shop's own file says it, with free ports and absolute paths.
fn file(ports: [u16; 3]) -> String {
    let text = std::fs::read_to_string(shop().join("shop.toml")).expect("the shop's file");
    let wanted = ["[service.warehouse]", "[service.payments]", "[tasks]", "[queue.", "[worker.", "[workflow."];
    let mut out = String::new();
    let mut keep = false;
    for line in text.lines() {
        if line.starts_with('[') {
            keep = wanted.iter().any(|w| line.starts_with(w)) && !line.contains("nightly");
        }
        if keep && !line.starts_with('#') && !line.starts_with("after   = [\"migrate\"]") {
            out += &format!("{line}\n");
        }
    }
    for (declared, free) in [18083u16, 18084, 18091].into_iter().zip(ports) {
        out = out.replace(&declared.to_string(), &free.to_string());
    }
    let dir = shop();
    out.replace("books/books.py", &format!("{}/books/books.py", dir.display()))
        .replace("fulfil/fulfil.js", &format!("{}/fulfil/fulfil.js", dir.display()))
        .replace("data/", "{dir}/")
        .replace(".holdfast/agent.sock", "{dir}/.holdfast/agent.sock")
}

fn totals(port: u16) -> Value {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it is up");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
    stream.write_all(b"GET /totals HTTP/1.1\r\nhost: it\r\nconnection: close\r\n\r\n").expect("asked");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answered");
    parse(text.as_bytes()).map(|(_, body)| serde_json::from_str(&body).expect("JSON")).expect("an answer")
}

#[test]
fn money_and_stock_add_up_whatever_dies_on_the_way() {
    if ["node", "python3"].iter().any(|p| std::process::Command::new(p).arg("--version").output().is_err()) {
        return println!("skipped: needs node and python3");
    }
    let ports @ [warehouse, payments, tasks] = [free_port(), free_port(), free_port()];
    let site = Site::new(&file(ports));
    site.up();
    let mut sqs = Sqs::new(tasks);
    let url = sqs.url("orders.fifo");
    for n in 0..ORDERS {
        let key = format!("order-{:03}", FIRST + n);
        let order = json!({ "key": key, "item": "lamp", "count": 1, "cents": 4900 }).to_string();
        let send = json!({
            "QueueUrl": url, "MessageBody": order, "MessageGroupId": key, "MessageDeduplicationId": key,
        });
        // As the shop does: what had no answer is sent again, and so is now and then what had one.
        site.wait_for("the order to be confirmed", || sqs.ask("SendMessage", &send).is_ok());
        if n % 4 == 0 {
            site.wait_for("the same again", || sqs.ask("SendMessage", &send).is_ok());
        }
        match n {
            6 | 14 => kill(site.pid("_tasks-1"), "KILL"),
            10 => kill(site.pid("payments-1"), "KILL"),
            18 => {
                let agent = site.status()["agent"]["pid"].as_u64().expect("a pid");
                kill(u32::try_from(agent).expect("a pid"), "KILL");
            }
            _ => {}
        }
    }
    let runs = || -> Vec<Value> {
        let ran = site.run(&["runs", "list", "--limit", "100", "--json"]);
        serde_json::from_str::<Value>(&ran.stdout).ok().and_then(|v| v.as_array().cloned()).unwrap_or_default()
    };
    site.wait_for("every order to be through", || {
        let runs = runs();
        runs.len() == ORDERS && runs.iter().all(|run| run["over"] == true)
    });
    let with = |status: &str| runs().iter().filter(|run| run["status"] == status).count() as u64;
    let (done, back) = (with("succeeded"), with("rolled-back"));
    let (stock, money) = (totals(warehouse), totals(payments));
    println!("{done} succeeded, {back} rolled back; {stock} {money}");
    assert_eq!(done + back, ORDERS as u64);
    assert!(back > 0 && done > back, "some cards are refused, and most are not");
    assert_eq!((&stock["shipped"], &stock["reserved"]), (&done.into(), &0.into()));
    assert_eq!(stock["left"], STOCK - done);
    let sum = |name: &str| money[name].as_u64().unwrap_or(0);
    assert_eq!(sum("charged") - sum("refunded"), done, "each order is paid for once");
    assert_eq!(sum("charged_cents") - sum("refunded_cents"), 4_900 * done);
    assert_eq!(queue(&site, "orders-dead.fifo")["visible"], 0);
}

//! Orders that come while the shop is away: kept, and delivered when it is back.

use super::*;

const CUSTOMERS: usize = 3;
const ORDERS: usize = 40;

/// A shop behind a balancer that keeps orders.
struct Shop {
    site: Site,
    port: u16,
}

/// What the shop was asked: key, whether it was a replay, customer, body.
type Asked = (String, bool, String, String);

impl Shop {
    /// `slow_ms` is what the program takes to start.
    fn open(replicas: u32, slow_ms: u32) -> Shop {
        let (port, sqs) = (free_port(), free_port());
        let site = Site::new(&format!(
            r#"
[tasks]
listen = "127.0.0.1:{sqs}"

[queue.orders]
fifo        = true
dead_letter = {{ queue = "refused", receives = 5 }}
retry       = {{ base = "100ms", factor = 2.0, max = "1s", jitter = 0.0 }}

[queue.refused]
fifo = true

[service.shop]
command  = ["{{origin}}", "{{port}}"]
port     = "auto"
replicas = {replicas}
env      = {{ ORIGIN_POSTS = "{{dir}}/posts", ORIGIN_SLOW = "{slow_ms}" }}
ready    = {{ http = "/healthz", every = "200ms" }}

[balancer.public]
listen   = "127.0.0.1:{port}"
service  = "shop"
fallback = {{ queue = "orders", key = "X-Customer" }}
"#
        ));
        site.up();
        Shop { site, port }
    }

    /// Status, id of the message, body.
    fn post(&self, headers: &str, body: &str) -> (u16, String, String) {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            let length = body.len();
            write!(
                stream,
                "POST /orders HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
            )?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = ask().expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let id = head.lines().find_map(|line| line.strip_prefix("Holdfast-Message-Id: ")).unwrap_or_default();
        (head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status"), id.to_owned(), body.to_owned())
    }

    fn order(&self, customer: &str, body: &str) -> u16 {
        self.post(&format!("X-Customer: {customer}\r\n"), body).0
    }

    fn asked(&self) -> Vec<Asked> {
        let text = std::fs::read_to_string(self.site.path().join("posts")).unwrap_or_default();
        let line = |line: &str| {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            (words[0].to_owned(), words[1] == "1", words[2].to_owned(), words[3].to_owned())
        };
        text.lines().map(line).collect()
    }

    fn is_empty(&self) -> bool {
        let q = queue(&self.site, "orders.fifo");
        q["visible"] == 0 && q["in_flight"] == 0 && q["delayed"] == 0
    }

    fn scale(&self, replicas: u32) {
        self.site.ok(&["scale", &format!("shop={replicas}")]);
    }
}

#[test]
fn every_order_is_delivered_once_and_in_its_customers_order() {
    let shop = Shop::open(0, 0);
    for n in 0..ORDERS {
        for customer in 0..CUSTOMERS {
            assert_eq!(shop.order(&format!("c{customer}"), &format!("order {n}")), 202);
        }
    }
    assert_eq!(queue(&shop.site, "orders.fifo")["visible"], ORDERS * CUSTOMERS);
    assert!(shop.asked().is_empty());
    shop.scale(1);
    shop.site.wait_ready("shop-1");
    shop.site.wait_for("the orders to be delivered", || shop.is_empty());
    let asked = shop.asked();
    let keys: std::collections::BTreeSet<&String> = asked.iter().map(|(key, ..)| key).collect();
    assert_eq!(
        (asked.len(), keys.len()),
        (ORDERS * CUSTOMERS, ORDERS * CUSTOMERS),
        "each once, each under its own key"
    );
    assert!(asked.iter().all(|(_, replayed, ..)| *replayed));
    let want: Vec<String> = (0..ORDERS).map(|n| format!("order {n}")).collect();
    for customer in 0..CUSTOMERS {
        let of = |asked: &Asked| (asked.2 == format!("c{customer}")).then(|| asked.3.clone());
        assert_eq!(asked.iter().filter_map(of).collect::<Vec<_>>(), want, "c{customer}");
    }
    // The service is there again: it answers itself.
    assert_eq!(shop.post("X-Customer: c0\r\n", "direct"), (200, String::new(), "direct".into()));
    assert!(!shop.asked().last().expect("one").1);
    let metrics = shop.site.run(&["worker", "attempts", "_fallback-public"]);
    assert!(metrics.stdout.contains("done"), "{}{}", metrics.stdout, metrics.stderr);
}

#[test]
fn a_repeated_order_is_one_message_and_a_refused_one_a_dead_letter() {
    let shop = Shop::open(0, 0);
    let keyed = |trace: &str| format!("X-Customer: ann\r\nIdempotency-Key: k1\r\nTraceparent: {trace}\r\n");
    let (status, id, body) = shop.post(&keyed("1"), "one");
    assert_eq!((status, body), (202, format!(r#"{{"queued":true,"id":"{id}"}}"#)));
    assert_eq!(shop.post(&keyed("2"), "one").1, id, "asked again, it is the same message");
    assert_eq!(shop.post(&keyed("3"), "another").0, 503, "the key is used up");
    assert_eq!(shop.order("bob", "no such article"), 202);
    assert_eq!(shop.order("bob", "two"), 202);
    shop.scale(1);
    shop.site.wait_ready("shop-1");
    shop.site.wait_for("the queue to be empty", || shop.is_empty());
    let bodies = |of: &str| -> Vec<String> {
        shop.asked().into_iter().filter(|(_, _, customer, _)| customer == of).map(|(.., body)| body).collect()
    };
    assert_eq!(bodies("ann"), ["one"]);
    assert_eq!(bodies("bob"), ["no such article", "two"], "the next one goes on");
    assert!(shop.asked().iter().any(|(key, ..)| key == "k1"), "the client's own key");
    let dead = shop.site.ok(&["queue", "peek", "refused.fifo"]);
    assert!(dead.contains("dead letter of orders.fifo (refused): 409 Conflict"), "{dead}");
}

#[test]
fn orders_survive_the_deaths_of_the_shop_and_of_the_plane() {
    let shop = Shop::open(1, 1500);
    shop.site.wait_ready("shop-1");
    let mut kept = Vec::new();
    for n in 0..60 {
        if n % 20 == 5 {
            shop.site.wait_ready("shop-1");
            kill(shop.site.pid("shop-1"), "KILL");
        }
        if n % 20 == 15 {
            shop.site.wait_ready("_tasks-1");
            kill(shop.site.pid("_tasks-1"), "KILL");
        }
        let body = format!("order {n}");
        let (status, id, _) = shop.post(&format!("X-Customer: ann\r\nIdempotency-Key: k{n}\r\n"), &body);
        match status {
            202 => kept.push(body),
            200 | 502 | 503 => assert_eq!(id, "", "{status} is no promise"),
            other => panic!("status {other}"),
        }
    }
    assert!(!kept.is_empty(), "the shop was never away");
    shop.site.wait_ready("shop-1");
    shop.site.wait_for("the queue to be empty", || shop.is_empty());
    assert_eq!(queue(&shop.site, "refused.fifo")["visible"], 0);
    let replayed: Vec<String> = shop.asked().into_iter().filter(|a| a.1).map(|(.., body)| body).collect();
    let lost: Vec<&String> = kept.iter().filter(|body| !replayed.contains(body)).collect();
    assert!(lost.is_empty(), "202, and never delivered: {lost:?} of {}", kept.len());
}

#[test]
fn without_the_plane_of_tasks_the_answer_is_503_and_never_202() {
    let shop = Shop::open(0, 0);
    assert_eq!(shop.order("ann", "kept"), 202);
    let plane = shop.site.pid("_tasks-1");
    // Stopped it says nothing, and killed it is not there: a queue that does not confirm is no queue.
    kill(plane, "STOP");
    let began = Instant::now();
    let (status, id, text) = shop.post("X-Customer: ann\r\n", "silent");
    assert_eq!((status, id.as_str()), (503, ""), "{text}");
    assert!(text.starts_with("HF0525") && began.elapsed() < Duration::from_secs(10), "{text}");
    kill(plane, "KILL");
    let status = shop.order("ann", "gone");
    assert!(status == 503 || shop.site.pid("_tasks-1") != plane, "202 by a dead plane");
    shop.site.wait_for("the next plane to take orders", || shop.order("ann", "again") == 202);
    assert_eq!(crate::site::get(shop.port, "/orders").expect("an answer").0, 503, "a read is not kept");
}

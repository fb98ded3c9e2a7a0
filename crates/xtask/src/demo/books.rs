//! Do money and stock add up, after all that was broken? What the services wrote down is counted, not what holdfast says.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Their places among the shop's ports.
pub(super) const WAREHOUSE: usize = 3;
pub(super) const PAYMENTS: usize = 4;

/// As `books.py` begins.
const STOCK: u64 = 1_000_000;
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Orders that are still on their way when the customers stop.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(250);

struct Totals {
    left: u64,
    reserved: u64,
    shipped: u64,
    charged: u64,
    refunded: u64,
}

impl Totals {
    fn read(warehouse: u16, payments: u16) -> Result<Totals> {
        let (stock, money) = (totals(warehouse)?, totals(payments)?);
        let of = |all: &Value, name: &str| all[name].as_u64().with_context(|| format!("no `{name}` in the totals"));
        Ok(Totals {
            left: of(&stock, "left")?,
            reserved: of(&stock, "reserved")?,
            shipped: of(&stock, "shipped")?,
            charged: of(&money, "charged")?,
            refunded: of(&money, "refunded")?,
        })
    }

    fn add_up(&self) -> bool {
        self.reserved == 0
            && self.left + self.shipped == STOCK
            && self.charged.checked_sub(self.refunded) == Some(self.shipped)
    }
}

/// Waits until every order is through, and says what it came to.
pub(super) fn settle(warehouse: u16, payments: u16, stop: &AtomicBool) -> Result<()> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    let totals = loop {
        let totals = Totals::read(warehouse, payments)?;
        if totals.add_up() || Instant::now() > deadline || stop.load(Ordering::Relaxed) {
            break totals;
        }
        thread::sleep(LOOK_EVERY);
    };
    let Totals { left, reserved, shipped, charged, refunded } = totals;
    println!(
        "\nthe books: {charged} charged, {refunded} refunded, {shipped} shipped, {reserved} reserved, {left} left"
    );
    match totals.add_up() && shipped > 0 {
        true => Ok(()),
        false if stop.load(Ordering::Relaxed) => Ok(()),
        false => bail!("money and stock do not add up"),
    }
}

fn totals(port: u16) -> Result<Value> {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.write_all(b"GET /totals HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = asked().with_context(|| format!("port {port} does not tell its totals"))?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).with_context(|| format!("port {port} tells no totals: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_add_up_only_when_nothing_is_on_its_way_lost_or_double() {
        let good = || Totals { left: STOCK - 3, reserved: 0, shipped: 3, charged: 4, refunded: 1 };
        assert!(good().add_up());
        assert!(!Totals { reserved: 1, ..good() }.add_up());
        assert!(!Totals { left: STOCK - 4, ..good() }.add_up());
        assert!(!Totals { charged: 5, ..good() }.add_up());
        assert!(!Totals { refunded: 9, ..good() }.add_up());
    }
}

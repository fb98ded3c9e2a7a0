//! Messages out: those that are due again first, then fresh ones. What another plane has in its hands is skipped.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_policy::queue::Record;
use tokio_postgres::Row;

use super::batch::{Ask, Batch, Said, Transfer};
use super::session::{Done, Tx};
use crate::clock::Millis;
use crate::error::Result;
use crate::queue::entry::{Entry, message_id, place};
use crate::queue::receipt::Receipt;
use crate::queue::rules::{CLEARED_MAX, GROUP_IN_FLIGHT_MAX, Offer, check_in_flight, later, offer};
use crate::queue::{Buried, Delivery, IN_FLIGHT_MAX, NEVER, Received};
use crate::store::{decode, encode};

/// A count of what is in flight is good for so long: other planes hand out messages too.
const COUNTED_FOR: Duration = Duration::from_secs(5);

/// Of candidates; the order is that of `candidate`.
const COLUMNS: &str = "id, receives, failures, crashes, first, error, uid, sent, body, attributes, trace, sender, grp, \
                       deduplication, buried, due";

struct Candidate {
    delivery: Delivery,
    id: i64,
    record: Record,
    first: Millis,
    due: Millis,
    error: Option<String>,
}

/// One client that waits.
struct Client {
    at: usize,
    want: usize,
    until: Millis,
    received: Received,
}

/// Those of one queue.
struct Receiving {
    entry: Arc<Entry>,
    dead: Option<Arc<Entry>>,
    clients: Vec<Client>,
    cleared: u32,
    buried: Vec<(i64, Option<String>, String)>,
    expired: Vec<i64>,
    claimed: Claimed,
    /// Of a group no two clients get messages at once.
    owners: HashMap<String, usize>,
}

#[derive(Default)]
struct Claimed {
    id: Vec<i64>,
    due: Vec<i64>,
    receives: Vec<i64>,
    first: Vec<i64>,
}

impl Tx<'_> {
    pub(super) async fn receive_all(&mut self, batch: &mut Batch, asks: &[&Ask]) -> Done<Vec<Option<Result<Said>>>> {
        let mut said: Vec<Option<Result<Said>>> = asks.iter().map(|_| None).collect();
        let mut queues: BTreeMap<i64, Receiving> = BTreeMap::new();
        for (at, ask) in asks.iter().enumerate() {
            let Ask::Receive { queue, many, visibility_ms } = ask else { continue };
            let Some(entry) = batch.entries.get(queue).cloned() else { continue };
            if let Err(error) = self.may_hand_out(&entry, *many).await? {
                said[at] = Some(Err(error));
                continue;
            }
            let until = later(self.now, visibility_ms.unwrap_or(entry.spec.visibility_ms));
            let received = Received { deliveries: Vec::new(), next_due: None, buried_in: Vec::new() };
            let client = Client { at, want: *many as usize, until, received };
            let receiving = queues.entry(entry.number).or_insert_with(|| Receiving::new(entry));
            receiving.clients.push(client);
        }
        for (number, mut receiving) in queues {
            if let Some(dead) = &receiving.entry.spec.dead_letter {
                receiving.dead = self.find(&dead.queue).await?;
            }
            self.hand_out(batch, &mut receiving).await?;
            let next = self.next_due(&receiving).await?;
            let mut handed_out = 0;
            for mut client in receiving.clients {
                handed_out += client.received.deliveries.len();
                if client.received.deliveries.is_empty() {
                    client.received.next_due = next;
                }
                said[client.at] = Some(Ok(Said::Received(client.received)));
            }
            if let Some((at_most, _)) = self.shared.cache().in_flight.get_mut(&number) {
                *at_most = at_most.saturating_add(u32::try_from(handed_out).unwrap_or(u32::MAX));
            }
        }
        Ok(said)
    }

    /// Counted anew when the limit may be near, or when others may have handed out much since.
    async fn may_hand_out(&self, entry: &Entry, many: u32) -> Done<Result<()>> {
        let known = self.shared.cache().in_flight.get(&entry.number).copied();
        if known.is_some_and(|(at_most, at)| {
            at_most.saturating_add(many) <= IN_FLIGHT_MAX
                && (at_most < IN_FLIGHT_MAX / 4 || at.elapsed() < COUNTED_FOR)
                && at.elapsed() < COUNTED_FOR * 12
        }) {
            return Ok(Ok(()));
        }
        let sql =
            "SELECT count(*) FROM (SELECT FROM message WHERE queue = $1 AND due > $2 AND due < $3 AND receives > 0
                   LIMIT $4) m";
        let row = self.one(sql, &[&entry.number, &self.now, &NEVER, &i64::from(IN_FLIGHT_MAX)]).await?;
        let counted = u32::try_from(row.get::<_, i64>(0)).unwrap_or(u32::MAX);
        self.shared.cache().in_flight.insert(entry.number, (counted, Instant::now()));
        Ok(check_in_flight(&entry.name, counted, many))
    }

    async fn hand_out(&mut self, batch: &mut Batch, receiving: &mut Receiving) -> Done<()> {
        while !receiving.is_done() {
            let candidates = match receiving.entry.spec.fifo {
                true => self.of_groups(receiving).await?,
                false => self.due(receiving).await?,
            };
            if candidates.is_empty() {
                return Ok(());
            }
            let (before, mut blocked) = (receiving.progress(), None::<String>);
            for candidate in candidates {
                let group = candidate.delivery.group.clone().filter(|_| receiving.entry.spec.fifo);
                if let Some(group) = &group {
                    batch.groups.entry(receiving.entry.number).or_default().insert(group.clone());
                }
                if receiving.is_done() || (group.is_some() && blocked == group) {
                    continue;
                }
                if candidate.due > self.now {
                    blocked = group;
                    continue;
                }
                self.offer(receiving, candidate);
            }
            self.write_receives(receiving).await?;
            self.refresh_groups(batch).await?;
            if receiving.progress() == before {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn due(&self, receiving: &Receiving) -> Done<Vec<Candidate>> {
        let sql = format!(
            "WITH again AS MATERIALIZED (SELECT {COLUMNS} FROM message WHERE queue = $1 AND due > 0 AND due <= $2 AND id > $3
                 ORDER BY due, id LIMIT $4 FOR UPDATE SKIP LOCKED),
             fresh AS MATERIALIZED (SELECT {COLUMNS} FROM message WHERE queue = $1 AND due = 0 AND id > $3
                 ORDER BY id LIMIT ($4 - (SELECT count(*) FROM again)) FOR UPDATE SKIP LOCKED)
             SELECT * FROM (SELECT {COLUMNS}, 0 AS o FROM again UNION ALL SELECT {COLUMNS}, 1 FROM fresh) c
             ORDER BY o, due, id"
        );
        let entry = &receiving.entry;
        let rows = self.rows(&sql, &[&entry.number, &self.now, &entry.low(), &receiving.left()]).await?;
        rows.iter().map(candidate).collect()
    }

    /// The fronts of groups that may be received, group by group.
    async fn of_groups(&self, receiving: &Receiving) -> Done<Vec<Candidate>> {
        let entry = &receiving.entry;
        let groups = self.groups_due(entry, usize::try_from(receiving.left()).unwrap_or_default()).await?;
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let columns = COLUMNS.split(", ").map(|c| format!("f.{c}")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT {columns} FROM unnest($2) WITH ORDINALITY g(name, o) CROSS JOIN LATERAL
             (SELECT {COLUMNS} FROM message WHERE queue = $1 AND grp = g.name AND id > $3 ORDER BY id LIMIT $4) f
             ORDER BY g.o, f.id"
        );
        let rows = self.rows(&sql, &[&entry.number, &groups, &entry.low(), &i64::from(GROUP_IN_FLIGHT_MAX)]).await?;
        rows.iter().map(candidate).collect()
    }

    /// Gives a message to the first client that still wants one, unless it has expired or belongs to the dead letters.
    fn offer(&self, receiving: &mut Receiving, candidate: Candidate) {
        let Candidate { mut delivery, id, record, first, error, .. } = candidate;
        match offer(&receiving.entry.spec, record, delivery.sent, self.now) {
            Offer::Expired => {
                receiving.cleared += 1;
                return receiving.expired.push(id);
            }
            Offer::Bury(reason) if receiving.dead.is_some() => {
                let story = Buried { source: receiving.entry.name.clone(), reason: reason.word().to_owned(), error };
                if let Ok(story) = encode(&story) {
                    receiving.cleared += 1;
                    return receiving.buried.push((id, delivery.group, story));
                }
            }
            Offer::HandOut | Offer::Bury(_) => {}
        }
        let Some(at) = receiving.client(delivery.group.as_deref()) else { return };
        let client = &mut receiving.clients[at];
        delivery.receives = record.receives + 1;
        delivery.failures = record.failures;
        delivery.first_received = if first > 0 { first } else { self.now };
        let receipt = Receipt { id, receive: delivery.receives, epoch: self.epoch };
        delivery.receipt = self.shared.sealer.seal(receipt);
        receiving.claimed.id.push(id);
        receiving.claimed.due.push(client.until);
        receiving.claimed.receives.push(i64::from(delivery.receives));
        receiving.claimed.first.push(delivery.first_received);
        client.received.deliveries.push(delivery);
    }

    async fn write_receives(&mut self, receiving: &mut Receiving) -> Done<()> {
        let claimed = std::mem::take(&mut receiving.claimed);
        if !claimed.id.is_empty() {
            self.run(
                "UPDATE message m SET due = u.due, receives = u.receives, first = u.first, since = $5, epoch = $6
                 FROM unnest($1, $2, $3, $4) u(id, due, receives, first) WHERE m.id = u.id",
                &[&claimed.id, &claimed.due, &claimed.receives, &claimed.first, &self.now, &self.epoch],
            )
            .await?;
        }
        self.remove(&receiving.entry, &std::mem::take(&mut receiving.expired)).await?;
        let buried = std::mem::take(&mut receiving.buried);
        if let (false, Some(dead)) = (buried.is_empty(), receiving.dead.clone()) {
            if let Some(client) = receiving.clients.first_mut() {
                client.received.buried_in.extend(buried.iter().map(|_| dead.name.clone()));
            }
            let transfers: Vec<Transfer> =
                buried.into_iter().map(|(id, group, story)| Transfer { id, group, story: Some(story) }).collect();
            self.transfer(&receiving.entry, &dead, &transfers).await?;
        }
        Ok(())
    }

    async fn next_due(&self, receiving: &Receiving) -> Done<Option<Millis>> {
        if receiving.clients.iter().all(|client| !client.received.deliveries.is_empty()) {
            return Ok(None);
        }
        if receiving.cleared >= CLEARED_MAX {
            // There may be more behind what was cleared away.
            return Ok(Some(self.now));
        }
        let sql = match receiving.entry.spec.fifo {
            true => "SELECT min(due) FROM grp WHERE queue = $1 AND due > $2 AND $3 >= 0",
            false => "SELECT min(due) FROM message WHERE queue = $1 AND due > $2 AND id > $3",
        };
        // The first in order, not the smallest of all: the index tells it at once.
        let sql = sql.replace("min(due)", "due") + " ORDER BY due LIMIT 1";
        let row = self.opt(&sql, &[&receiving.entry.number, &self.now, &receiving.entry.low()]).await?;
        Ok(row.map(|row| row.get(0)).filter(|due| *due < NEVER))
    }
}

impl Receiving {
    fn new(entry: Arc<Entry>) -> Receiving {
        Receiving {
            entry,
            dead: None,
            clients: Vec::new(),
            cleared: 0,
            buried: Vec::new(),
            expired: Vec::new(),
            claimed: Claimed::default(),
            owners: HashMap::new(),
        }
    }

    /// Who gets the next message.
    fn client(&mut self, group: Option<&str>) -> Option<usize> {
        let has_room = |client: &Client| client.received.deliveries.len() < client.want;
        let group = group.filter(|_| self.entry.spec.fifo);
        let at = match group.and_then(|group| self.owners.get(group)) {
            Some(owner) => *owner,
            None => self.clients.iter().position(has_room)?,
        };
        if let Some(group) = group {
            self.owners.insert(group.to_owned(), at);
        }
        self.clients.get(at).is_some_and(has_room).then_some(at)
    }

    fn left(&self) -> i64 {
        self.clients.iter().map(|c| (c.want - c.received.deliveries.len()) as i64).sum()
    }

    fn progress(&self) -> (i64, u32) {
        (self.left(), self.cleared)
    }

    fn is_done(&self) -> bool {
        self.left() == 0 || self.cleared >= CLEARED_MAX
    }
}

fn candidate(row: &Row) -> Done<Candidate> {
    let count = |at: usize| u32::try_from(row.get::<_, i64>(at)).unwrap_or(u32::MAX);
    let id: i64 = row.get(0);
    let buried: Option<&str> = row.get(14);
    let delivery = Delivery {
        message: message_id(row.get(6)),
        receipt: String::new(),
        sent: row.get(7),
        body: row.get(8),
        attributes: row.get::<_, Option<Vec<u8>>>(9).unwrap_or_default(),
        trace: row.get(10),
        sender: row.get(11),
        group: row.get(12),
        deduplication: row.get(13),
        first_received: 0,
        receives: 0,
        failures: 0,
        sequence: place(id),
        buried: buried.map(|text| decode(text, "story of a dead letter")).transpose()?,
    };
    Ok(Candidate {
        delivery,
        id,
        record: Record { receives: count(1), failures: count(2), crashes: count(3) },
        first: row.get(4),
        due: row.get(15),
        error: row.get(5),
    })
}

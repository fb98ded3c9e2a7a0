//! Random histories against a model: what a queue hands out is exactly what may be handed out.

use std::collections::BTreeMap;

use holdfast_policy::queue::Report;
use proptest::prelude::*;

use super::*;
use crate::queue::MessageId;

#[derive(Clone, Debug)]
enum Step {
    Send {
        many: usize,
        delay_s: Option<u8>,
    },
    Receive {
        many: u32,
    },
    /// One of the deliveries so far, however old.
    Delete {
        which: usize,
    },
    Hold {
        which: usize,
        seconds: u8,
    },
    Report {
        which: usize,
        report: Report,
    },
    Advance {
        seconds: u8,
    },
    /// Another process goes on.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let report = prop_oneof![Just(Report::Retry), Just(Report::Dead), Just(Report::Crashed)];
    prop_oneof![
        4 => (1..5usize, prop::option::of(0..20u8)).prop_map(|(many, delay_s)| Step::Send { many, delay_s }),
        6 => (1..=10u32).prop_map(|many| Step::Receive { many }),
        4 => any::<usize>().prop_map(|which| Step::Delete { which }),
        2 => (any::<usize>(), 0..40u8).prop_map(|(which, seconds)| Step::Hold { which, seconds }),
        2 => (any::<usize>(), report).prop_map(|(which, report)| Step::Report { which, report }),
        3 => (1..40u8).prop_map(|seconds| Step::Advance { seconds }),
        1 => Just(Step::Restart),
    ]
}

/// What is known of one message of queue `q`.
#[derive(Clone, Copy, Debug)]
struct Known {
    due: i64,
    receives: u32,
    crashes: u32,
}

const RECEIVES_MAX: u32 = 4;
const CRASHES_MAX: u32 = 2;
#[derive(Default)]
struct Model {
    /// Seconds; time passes only where a step says so.
    now: i64,
    messages: BTreeMap<MessageId, Known>,
    dead: usize,
    gone: usize,
    sent: usize,
}

impl Model {
    fn may_be_received(&self) -> usize {
        self.messages.values().filter(|m| m.due <= self.now && m.receives < RECEIVES_MAX).count()
    }
}

struct Run {
    place: Option<Place>,
    model: Model,
    deliveries: Vec<(MessageId, u32, String)>,
}

impl Run {
    fn place(&self) -> &Place {
        self.place.as_ref().expect("there is one between two steps")
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Send { many, delay_s } => self.send(*many, *delay_s).await,
            Step::Receive { many } => self.receive(*many).await,
            Step::Delete { which } => self.delete(*which).await,
            Step::Hold { which, seconds } => self.hold(*which, *seconds).await,
            Step::Report { which, report } => self.report(*which, *report).await,
            Step::Advance { seconds } => {
                self.place().advance(i64::from(*seconds) * 1000);
                self.model.now += i64::from(*seconds);
            }
            Step::Restart => {
                let ahead = self.place().clock.now();
                let place = self.place.take().expect("there is one").again().await;
                // The new process knows nothing of the time that the test has made pass.
                place.advance(ahead - place.clock.now());
                self.place = Some(place);
            }
        }
    }

    async fn send(&mut self, many: usize, delay_s: Option<u8>) {
        let delay_ms = delay_s.map(|s| u64::from(s) * 1000);
        let messages = (0..many).map(|n| New { body: format!("{n}"), delay_ms, ..New::default() }).collect();
        for sent in self.place().store.send("q", messages).await.expect("sent") {
            let due = self.model.now + i64::from(delay_s.unwrap_or(0));
            let known = Known { due, receives: 0, crashes: 0 };
            assert!(self.model.messages.insert(sent.expect("taken").message, known).is_none(), "an id twice");
            self.model.sent += 1;
        }
    }

    async fn receive(&mut self, many: u32) {
        let may = self.model.may_be_received();
        let received = self.place().store.receive("q", many, None).await.expect("received");
        assert_eq!(received.deliveries.len(), may.min(many as usize), "of {may} that may be received");
        // Buried are the ones that were met on the way: they are due and received often enough.
        let now = self.model.now;
        let over = |m: &Known| m.due <= now && m.receives >= RECEIVES_MAX;
        let left = self.place().store.counts("dead").await.expect("counted").visible as usize;
        let buried = left - self.model.dead;
        assert!(buried <= self.model.messages.values().filter(|m| over(m)).count());
        self.model.dead = left;
        let there = self.place().store.peek("q", 1000).await.expect("looked");
        self.model.messages.retain(|id, m| !over(m) || there.iter().any(|p| p.message == *id));
        for delivery in received.deliveries {
            let known = self.model.messages.get_mut(&delivery.message).expect("sent and not deleted");
            assert!(known.due <= now, "it was hidden");
            known.receives += 1;
            assert_eq!(delivery.receives, known.receives);
            known.due = now + 30;
            self.deliveries.push((delivery.message, known.receives, delivery.receipt));
        }
    }

    /// Any delivery, and whether it is the latest of a message that is still there.
    fn choose(&self, which: usize) -> Option<(MessageId, String, bool)> {
        let (id, receives, receipt) = self.deliveries.get(which.checked_rem(self.deliveries.len())?)?;
        let latest = self.model.messages.get(id).is_some_and(|m| m.receives == *receives);
        Some((*id, receipt.clone(), latest))
    }

    async fn delete(&mut self, which: usize) {
        let Some((id, receipt, latest)) = self.choose(which) else { return };
        let answer = self.place().store.acknowledge("q", vec![receipt], false).await.expect("asked").remove(0);
        let want = if latest { Acknowledged::Deleted } else { Acknowledged::Stale };
        assert_eq!(answer.expect("no error"), want);
        if latest {
            self.model.messages.remove(&id);
            self.model.gone += 1;
        }
    }

    async fn hold(&mut self, which: usize, seconds: u8) {
        let Some((id, receipt, latest)) = self.choose(which) else { return };
        let held = latest && self.model.messages[&id].due > self.model.now;
        let change = vec![(receipt, u64::from(seconds) * 1000)];
        let answer = self.place().store.change_visibility("q", change).await.expect("asked").remove(0);
        assert_eq!(answer.is_ok(), held, "{answer:?}");
        if let Some(message) = self.model.messages.get_mut(&id).filter(|_| held) {
            message.due = self.model.now + i64::from(seconds);
        }
    }

    async fn report(&mut self, which: usize, report: Report) {
        let Some((id, receipt, latest)) = self.choose(which) else { return };
        let held = latest && self.model.messages[&id].due > self.model.now;
        let settled = self.place().store.report("q", &receipt, report, "words").await;
        assert_eq!(settled.is_ok(), held, "{settled:?}");
        let Some(message) = self.model.messages.get_mut(&id).filter(|_| held) else { return };
        message.crashes += u32::from(report == Report::Crashed);
        let buried = report == Report::Dead
            || message.crashes >= CRASHES_MAX && report == Report::Crashed
            || message.receives >= RECEIVES_MAX;
        match settled.expect("held") {
            Settled::Buried { .. } => {
                assert!(buried);
                self.model.messages.remove(&id);
                self.model.dead += 1;
            }
            Settled::Again { .. } => {
                assert!(!buried);
                message.due = self.model.now;
            }
            Settled::Quarantined => panic!("there are dead letters"),
        }
    }

    /// Nothing was lost, nothing came from nowhere.
    async fn check(&self) {
        let counts = self.place().store.counts("q").await.expect("counted");
        let total = counts.visible + counts.in_flight + counts.delayed;
        assert_eq!(total as usize, self.model.messages.len());
        assert_eq!(self.model.sent, self.model.messages.len() + self.model.dead + self.model.gone);
        let visible = self.model.messages.values().filter(|m| m.due <= self.model.now).count();
        assert_eq!(counts.visible as usize, visible);
    }
}

fn play(on: Engine, steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let q = Spec { crashes_max: CRASHES_MAX, ..dead("dead", RECEIVES_MAX) };
        let place = Place::new(on, &[("dead", Spec::default()), ("q", q)]).await;
        let mut run = Run { place: Some(place), model: Model::default(), deliveries: Vec::new() };
        for step in steps {
            run.step(step).await;
            run.check().await;
        }
        run.place().store.close();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_in_exactly_one_place(steps in prop::collection::vec(step(), 1..60)) {
        play(Engine::Sqlite, &steps);
    }
}

proptest! {
    // Each restart is a new connection, and each step a transaction of its own.
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_in_exactly_one_place_of_a_database(steps in prop::collection::vec(step(), 1..60)) {
        play(Engine::Postgres, &steps);
    }
}

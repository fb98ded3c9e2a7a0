//! One virtual address: wait for what happens, tell the machine, do what it says.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_cluster::election::Leadership;
use holdfast_host::address::{self, Heard, Interface, Link, Mac, Netlink, Watch};
use holdfast_host::event::Event as Fact;
use holdfast_observe::incident::STAGE;
use holdfast_observe::status::VirtualIp;
use holdfast_policy::lease::Lost;
use holdfast_policy::time::millis;
use holdfast_policy::vip::{self, Action, Event, Kernel, Loss, Machine, Peers as Found, State};
use holdfast_policy::{Timestamp, Transition};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::campaign::{self, Before, Campaigner, Held, Won};
use super::{Context, Shared, Want};

/// Renewals and the health of the balancers are looked at so often; nothing of either costs a system call.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After a failed call to the kernel, or while the interface is not there.
const AGAIN: Duration = Duration::from_secs(1);
/// RFC 5227 asks three times over seconds, for hosts that know nothing of each other. Here the lease decides, and the
/// answer of a host in the same network takes a millisecond.
const PROBES: u32 = 3;
const PROBE_EVERY: Duration = Duration::from_millis(100);
/// Where a second is all there is.
const PROBE_QUICKLY: Duration = Duration::from_millis(40);
/// The journal hears of a host that goes on and on so often.
const CONFLICT_EVERY: Duration = Duration::from_secs(10);

/// What is open as long as the interface is there.
struct Wire {
    interface: Interface,
    link: Link,
    watch: Watch,
}

pub(super) struct Task {
    want: Want,
    context: Context,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    netlink: Option<Arc<Mutex<Netlink>>>,
    leadership: Option<Leadership>,
    campaign: Option<(JoinHandle<Option<Won>>, watch::Sender<bool>)>,
    campaigns: u64,
    question: Option<JoinHandle<(Timestamp, Found)>>,
    quick_question: Option<JoinHandle<(Timestamp, Found)>>,
    /// What was written of this owner, and whether it was taken; an error when nobody knows.
    writing: Option<JoinHandle<(bool, holdfast_cluster::Result<bool>)>>,
    /// Of another owner that is quick.
    quick_owner: watch::Receiver<Option<u64>>,
    tell_quick_owner: watch::Sender<Option<u64>>,
    /// Probes sent, and when the next is due.
    probe: Option<(u32, Timestamp)>,
    answered_by: Option<Mac>,
    conflict_told: Option<Timestamp>,
    look_at: Timestamp,
    owner: Arc<Mutex<Option<String>>>,
    /// Whom the next campaign succeeds.
    before: Arc<Mutex<Option<Before>>>,
    /// Since a takeover was begun that nobody planned.
    takeover: Option<Before>,
    trouble: Option<String>,
    since: Timestamp,
}

enum Happened {
    Stop,
    Kernel,
    Heard(Heard),
    Campaign(Option<Won>),
    Peers(Timestamp, Found),
    QuickPeers(Timestamp, Found),
    Written(Option<(bool, holdfast_cluster::Result<bool>)>),
    QuickOwner,
    Lost(Lost),
    Broken(io::Error),
    Tick,
}

impl Task {
    pub(super) fn new(want: Want, context: Context, shared: Arc<Shared>, stop: watch::Receiver<bool>) -> Task {
        let since = (context.clock)();
        let (tell_quick_owner, quick_owner) = watch::channel(None);
        Task {
            want,
            context,
            shared,
            stop,
            netlink: None,
            leadership: None,
            campaign: None,
            campaigns: 0,
            question: None,
            quick_question: None,
            writing: None,
            quick_owner,
            tell_quick_owner,
            probe: None,
            answered_by: None,
            conflict_told: None,
            look_at: Timestamp::ZERO,
            owner: Arc::default(),
            before: Arc::default(),
            takeover: None,
            trouble: None,
            since,
        }
    }

    fn now(&self) -> Timestamp {
        (self.context.clock)()
    }

    /// Ends when it was told to stop and nothing is left.
    pub(super) async fn run(mut self) {
        let timings = self.want.timings;
        let settings = vip::Settings {
            ttl: timings.ttl,
            renew: timings.renew,
            give_up: timings.give_up,
            others: self.context.peers.others(),
            quick: self.want.quick && self.context.peers.others(),
            rules: self.context.rules,
        };
        *self.machine() = Some(Machine::new(settings, self.now()));
        loop {
            match self.open() {
                Ok(wire) => {
                    self.trouble = None;
                    if let Err(error) = self.serve(&wire).await {
                        self.troubled(format!("cannot listen on {}: {error}", wire.interface.name), "HF0363");
                    } else {
                        return;
                    }
                }
                Err(error) => self.troubled(error.to_string(), error.code()),
            }
            // Without the interface there is nothing that could be carried.
            self.tell(Event::Kernel(Kernel::Absent));
            self.publish(None);
            let mut stop = self.stop.clone();
            if tokio::time::timeout(AGAIN, stop.wait_for(|stop| *stop)).await.is_ok() {
                return self.leave().await;
            }
        }
    }

    fn open(&mut self) -> Result<Wire, address::Error> {
        let netlink = Netlink::open()?;
        let interface = address::find_interface(&netlink, self.want.at.address, self.want.interface.as_deref())?;
        let link = Link::open(&interface, self.want.at.address)?;
        self.netlink = Some(Arc::new(Mutex::new(netlink)));
        Ok(Wire { interface, link, watch: Watch::open()? })
    }

    fn troubled(&mut self, what: String, code: &str) {
        if self.trouble.as_ref() != Some(&what) {
            tracing::warn!(address = %self.want.at, code, "a virtual address cannot be kept: {what}");
            self.trouble = Some(what);
        }
    }

    fn machine(&self) -> std::sync::MutexGuard<'_, Option<Machine>> {
        self.shared.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        act(self.machine().as_mut().expect("made before anything else"))
    }

    fn tell(&mut self, event: Event) {
        let now = self.now();
        let told = self.with(|m| {
            m.handle(now, event);
            m.take_transition()
        });
        told.into_iter().for_each(|t| self.record(t));
    }

    /// An error when the interface has to be opened anew.
    async fn serve(&mut self, wire: &Wire) -> io::Result<()> {
        self.look(wire).await;
        loop {
            self.lease();
            if let Some(well) = (self.context.well)() {
                self.tell(Event::DataPlane { well });
            }
            self.probe(wire);
            self.act(wire).await;
            self.publish(Some(&wire.interface));
            if self.with(|m| m.is_over()) {
                self.leave().await;
                return Ok(());
            }
            match self.next(wire).await {
                Happened::Stop => self.tell(Event::Stop),
                Happened::Kernel => {
                    self.same_interface(wire)?;
                    self.look(wire).await;
                }
                Happened::Heard(heard) => self.heard(heard),
                Happened::Campaign(won) => self.won(won),
                Happened::Peers(asked, found) => {
                    self.question = None;
                    self.tell(Event::Peers { asked, found });
                }
                Happened::QuickPeers(asked, found) => {
                    self.quick_question = None;
                    self.tell(Event::QuickPeers { asked, found });
                }
                Happened::Written(written) => self.written(written),
                Happened::QuickOwner => {
                    let token = *self.quick_owner.borrow_and_update();
                    self.tell(Event::QuickOwner(token));
                }
                Happened::Lost(lost) => {
                    self.leadership = None;
                    let loss = if lost == Lost::Revoked { Loss::Revoked } else { Loss::Unanswered };
                    self.tell(Event::Lost(loss));
                }
                Happened::Broken(error) => return Err(error),
                Happened::Tick => {
                    if self.now() >= self.look_at {
                        self.look(wire).await;
                    }
                }
            }
        }
    }

    async fn next(&mut self, wire: &Wire) -> Happened {
        let now = self.now();
        let deadline = self.with(|m| m.next_deadline(now)).min(self.probe.map_or(Timestamp::NEVER, |(_, at)| at));
        let wait = now.until(deadline).clamp(Duration::from_millis(1), LOOK_EVERY);
        let told_to_stop = *self.stop.borrow();
        let campaign = self.campaign.as_mut().map(|(task, _)| task);
        let lost = self.leadership.as_ref().map(|l| l.lost());
        tokio::select! {
            _ = self.stop.wait_for(|stop| *stop), if !told_to_stop => Happened::Stop,
            changed = wire.watch.changed() => changed.map_or_else(Happened::Broken, |()| Happened::Kernel),
            heard = wire.link.heard() => heard.map_or_else(Happened::Broken, Happened::Heard),
            Some(won) = maybe(campaign) => Happened::Campaign(won.ok().flatten()),
            Some(answer) = maybe(self.question.as_mut()) => match answer {
                Ok((asked, found)) => Happened::Peers(asked, found),
                Err(_) => Happened::Peers(now, Found::Silent),
            },
            Some(answer) = maybe(self.quick_question.as_mut()) => match answer {
                Ok((asked, found)) => Happened::QuickPeers(asked, found),
                Err(_) => Happened::QuickPeers(now, Found::Silent),
            },
            Some(written) = maybe(self.writing.as_mut()) => Happened::Written(written.ok()),
            Ok(()) = self.quick_owner.changed() => Happened::QuickOwner,
            Some(lost) = maybe(lost.map(Box::pin)) => Happened::Lost(lost),
            () = tokio::time::sleep(wait) => Happened::Tick,
        }
    }

    fn lease(&mut self) {
        let Some(leadership) = self.leadership.as_ref().filter(|l| l.holds()) else { return };
        let confirmed = leadership.deadline() - self.want.timings.give_up;
        self.tell(Event::Held { confirmed });
    }

    fn won(&mut self, won: Option<Won>) {
        self.campaign = None;
        let Some(won) = won else { return };
        tracing::info!(address = %self.want.at, token = %won.leadership.token(), "has the lease of a virtual address");
        self.takeover = won.before.filter(|before| before.node != self.context.node);
        if let Some(before) = &self.takeover {
            let stage = if before.planned { "neutral" } else { "detected" };
            let reason = match before.planned {
                true => format!("{} gave it up", before.node),
                false => format!("the lease of {} ended", before.node),
            };
            let fact = self.fact().change("owned", "lost", reason).with("node", &before.node).with(STAGE, stage);
            self.append(at(fact, before.gone.unwrap_or(self.now())));
        }
        self.leadership = Some(won.leadership);
        self.lease();
    }

    /// Nobody knows what became of one that was not answered: the machine asks for it again.
    fn written(&mut self, written: Option<(bool, holdfast_cluster::Result<bool>)>) {
        self.writing = None;
        match written {
            Some((quick, Ok(taken))) => {
                if !taken {
                    self.leadership = None;
                }
                tracing::info!(address = %self.want.at, quick, taken, "whether the owner is quick");
                self.tell(Event::Written { quick, taken });
            }
            Some((_, Err(error))) => tracing::debug!(address = %self.want.at, %error, "not written"),
            None => {}
        }
    }

    fn heard(&mut self, heard: Heard) {
        if self.is_of_this_machine(heard.from) {
            return;
        }
        self.answered_by = Some(heard.from);
        if self.probe.take().is_some() {
            return self.tell(Event::Probed { answered: true });
        }
        let carries = matches!(self.with(|m| m.state()), State::Owned | State::SafeMode);
        let now = self.now();
        if carries && self.conflict_told.is_none_or(|told| now >= told + CONFLICT_EVERY) {
            self.conflict_told = Some(now);
            tracing::warn!(address = %self.want.at, mac = %heard.from, code = "HF0364", "another host speaks for a virtual address");
            let fact =
                self.fact().change("owned", "owned", "another host speaks for the address; telling the network again");
            self.append(fact.with("mac", heard.from).with(STAGE, "neutral"));
        }
        self.tell(Event::Conflict);
    }

    /// Another interface of this machine is no other host.
    fn is_of_this_machine(&self, mac: Mac) -> bool {
        let interfaces = self.netlink.as_ref().map(|n| n.lock().unwrap_or_else(PoisonError::into_inner).interfaces());
        interfaces.is_some_and(|found| found.is_ok_and(|all| all.iter().any(|i| i.mac == Some(mac))))
    }

    fn same_interface(&self, wire: &Wire) -> io::Result<()> {
        let Some(netlink) = &self.netlink else { return Ok(()) };
        let found = netlink.lock().unwrap_or_else(PoisonError::into_inner).interfaces();
        match found {
            Ok(all) if !all.contains(&wire.interface) => Err(io::Error::other("the interface changed")),
            _ => Ok(()),
        }
    }

    /// What the kernel has, whatever was told or done.
    async fn look(&mut self, wire: &Wire) {
        let at = self.want.at;
        let index = wire.interface.index;
        self.look_at = self.now() + AGAIN;
        let found = self.kernel(move |netlink| netlink.addresses()).await;
        let Some(Ok(all)) = found else { return };
        let one = all.iter().filter(|a| a.at.address == at.address);
        let kernel = one.map(|a| match a.ours && a.interface == index && a.at.prefix == at.prefix {
            true => Kernel::Ours,
            false => Kernel::Foreign,
        });
        let kernel = kernel.max_by_key(|k| *k == Kernel::Foreign).unwrap_or_default();
        if kernel == Kernel::Foreign {
            self.troubled(format!("{} is configured on this machine by somebody else", at.address), "HF0364");
        }
        self.tell(Event::Kernel(kernel));
    }

    /// The kernel may be busy with somebody else's change; the API need not wait for it.
    async fn kernel<T: Send + 'static>(&self, ask: impl FnOnce(&Netlink) -> T + Send + 'static) -> Option<T> {
        let netlink = self.netlink.clone()?;
        let asked = tokio::task::spawn_blocking(move || ask(&netlink.lock().unwrap_or_else(PoisonError::into_inner)));
        asked.await.ok()
    }

    fn probe(&mut self, wire: &Wire) {
        let now = self.now();
        match self.probe {
            Some((sent, due)) if now >= due && sent >= PROBES => {
                self.probe = None;
                self.answered_by = None;
                self.tell(Event::Probed { answered: false });
            }
            Some((sent, due)) if now >= due => {
                let every = if self.want.quick { PROBE_QUICKLY } else { PROBE_EVERY };
                self.probe = Some((sent + 1, now + every));
                if let Err(error) = wire.link.probe() {
                    self.probe = None;
                    self.troubled(error.to_string(), error.code());
                    self.tell(Event::Probed { answered: true });
                }
            }
            _ => {}
        }
    }

    async fn act(&mut self, wire: &Wire) {
        loop {
            let now = self.now();
            let (action, told) = self.with(|m| (m.poll(now), m.take_transition()));
            let Some(action) = action else {
                return told.into_iter().for_each(|t| self.record(t));
            };
            self.perform(wire, action).await;
            told.into_iter().for_each(|t| self.record(t));
        }
    }

    async fn perform(&mut self, wire: &Wire, action: Action) {
        match action {
            Action::Campaign => self.run_for_it(),
            Action::Withdraw => {
                if let Some((_, withdrawn)) = &self.campaign {
                    withdrawn.send_replace(true);
                }
            }
            Action::Resign => self.resign().await,
            Action::Probe => {
                self.probe = Some((0, self.now()));
                self.probe(wire);
            }
            Action::Add { until } | Action::Refresh { until } => self.put(wire, until).await,
            Action::Announce => {
                if let Err(error) = wire.link.announce() {
                    self.troubled(error.to_string(), error.code());
                }
            }
            Action::Remove => {
                let (interface, at) = (wire.interface.clone(), self.want.at);
                if let Some(Err(error)) = self.kernel(move |netlink| netlink.remove(&interface, at)).await {
                    self.troubled(error.to_string(), error.code());
                }
            }
            Action::AskPeers => {
                let (peers, address, asked) = (self.context.peers.clone(), self.want.at.address, self.now());
                self.question = Some(tokio::spawn(async move { (asked, peers.ask(address, false).await) }));
            }
            Action::AskQuickly => {
                let (peers, address, asked) = (self.context.peers.clone(), self.want.at.address, self.now());
                self.quick_question = Some(tokio::spawn(async move { (asked, peers.ask(address, true).await) }));
            }
            Action::Write { quick } => self.write(quick),
            Action::Depose { token } => {
                let (store, want) = (self.context.store.clone(), self.want.clone());
                tokio::spawn(async move {
                    match campaign::depose(&*store, &want, token).await {
                        Ok(done) => {
                            tracing::info!(address = %want.at, token, done, "the owner is silent: its lease is ended")
                        }
                        Err(error) => {
                            tracing::debug!(address = %want.at, %error, "the lease of a silent owner is not ended")
                        }
                    }
                });
            }
        }
    }

    /// The last wish counts; one before that is not answered yet is not waited for.
    fn write(&mut self, quick: bool) {
        let Some(held) = self.leadership.as_ref().map(Held::of) else { return };
        let write = campaign::write(self.context.store.clone(), self.want.clone(), held, quick);
        self.writing = Some(tokio::spawn(async move { (quick, write.await) }));
    }

    fn run_for_it(&mut self) {
        if let Some((task, withdrawn)) = &self.campaign
            && !task.is_finished()
        {
            withdrawn.send_replace(false);
            return;
        }
        self.campaigns += 1;
        let (withdraw, withdrawn) = watch::channel(false);
        let campaigner = Campaigner {
            context: self.context.clone(),
            want: self.want.clone(),
            number: self.campaigns,
            owner: self.owner.clone(),
            before: self.before.clone(),
            quick: self.tell_quick_owner.clone(),
            withdrawn,
        };
        self.campaign = Some((tokio::spawn(campaigner.run()), withdraw));
    }

    async fn put(&mut self, wire: &Wire, until: Timestamp) {
        let (interface, at, clock) = (wire.interface.clone(), self.want.at, self.context.clock.clone());
        let put = move |netlink: &Netlink| {
            // Counted right before the call: what is waited for in between would be added to the lifetime.
            let Some(left) = vip::lifetime(clock(), until) else { return Ok(None) };
            let forever = until == Timestamp::NEVER;
            netlink.put(&interface, at, (!forever).then_some(left))?;
            Ok(Some(if forever { until } else { clock() + left }))
        };
        match self.kernel(put).await {
            Some(Ok(Some(until))) => {
                self.trouble = None;
                self.tell(Event::Set { until });
            }
            Some(Ok(None)) | None => self.look_at = self.now(),
            Some(Err(error)) => {
                let error: address::Error = error;
                self.troubled(error.to_string(), error.code());
                self.look_at = self.now() + AGAIN;
            }
        }
    }

    async fn resign(&mut self) {
        if let Some(leadership) = self.leadership.take() {
            campaign::resign(&self.context, &self.want, leadership).await;
        }
    }

    /// No lease is left behind, not even one that is being won.
    async fn leave(&mut self) {
        if let Some((task, withdrawn)) = self.campaign.take() {
            withdrawn.send_replace(true);
            if let Ok(Some(won)) = task.await {
                self.leadership = Some(won.leadership);
            }
        }
        self.resign().await;
    }

    fn fact(&self) -> Fact {
        (self.context.event)(&format!("vip/{}", self.want.at.address))
    }

    fn append(&self, fact: Fact) {
        (self.context.journal)(fact);
    }

    fn record(&mut self, transition: Transition) {
        self.since = self.now();
        tracing::info!(address = %self.want.at, from = transition.from, to = transition.to, "{}", transition.reason);
        let mut fact = self.fact().change(transition.from, transition.to, transition.reason);
        for (name, value) in &transition.inputs {
            fact = fact.with(name, value);
        }
        if let Some(leadership) = &self.leadership {
            fact = fact.with("token", leadership.token());
        }
        if let Some(mac) = self.answered_by.filter(|_| transition.to == State::Conflict.name()) {
            fact = fact.with("mac", mac);
        }
        let unplanned = self.takeover.as_ref().is_some_and(|before| !before.planned);
        let stage = match transition.to {
            "probing" if unplanned => "decided",
            "owned" if unplanned => "acted",
            _ => "neutral",
        };
        self.append(fact.with(STAGE, stage));
        if transition.to == State::Owned.name() && self.takeover.take().is_some() && unplanned {
            let told = self.fact().change("owned", "owned", "the network was told that the address is here");
            self.append(told.with(STAGE, "ready"));
        }
    }

    fn publish(&self, interface: Option<&Interface>) {
        let now = self.now();
        let (state, kernel_until, quick) = self.with(|m| (m.state(), m.kernel_until(), m.is_quick()));
        let ttl_after = self.want.timings.ttl - self.want.timings.give_up;
        let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let held = self.leadership.as_ref().filter(|l| l.holds());
        let seen = VirtualIp {
            address: self.want.at.to_string(),
            interface: interface.map(|i| i.name.clone()),
            state: state.name().to_owned(),
            quick: quick && state == State::Owned,
            owner: if held.is_some() { Some(self.context.node.clone()) } else { owner },
            lease_left_ms: held.map(|l| millis(now.until(l.deadline() + ttl_after))),
            kernel_left_ms: (kernel_until > now && kernel_until != Timestamp::NEVER)
                .then(|| millis(now.until(kernel_until))),
            since_ms: millis(now.since(self.since)),
            reason: match (&self.trouble, self.answered_by) {
                (Some(trouble), _) => Some(trouble.clone()),
                (None, Some(mac)) if state == State::Conflict => Some(format!("{mac} answers for the address")),
                _ => None,
            },
        };
        *self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

async fn maybe<F: Future + Unpin>(one: Option<F>) -> Option<F::Output> {
    match one {
        Some(one) => Some(one.await),
        None => None,
    }
}

/// As of an earlier moment of this boot.
fn at(mut fact: Fact, moment: Timestamp) -> Fact {
    let age_ms = holdfast_host::clock::now().since(moment).as_millis();
    fact.boot_ns = moment.as_nanos();
    fact.wall_ms = fact.wall_ms.saturating_sub(u64::try_from(age_ms).unwrap_or(0));
    fact
}

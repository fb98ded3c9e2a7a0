//! The other machines that may carry a virtual address, asked over the agents' link.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use holdfast_policy::vip::{self, Answer, Peers as Found};

use super::{Member, fits, labels};
use crate::agent::core::Core;
use crate::agent::vip::Peers;

pub(crate) struct CarriersOf {
    pub(crate) member: Arc<Member>,
    pub(crate) core: Weak<Core>,
}

const QUESTION: &str = "vip";
/// Of an owner that is quick.
const QUICKLY: &str = "vip-quick";

/// Others may ask this machine from now on.
pub(super) fn answer_others(member: &Member, core: &Arc<Core>) {
    for (question, quick) in [(QUESTION, false), (QUICKLY, true)] {
        let core = Arc::downgrade(core);
        let asked =
            move |address: &str| Some(word(core.upgrade()?.vips.asked(address.parse().ok()?, quick)).to_owned());
        member.answer_question(question, Arc::new(asked));
    }
}

/// On the wire.
fn word(answer: Answer) -> &'static str {
    match answer {
        Answer::Clear => "clear",
        Answer::Claims => "claims",
        Answer::Holds => "holds",
    }
}

fn answer(word: &str) -> Option<Answer> {
    [Answer::Clear, Answer::Claims, Answer::Holds].into_iter().find(|a| self::word(*a) == word)
}

impl CarriersOf {
    /// Every member on which a balancer with this address runs, the ones that are lost included.
    fn others(&self, address: IpAddr) -> Vec<String> {
        let seen = self.member.seen();
        let in_force = self.core.upgrade().and_then(|core| core.in_force());
        let may_carry = |name: &str| {
            let Some(in_force) = &in_force else { return true };
            let labels = labels(&in_force.config, &name.into());
            let mut with = in_force.config.balancers.values();
            with.any(|b| b.virtual_ips.iter().any(|v| v.address == address) && fits(&labels, &b.on))
        };
        let others = seen.view.nodes.values().filter(|n| n.name != *self.member.name.0 && may_carry(&n.name));
        others.map(|n| n.name.clone()).collect()
    }
}

impl Peers for CarriersOf {
    fn others(&self) -> bool {
        true
    }

    fn ask(&self, address: IpAddr, quick: bool) -> Pin<Box<dyn Future<Output = Found> + Send + '_>> {
        Box::pin(async move {
            let mut asked = tokio::task::JoinSet::new();
            for name in CarriersOf::others(self, address) {
                let member = self.member.clone();
                let question = if quick { QUICKLY } else { QUESTION };
                asked.spawn(async move { answer(&member.ask(&name, question, &address.to_string()).await?) });
            }
            let mut answers = Vec::new();
            let all = async {
                while let Some(answer) = asked.join_next().await {
                    answers.push(answer.ok().flatten());
                }
            };
            if !quick {
                all.await;
            } else if tokio::time::timeout(vip::quick::ANSWER, all).await.is_err() {
                answers.push(None);
            }
            if answers.iter().any(|a| matches!(a, Some(Answer::Claims | Answer::Holds))) {
                Found::Taken
            } else if answers.iter().all(|a| *a == Some(Answer::Clear)) {
                Found::AllClear
            } else {
                Found::Silent
            }
        })
    }
}

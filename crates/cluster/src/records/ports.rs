//! Ports that holdfast assigns: one instance each, kept for it across restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::{PORT, PORT_OWNER, Records, TRIES, codec};
use crate::{Error, Guard, Op, Result, Txn};

impl Records {
    /// By instance.
    pub async fn ports(&self) -> Result<BTreeMap<String, u16>> {
        let mut ports = BTreeMap::new();
        for kv in self.store.list(PORT.into()).await?.items {
            let number: codec::Number = codec::decode(&kv.key, &kv.value)?;
            let port = u16::try_from(number.value)
                .map_err(|_| Error::Record { key: kv.key.clone(), reason: format!("{} is no port", number.value) })?;
            ports.insert(kv.key[PORT.len()..].to_owned(), port);
        }
        Ok(ports)
    }

    /// The port of `instance`: the one it has if that lies in `range`, else the first from `first` on (round the range) that no
    /// instance has and that `usable` accepts (nobody else listens there).
    pub async fn assign_port(
        &self,
        instance: &str,
        range: RangeInclusive<u16>,
        first: u16,
        usable: impl Fn(u16) -> bool,
    ) -> Result<u16> {
        for _ in 0..TRIES {
            let ports = self.ports().await?;
            let current = ports.get(instance).copied();
            if let Some(port) = current.filter(|p| range.contains(p)) {
                return Ok(port);
            }
            let taken: BTreeSet<u16> = ports.into_values().collect();
            let round = range.clone().filter(|p| *p >= first).chain(range.clone().filter(|p| *p < first));
            let port = { round }.find(|p| !taken.contains(p) && usable(*p)).ok_or_else(|| Error::NoPort {
                instance: instance.into(),
                first: *range.start(),
                last: *range.end(),
            })?;
            if self.claim(instance, port, current).await? {
                return Ok(port);
            }
        }
        Err(Error::Contended { key: format!("{PORT}{instance}"), tries: TRIES })
    }

    /// The owner key makes two instances that pick one port at the same time collide.
    async fn claim(&self, instance: &str, port: u16, former: Option<u16>) -> Result<bool> {
        let (key, owner) = (format!("{PORT}{instance}"), format!("{PORT_OWNER}{port}"));
        let record = codec::encode(&key, &codec::Number { version: 1, value: port.into() })?;
        let mut ops = vec![Op::put(&key, record), Op::put(&owner, instance)];
        ops.extend(former.map(|port| Op::delete(format!("{PORT_OWNER}{port}"))));
        Ok(self.store.txn(Txn::when([Guard::absent(&owner)]).then(ops)).await?.succeeded)
    }

    pub async fn release_port(&self, instance: &str) -> Result<()> {
        let key = format!("{PORT}{instance}");
        let Some(kv) = self.store.get(key.clone()).await? else { return Ok(()) };
        let number: codec::Number = codec::decode(&key, &kv.value)?;
        let ops = [Op::delete(key), Op::delete(format!("{PORT_OWNER}{}", number.value))];
        self.store.txn(Txn::always(ops)).await.map(drop)
    }
}

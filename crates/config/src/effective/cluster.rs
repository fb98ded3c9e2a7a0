//! `[cluster]` and `[node.NAME]`.

use crate::keys::{CLUSTER, MACHINE};
use crate::model::{Cluster, Machine};

use super::{Setting, Settings, duration, list, size, text, texts};

pub(crate) fn cluster(cluster: &Cluster) -> Vec<Setting> {
    let mut out = Settings::new(&CLUSTER);
    out.put("etcd", if cluster.managed { text("managed") } else { texts(&cluster.etcd) });
    out.put("etcd_program", text(&cluster.etcd_program));
    out.put("name", text(&cluster.name));
    out.put("lease", text(cluster.lease_profile));
    out.put("link", cluster.link_port.to_string());
    out.put("certificates", duration(cluster.certificate_valid));
    out.put_some("user", cluster.user.as_ref(), text);
    out.put_some("password", cluster.password.as_ref(), super::reference);
    for (name, path) in [("ca", &cluster.ca), ("cert", &cluster.cert), ("key", &cluster.key)] {
        out.put_some(name, path.as_ref(), |path| text(path.to_string_lossy()));
    }
    out.finish()
}

pub(crate) fn machine(machine: &Machine) -> Vec<Setting> {
    let mut out = Settings::new(&MACHINE);
    out.put_some("address", machine.address, |ip| text(ip.to_string()));
    if !machine.public_addresses.is_empty() {
        out.put("public_address", list(machine.public_addresses.iter().map(|ip| text(ip.to_string()))));
    }
    for (name, value) in [("host", &machine.host), ("rack", &machine.rack), ("zone", &machine.zone)] {
        out.put_some(name, value.as_ref(), text);
    }
    out.put("etcd", machine.etcd.to_string());
    if !machine.labels.is_empty() {
        let all: Vec<String> = machine.labels.iter().map(|(k, v)| format!("{} = {}", text(k), text(v))).collect();
        out.put("labels", format!("{{ {} }}", all.join(", ")));
    }
    out.put_some("cpus", machine.cpus, |n| n.to_string());
    out.put_some("memory", machine.memory_bytes, size);
    out.finish()
}

//! `dns` of a balancer.

use std::net::{IpAddr, SocketAddr};

use toml::de::DeValue;

use crate::keys::DNS;
use crate::model::{Dns, DnsBy};
use crate::reader::{Fault, Findings, Reader};

const PORT: u16 = 53;
/// RFC 1035, section 2.3.4.
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

pub(super) fn read(out: &mut Findings, balancer: &Reader<'_>) -> Option<Dns> {
    let table = balancer.inner(out, "dns", &DNS)?;
    if !table.has("name") {
        let span = out.spans.key(&table.path);
        table.missing(out, "name", span);
    }
    let (ttl, stable) = (table.duration(out, "ttl"), table.duration(out, "stable"));
    if ttl.subsec_nanos() != 0 {
        table.wrong(out, "ttl", Fault::value("a time to live has whole seconds"));
    }
    for (one, other) in [("key", "secret"), ("secret", "key"), ("key", "server"), ("zone", "server")] {
        if table.has(one) && !table.has(other) {
            table.wrong(out, one, Fault::value(format!("needs `{other}` beside it")));
        }
    }
    if table.has("server") == table.has("command") {
        let span = out.spans.key(&table.path);
        let fault = Fault::value("exactly one of `server` and `command` says how records are written");
        out.fault(&table.path, span, fault);
    }
    let name = name(out, &table, "name").unwrap_or_default();
    let parent = || name.split_once('.').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    let zone = self::name(out, &table, "zone").unwrap_or_else(parent);
    let inside = name == zone || name.strip_suffix(&*zone).is_some_and(|rest| rest.ends_with('.'));
    if !zone.is_empty() && !name.is_empty() && !inside {
        let at = if table.has("zone") { "zone" } else { "name" };
        table.wrong(out, at, Fault::value(format!("`{name}` is not in the zone `{zone}`")));
    }
    let servers = table.list(out, "server", server);
    let secret = super::cluster::secret(out, &table, "secret");
    let key = self::name(out, &table, "key").zip(secret);
    let by = match table.argv(out, "command") {
        Some(argv) => DnsBy::Command(argv),
        None => DnsBy::Server { servers, zone, key },
    };
    Some(Dns { name, ttl, stable, by })
}

/// In lower case, without the dot at its end.
fn name(out: &mut Findings, table: &Reader<'_>, key: &str) -> Option<String> {
    let text = table.text(out, key)?;
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let is_label = |label: &str| !label.is_empty() && label.len() <= LABEL_MAX && label.bytes().all(plain);
    if name.len() > NAME_MAX || !name.split('.').all(is_label) {
        table.wrong(
            out,
            key,
            Fault::value("not a name of the DNS: labels of 1 to 63 letters, digits, `-` or `_`, joined by dots"),
        );
        return None;
    }
    Some(name)
}

fn server(value: &DeValue<'_>) -> Result<SocketAddr, Fault> {
    let text = value.as_str().ok_or_else(|| Fault::kind("an address such as \"10.0.0.53:53\"", value))?;
    let alone = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, PORT));
    let wrong = || {
        Fault::value("not an IP address with or without a port").hint("write \"10.0.0.53\" or \"[2001:db8::53]:53\"")
    };
    text.parse().ok().or_else(alone).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::model::DnsBy;
    use crate::tests::{environment, good};

    fn file(dns: &str) -> String {
        format!(
            "[cluster]\netcd = \"http://10.0.0.1:2379\"\n[service.web]\ncommand = [\"web\"]\n[balancer.public]\n\
             listen = \"0.0.0.0:8080\"\nservice = \"web\"\ndns = {{ {dns} }}\n"
        )
    }

    #[test]
    fn a_name_has_its_zone_and_its_port() {
        let loaded = good(&file("name = \"WWW.Example.com.\", server = \"10.0.0.53\""));
        let dns = loaded.config.balancers["public"].dns.clone().unwrap();
        let servers = vec!["10.0.0.53:53".parse().unwrap()];
        assert_eq!(dns.name, "www.example.com");
        assert_eq!(dns.by, DnsBy::Server { servers, zone: "example.com".into(), key: None });
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let faults = |dns: &str| {
            let failed = crate::parse(&file(dns), Path::new("/etc/holdfast.toml"), &environment()).err();
            let all = failed.map(|failed| failed.diagnostics).unwrap_or_default();
            all.iter().map(|d| format!("{} {}", d.message, d.labels[0].text)).collect::<Vec<_>>().join("; ")
        };
        let base = "name = \"a.b.c\", server = \"10.0.0.53\"";
        for (more, told) in [
            (", zone = \"x.c\"", "not in the zone"),
            (", command = [\"x\"]", "exactly one"),
            (", key = \"k\"", "needs `secret`"),
            (", ttl = \"1500ms\"", "whole seconds"),
        ] {
            assert!(faults(&format!("{base}{more}")).contains(told), "{more}: {}", faults(&format!("{base}{more}")));
        }
        for (dns, told) in [
            ("name = \"a..b\", server = \"10.0.0.53\"", "not a name"),
            ("name = \"a.b\", server = \"ns.example.com\"", "not an IP address"),
            ("name = \"a.b\", command = [\"x\"], zone = \"b\"", "needs `server`"),
            ("name = \"a.b\"", "exactly one"),
        ] {
            assert!(faults(dns).contains(told), "{dns}: {}", faults(dns));
        }
    }
}

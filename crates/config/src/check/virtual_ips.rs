//! Virtual addresses: who listens on them, and balancers that share one must mean the same.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::code;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{Balancer, Config};
use crate::reader::Findings;

pub(super) fn check(out: &mut Findings, config: &Config) {
    let mut seen: BTreeMap<IpAddr, (&Balancer, String)> = BTreeMap::new();
    for (name, balancer) in &config.balancers {
        for (n, ip) in balancer.virtual_ips.iter().enumerate() {
            let path = format!("balancer.{name}.virtual_ip[{n}]");
            unreachable(out, balancer, ip.address, &path);
            match seen.get(&ip.address) {
                Some((other, at)) => differs(out, other, balancer, ip.address, at, &path),
                None => drop(seen.insert(ip.address, (balancer, path))),
            }
        }
        without_address(out, balancer);
    }
}

fn unreachable(out: &mut Findings, balancer: &Balancer, address: IpAddr, path: &str) {
    let listen = format!("balancer.{}.listen", balancer.name);
    // `[::]` takes IPv4 connections too.
    let reaches = |ip: IpAddr| ip == address || (ip.is_unspecified() && (ip.is_ipv6() || address.is_ipv4()));
    if !out.is_good(&listen) || balancer.listen.iter().any(|l| reaches(l.ip())) {
        return;
    }
    let (at, listens) = (out.spans.value(path), out.spans.value(&listen));
    let port = balancer.listen.first().map_or(80, std::net::SocketAddr::port);
    let wide = if address.is_ipv4() { "0.0.0.0" } else { "[::]" };
    let own = std::net::SocketAddr::new(address, port);
    let found = out.conflict(path, format!("balancer `{}` does not listen on its virtual address", balancer.name));
    out.push(
        found
            .at(at, "clients connect here")
            .at(listens, "it listens here")
            .hint(format!("listen = \"{own}\", or \"{wide}:{port}\" for all addresses")),
    );
}

fn differs(out: &mut Findings, one: &Balancer, other: &Balancer, address: IpAddr, at: &str, path: &str) {
    let meaning = |b: &Balancer| {
        let prefix = b.virtual_ips.iter().find(|v| v.address == address).map(|v| v.prefix);
        (prefix, b.virtual_ip_interface.clone(), b.virtual_ip_lease, b.virtual_ip_prefer.clone())
    };
    if one.name != other.name && meaning(one) == meaning(other) {
        return;
    }
    let (first, second) = (out.spans.value(at), out.spans.value(path));
    let message = match one.name == other.name {
        true => format!("{address} stands twice in balancer `{}`", one.name),
        false => format!("balancers `{}` and `{}` share {address} and differ in how it is kept", one.name, other.name),
    };
    let found = out.conflict(path, message);
    out.push(
        found
            .at(second, "here")
            .at(first, "and here")
            .hint("give both the same prefix, virtual_ip_interface, virtual_ip_lease and virtual_ip_prefer"),
    );
}

fn without_address(out: &mut Findings, balancer: &Balancer) {
    if !balancer.virtual_ips.is_empty() || !out.is_good(&format!("balancer.{}.virtual_ip", balancer.name)) {
        return;
    }
    for key in ["virtual_ip_interface", "virtual_ip_lease", "virtual_ip_prefer"] {
        let path = format!("balancer.{}.{key}", balancer.name);
        if out.spans.has(&path) {
            let span = out.spans.key(&path);
            let message = format!("`{key}` means nothing without `virtual_ip`");
            out.push(
                Diagnostic::new(Severity::Error, code::CONFLICT, message)
                    .at(span, "no address to keep")
                    .hint("add virtual_ip = \"ADDRESS/PREFIX\", or remove it"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{Environment, parse};

    fn errors(balancers: &str) -> Vec<String> {
        let text = format!("[service.web]\ncommand = [\"web\", \"{{port}}\"]\n{balancers}");
        match parse(&text, Path::new("/tmp/holdfast.toml"), &Environment::here()) {
            Ok(_) => Vec::new(),
            Err(failed) => failed.diagnostics.into_iter().filter(|d| d.is_error()).map(|d| d.message).collect(),
        }
    }

    fn one(listen: &str, rest: &str) -> Vec<String> {
        errors(&format!("[balancer.a]\nservice = \"web\"\nlisten = \"{listen}\"\n{rest}\n"))
    }

    #[test]
    fn the_balancer_must_listen_where_clients_come() {
        for (listen, ip, good) in [
            ("0.0.0.0:8080", "10.0.0.100/24", true),
            ("[::]:8080", "10.0.0.100/24", true),
            ("10.0.0.100:8080", "10.0.0.100/24", true),
            ("127.0.0.1:8080", "10.0.0.100/24", false),
            ("0.0.0.0:8080", "fd00::100/64", false),
            ("[fd00::100]:8080", "fd00::100/64", true),
        ] {
            let found = one(listen, &format!("virtual_ip = \"{ip}\""));
            assert_eq!(found.is_empty(), good, "{listen} {ip}: {found:?}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_host_is_refused() {
        for ip in [
            "10.0.0.100",
            "10.0.0.100/33",
            "10.0.0.100/0",
            "10.0.0.0/24",
            "10.0.0.255/24",
            "127.0.0.1/8",
            "x/24",
            "::/64",
            "ff02::1/64",
        ] {
            assert_eq!(one("[::]:8080", &format!("virtual_ip = \"{ip}\"")).len(), 1, "{ip}");
        }
        assert!(one("[::]:8080", "virtual_ip = [\"10.0.0.100/32\", \"fd00::1/128\"]").is_empty());
    }

    #[test]
    fn balancers_that_share_an_address_must_agree() {
        let two = |rest: &str| {
            let first = "[balancer.a]\nservice = \"web\"\nlisten = \"0.0.0.0:80\"\nvirtual_ip = \"10.0.0.100/24\"\n";
            errors(&format!("{first}[balancer.b]\nservice = \"web\"\nlisten = \"0.0.0.0:443\"\n{rest}\n"))
        };
        assert!(two("virtual_ip = \"10.0.0.100/24\"").is_empty());
        assert!(two("virtual_ip = \"10.0.0.101/24\"").is_empty());
        assert_eq!(two("virtual_ip = \"10.0.0.100/25\"").len(), 1);
        assert_eq!(two("virtual_ip = \"10.0.0.100/24\"\nvirtual_ip_lease = \"fast\"").len(), 1);
        assert_eq!(two("virtual_ip_lease = \"fast\"").len(), 1, "of no address");
    }
}

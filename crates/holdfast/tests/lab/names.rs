//! A name in the DNS with the addresses of two balancers, kept in a real name server (BIND) by signed updates, and by a command.

use std::collections::BTreeSet;
use std::path::PathBuf;

use holdfast_lab::{Options, Process};

use crate::proof::{self, Evidence};
use crate::town::{BALANCERS, LEASE, MACHINES, Town, name};

const NAME: &str = "www.shop.test";
const SECRET: &str = "b25jZSB1cG9uIGEgdGltZSBpbiBhIGxhYiBmYXIgYXdheQ==";

impl Town {
    fn secret(&self) -> PathBuf {
        self.lab.dir().join("secret")
    }

    fn told_by_command(&self) -> PathBuf {
        self.lab.dir().join("told")
    }

    /// On the client's machine, which no fault strikes.
    fn name_server(&self) -> Option<Process> {
        let dir = self.lab.dir().join("named");
        std::fs::create_dir_all(&dir).expect("the lab's folder is writable");
        let here = dir.display();
        let conf = format!(
            "options {{ directory \"{here}\"; pid-file none; session-keyfile none; recursion no; listen-on-v6 {{ none; }}; }};\n\
             controls {{ }};\nkey holdfast {{ algorithm hmac-sha256; secret \"{SECRET}\"; }};\n\
             zone \"shop.test\" {{ type primary; file \"{here}/zone\"; allow-update {{ key holdfast; }}; }};\n"
        );
        let zone = "$TTL 60\n@ IN SOA ns.shop.test. root.shop.test. 1 60 60 60 60\n@ IN NS ns.shop.test.\nns IN A 127.0.0.1\n\
                    www IN A 192.0.2.99\n";
        std::fs::write(dir.join("conf"), conf).and_then(|()| std::fs::write(dir.join("zone"), zone)).expect("files");
        let file = dir.join("conf").display().to_string();
        self.lab.client().spawn(&["named", "-g", "-n", "1", "-c", &file], &[]).ok()
    }

    fn addresses(&self) -> BTreeSet<String> {
        let server = format!("@{}", self.lab.client().addr());
        let words = ["dig", "+short", "+time=1", "+tries=1", &server, NAME, "A"];
        let answer = self.lab.client().run(&words).unwrap_or_default();
        answer.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect()
    }

    fn of(&self, machines: &[usize]) -> BTreeSet<String> {
        machines.iter().map(|n| self.lab.machine(*n).addr()).collect()
    }

    fn wait_named(&self, machines: &[usize]) -> std::time::Duration {
        let wanted = self.of(machines);
        self.wait(&format!("the name to have {wanted:?}"), || self.addresses() == wanted)
    }

    /// The set that the command was given last.
    fn last_told(&self) -> BTreeSet<String> {
        let text = std::fs::read_to_string(self.told_by_command()).unwrap_or_default();
        let last = text.lines().next_back().unwrap_or_default();
        last.split(' ').next().unwrap_or_default().split(',').map(str::to_owned).collect()
    }
}

#[test]
fn a_dead_balancer_is_withdrawn_from_the_name() {
    let Some(town) = Town::build(&Options { etcd: 3, ..Options::default() }) else { return };
    let Some(server) = town.name_server() else { return println!("skipped: no `named` here") };
    let secret = town.secret();
    std::fs::write(&secret, format!("{SECRET}\n")).expect("the lab's folder is writable");
    let told = town.told_by_command();
    let dns = format!(
        "dns = {{ name = \"{NAME}\", server = \"{}\", key = \"holdfast\", secret = {{ file = \"{}\" }}, stable = \"2s\" }}\n",
        town.lab.client().addr(),
        secret.display()
    );
    let note = format!("echo $HOLDFAST_DNS_ADDRESSES $HOLDFAST_DNS_TTL >> {}", told.display());
    let other = format!(
        "[balancer.other]\nlisten = \"0.0.0.0:8081\"\nservice = \"web\"\n\
         dns = {{ name = \"other.shop.test\", command = [\"/bin/sh\", \"-c\", \"{note}\"], stable = \"2s\" }}\n"
    );
    town.write(&format!("{}{dns}{other}", town.web(MACHINES)));
    town.up_all();
    let both: Vec<usize> = (0..BALANCERS).collect();
    town.wait_named(&both);
    assert!(!town.addresses().contains("192.0.2.99"), "the name belongs to holdfast");
    town.wait("the command to be told of all", || town.last_told() == town.of(&[0, 1, 2]));
    town.wait_settled(MACHINES);

    let mut times = Vec::new();
    for _ in 0..proof::size(1, 20) {
        town.lab.machine(1).kill_all().expect("power off");
        times.push(town.wait_named(&[0]));
        town.wait("the command to be told of the rest", || town.last_told() == town.of(&[0, 2]));
        town.lab.machine(1).boot().expect("boot");
        town.ok(1, &["up", "-d"]);
        town.wait_named(&both);
        town.wait_settled(MACHINES);
    }
    let worst = times.iter().max().copied().unwrap_or_default();
    let mut evidence = Evidence::new("lab", "a_dead_balancer_is_withdrawn_from_the_name");
    evidence.condition("repetitions", times.len());
    evidence.figure("name server, balancer machine without power: withdrawn after, worst", "-", format!("{worst:?}"));
    evidence.tell();
    println!("withdrawn after {times:?}, lease {LEASE:?}");

    // By hand, before a machine is touched.
    town.ok(0, &["node", "drain", &name(0)]);
    town.wait_named(&[1]);
    town.ok(0, &["node", "uncordon", &name(0)]);
    town.wait_named(&both);

    // The last one stays, and a server that refuses is told of.
    std::fs::write(&secret, "d3Jvbmc=").expect("the lab's folder is writable");
    town.ok(0, &["node", "drain", &name(0)]);
    town.wait("a refused update to be told", || {
        (0..MACHINES).any(|n| town.run(n, &["status"]).unwrap_or_else(|said| said).contains("HF0435"))
    });
    assert_eq!(town.addresses(), town.of(&both), "nothing was changed");
    std::fs::write(&secret, SECRET).expect("the lab's folder is writable");
    town.wait_named(&[1]);
    drop(server);
}

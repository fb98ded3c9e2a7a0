//! A virtual address of the real binary, in a network namespace with a client beside it: claimed, kept, and gone in time.

mod pair;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::site::{PATIENCE, Site, kill};

const ADDRESS: &str = "10.67.0.100";
/// Of the fast profile: 6 s of lease, less what the kernel may be late and clocks may differ, in whole seconds.
const LIFETIME: Duration = Duration::from_secs(4);
/// The kernel looks for ends of lifetimes once a second, and a quarter late.
const KERNEL_LATE: Duration = Duration::from_millis(1250);
/// A loaded machine sees things late.
const SLACK: Duration = Duration::from_millis(750);

/// Two hosts on one wire, made by the test and gone with it.
struct Net {
    node: String,
    client: String,
}

fn ip(args: &str) -> Result<String, String> {
    let done = Command::new("ip").args(args.split(' ')).output().map_err(|e| format!("ip cannot be run: {e}"))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(format!("ip {args}: {}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}

impl Net {
    /// Says why not where namespaces may not be made.
    fn new() -> Option<Net> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("hfi{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Net { node: format!("{mark}n"), client: format!("{mark}c") };
        let (node, client) = (&net.node, &net.client);
        let made = [
            format!("netns add {node}"),
            format!("netns add {client}"),
            format!("-n {node} link add eth0 type veth peer name eth0 netns {client}"),
            format!("-n {node} link set lo up"),
            format!("-n {node} link set eth0 up"),
            format!("-n {client} link set eth0 up"),
            format!("-n {node} addr add 10.67.0.1/24 dev eth0"),
            format!("-n {client} addr add 10.67.0.2/24 dev eth0"),
        ];
        match made.iter().try_for_each(|line| ip(line).map(drop)) {
            Ok(()) => Some(net),
            Err(reason) => {
                println!("skipped: {reason}");
                None
            }
        }
    }

    fn site(&self, more: &str) -> Site {
        Site::through(&["ip", "netns", "exec", &self.node], &file(more))
    }

    fn has(&self, host: &str) -> bool {
        ip(&format!("-n {host} -o addr show to {ADDRESS}")).unwrap_or_default().contains(ADDRESS)
    }

    fn neighbour(&self) -> Option<String> {
        let text = ip(&format!("-n {} neigh show to {ADDRESS}", self.client)).unwrap_or_default();
        text.split_whitespace().skip_while(|w| *w != "lladdr").nth(1).map(str::to_owned)
    }

    fn mac_of_node(&self) -> String {
        let text = ip(&format!("-n {} -o link show dev eth0", self.node)).expect("it was made");
        text.split_whitespace().skip_while(|w| *w != "link/ether").nth(1).expect("a veth has one").to_owned()
    }

    /// Status of a GET from the client.
    fn asks(&self) -> String {
        let url = format!("http://{ADDRESS}:8080/");
        let words =
            ["netns", "exec", &self.client, "curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", &url];
        let done = Command::new("ip").args(words).output().expect("curl runs");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.node, &self.client] {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn file(more: &str) -> String {
    format!(
        r#"
[service.web]
command  = ["{{origin}}", "{{port}}"]
replicas = 2
ready    = {{ http = "/healthz", every = "200ms" }}
[balancer.public]
listen  = "0.0.0.0:8080"
service = "web"
{more}
"#
    )
}

fn keeps() -> String {
    format!("virtual_ip = \"{ADDRESS}/24\"\nvirtual_ip_lease = \"fast\"")
}

/// Everything that the kernel of the node says of the address.
struct Monitor {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Monitor {
    fn start(net: &Net) -> Monitor {
        let mut command = Command::new("ip");
        command.args(["-n", &net.node, "-o", "monitor", "address"]).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().expect("ip runs");
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (out, told) = (child.stdout.take().expect("it is piped"), lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok).filter(|l| l.contains(ADDRESS)) {
                told.lock().expect("nobody panics with it").push(line);
            }
        });
        Monitor { child, lines }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("nobody panics with it").clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn seen(site: &Site) -> serde_json::Value {
    site.api("/v1/status")["balancers"]["public"]["virtual_ips"][0].clone()
}

fn claimed(site: &Site, net: &Net) {
    site.wait_for("the address to be claimed", || seen(site)["state"] == "owned" && net.has(&net.node));
}

#[test]
fn a_virtual_address_comes_with_the_file_and_goes_with_it() {
    let Some(net) = Net::new() else { return };
    let site = net.site(&keeps());
    let stale = format!("-n {} neigh replace {ADDRESS} dev eth0 lladdr 02:00:00:00:00:99 nud stale", net.client);
    ip(&stale).unwrap();
    site.up();
    claimed(&site, &net);
    site.wait_for("the client to hear of it", || net.neighbour() == Some(net.mac_of_node()));
    assert_eq!(net.asks(), "200");
    let now = seen(&site);
    assert!(now["owner"].is_string() && now["lease_left_ms"].as_u64() > now["kernel_left_ms"].as_u64(), "{now}");
    assert!(site.ok(&["status"]).contains("KERNEL LETS GO IN"));
    for name in ["public", ADDRESS] {
        let why = site.ok(&["why", name]);
        assert!(why.contains("nobody else answers for the address"), "{why}");
    }

    let pid = site.pid("web-1");
    site.write(&file(""));
    site.up();
    assert!(!net.has(&net.node), "gone before the command returns");
    assert_eq!(site.pid("web-1"), pid, "nothing was restarted for it");
    site.write(&file(&keeps()));
    site.up();
    claimed(&site, &net);
    let began = Instant::now();
    site.ok(&["down"]);
    println!("down took {:?}", began.elapsed());
    assert!(!net.has(&net.node));
}

#[test]
fn an_agent_that_is_killed_leaves_no_gap_and_one_that_does_not_come_back_no_address() {
    let Some(net) = Net::new() else { return };
    let site = net.site(&keeps());
    site.up();
    claimed(&site, &net);

    let monitor = Monitor::start(&net);
    let before = site.pid_of_agent();
    site.wait_for("a refresh to be heard", || !monitor.lines().is_empty());
    kill(before, "KILL");
    site.wait_for("the next agent", || site.pid_of_agent() != before && seen(&site)["state"] == "owned");
    let heard = monitor.lines().len();
    site.wait_for("its refreshes", || monitor.lines().len() >= heard + 3);
    assert!(monitor.lines().iter().all(|line| !line.starts_with("Deleted")), "a gap: {:#?}", monitor.lines());

    let agent: Vec<u32> =
        site.living().into_iter().filter(|(_, text)| text.contains("_agent-1")).map(|(p, _)| p).collect();
    let all: Vec<u32> = agent.into_iter().chain([site.pid_of_agent()]).collect();
    let began = Instant::now();
    all.iter().for_each(|pid| kill(*pid, "STOP"));
    let gone = wait_gone(&net, began);
    println!("agent and shim stopped: the kernel let go after {gone:?}");
    assert!(gone <= LIFETIME + KERNEL_LATE + SLACK, "{gone:?}");
    all.iter().for_each(|pid| kill(*pid, "CONT"));
    claimed(&site, &net);

    let began = Instant::now();
    // The shim must not see the agent die first: it would start another.
    all.iter().for_each(|pid| kill(*pid, "STOP"));
    all.iter().for_each(|pid| kill(*pid, "KILL"));
    let gone = wait_gone(&net, began);
    println!("agent and shim killed: the kernel let go after {gone:?}");
    assert!(gone <= LIFETIME + KERNEL_LATE + SLACK, "{gone:?}");
    all.iter().for_each(|pid| assert!(!crate::site::alive(*pid)));
}

fn wait_gone(net: &Net, began: Instant) -> Duration {
    while net.has(&net.node) {
        assert!(began.elapsed() < PATIENCE, "the kernel still has the address");
        std::thread::sleep(Duration::from_millis(10));
    }
    began.elapsed()
}

#[test]
fn an_address_that_a_host_in_the_network_uses_is_not_claimed() {
    let Some(net) = Net::new() else { return };
    ip(&format!("-n {} addr add {ADDRESS}/24 dev eth0", net.client)).unwrap();
    let site = net.site(&keeps());
    site.up();
    site.wait_for("the conflict", || seen(&site)["state"] == "conflict");
    assert!(!net.has(&net.node));
    assert!(site.ok(&["why", ADDRESS]).contains("another host answers for the address"));
    ip(&format!("-n {} addr del {ADDRESS}/24 dev eth0", net.client)).unwrap();
    claimed(&site, &net);
}

#[test]
fn without_the_right_to_add_addresses_the_file_is_refused() {
    let can_drop = Command::new("setpriv").args(["--bounding-set", "-net_admin", "true"]).output();
    if !can_drop.is_ok_and(|done| done.status.success()) {
        println!("skipped: only root can give a capability away");
        return;
    }
    let text = file(&keeps());
    let site = Site::through(
        &["setpriv", "--bounding-set", "-net_admin"],
        &text.replace("8080", &crate::site::free_port().to_string()),
    );
    let refused = site.run(&["up", "-d"]);
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    for part in ["HF0360", "lacks CAP_NET_ADMIN", "setcap"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
}

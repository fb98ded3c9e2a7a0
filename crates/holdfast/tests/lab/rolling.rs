//! `reboot --rolling`: every machine once, with requests all the while, and not one when something is in doubt.

use holdfast_lab::Options;

use crate::controller::Controller;
use crate::town::{REPLICAS, Town, name, none_failed};

#[test]
fn a_rolling_reboot_fails_no_request_and_stops_at_a_doubt() {
    let Some(town) = Town::build(&Options { etcd: 3, ..Options::default() }) else { return };
    // A third of the instances is away while a machine reboots.
    town.write(&town.web(REPLICAS).replace("ready =", "min_available = 4\nready ="));
    town.up_all();
    town.wait_settled(REPLICAS);
    Controller::during(&town, |controller| {
        let url = "http://controller/reboot/{node}";
        let socket = Controller::socket(&town).display().to_string();
        let words = ["reboot", "--rolling", "--", "curl", "-fsS", "--unix-socket", &socket, url];
        // The command outlives the others, so that its own machine is left to another.
        let load = town.probe(0);
        let process = town.lab.machine(0).spawn(&town.typed(0, &words), &[("NO_COLOR", "1")]);
        let mut process = process.expect("it starts");
        let status = process.wait(ROUND).expect("it ends");
        let said = process.stdout() + &process.stderr();
        assert!(status.success() && said.contains("2 machines are done; node1 is left"), "{said}");
        let mut all = controller.switched_off();
        none_failed("rolling reboot", load);
        all.sort_unstable();
        assert_eq!(all, [1, 2], "each once, and not its own");
        town.wait_settled(REPLICAS);

        // A machine that is lost is a doubt: the next one would be a second.
        town.lab.machine(2).kill_all().expect("power off");
        town.wait("it to be lost", || town.standing(0).get(&name(2)).is_some_and(|state| state == "lost"));
        let refused = town.run(0, &words).expect_err("nothing is rebooted");
        assert!(refused.contains("HF0336") && refused.contains(&name(2)), "{refused}");
        assert_eq!(controller.switched_off().len(), 2);
    });
}

/// Two reboots, each with a return and a settlement.
const ROUND: std::time::Duration = std::time::Duration::from_secs(300);

//! A volume that all machines can reach and one at a time may mount, with a controller that powers machines off.

use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_lab::Options;

use crate::controller::Controller;
use crate::town::{MACHINES, Town, name};

/// A file system that many machines have the disk of, such as a LUN.
fn volume(dir: &Path) -> Option<PathBuf> {
    let image = dir.join("volume.img");
    let file = std::fs::File::create(&image).expect("the lab's folder is writable");
    file.set_len(16 << 20).expect("there is room for it");
    let trial = dir.join("trial");
    std::fs::create_dir(&trial).expect("the lab's folder is writable");
    let does = |program: &str, words: &[&Path]| {
        Command::new(program).args(words).output().is_ok_and(|done| done.status.success())
    };
    let made = does("mkfs.ext4", &[Path::new("-q"), &image])
        && does("mount", &[Path::new("-o"), Path::new("loop"), &image, &trial])
        && does("umount", &[&trial]);
    if !made {
        println!("skipped: no loop device or no mkfs.ext4 here");
    }
    made.then_some(image)
}

impl Town {
    fn target(&self) -> PathBuf {
        self.lab.dir().join("srv")
    }

    /// Machines that have the volume mounted, as their kernels say.
    fn mounted_on(&self) -> Vec<usize> {
        let target = self.target().display().to_string();
        let has = |n: &usize| {
            let table = |pid| std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            let init = self.lab.machine(*n).init();
            init.is_some_and(|pid| table(pid).lines().any(|line| line.split(' ').nth(4) == Some(&target)))
        };
        (0..MACHINES).filter(has).collect()
    }

    /// Until another machine serves from the volume. Never do two have it.
    fn wait_moved(&self, from: usize) -> usize {
        let mut now = None;
        self.wait("another machine to serve from the volume", || {
            let on = self.mounted_on();
            assert!(on.len() < 2, "two machines have it mounted: {on:?}");
            let seer = (0..MACHINES).find(|n| self.lab.machine(*n).is_on() && *n != from).expect("one is on");
            let active = self.active(seer).filter(|active| active.node != from);
            now = active.filter(|active| on == [active.node]).map(|active| active.node);
            now.is_some()
        });
        now.expect("it was waited for")
    }

    fn lines(&self, n: usize) -> Vec<String> {
        let file = self.target().join("log").display().to_string();
        let text = self.lab.machine(n).run(&["cat", &file]).expect("the volume is there");
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_volume_moves_with_its_service_and_is_never_on_two_machines() {
    let Some(town) = Town::build(&Options { etcd: 3, ..Options::default() }) else { return };
    let Some(image) = volume(town.lab.dir()) else { return };
    let (target, socket) = (town.target().display().to_string(), Controller::socket(&town).display().to_string());
    let note = format!("echo $HOLDFAST_TOKEN >> {target}/log");
    let fence = format!("curl -fsS --unix-socket {socket} http://controller/off/$HOLDFAST_FENCE");
    let standby = format!(
        "tier = \"cold\", restore = [\"/bin/sh\", \"-c\", \"{note}\"], fence = [\"/bin/sh\", \"-c\", \"{fence}\"], \
         mount = {{ source = \"{}\", target = \"{target}\", type = \"ext4\", options = [\"loop\"] }}",
        image.display()
    );
    let (db, web) = (town.db("", &standby), town.web(1));
    let (_, balancer) = web.split_once("[balancer").expect("there is one");
    town.write(&format!("{db}[balancer{}", balancer.replace("\"web\"", "\"db\"")));
    Controller::during(&town, |controller| moves(&town, controller));
}

fn moves(town: &Town, controller: &Controller<'_>) {
    town.up_all();
    let first = town.wait_moved(MACHINES);
    assert_eq!(town.lines(first).len(), 1);

    // In good order: unmounted here, mounted there, nobody is powered off.
    town.ok(first, &["switchover", "db"]);
    let second = town.wait_moved(first);
    assert_eq!((town.lines(second).len(), controller.switched_off()), (2, vec![]));

    // Somebody stands in the directory: it cannot be unmounted, so the lease is not given back, and the machine is switched off.
    let mut user =
        town.lab.machine(second).spawn(&["sh", "-c", &format!("cd {} && sleep 600", town.target().display())], &[]);
    let user = user.as_mut().expect("a shell");
    let typed = town.lab.machine(second).spawn(&town.typed(second, &["switchover", "db"]), &[]);
    let third = town.wait_moved(second);
    assert_eq!((town.lines(third).len(), controller.switched_off()), (3, vec![second]));
    drop(typed);
    let _ = user.kill();
    town.lab.machine(second).boot().expect("boot");
    town.ok(second, &["up", "-d"]);
    town.wait("the machine that was switched off to be trusted again", || {
        town.standing(third).get(&name(second)).is_some_and(|state| state == "ready")
    });

    // Power is lost: it is asked to be off, which it is.
    town.lab.machine(third).kill_all().expect("kill");
    let fourth = town.wait_moved(third);
    assert_eq!((town.lines(fourth).len(), controller.switched_off()), (4, vec![second, third]));
    let active = town.active(fourth).expect("one is active");
    let why = town.ok(fourth, &["why", &active.id]);
    assert!(why.contains("its volume is mounted") && why.contains("fenced"), "{why}");

    // A restart of the agent leaves the volume where it is.
    let agent = town.agent_pid(fourth).expect("it has an agent");
    crate::town::kill(agent, "KILL");
    town.wait("the next agent", || {
        town.agent_pid(fourth).is_some_and(|pid| pid != agent) && town.active(fourth).is_some()
    });
    assert_eq!((town.lines(fourth).len(), town.mounted_on()), (4, vec![fourth]));
    for n in (0..MACHINES).filter(|n| town.lab.machine(*n).is_on()) {
        town.ok(n, &["down"]);
    }
    assert_eq!((town.mounted_on(), controller.switched_off().len()), (vec![], 2), "`down` unmounts it");
}

//! Starting the child. Everything is prepared before fork, so that between fork and exec only calls are made that
//! need no memory and no locks; what goes wrong there comes back through a close-on-exec pipe.

use std::ffi::{CString, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::Environment;
use super::spec::Spec;
use super::state::Failure;
use crate::clock;
use crate::process::{self, Identity};
use crate::user::Account;

/// First descriptor of LISTEN_FDS (sd_listen_fds protocol).
const LISTEN_FDS_START: RawFd = 3;
const LISTEN_PID: &[u8] = b"LISTEN_PID=";
/// Descriptors to pass are moved above this before fork, so that none is overwritten while they are put in place.
const SAFE_FD_MIN: RawFd = 512;
/// Of `clone3`: libc's constant of this name is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Exec of a program on a slow disk takes long, but not for ever; after this the child counts as started.
const EXEC_MAX: Duration = Duration::from_secs(10);
/// What the child says when only exec is left to do; no step has this number.
const ARRIVED: u8 = 0;

/// What a start needs besides the spec.
pub(crate) struct Plan<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) argv: &'a [String],
    pub(crate) env: Environment,
    pub(crate) account: Option<&'a Account>,
    /// Becomes standard output and error; see [`open_output`].
    pub(crate) output: OwnedFd,
    pub(crate) stdin: Option<BorrowedFd<'a>>,
    /// In the order of LISTEN_FDS.
    pub(crate) listeners: Vec<(&'a str, BorrowedFd<'a>)>,
    pub(crate) cgroup: Option<OwnedFd>,
    /// Dies with the shim.
    pub(crate) bound: bool,
    /// `oom_score_adj` that the shim was started with.
    pub(crate) oom_score_adj: Option<i32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Session = 1,
    Cgroup,
    Descriptors,
    Limit,
    Groups,
    User,
    Workdir,
    Parent,
    Exec,
}

struct Ready {
    program: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
    listen_pid: Option<Vec<u8>>,
    stdin: OwnedFd,
    output: OwnedFd,
    passed: Vec<OwnedFd>,
    cgroup: Option<OwnedFd>,
    /// Born in it.
    is_inside: bool,
    workdir: OwnedFd,
    ids: Option<(u32, u32, Vec<u32>)>,
    umask: Option<u32>,
    open_files: Option<u64>,
    bound: bool,
    oom_score_adj: Option<Vec<u8>>,
    shim: libc::pid_t,
}

fn failure(code: &str, text: String, hint: Option<String>) -> Failure {
    Failure { code: code.into(), text, hint }
}

/// Starts the program and returns after its exec succeeded or failed.
pub(crate) fn spawn(plan: Plan<'_>) -> Result<Identity, Failure> {
    let program = find_program(&plan)?;
    let workdir_path = plan.spec.workdir.clone().unwrap_or_else(|| "/".into());
    let user = plan.account.map(|a| a.name.clone().unwrap_or_else(|| a.uid.to_string()));
    let ready = prepare(plan, &program, &workdir_path)?;
    let explain = |step: u8, e: io::Error| explain(step, &e, &program, &workdir_path, user.as_deref());
    run(ready).map_err(|(step, e)| explain(step, e))
}

fn prepare(plan: Plan<'_>, program: &Path, workdir: &Path) -> Result<Ready, Failure> {
    let system = |what: &str, e: io::Error| failure("HF0205", format!("cannot start: {what}: {e}"), None);
    let mut env = plan.env;
    let listen_pid = announce(&plan.listeners, &mut env);
    let null = || OpenOptions::new().read(true).write(true).open("/dev/null");
    let stdin = match plan.stdin {
        Some(fd) => fd.try_clone_to_owned(),
        None => null().map(OwnedFd::from),
    };
    let passed = plan.listeners.iter().map(|(_, fd)| lift(fd.as_fd())).collect::<io::Result<Vec<_>>>();
    let dir = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_PATH).open(workdir);
    Ok(Ready {
        program: c_string(program.as_os_str().as_bytes())?,
        argv: plan.argv.iter().map(|a| c_string(a.as_bytes())).collect::<Result<_, _>>()?,
        env: env.into_iter().map(pair).collect::<Result<_, _>>()?,
        listen_pid,
        stdin: lift(stdin.map_err(|e| system("standard input", e))?.as_fd())
            .map_err(|e| system("standard input", e))?,
        output: lift(plan.output.as_fd()).map_err(|e| system("output pipe", e))?,
        passed: passed.map_err(|e| system("listening sockets", e))?,
        cgroup: plan.cgroup,
        is_inside: false,
        workdir: dir.map_err(|e| workdir_failure(workdir, &e))?.into(),
        ids: plan.account.filter(|_| rustix::process::geteuid().is_root()).map(|a| (a.uid, a.gid, a.groups.clone())),
        umask: plan.spec.umask,
        open_files: plan.spec.open_files,
        bound: plan.bound,
        oom_score_adj: plan.oom_score_adj.map(|adj| adj.to_string().into_bytes()),
        shim: std::process::id() as libc::pid_t,
    })
}

/// LISTEN_FDS and LISTEN_FDNAMES; LISTEN_PID is only known in the child, which fills in the digits.
fn announce(listeners: &[(&str, BorrowedFd<'_>)], env: &mut Environment) -> Option<Vec<u8>> {
    if listeners.is_empty() {
        return None;
    }
    let names: Vec<&str> = listeners.iter().map(|(name, _)| *name).collect();
    env.insert("LISTEN_FDS".into(), listeners.len().to_string().into());
    env.insert("LISTEN_FDNAMES".into(), names.join(":").into());
    env.remove(&OsString::from("LISTEN_PID"));
    let mut line = LISTEN_PID.to_vec();
    line.resize(LISTEN_PID.len() + 11, 0);
    Some(line)
}

fn lift(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // A low limit on open files is met by taking any free number above the last one to be placed.
    rustix::io::fcntl_dupfd_cloexec(fd, SAFE_FD_MIN)
        .or_else(|_| rustix::io::fcntl_dupfd_cloexec(fd, LISTEN_FDS_START + super::protocol::FDS_MAX as RawFd))
        .map_err(Into::into)
}

fn c_string(bytes: &[u8]) -> Result<CString, Failure> {
    CString::new(bytes)
        .map_err(|_| failure("HF0205", "cannot start: an argument or variable contains a zero byte".into(), None))
}

fn pair((name, value): (OsString, OsString)) -> Result<CString, Failure> {
    let mut bytes = name.into_vec();
    bytes.push(b'=');
    bytes.extend(value.as_bytes());
    c_string(&bytes)
}

/// As `execvp`, with the child's PATH and working directory.
fn find_program(plan: &Plan<'_>) -> Result<PathBuf, Failure> {
    let name = plan.argv.first().map(String::as_str).unwrap_or_default();
    let base = plan.spec.workdir.as_deref().unwrap_or(Path::new("/"));
    if name.contains('/') {
        let path = base.join(name);
        return match path.metadata() {
            Ok(_) => Ok(path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(missing(name, format!("{} does not exist", path.display())))
            }
            Err(e) => Err(failure("HF0205", format!("cannot start `{name}`: {e}"), None)),
        };
    }
    let path = plan.env.get(&OsString::from("PATH")).cloned().unwrap_or_default();
    let executable = |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&path)
        .map(|dir| base.join(dir).join(name))
        .find(|p| !name.is_empty() && executable(p))
        .ok_or_else(|| missing(name, format!("not found in PATH ({})", path.to_string_lossy())))
}

fn missing(name: &str, because: String) -> Failure {
    failure(
        "HF0201",
        format!("cannot start `{name}`: {because}"),
        Some(format!("install it, or give its full path (see: command -v {name})")),
    )
}

fn workdir_failure(path: &Path, e: &io::Error) -> Failure {
    let text = format!("cannot start: working directory {}: {e}", path.display());
    failure("HF0203", text, Some(format!("create it with: mkdir -p {}", path.display())))
}

fn explain(step: u8, e: &io::Error, program: &Path, workdir: &Path, user: Option<&str>) -> Failure {
    let program = program.display();
    let denied = matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM));
    match step {
        s if s == Step::Exec as u8 => match e.raw_os_error() {
            Some(libc::ENOENT) => failure(
                "HF0201",
                format!("cannot start `{program}`: its interpreter does not exist"),
                Some("look at its first line (#!) or, for a binary, at: ldd".into()),
            ),
            Some(libc::ENOEXEC) => failure(
                "HF0201",
                format!("cannot start `{program}`: not a program this machine can run"),
                Some("a script needs a first line such as #!/bin/sh".into()),
            ),
            _ if denied => failure(
                "HF0205",
                format!("cannot start `{program}`: {e}"),
                Some(format!("make it executable: chmod +x {program}")),
            ),
            _ => failure("HF0205", format!("cannot start `{program}`: {e}"), None),
        },
        s if s == Step::Workdir as u8 => workdir_failure(workdir, e),
        s if s == Step::User as u8 || s == Step::Groups as u8 => failure(
            "HF0205",
            format!("cannot start `{program}` as user {}: {e}", user.unwrap_or("?")),
            Some("holdfast must run as root to change users".into()),
        ),
        s if s == Step::Limit as u8 => failure(
            "HF0214",
            format!("cannot start `{program}`: open files limit: {e}"),
            Some("lower `open_files`, or raise the hard limit of holdfast (ulimit -Hn)".into()),
        ),
        s if s == Step::Cgroup as u8 => {
            failure("HF0214", format!("cannot start `{program}`: entering its cgroup: {e}"), None)
        }
        0 => failure(
            "HF0214",
            format!("cannot start `{program}`: fork: {e}"),
            Some("the limit of processes or memory is reached".into()),
        ),
        _ => failure("HF0205", format!("cannot start `{program}`: {e}"), None),
    }
}

fn run(mut ready: Ready) -> Result<Identity, (u8, io::Error)> {
    ready.is_inside = ready.cgroup.is_some();
    let first = attempt(&mut ready);
    let last = match first {
        Attempt::Stillborn(_) if ready.is_inside => {
            ready.is_inside = false;
            attempt(&mut ready)
        }
        first => first,
    };
    match last {
        Attempt::Started(who) => Ok(who),
        Attempt::Failed(step, error) => Err((step, error)),
        Attempt::Stillborn(error) => Err((0, error)),
    }
}

enum Attempt {
    Started(Identity),
    /// It told why.
    Failed(u8, io::Error),
    /// It could not be made, or died before it did anything: no birth in a cgroup on kernels before 5.7, where a sandbox
    /// forbids it, and, on some, once the cgroup was killed.
    Stillborn(io::Error),
}

fn attempt(ready: &mut Ready) -> Attempt {
    let (reader, writer) = match rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC) {
        Ok(ends) => ends,
        Err(e) => return Attempt::Failed(0, e.into()),
    };
    let argv: Vec<*const libc::c_char> = pointers(&ready.argv);
    let mut env: Vec<*const libc::c_char> = pointers(&ready.env);
    if let Some(line) = &mut ready.listen_pid {
        env.insert(0, line.as_ptr().cast());
    }
    // SAFETY: the shim has one thread, and the child only makes system calls on memory prepared here until it executes.
    let pid = unsafe { fork(ready) };
    if pid == 0 {
        // SAFETY: this is the child of the fork above; the function never returns.
        unsafe { become_program(ready, &argv, &env, writer.as_raw_fd()) }
    }
    if pid < 0 {
        return Attempt::Stillborn(io::Error::last_os_error());
    }
    drop(writer);
    let started = process::identity(pid).unwrap_or(Identity { pid, start_ticks: 0 });
    let end = match verdict(reader) {
        Verdict::Executed => return Attempt::Started(started),
        Verdict::Failed(step, error) => Attempt::Failed(step, error),
        Verdict::Died => Attempt::Stillborn(io::Error::other("it was killed before it could execute the program")),
    };
    // The child is about to exit, or did: reap it here, it never was the program.
    // SAFETY: waits for exactly this child; no memory is shared.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    end
}

/// As `fork`, with the child born in its cgroup if it is to be. Moving into a cgroup afterwards waits for a grace period of the
/// kernel: some 12 ms, most of the time that a restart takes.
///
/// # Safety
/// Of a process with one thread; in the child async-signal-safe calls only.
unsafe fn fork(ready: &Ready) -> libc::pid_t {
    // SAFETY: the arguments live on this stack; without CLONE_VM the child goes on with a copy of everything, as after fork.
    unsafe {
        let Some(cgroup) = ready.cgroup.as_ref().filter(|_| ready.is_inside) else { return libc::fork() };
        let mut args: libc::clone_args = std::mem::zeroed();
        args.flags = CLONE_INTO_CGROUP;
        args.exit_signal = libc::SIGCHLD as u64;
        args.cgroup = cgroup.as_raw_fd() as u64;
        libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) as libc::pid_t
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

enum Verdict {
    Executed,
    Failed(u8, io::Error),
    /// Without having said anything.
    Died,
}

/// The child says `ARRIVED` just before exec, and what failed after that or instead; end of file means that exec closed the
/// pipe.
fn verdict(mut reader: OwnedFd) -> Verdict {
    let mut bytes = Vec::with_capacity(8);
    let (deadline, mut more) = (clock::now() + EXEC_MAX, [0u8; 8]);
    loop {
        let left = i32::try_from(clock::now().until(deadline).as_millis()).unwrap_or(i32::MAX);
        let mut fds = [libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        // SAFETY: one valid pollfd.
        match unsafe { libc::poll(fds.as_mut_ptr(), 1, left) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
            ..=0 => return Verdict::Executed,
            _ => {}
        }
        match rustix::io::read(&mut reader, &mut more) {
            Ok(0) | Err(_) => break,
            Ok(count) => bytes.extend_from_slice(&more[..count]),
        }
    }
    match *bytes.strip_prefix(&[ARRIVED]).unwrap_or(&bytes) {
        [step, a, b, c, d] => Verdict::Failed(step, io::Error::from_raw_os_error(i32::from_ne_bytes([a, b, c, d]))),
        _ if bytes.is_empty() => Verdict::Died,
        _ => Verdict::Executed,
    }
}

/// # Safety
/// Only in the child of a fork, and never returns to the caller's frame. Async-signal-safe calls only.
unsafe fn become_program(
    ready: &mut Ready,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
    errors: RawFd,
) -> ! {
    // SAFETY: as the caller promises; every pointer is to memory prepared before fork.
    unsafe {
        if let Err(step) = arrange(ready) {
            give_up(errors, step);
        }
        libc::write(errors, [ARRIVED].as_ptr().cast(), 1);
        libc::execve(ready.program.as_ptr(), argv.as_ptr(), env.as_ptr());
        give_up(errors, Step::Exec)
    }
}

unsafe fn give_up(errors: RawFd, step: Step) -> ! {
    // SAFETY: errno is this thread's own, the array outlives the write.
    unsafe {
        let errno = (*libc::__errno_location()).to_ne_bytes();
        let message = [step as u8, errno[0], errno[1], errno[2], errno[3]];
        libc::write(errors, message.as_ptr().cast(), message.len());
        libc::_exit(127)
    }
}

fn check(result: libc::c_int, step: Step) -> Result<(), Step> {
    if result < 0 { Err(step) } else { Ok(()) }
}

/// # Safety
/// As [`become_program`].
unsafe fn arrange(ready: &mut Ready) -> Result<(), Step> {
    // SAFETY: system calls on descriptors and buffers that live in `ready`.
    unsafe {
        check(libc::setsid(), Step::Session)?;
        if let Some(adj) = &ready.oom_score_adj {
            let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if fd >= 0 {
                libc::write(fd, adj.as_ptr().cast(), adj.len());
                libc::close(fd);
            }
        }
        if let Some(dir) = ready.cgroup.as_ref().filter(|_| !ready.is_inside) {
            enter(dir.as_raw_fd())?;
        }
        place_descriptors(ready)?;
        if let Some(limit) = ready.open_files {
            set_open_files(limit)?;
        }
        if let Some((uid, gid, groups)) = &ready.ids {
            check(libc::setgroups(groups.len(), groups.as_ptr()), Step::Groups)?;
            check(libc::setresgid(*gid, *gid, *gid), Step::Groups)?;
            check(libc::setresuid(*uid, *uid, *uid), Step::User)?;
        }
        // After the change of user: the child must be able to enter it.
        check(libc::fchdir(ready.workdir.as_raw_fd()), Step::Workdir)?;
        if let Some(mask) = ready.umask {
            libc::umask(mask as libc::mode_t);
        }
        write_pid(ready);
        reset_signals();
        if ready.bound {
            // Last, because changing users clears it. The parent may have died before it was set.
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), Step::Parent)?;
            if libc::getppid() != ready.shim {
                libc::_exit(127);
            }
        }
    }
    Ok(())
}

/// For kernels that cannot let it be born inside.
unsafe fn enter(cgroup: RawFd) -> Result<(), Step> {
    // SAFETY: system calls on constants.
    unsafe {
        let fd = libc::openat(cgroup, c"cgroup.procs".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(fd, Step::Cgroup)?;
        check(libc::write(fd, b"0".as_ptr().cast(), 1) as libc::c_int, Step::Cgroup)?;
        libc::close(fd);
    }
    Ok(())
}

unsafe fn place_descriptors(ready: &Ready) -> Result<(), Step> {
    // SAFETY: all sources lie above all targets, so nothing is overwritten before it is copied.
    unsafe {
        check(libc::dup2(ready.stdin.as_raw_fd(), 0), Step::Descriptors)?;
        check(libc::dup2(ready.output.as_raw_fd(), 1), Step::Descriptors)?;
        check(libc::dup2(ready.output.as_raw_fd(), 2), Step::Descriptors)?;
        let mut target = LISTEN_FDS_START;
        for fd in &ready.passed {
            check(libc::dup2(fd.as_raw_fd(), target), Step::Descriptors)?;
            target += 1;
        }
        // Everything of the shim is close-on-exec already; this is for what the shim's own launcher left open.
        libc::syscall(libc::SYS_close_range, target as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    Ok(())
}

unsafe fn set_open_files(limit: u64) -> Result<(), Step> {
    // SAFETY: plain structure on this stack.
    unsafe {
        let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &mut now), Step::Limit)?;
        let new = libc::rlimit { rlim_cur: limit, rlim_max: limit.max(now.rlim_max) };
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &new), Step::Limit)
    }
}

unsafe fn write_pid(ready: &mut Ready) {
    if let Some(line) = &mut ready.listen_pid {
        // SAFETY: cannot fail.
        let pid = unsafe { libc::getpid() } as u32;
        // No leading zeros: some readers would take the number as octal.
        let digits = pid.checked_ilog10().unwrap_or(0) as usize + 1;
        let (start, mut rest) = (LISTEN_PID.len(), pid);
        for i in (start..start + digits).rev() {
            line[i] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        line[start + digits] = 0;
    }
}

unsafe fn reset_signals() {
    // SAFETY: an empty set on this stack; default dispositions.
    unsafe {
        for signo in 1..=64 {
            libc::signal(signo, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// The FIFO that becomes standard output and error. Owned by the child's user, so that `/dev/stdout` can be opened.
pub(crate) fn make_output(path: &Path, account: Option<&Account>) -> io::Result<()> {
    match rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o600)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    if let Some(a) = account.filter(|_| rustix::process::geteuid().is_root()) {
        std::os::unix::fs::chown(path, Some(a.uid), Some(a.gid))?;
    }
    Ok(())
}

/// For reading too, so that the pipe never lacks a reader: the death of the shim gives the child no EPIPE.
pub(crate) fn open_output(path: &Path) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open(path)?.into())
}

/// An owned copy of a raw descriptor number that this process got at exec.
///
/// # Safety
/// `fd` must be open and owned by nobody else.
pub(crate) unsafe fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: as the caller promises.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Tree;

    #[test]
    fn a_child_can_move_into_its_cgroup_where_it_cannot_be_born_in_it() {
        let Some(tree) = Tree::detect() else {
            eprintln!("skipped: no writable unified cgroup tree");
            return;
        };
        let path = tree.leaf(&format!("test-enter-{}", std::process::id()), "web-1");
        let leaf = crate::cgroup::Leaf::create(&path).expect("the tree is writable");
        let dir = leaf.entrance().expect("it exists");
        let (mut reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        // SAFETY: the child makes system calls only, and ends in the signal below or by itself.
        let child = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::alarm(10);
                let _ = enter(dir.as_raw_fd());
                libc::write(writer.as_raw_fd(), [ARRIVED].as_ptr().cast(), 1);
                loop {
                    libc::pause();
                }
            }
            pid
        };
        // Ends with its word, or with the alarm that ends the child and its end of the pipe.
        drop(writer);
        let _ = rustix::io::read(&mut reader, &mut [0; 1]);
        let inside = leaf.pids();
        // SAFETY: of exactly this child, which is not reaped yet.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        leaf.remove().expect("it is empty");
        assert_eq!(inside, [child]);
    }
}

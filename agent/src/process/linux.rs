//! Starts a task's program: fork, become somebody else, exec.
//!
//! The supervisor has one thread, so its fork may do anything before it executes the program. What fails there comes
//! back as a line of text through a pipe that a successful exec closes.

use super::Family;
use muster_proto::command::{Command, Program};
use muster_proto::id::TaskId;
use muster_proto::name::HostName;
use muster_proto::text;
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::unistd::{self, ForkResult, Gid, Uid, User, getuid};
use rustix::fs::{MemfdFlags, SealFlags, fchown, fcntl_add_seals, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit};
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Where programs are looked up, whatever the agent's own environment says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the program is told of its task.
pub(crate) struct Identity {
    /// Which task.
    pub(crate) task: TaskId,
    /// The agent's name.
    pub(crate) host: HostName,
}

/// A program on its way. The pipes do not block.
pub(crate) struct Launched {
    /// The leader.
    pub(crate) leader: rustix::process::Pid,
    /// What it writes.
    pub(crate) stdout: File,
    /// What it writes.
    pub(crate) stderr: File,
    /// Ends empty when the program was executed; otherwise it says why it was not.
    pub(crate) report: File,
}

/// Closes all but the three standard descriptors, whatever the parent left open. Only for a process that has opened
/// nothing yet.
pub(crate) fn close_inherited() {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The listing's own is closed by now: that one fails.
        let _ = unistd::close(number);
    }
}

/// Starts a command; `stdin` and `script` are its blobs in the spool. An error is a line for people: nothing ran.
pub(crate) fn launch(
    command: &Command,
    identity: &Identity,
    family: &Family,
    stdin: &Path,
    script: &Path,
) -> Result<Launched, String> {
    let account = Account::of(command.run_as.as_deref())?;
    let stdin = File::open(if command.stdin.is_some() { stdin } else { Path::new("/dev/null") })
        .map_err(|error| format!("cannot open stdin: {error}"))?;
    let script = match &command.program {
        Program::Script { .. } => Some(seal(script).map_err(|error| format!("cannot load the script: {error}"))?),
        Program::Argv(_) | Program::Shell(_) => None,
    };
    let internal = |error: io::Error| format!("cannot start a process: {error}");
    let (stdout, stdout_child) = pipe(&account).map_err(internal)?;
    let (stderr, stderr_child) = pipe(&account).map_err(internal)?;
    let (report, mut report_child) = pipe(&account).map_err(internal)?;
    let child = Plan {
        argv: argv(&command.program, script.as_ref()),
        env: environment(command, identity, &account),
        cwd: command.cwd.as_deref().unwrap_or(b"/"),
        account: &account,
        family,
        descriptors: [stdin.into(), stdout_child.into(), stderr_child.into()],
        script,
    };
    #[expect(unsafe_code, reason = "posix_spawn can neither change credentials nor tell which step failed")]
    // SAFETY: the supervisor has one thread, so no lock can be held by another at this moment.
    match unsafe { unistd::fork() } {
        Err(error) => Err(format!("cannot start a process: {}", error.desc())),
        Ok(ForkResult::Child) => {
            let Err(reason) = child.run();
            // If the supervisor is gone there is nobody to tell.
            let _ = report_child.write_all(text::line(&reason).as_bytes());
            std::process::exit(127)
        }
        Ok(ForkResult::Parent { child }) => {
            let leader = rustix::process::Pid::from_raw(child.as_raw()).expect("fork returns the child's id, never 0");
            Ok(Launched { leader, stdout, stderr, report })
        }
    }
}

/// A pipe whose reading end does not block, and which the program may open again by way of `/dev/stdout`.
fn pipe(account: &Account) -> io::Result<(File, File)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    if account.become_it {
        // Without it all works but opening `/dev/stdout`.
        let _ = fchown(&writer, Some(rustix::fs::Uid::from_raw(account.uid.as_raw())), None);
    }
    Ok((reader.into(), writer.into()))
}

/// A copy of the script in memory that nobody can change and anybody can execute: the user it runs as cannot enter the
/// spool, and file systems may forbid execution.
fn seal(script: &Path) -> io::Result<OwnedFd> {
    let memory = memfd_create("muster-script", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut memory = File::from(memory);
    io::copy(&mut File::open(script)?, &mut memory)?;
    fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(memory.into())
}

/// Becomes another program, with the same environment, process id and children. Returns only if that failed.
///
/// SIGHUP, which asks for this, is ignored until the program says what it does at one.
pub fn replace(program: &Path, arguments: &[OsString]) -> io::Error {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    #[expect(unsafe_code, reason = "an ignored signal stays so through exec, a handler does not")]
    // SAFETY: to ignore a signal runs no code of ours.
    let before = unsafe { sigaction(Signal::SIGHUP, &ignore) };
    // Not execvp(3), which gives to a shell what is no program: half of one that is just being written, say.
    let words = std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsString::as_os_str));
    let argv: Result<Vec<_>, _> = words.map(|word| CString::new(word.as_bytes())).collect();
    let error = match argv {
        Ok(argv) => match unistd::execv(&argv[0], &argv) {
            Err(error) => error.into(),
        },
        Err(nul) => io::Error::other(nul),
    };
    if let Ok(before) = before {
        #[expect(unsafe_code, reason = "the runtime's handler has to come back")]
        // SAFETY: it is the action that was in place before.
        let _ = unsafe { sigaction(Signal::SIGHUP, &before) };
    }
    error
}

/// The user as whom this process runs and all its programs do; `None` for root, who can become anybody.
pub fn own_user() -> Option<String> {
    let me = getuid();
    let named = || User::from_uid(me).ok().flatten().map_or_else(|| me.to_string(), |user| user.name);
    (!me.is_root()).then(named)
}

/// The user a program runs as.
struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    home: Vec<u8>,
    shell: Vec<u8>,
    become_it: bool,
}

impl Account {
    fn of(run_as: Option<&str>) -> Result<Self, String> {
        let me = getuid();
        let Some(name) = run_as else {
            let user = User::from_uid(me).ok().flatten();
            return Ok(user.map_or_else(|| Self::nameless(me), |user| Self::from(user, false)));
        };
        let user = User::from_name(name).map_err(|error| format!("cannot look up user {name:?}: {}", error.desc()))?;
        let user = user.ok_or_else(|| format!("user {name:?} does not exist on this host"))?;
        if user.uid == me && !me.is_root() {
            return Ok(Self::from(user, false));
        }
        // Whether that is possible the agent has decided, and the kernel will.
        let groups =
            CString::new(name).map_err(|_| Errno::EINVAL).and_then(|name| unistd::getgrouplist(&name, user.gid));
        let groups = groups.map_err(|error| format!("cannot look up the groups of {name:?}: {}", error.desc()))?;
        Ok(Self { groups, ..Self::from(user, true) })
    }

    fn from(user: User, become_it: bool) -> Self {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let (home, shell) = (bytes(&user.dir), bytes(&user.shell));
        Self { name: user.name, uid: user.uid, gid: user.gid, groups: Vec::new(), home, shell, become_it }
    }

    /// Containers run processes under ids that no passwd file knows.
    fn nameless(uid: Uid) -> Self {
        Self {
            name: uid.to_string(),
            uid,
            gid: unistd::getgid(),
            groups: Vec::new(),
            home: b"/".to_vec(),
            shell: b"/bin/sh".to_vec(),
            become_it: false,
        }
    }

    fn assume(&self) -> Result<(), Errno> {
        if self.become_it {
            unistd::setgroups(&self.groups)?;
            unistd::setgid(self.gid)?;
            unistd::setuid(self.uid)?;
        }
        Ok(())
    }
}

/// Words without NUL: [`Command::check`] has passed.
fn c_string(bytes: impl Into<Vec<u8>>) -> CString {
    CString::new(bytes).expect("a checked command, a path and an account hold no NUL")
}

fn argv(program: &Program, script: Option<&OwnedFd>) -> Vec<CString> {
    match program {
        Program::Argv(words) => words.iter().map(|word| c_string(word.as_slice())).collect(),
        Program::Shell(line) => vec![c_string("/bin/sh"), c_string("-c"), c_string(line.as_slice())],
        Program::Script { args, .. } => {
            let file = script.map_or(-1, |script| script.as_raw_fd());
            let own = c_string(format!("/proc/self/fd/{file}"));
            std::iter::once(own).chain(args.iter().map(|word| c_string(word.as_slice()))).collect()
        }
    }
}

fn environment(command: &Command, identity: &Identity, account: &Account) -> Vec<CString> {
    let (job, task) = (identity.task.job.to_string(), identity.task.to_string());
    let (which, number) = match identity.task.attempt.number() {
        Some(number) => ("MUSTER_ATTEMPT", number.to_string()),
        None => ("MUSTER_GATE", "1".to_owned()),
    };
    let fixed: [(&str, &[u8]); 10] = [
        ("PATH", PATH.as_bytes()),
        ("HOME", &account.home),
        ("USER", account.name.as_bytes()),
        ("LOGNAME", account.name.as_bytes()),
        ("SHELL", &account.shell),
        ("LANG", b"C.UTF-8"),
        ("MUSTER_JOB", job.as_bytes()),
        ("MUSTER_TASK", task.as_bytes()),
        (which, number.as_bytes()),
        ("MUSTER_HOST", identity.host.as_str().as_bytes()),
    ];
    let own = command.env.iter().map(|var| (var.name.as_str(), var.value.as_slice()));
    let mut all: Vec<(&str, &[u8])> = Vec::new();
    for (name, value) in fixed.into_iter().chain(own) {
        // The last one counts; programs differ in which of two they would see.
        all.retain(|(known, _)| *known != name);
        all.push((name, value));
    }
    all.into_iter().map(|(name, value)| c_string([name.as_bytes(), b"=", value].concat())).collect()
}

/// All that the child needs, made before the fork.
struct Plan<'a> {
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: &'a [u8],
    account: &'a Account,
    family: &'a Family,
    descriptors: [OwnedFd; 3],
    script: Option<OwnedFd>,
}

impl Plan<'_> {
    /// Becomes the program, or says why not.
    fn run(&self) -> Result<Infallible, String> {
        let step = |what: &'static str| move |error: Errno| format!("{what}: {}", error.desc());
        unistd::setsid().map_err(step("cannot make a session"))?;
        self.family.join().map_err(|error| format!("cannot enter the task's cgroup: {error}"))?;
        // An agent that is protected from the out-of-memory killer must not protect what it runs.
        let _ = fs::write("/proc/self/oom_score_adj", "0");
        let descriptors = || {
            rustix::stdio::dup2_stdin(&self.descriptors[0])?;
            rustix::stdio::dup2_stdout(&self.descriptors[1])?;
            rustix::stdio::dup2_stderr(&self.descriptors[2])?;
            // An interpreter opens its script by this number.
            self.script.as_ref().map_or(Ok(()), |script| fcntl_setfd(script, FdFlags::empty()))
        };
        descriptors().map_err(|error: rustix::io::Errno| format!("cannot connect the program: {error}"))?;
        reset_signals().map_err(step("cannot reset signals"))?;
        // Who wants a core dump can raise it again.
        let core = rustix::process::getrlimit(Resource::Core);
        rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), ..core })
            .map_err(|error| format!("cannot limit core dumps: {error}"))?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let name = &self.account.name;
        self.account.assume().map_err(|error| format!("cannot become {name:?}: {}", error.desc()))?;
        // After the change of user: what he may not enter he does not start in.
        rustix::process::chdir(OsStr::from_bytes(self.cwd)).map_err(|error| {
            let cwd = String::from_utf8_lossy(self.cwd);
            format!("cannot start in {cwd}: {}", Errno::from_raw(error.raw_os_error()).desc())
        })?;
        let error = self.execute();
        Err(self.explain(error))
    }

    fn execute(&self) -> Errno {
        let Some(program) = self.argv.first() else {
            return Errno::ENOENT;
        };
        if program.to_bytes().contains(&b'/') {
            return self.execute_file(program.clone());
        }
        let mut result = Errno::ENOENT;
        for dir in PATH.split(':') {
            match self.execute_file(c_string([dir.as_bytes(), b"/", program.to_bytes()].concat())) {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => result = Errno::EACCES,
                error => return error,
            }
        }
        result
    }

    /// As execvp(3): a file that the kernel does not know how to run is a shell script.
    fn execute_file(&self, file: CString) -> Errno {
        let Err(error) = unistd::execve(&file, &self.argv, &self.env);
        if error != Errno::ENOEXEC {
            return error;
        }
        let mut argv = vec![c_string("/bin/sh"), file];
        argv.extend(self.argv.iter().skip(1).cloned());
        let Err(error) = unistd::execve(&argv[0], &argv, &self.env);
        error
    }

    fn explain(&self, error: Errno) -> String {
        let program = self.argv.first().map(|word| word.to_string_lossy()).unwrap_or_default();
        let program = if self.script.is_some() { "the script".into() } else { program };
        let there = fs::exists(&*program).unwrap_or(false);
        match error {
            Errno::ENOENT if self.script.is_some() => format!("{program}: its interpreter does not exist on this host"),
            Errno::ENOENT if !program.contains('/') => format!("{program}: not found in PATH ({PATH})"),
            Errno::ENOENT if there => format!("{program}: its interpreter does not exist on this host"),
            error => format!("{program}: {}", error.desc()),
        }
    }
}

/// Default dispositions and an empty mask, whatever the agent and the Rust runtime changed.
fn reset_signals() -> Result<(), Errno> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        #[expect(unsafe_code, reason = "signal dispositions are inherited through exec")]
        // SAFETY: the default disposition runs no code of ours.
        unsafe {
            sigaction(signal, &default)?;
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

//! A process as a guard: it ends with the guard, and with the test, whatever happens to either.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{install, proc, wait};

/// How much of a log goes into an error.
const TAIL: u64 = 2_000;

/// What to start, and how.
#[derive(Debug, Clone)]
pub struct Spec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    log: PathBuf,
    user: Option<String>,
}

impl Spec {
    /// `program` under a name of its own; its output goes to `<log_dir>/<name>.log`, appended.
    #[must_use]
    pub fn new(name: &str, program: impl Into<PathBuf>, log_dir: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            envs: Vec::new(),
            dir: None,
            log: log_dir.join(format!("{name}.log")),
            user: None,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// One more environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Run as this user of the operating system. Ignored unless this process is root, which alone may.
    #[must_use]
    pub fn as_user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn command(&self) -> anyhow::Result<Command> {
        // The kernel kills it when we die, so nothing survives a test that was itself killed.
        let mut command = Command::new(install::program("setpriv")?);
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = self.user.as_deref().filter(|_| install::is_root()) {
            command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).arg("--init-groups");
        }
        command.arg("--").arg(&self.program).args(&self.args).envs(self.envs.iter().map(|(k, v)| (k, v)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("can't write the log {}", self.log.display()))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        Ok(command)
    }
}

/// A running process, its process group and everything it starts. Dropping it kills and reaps.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    pid: u32,
    child: Mutex<Child>,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When it can't be started, with the reason.
    pub fn start(spec: Spec) -> anyhow::Result<Self> {
        let child = spawn_from_lasting_thread(spec.command()?)
            .with_context(|| format!("can't start {} ({})", spec.name, spec.program.display()))?;
        Ok(Self { pid: child.id(), spec, child: Mutex::new(child) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it was started from.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended; none while it runs.
    pub fn exit(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Whether it runs. A paused process does.
    pub fn is_alive(&self) -> bool {
        self.exit().is_none()
    }

    /// SIGSTOPs the whole group: it keeps its sockets and memory, and does nothing. When this returns none of its threads
    /// runs any more.
    pub fn pause(&self) {
        proc::stop_group(self.pid);
    }

    /// Lets a paused group go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks the process itself to end (SIGTERM).
    pub fn terminate(&self) {
        if self.is_alive() {
            proc::signal(self.pid, Signal::TERM);
        }
    }

    /// Tells the process itself to look at its files (SIGHUP).
    pub fn hang_up(&self) {
        if self.is_alive() {
            proc::signal(self.pid, Signal::HUP);
        }
    }

    /// SIGKILLs the group and everything below it, and reaps it.
    pub fn kill(&self) {
        if self.is_alive() {
            // Looked up before the root dies: its children would be somebody else's afterwards.
            let below = proc::descendants(self.pid);
            self.signal(Signal::KILL);
            proc::kill_trees(&[&[self.pid], below.as_slice()].concat());
            let _ = self.child().wait();
        } else {
            // Those that it left in its group.
            self.signal(Signal::KILL);
        }
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it still runs after `within`, with the end of its log.
    pub async fn wait(&self, within: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("{} has ended", self.name());
        wait::eventually(within, &what, || async { self.exit() })
            .await
            .map_err(|e| anyhow!("{e}\n{}", self.tail()))
    }

    /// Waits until a condition holds, and fails at once if the process ends before.
    ///
    /// # Errors
    /// When the process ends, or the condition does not come true in time; with the end of its log.
    pub async fn until<F>(
        &self,
        within: Duration,
        what: &str,
        mut ask: impl FnMut() -> F,
    ) -> anyhow::Result<()>
    where
        F: Future<Output = bool>,
    {
        let found = wait::eventually(within, what, || {
            let ended = self.exit();
            let asked = ask();
            async move { if let Some(status) = ended { Some(Err(status)) } else { asked.await.then_some(Ok(())) } }
        });
        match found.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("{} ended ({status}) before {what}:\n{}", self.name(), self.tail()),
            Err(late) => bail!("{}: {late}:\n{}", self.name(), self.tail()),
        }
    }

    /// Waits until it accepts connections there.
    ///
    /// # Errors
    /// As [`Process::until`].
    pub async fn until_listening(&self, within: Duration, at: std::net::SocketAddr) -> anyhow::Result<()> {
        let what = format!("it accepts connections at {at}");
        self.until(within, &what, || async move { tokio::net::TcpStream::connect(at).await.is_ok() }).await
    }

    /// The end of its log, for errors.
    #[must_use]
    pub fn tail(&self) -> String {
        tail(&self.spec.log).unwrap_or_else(|e| format!("(no log at {}: {e})", self.spec.log.display()))
    }

    /// A signal to the whole group. The group keeps our number as long as one of it lives, so it can't be another's.
    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            // Nobody is left in the group: nothing to do.
            let _ = kill_process_group(group, signal);
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a file.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts a command from a thread that lives as long as the process: `--pdeathsig` looks at the *thread* that forked,
/// and tokio's threads come and go.
fn spawn_from_lasting_thread(command: Command) -> anyhow::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in orders {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, child) = mpsc::channel();
    spawner.send((command, answer)).map_err(|_| anyhow!("the thread that starts processes has ended"))?;
    Ok(child.recv().context("the thread that starts processes has ended")??)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &tempfile::TempDir, script: &str) -> Process {
        Process::start(Spec::new("shell", "/bin/sh", dir.path()).args(["-c", script])).unwrap()
    }

    #[tokio::test]
    async fn an_early_end_is_reported_with_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell(&dir, "echo no such disk >&2; exit 3");
        let error =
            process.until(Duration::from_secs(10), "it is ready", || async { false }).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no such disk") && text.contains("exit status: 3"), "{text}");
    }

    #[tokio::test]
    async fn kill_takes_grandchildren_that_left_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let process = shell(&dir, "setsid sleep 61 & wait");
        let sleeper = || async {
            proc::descendants(process.pid()).into_iter().find(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "sleep")
            })
        };
        let below = wait::eventually(Duration::from_secs(10), "it has a child", sleeper).await.unwrap();
        drop(process);
        wait::eventually(Duration::from_secs(10), "the child is gone", || async { !proc::is_running(below) })
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_paused_process_is_alive_and_goes_on_when_resumed() {
        let dir = tempfile::tempdir().unwrap();
        // Without children: a shell that is stopped while it starts one may stand in `vfork`, which is another state.
        let process = shell(&dir, "trap 'exit 0' TERM; while :; do :; done");
        process.pause();
        let stopped = || async { proc::state(process.pid()) == Some('T') };
        wait::eventually(Duration::from_secs(10), "it is stopped", stopped).await.unwrap();
        assert!(process.is_alive());
        process.resume();
        process.terminate();
        process.wait(Duration::from_secs(10)).await.unwrap();
    }
}

//! One skopeo process. Knows how it is started, asked and ended; ignores what images are.
//!
//! What makes this intricate, all of it true of skopeo 1.9.3 and containers-image-proxy 0.11.2:
//!
//! - The kernel sends the death signal when the *thread* that started the child ends, and a tokio worker may
//!   end any time. So one thread that never ends starts them all.
//! - The client keeps the child to itself. We need its pid to kill it: the child writes it into a pipe.
//! - skopeo answers one request after the other, and a request that waits for a network waits for ever. The
//!   client waits for the answer in a blocking thread that cannot be called back. So each request runs in a
//!   task of its own to its end or to its time-out; after a time-out the process is *retired*: what streams
//!   from it goes on, nobody asks it any more, and it is killed when the last user lets go.
//! - After the client has noticed that the child is dead, the next request panics. So a process whose
//!   conversation broke is retired as well.
//! - The client keeps standard error until the child has ended. We read it as it comes, see `skopeo_log`:
//!   with the client's `debug` set it is ours to redirect.

use std::{
    future::Future,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    pin::Pin,
    process::{Command, Stdio},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use containers_image_proxy::{Error as ProxyError, GetBlobError, ImageProxy, ImageProxyConfig};
use rustix::{
    pipe::PipeFlags,
    process::{Pid, PidfdFlags, Signal},
};
use tokio::{
    io::{AsyncReadExt, Interest, unix::AsyncFd},
    net::unix::pipe,
    sync::{Mutex, Notify, OwnedMutexGuard, oneshot, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    super::{
        BoxFuture, ErrorKind, Platform, Result, Site, SourceError,
        access::tie,
        skopeo_log::{LogWriter, SkopeoLog, asked_to_wait, skopeo_log, throttled_for},
    },
    pool::{Gone, Place},
};

/// A version of the proxy protocol.
pub(super) type Version = (u64, u64, u64);

/// How skopeo is started.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) site: Site,
    /// Inside podman's user namespace: containers/skopeo issue 2563.
    pub(super) unshare: bool,
}

impl Launch {
    /// The command and its options; the client adds `experimental-image-proxy` and `access`'s.
    fn config(&self, pid_out: OwnedFd, log_out: OwnedFd) -> Result<ImageProxyConfig> {
        let Site { platform, access } = &self.site;
        let skopeo = &access.skopeo;
        let mut command = Command::new(if self.unshare { "podman".as_ref() } else { skopeo.as_path() });
        if self.unshare {
            command.arg("unshare").arg(skopeo);
        }
        if let Some(platform) = platform.as_ref().filter(|p| !p.is_same(&Platform::host())) {
            command.args(["--override-os", &platform.os, "--override-arch", &platform.architecture]);
            command.args(platform.variant.iter().flat_map(|variant| ["--override-variant", variant]));
        }
        if let Some(policy) = &access.policy {
            command.arg("--policy").arg(policy);
        }
        command.stderr(Stdio::from(log_out));
        let mut config = ImageProxyConfig::default();
        config.debug = true;
        // Not as the client's `auth_data`: it copies that to a file in /tmp.
        let (authfile, credentials) = access.authfile()?;
        config.authfile = authfile;
        tie(&mut command, credentials);
        // SAFETY: between fork and exec only async-signal-safe calls are allowed: these are two plain system
        // calls (getpid, write) without allocation or locks.
        unsafe {
            command.pre_exec(move || {
                let pid = rustix::process::getpid().as_raw_nonzero().get();
                rustix::io::write(&pid_out, &pid.to_ne_bytes())?;
                Ok(())
            });
        }
        config.certificate_directory = access.cert_dir.clone();
        config.insecure_skip_tls_verification = Some(!access.tls_verify);
        config.skopeo_cmd = Some(command);
        Ok(config)
    }

    fn spawn_error(&self, error: &io::Error) -> SourceError {
        let program = if self.unshare { "podman".as_ref() } else { self.site.access.skopeo.as_path() };
        let instead = if self.unshare { "run as root" } else { "use oci:, which needs none" };
        missing_program(program, error, instead)
    }
}

/// Why `program` cannot be started, and what to do `instead` of installing it.
pub(in crate::source) fn missing_program(program: &Path, error: &io::Error, instead: &str) -> SourceError {
    let program = program.display();
    if error.kind() != io::ErrorKind::NotFound {
        return SourceError::local(format!("{program} cannot be started: {error}"));
    }
    SourceError::local(format!("{program} is not installed: install it (package {program}), or {instead}"))
}

type Starting = Pin<Box<dyn Future<Output = std::result::Result<ImageProxy, ProxyError>> + Send>>;
type Job = Box<dyn FnOnce() + Send>;

/// The thread that starts every skopeo. Never ends, see above; `None` if it could not be made.
static STARTER: LazyLock<Option<mpsc::Sender<Job>>> = LazyLock::new(|| {
    let (jobs, todo) = mpsc::channel::<Job>();
    let thread = std::thread::Builder::new().name("skopeo-starter".into());
    thread.spawn(move || todo.into_iter().for_each(|job| job())).ok().map(|_| jobs)
});

/// Does something in the starter thread; nobody there waits for long.
pub(in crate::source) async fn in_starter<T: Send + 'static>(
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (done, answer) = oneshot::channel();
    // If nobody waits any more, what was made is dropped here.
    let job: Job = Box::new(move || drop(done.send(job())));
    let gone = || SourceError::local("the thread that starts skopeo cannot be had");
    STARTER.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}

/// Polls the client's start once in the starter thread, which is where it forks.
async fn start_in_thread(config: ImageProxyConfig, pid_in: OwnedFd) -> Result<(Starting, Option<Child>)> {
    let runtime = tokio::runtime::Handle::current();
    in_starter(move || {
        let _runtime = runtime.enter();
        let mut starting: Starting = Box::pin(ImageProxy::new_with_config(config));
        if let Poll::Ready(done) = starting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            starting = Box::pin(std::future::ready(done));
        }
        (starting, Child::announced(&pid_in))
    })
    .await
}

/// A running child. Dropping it kills it, unless it was told to leave by itself.
struct Child {
    pid: Pid,
    /// Refers to this very process even after its pid is used again.
    pidfd: OwnedFd,
    leaves: AtomicBool,
}

impl Child {
    /// The child whose pid stands in the pipe, if one got as far as that.
    fn announced(pipe: &OwnedFd) -> Option<Self> {
        let mut pid = [0; 4];
        let count = rustix::io::read(pipe, &mut pid).ok()?;
        let pid = Pid::from_raw(i32::from_ne_bytes(pid)).filter(|_| count == pid.len())?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        Some(Self { pid, pidfd, leaves: AtomicBool::new(false) })
    }

    fn kill(&self) {
        // The group holds what podman starts; it exists for sure only while its leader does.
        if rustix::process::pidfd_send_signal(&self.pidfd, Signal::TERM).is_ok() {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Waits until the process has ended.
    async fn exited(pidfd: &OwnedFd) -> io::Result<()> {
        let pidfd = pidfd.try_clone()?;
        // SAFETY: an OwnedFd stays open and the same for as long as it exists, and here
        // nobody else closes it.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        pidfd.readable().await.map(drop)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !*self.leaves.get_mut() {
            self.kill();
        }
    }
}

/// Why a request was not made or came to nothing.
pub(super) enum Fault {
    /// The process is retired and was not asked: ask another one.
    Retired,
    /// It failed.
    Error(SourceError),
}

impl Fault {
    /// Says what was being done, see [`SourceError::within`].
    pub(super) fn within(self, context: &str) -> Self {
        match self {
            Self::Retired => Self::Retired,
            Self::Error(error) => Self::Error(error.within(context)),
        }
    }
}

impl From<SourceError> for Fault {
    fn from(error: SourceError) -> Self {
        Self::Error(error)
    }
}

/// The right to ask a process.
pub(super) struct Turn {
    _guard: OwnedMutexGuard<()>,
    _use: Use,
}

/// Somebody has business with a process; who waits for one that is idle is told when it has ended.
pub(super) struct Use {
    // Goes before those who wait look.
    users: Option<Arc<()>>,
    idle: Arc<Notify>,
}

impl Drop for Use {
    fn drop(&mut self) {
        self.users = None;
        self.idle.notify_waiters();
    }
}

/// A skopeo that runs, and the conversation with it.
pub(super) struct Process {
    // The socket closes before the child is judged: fields are dropped in this order.
    proxy: ImageProxy,
    child: Option<Child>,
    turns: Arc<Mutex<()>>,
    retired: watch::Sender<bool>,
    /// Whether an answer is outstanding: then skopeo does not see that its socket closes.
    asked: AtomicBool,
    /// Shared with every [`Use`].
    users: Arc<()>,
    idle: Arc<Notify>,
    log: SkopeoLog,
    gone: Gone,
}

impl Process {
    /// Starts skopeo and learns its version. It has `place` until it has ended, and tells `idle`
    /// when it has nothing to do.
    pub(super) async fn start(
        launch: &Launch,
        limit: Duration,
        place: Place,
        idle: Arc<Notify>,
    ) -> Result<Self> {
        launch.site.access.check_paths()?;
        let pipe_error = |error| SourceError::local(format!("no pipe for skopeo: {error}"));
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (pid_in, pid_out) = rustix::pipe::pipe_with(flags).map_err(|errno| pipe_error(errno.into()))?;
        let (log_in, log_out) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| pipe_error(errno.into()))?;
        let log_in = pipe::Receiver::from_owned_fd(log_in).map_err(pipe_error)?;
        let (starting, child) = start_in_thread(launch.config(pid_out, log_out)?, pid_in).await?;
        let gone = place.gone();
        if let Some(child) = &child {
            let pidfd = child.pidfd.try_clone().map_err(pipe_error)?;
            tokio::spawn(place.kept_until_exit(pidfd));
        }
        let (writer, log) = skopeo_log();
        tokio::spawn(read_log(log_in, writer));
        let proxy = match timeout(limit, starting).await {
            Ok(Ok(proxy)) => proxy,
            Ok(Err(ProxyError::SkopeoSpawnError(error))) => return Err(launch.spawn_error(&error)),
            Ok(Err(error)) => return Err(broken(error, &log).await),
            Err(_) => return Err(stalled("to be started", limit)),
        };
        let (retired, _) = watch::channel(false);
        let process = Self {
            proxy,
            child,
            turns: Arc::default(),
            retired,
            asked: AtomicBool::new(false),
            users: Arc::default(),
            idle,
            log,
            gone,
        };
        if launch.site.access.policy.is_some() {
            process.require((0, 2, 6), "enforcing --policy")?;
        }
        Ok(process)
    }

    /// The negotiated protocol.
    pub(super) fn version(&self) -> Version {
        let version = self.proxy.protocol_version();
        (version.major, version.minor, version.patch)
    }

    /// # Errors
    /// This skopeo speaks an older protocol than `needed`, which `what` needs.
    pub(super) fn require(&self, needed: Version, what: &str) -> Result<()> {
        let found = self.version();
        if found >= needed {
            return Ok(());
        }
        let text = |(major, minor, patch)| format!("{major}.{minor}.{patch}");
        let (needed, found) = (text(needed), text(found));
        Err(SourceError::new(
            ErrorKind::TooOld,
            format!(
                "{what} needs a skopeo that speaks proxy protocol {needed}, this one speaks {found}: \
                 upgrade skopeo"
            ),
        ))
    }

    pub(super) fn is_retired(&self) -> bool {
        *self.retired.borrow()
    }

    /// No more requests. Whoever waits for a turn is sent away.
    pub(super) fn retire(&self) {
        self.retired.send_replace(true);
    }

    /// How many ask it or wait to.
    pub(super) fn load(&self) -> usize {
        Arc::strong_count(&self.turns) - 1
    }

    /// Whether nobody asks it anything and nothing streams from it.
    pub(super) fn is_idle(&self) -> bool {
        Arc::strong_count(&self.users) == 1 && self.load() == 0
    }

    /// Retires it, and ends it at once if it is idle. Returns whether it was. Users with images open there
    /// open them in another process.
    pub(super) fn dismiss(&self) -> bool {
        // In this order: who begins to use it sees that it is retired, or is seen here.
        self.retire();
        if !self.is_idle() {
            return false;
        }
        if let Some(child) = &self.child {
            child.kill();
        }
        true
    }

    /// Tells when it has ended.
    pub(super) fn gone(&self) -> Gone {
        self.gone.clone()
    }

    /// Keeps it from being taken for idle.
    pub(super) fn in_use(&self) -> Use {
        Use { users: Some(self.users.clone()), idle: self.idle.clone() }
    }

    /// A turn if nobody else has one.
    pub(super) fn try_turn(&self) -> Option<Turn> {
        let guard = self.turns.clone().try_lock_owned().ok().filter(|_| !self.is_retired());
        guard.map(|guard| Turn { _guard: guard, _use: self.in_use() })
    }

    /// Waits for a turn; `None` if the process is retired. The wait counts as nobody's stall: whoever has the
    /// turn is under a timer.
    pub(super) async fn turn(&self) -> Option<Turn> {
        let mut retired = self.retired.subscribe();
        tokio::select! {
            biased;
            _ = retired.wait_for(|retired| *retired) => None,
            guard = self.turns.clone().lock_owned() => {
                let turn = Turn { _guard: guard, _use: self.in_use() };
                Some(turn).filter(|_| !self.is_retired())
            }
        }
    }

    /// Makes a request to its end, also if the caller goes away meanwhile.
    pub(super) async fn request<T, F>(
        self: &Arc<Self>,
        turn: Turn,
        what: &'static str,
        limit: Duration,
        ask: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a ImageProxy) -> BoxFuture<'a, std::result::Result<T, ProxyError>>
            + Send
            + 'static,
    {
        let process = self.clone();
        let exchange = tokio::spawn(async move {
            let answer = process.exchange(what, limit, ask(&process.proxy)).await;
            drop(turn);
            answer
        });
        exchange
            .await
            .unwrap_or_else(|_| Err(SourceError::local("the request was cut short: the program is ending")))
    }

    /// Waits for one answer. For those who have the turn.
    pub(super) async fn exchange<T>(
        &self,
        what: &str,
        limit: Duration,
        answer: impl Future<Output = std::result::Result<T, ProxyError>>,
    ) -> Result<T> {
        let began = Instant::now();
        let answer = timeout(limit, self.asked(answer)).await;
        let throttled = self.log.now().throttled_since(began);
        match answer {
            Ok(Err(error)) if error.is_throttled() => {
                let remark = throttled.and_then(asked_to_wait).map(|wait| format!(": {wait}"));
                Err(error.followed_by(remark.unwrap_or_default()))
            }
            Ok(answer) => answer,
            Err(_) => {
                self.retire();
                Err(match throttled {
                    Some(wait) => SourceError::new(ErrorKind::Transient, throttled_for(limit, wait)),
                    None => stalled(&format!("to answer {what}"), limit),
                })
            }
        }
    }

    /// Waits for an answer as long as it takes. A caller who gives up must retire the process.
    pub(super) async fn asked<T>(
        &self,
        answer: impl Future<Output = std::result::Result<T, ProxyError>>,
    ) -> Result<T> {
        self.asked.store(true, Ordering::Relaxed);
        let answer = answer.await;
        self.asked.store(false, Ordering::Relaxed);
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.failure(error).await),
        }
    }

    /// Sorts the client's errors: an answer that says no, or the end of the conversation.
    pub(super) async fn failure(&self, error: ProxyError) -> SourceError {
        match error {
            ProxyError::RequestInitiationFailure { error, .. } => SourceError::from_skopeo(&error),
            ProxyError::RetryableRequestFailure { error, .. } => retryable(&error),
            ProxyError::BlobError(GetBlobError::Retryable(error)) => retryable(&error),
            ProxyError::BlobError(GetBlobError::Other(error)) => SourceError::from_skopeo(&error),
            error => {
                self.retire();
                broken(error, &self.log).await
            }
        }
    }

    /// The client, for those who have the turn.
    pub(super) fn proxy(&self) -> &ImageProxy {
        &self.proxy
    }

    /// Whether skopeo is gone, or goes within `limit`.
    pub(super) async fn exits_within(&self, limit: Duration) -> bool {
        let Some(child) = &self.child else { return true };
        timeout(limit, Child::exited(&child.pidfd)).await.is_ok()
    }

    /// Ends the process: gives it and its users `grace` to finish, then kills it.
    pub(super) async fn end(mut self: Arc<Self>, grace: Duration) {
        let Some(pidfd) = self.child.as_ref().and_then(|child| child.pidfd.try_clone().ok()) else { return };
        let leave = async {
            // Closing the socket is the request to leave, and the last user closes it. Images that were let
            // go just now are being closed in tasks of their own.
            while let Err(shared) = Arc::try_unwrap(self) {
                self = shared;
                sleep(Duration::from_millis(2)).await;
            }
            let _ = Child::exited(&pidfd).await;
        };
        if timeout(grace, leave).await.is_err() {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            child.leaves.store(!*self.asked.get_mut(), Ordering::Relaxed);
        }
    }
}

/// Reads what a skopeo logs to its end.
async fn read_log(mut pipe: pipe::Receiver, mut writer: LogWriter) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        writer.push(&buffer[..count]);
    }
}

/// Waits until a process has ended.
pub(super) async fn exited(pidfd: &OwnedFd) -> io::Result<()> {
    Child::exited(pidfd).await
}

fn retryable(text: &str) -> SourceError {
    SourceError::new(ErrorKind::Transient, SourceError::from_skopeo(text).to_string())
}

fn stalled(what: &str, limit: Duration) -> SourceError {
    SourceError::new(
        ErrorKind::Stalled,
        format!(
            "skopeo took longer than {limit:?} {what}: the registry is down, silent, or makes skopeo wait"
        ),
    )
}

/// The conversation is over: skopeo died, or says what is not in the protocol.
async fn broken(error: ProxyError, log: &SkopeoLog) -> SourceError {
    match error {
        ProxyError::ProxyTooOld { requested_version, found_version } => SourceError::new(
            ErrorKind::TooOld,
            format!(
                "skopeo speaks proxy protocol {found_version}, {requested_version} is needed: upgrade skopeo"
            ),
        ),
        // An empty answer: its end of the socket is closed.
        ProxyError::SerDe(error) if error.is_eof() => {
            let words = SourceError::from_skopeo(&log.last_words().await).to_string();
            let words = if words.is_empty() { words } else { format!(": {words}") };
            SourceError::new(ErrorKind::Transient, format!("skopeo died{words}"))
        }
        error => {
            let mut text = error.to_string();
            if text.contains("unexpectedly exited") {
                text = format!("{text} {}", log.last_words().await);
            }
            let text = SourceError::from_skopeo(&text).to_string();
            SourceError::new(ErrorKind::Transient, format!("the conversation with skopeo broke: {text}"))
        }
    }
}

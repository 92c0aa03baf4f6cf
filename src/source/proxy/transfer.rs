//! One blob on its way through skopeo. Knows pipes, verdicts and stalls; ignores what the bytes are.
//!
//! Up to protocol 0.2.7 a blob comes through a pipe that skopeo does *not* close at the end: it closes
//! it, and says whether all went well, when `FinishPipe` is asked, and until then answers nobody else.
//! So a transfer that broke looks like one that is slow. We ask when the last byte is here, and before
//! that only in doubt: when nothing came for [`DOUBT`]. If the answer takes longer than [`PROMPT`] the
//! transfer was merely slow, skopeo is now deaf until it ends, and the process is retired so that
//! nobody else waits for it.
//!
//! From 0.2.8 on the pipe ends by itself, and errors come through a second one; there is nothing to be asked.

use std::{any::Any, io, sync::Arc, time::Duration};

use containers_image_proxy::{Error as ProxyError, oci_spec::image::Digest as OciDigest};
use tokio::{
    io::{AsyncRead, AsyncReadExt, BufReader},
    net::unix::pipe,
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    super::{BlobReader, BoxFuture, ErrorKind, Patience, Result, SourceError},
    pool::Image,
    process::{Fault, Process, Turn},
    start::Start,
};
use crate::types::{Buffer, Descriptor};

/// Silence after which we ask whether the transfer still lives (or half the stall time-out, if that is less).
const DOUBT: Duration = Duration::from_secs(2);

/// How long skopeo may be deaf to others while it answers a `FinishPipe`.
const PROMPT: Duration = Duration::from_secs(1);

/// What must come while we wait for it, in bytes a second: less than a slow modem gives each of a few
/// transfers. Without it a byte now and then would keep a place for ever.
const LEAST_RATE: u128 = 256;

/// What the pipe should hold, in bytes: the most that the kernel gives to everyone. Go
/// writes 32 KiB at a time.
const PIPE_SIZE: usize = 1 << 20;

/// A blob that is being received. Dropping it cancels the transfer.
pub(super) struct Transfer {
    pipe: pipe::Receiver,
    size: u64,
    received: u64,
    start: Start,
    lately: Lately,
    patience: Patience,
    driver: Driver,
    process: Arc<Process>,
}

/// What has come since the clock of the stall time-out began to run. It runs only while we wait for bytes:
/// pauses of ours are no stall.
#[derive(Default)]
struct Lately {
    waited: Duration,
    came: u64,
}

/// What skopeo says of a transfer.
enum Verdict {
    Good,
    Bad(SourceError),
    /// Nobody can ask any more. The bytes have to speak for themselves: whoever reads them hashes them.
    Unknown,
}

/// Our end of the task that holds the client's futures, which borrow the client.
struct Driver {
    /// Asks for the verdict when sent, or tells of a cancellation when dropped.
    ask: Option<oneshot::Sender<()>>,
    verdict: oneshot::Receiver<Verdict>,
}

impl Driver {
    fn ask(&mut self) {
        if let Some(ask) = self.ask.take() {
            let _ = ask.send(());
        }
    }

    /// The verdict, once; after that `Unknown`.
    async fn verdict(&mut self) -> Verdict {
        if self.verdict.is_terminated() {
            return Verdict::Unknown;
        }
        (&mut self.verdict).await.unwrap_or(Verdict::Unknown)
    }
}

impl Transfer {
    /// Asks for a blob and waits until skopeo begins to send it.
    pub(super) async fn begin(image: &Arc<Image>, blob: &Descriptor) -> std::result::Result<Self, Fault> {
        let turn = image.process.turn().await.ok_or(Fault::Retired)?;
        let (began, beginning) = oneshot::channel();
        let (ask, asked) = oneshot::channel();
        let (answer, verdict) = oneshot::channel();
        let driver = Drive { image: image.clone(), blob: blob.clone(), began, asked, answer };
        tokio::spawn(driver.run(turn));
        let cut_short = |_| SourceError::local("the transfer was cut short: the program is ending");
        let pipe = beginning.await.map_err(cut_short)??;
        Ok(Self {
            pipe,
            size: blob.size,
            received: 0,
            start: Start::of(&blob.media_type),
            lately: Lately::default(),
            patience: image.patience,
            driver: Driver { ask: Some(ask), verdict },
            process: image.process.clone(),
        })
    }

    /// Fills `out` as far as the blob goes.
    pub(super) async fn fill(&mut self, out: &mut [u8]) -> Result<usize> {
        let wanted = (self.size - self.received).min(out.len() as u64) as usize;
        let mut filled = 0;
        while filled < wanted {
            let count = self.some(&mut out[filled..wanted]).await?;
            if count == 0 {
                return Err(self.early_end().await);
            }
            filled += count;
        }
        Ok(filled)
    }

    /// The next bytes, at least one; 0 at the end of the pipe.
    async fn some(&mut self, out: &mut [u8]) -> Result<usize> {
        let begun = Instant::now();
        let count = self.some_in_time(out).await?;
        self.lately.waited += begun.elapsed();
        self.lately.came += count as u64;
        if self.received == 0 || self.lately.came >= self.least() {
            self.lately = Lately::default();
        }
        self.start.add(&out[..count]);
        self.received += count as u64;
        Ok(count)
    }

    async fn some_in_time(&mut self, out: &mut [u8]) -> Result<usize> {
        let limit = self.limit().saturating_sub(self.lately.waited);
        let doubt = DOUBT.min(self.limit() / 2).min(limit);
        if let Ok(read) = timeout(doubt, self.pipe.read(out)).await {
            return read.map_err(pipe_error);
        }
        self.driver.ask();
        match timeout(limit - doubt, self.some_in_doubt(out)).await {
            Ok(read) => read,
            Err(_) => Err(self.stalled()),
        }
    }

    /// How many bytes must come within the stall time-out.
    fn least(&self) -> u64 {
        u64::try_from(self.patience.stall.as_millis() * LEAST_RATE / 1000).unwrap_or(u64::MAX)
    }

    /// How long nothing may come, or too little: a registry may take its time before the first byte.
    fn limit(&self) -> Duration {
        if self.received == 0 { self.patience.answer() } else { self.patience.stall }
    }

    async fn some_in_doubt(&mut self, out: &mut [u8]) -> Result<usize> {
        tokio::select! {
            biased;
            read = self.pipe.read(out) => return read.map_err(pipe_error),
            verdict = self.driver.verdict() => if let Verdict::Bad(error) = verdict {
                return Err(self.ended(error));
            }
        }
        // All is sent, the rest is in the pipe.
        self.pipe.read(out).await.map_err(pipe_error)
    }

    /// After the last byte: nothing may follow, and skopeo should be content. If it does not say so in
    /// time, because it waits for another blob's registry, say, the bytes have to speak for
    /// themselves: all of them are here.
    pub(super) async fn finish(mut self) -> Result<()> {
        let limit = self.patience.stall;
        timeout(limit, self.finish_unbounded()).await.unwrap_or(Ok(()))
    }

    async fn finish_unbounded(&mut self) -> Result<()> {
        // `FinishPipe` waits until all is read: a blob that goes on would block it for
        // ever, so we keep reading.
        self.driver.ask();
        let mut one = [0];
        let verdict = tokio::select! {
            biased;
            read = self.pipe.read(&mut one) => match read.map_err(pipe_error)? {
                0 => self.driver.verdict().await,
                _ => return Err(self.too_long()),
            },
            verdict = self.driver.verdict() => verdict,
        };
        if let Verdict::Bad(error) = verdict {
            return Err(self.start.explain(error));
        }
        // Without `FinishPipe` the verdict can overtake the bytes. Read past tokio, which
        // may not know of them yet.
        match rustix::io::read(&self.pipe, &mut one) {
            Ok(1) => Err(self.too_long()),
            _ => Ok(()),
        }
    }

    /// Why the pipe ended before the blob.
    async fn early_end(&mut self) -> SourceError {
        self.driver.ask();
        match timeout(self.patience.stall, self.driver.verdict()).await {
            Err(_) => self.stalled(),
            Ok(Verdict::Bad(error)) => self.ended(error),
            // A pipe without `FinishPipe` ends, without a word, when its writer is killed as well.
            Ok(_) if self.process.exits_within(PROMPT / 4).await => {
                self.process.retire();
                SourceError::new(
                    ErrorKind::Transient,
                    format!("skopeo died after {} of {} bytes", self.received, self.size),
                )
            }
            Ok(_) => self.start.explain(SourceError::new(
                ErrorKind::Transient,
                format!("the blob ends after {} of {} bytes", self.received, self.size),
            )),
        }
    }

    /// An error with what came before it. By now skopeo sends no more, and what it sent was read.
    fn ended(&self, error: SourceError) -> SourceError {
        let error =
            error.within(format_args!("the blob ends after {} of {} bytes", self.received, self.size));
        self.start.explain(error)
    }

    fn too_long(&self) -> SourceError {
        self.start.explain(SourceError::corrupt(format!(
            "the blob goes on after the {} bytes that its descriptor says",
            self.size
        )))
    }

    fn stalled(&self) -> SourceError {
        let (before, size, limit) = (self.received - self.lately.came, self.size, self.limit());
        let what = match self.lately.came {
            0 => "nothing".to_owned(),
            came => format!("only {came} bytes"),
        };
        SourceError::new(
            ErrorKind::Stalled,
            format!("{what} came for {limit:?} after {before} of {size} bytes"),
        )
    }
}

/// The other end of a [`Driver`]: a task, because the client's futures borrow the client, and because a
/// transfer that is cancelled has to be ended all the same.
struct Drive {
    image: Arc<Image>,
    blob: Descriptor,
    began: oneshot::Sender<Result<pipe::Receiver>>,
    asked: oneshot::Receiver<()>,
    answer: oneshot::Sender<Verdict>,
}

impl Drive {
    async fn run(self, turn: Turn) {
        let _use = self.image.process.in_use();
        // The digest was one of ours, so this cannot fail; if it does, skopeo says so.
        let digest: std::result::Result<OciDigest, _> = self.blob.digest.to_string().parse();
        match digest {
            Err(error) => drop(self.began.send(Err(SourceError::corrupt(error.to_string())))),
            Ok(digest) if self.image.process.version() >= (0, 2, 8) => self.raw(turn, digest).await,
            Ok(digest) => self.verified(turn, digest).await,
        }
    }

    /// `GetRawBlob`: from protocol 0.2.8.
    async fn raw(self, turn: Turn, digest: OciDigest) {
        let Self { image, blob, began, asked, mut answer } = self;
        let process = &image.process;
        let opening = process.proxy().get_raw_blob(&image.id, &digest);
        let opened = process.exchange("GetRawBlob", image.patience.answer(), opening).await;
        drop(turn);
        let opened = opened.and_then(|(size, file, driver)| match size {
            Some(size) if size != blob.size => Err(other_size(size, blob.size)),
            _ => Ok((into_pipe(&file)?, driver)),
        });
        let Some(driver) = announce(began, opened) else { return };
        if asked.await.is_err() {
            return;
        }
        let finished = tokio::select! {
            finished = driver => finished,
            () = answer.closed() => return,
        };
        let _ = answer.send(match finished {
            Ok(()) => Verdict::Good,
            Err(error) => Verdict::Bad(process.failure(ProxyError::BlobError(error)).await),
        });
    }

    /// `GetBlob`, which ends with a `FinishPipe`.
    async fn verified(self, turn: Turn, digest: OciDigest) {
        let Self { image, blob, began, asked, mut answer } = self;
        let process = &image.process;
        let opening = process.proxy().get_blob(&image.id, &digest, blob.size);
        let opened = process.exchange("GetBlob", image.patience.answer(), opening).await;
        drop(turn);
        let opened = opened.and_then(|(reader, driver)| Ok((pipe_behind(&reader)?, driver)));
        let Some(driver) = announce(began, opened) else { return };
        // Cancelled or not, the pipe has to be finished: by now skopeo writes in vain if it was cancelled.
        let _ = asked.await;
        let Some(_turn) = process.turn().await else {
            let _ = answer.send(Verdict::Unknown);
            return;
        };
        let mut finishing = std::pin::pin!(process.asked(driver));
        let finished = match timeout(PROMPT, &mut finishing).await {
            Ok(finished) => finished,
            Err(_) => {
                process.retire();
                tokio::select! {
                    finished = &mut finishing => finished,
                    () = answer.closed() => return,
                }
            }
        };
        let _ = answer.send(finished.map_or_else(Verdict::Bad, |()| Verdict::Good));
    }
}

/// Hands the pipe to whoever waits for it and keeps the rest; `None` if there is none. If nobody waits any
/// more, the pipe is dropped here.
fn announce<T>(
    began: oneshot::Sender<Result<pipe::Receiver>>,
    opened: Result<(pipe::Receiver, T)>,
) -> Option<T> {
    match opened {
        Ok((pipe, rest)) => {
            let _ = began.send(Ok(pipe));
            Some(rest)
        }
        Err(error) => {
            let _ = began.send(Err(error));
            None
        }
    }
}

/// The pipe behind the client's reader.
///
/// The reader moves 8 KiB at a time, each through a thread; the pipe itself can be polled, and read straight
/// into the caller's buffer. The type is opaque, hence the look behind it; it has no data buffered yet.
fn pipe_behind<R: AsyncRead + 'static>(reader: &R) -> Result<pipe::Receiver> {
    let reader = (reader as &dyn Any).downcast_ref::<BufReader<tokio::fs::File>>();
    let reader =
        reader.ok_or_else(|| SourceError::new(ErrorKind::Other, "containers-image-proxy hides its pipe"))?;
    into_pipe(reader.get_ref())
}

fn into_pipe(file: &tokio::fs::File) -> Result<pipe::Receiver> {
    let pipe = rustix::io::fcntl_dupfd_cloexec(file, 0).map_err(|error| pipe_error(error.into()))?;
    // More than 64 KiB is a favour that the kernel may refuse.
    let _ = rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_SIZE);
    pipe::Receiver::from_owned_fd(pipe).map_err(pipe_error)
}

fn other_size(found: u64, claimed: u64) -> SourceError {
    SourceError::corrupt(format!("the blob has {found} bytes, its descriptor says {claimed}"))
}

fn pipe_error(error: io::Error) -> SourceError {
    SourceError::local(format!("reading from skopeo failed: {error}"))
}

impl BlobReader for Transfer {
    fn read(&mut self, mut buffer: Buffer) -> BoxFuture<'_, Result<(Buffer, usize)>> {
        Box::pin(async move {
            let filled = self.fill(buffer.bytes_mut()).await?;
            Ok((buffer, filled))
        })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin((*self).finish())
    }
}

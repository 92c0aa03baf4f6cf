//! Where a repository is, whether it can be used, and making a new one as `cfsctl init` does. Knows
//! `meta.json` and fs-verity; ignores what repositories hold.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use composefs::{
    erofs::format::{FormatConfig, FormatEpoch, FormatVersion},
    fsverity::{
        Algorithm, EnableVerityError, FsVerityHashValue, Sha256HashValue, Sha512HashValue,
        enable_verity_with_retry, measure_verity_opt,
    },
    repository::{
        FeatureCheck, REPO_FORMAT_VERSION, REPO_METADATA_FILENAME, RepoMetadata, Repository,
        RepositoryConfig, system_path, user_path,
    },
};
use rustix::{
    fs::{self, Access, AtFlags, CWD, FlockOperation, Mode, OFlags, StatVfsMountFlags},
    io::Errno,
};

use super::{
    AnyStore, Holder, Store, StoreError, beneath, calls,
    error::errno_in,
    holders::holders,
    seal::{is_unsupported, reopen_read_only},
};
use crate::with_store;

/// The path that `--repo`, `--user` or `--system` mean; without any, the system's repository for root and the
/// user's for everyone else, as in `cfsctl` (its `resolve_repo_path`).
pub fn locate(repo: Option<&Path>, user: bool, system: bool) -> Result<PathBuf, StoreError> {
    let for_user = || {
        user_path().ok().filter(|path| path.is_absolute()).ok_or_else(|| {
            StoreError::Refused("$HOME is not set: name the repository with --repo PATH".into())
        })
    };
    match repo {
        Some(path) => Ok(path.to_owned()),
        None if system => Ok(system_path()),
        None if user => for_user(),
        None if rustix::process::getuid().is_root() => Ok(system_path()),
        None => for_user(),
    }
}

/// How to make a repository; what is `None` was not asked for by the user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitOptions {
    /// Digest algorithm of objects; SHA-512 unless asked otherwise.
    pub algorithm: Option<Algorithm>,
    /// Which filesystem images every container image gets; V1 unless asked otherwise.
    pub formats: Option<FormatConfig>,
    /// Go without fs-verity.
    pub insecure: bool,
    /// Refuse an existing repository that goes without fs-verity.
    pub require_verity: bool,
}

impl InitOptions {
    /// The algorithm of a new repository.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm.unwrap_or(Algorithm::SHA512)
    }

    /// The formats of a new repository.
    pub fn formats(&self) -> FormatConfig {
        self.formats.clone().unwrap_or_default()
    }
}

/// Reads `fsverity-sha512-12`, `sha512`, `fsverity-sha256-12` or `sha256`.
pub fn parse_algorithm(text: &str) -> Result<Algorithm, String> {
    match text {
        "sha256" => Ok(Algorithm::SHA256),
        "sha512" => Ok(Algorithm::SHA512),
        other => other.parse().map_err(|_| format!("{other:?} is no digest algorithm: use sha512 or sha256")),
    }
}

/// Reads `0`, `1`, `2`, or a list like `1,2`: the first is the default, the others are made as well.
pub fn parse_formats(text: &str) -> Result<FormatConfig, String> {
    let version = |text: &str| match text.trim() {
        "0" => Ok(FormatVersion::V0),
        "1" => Ok(FormatVersion::V1),
        "2" => Ok(FormatVersion::V2),
        other => Err(format!("{other:?} is no erofs format: use 0, 1 or 2, or a list like 1,2")),
    };
    let mut versions = text.split(',').map(version);
    let default = versions.next().unwrap_or_else(|| version(""))?;
    let extra = versions.collect::<Result<_, _>>()?;
    let formats = FormatConfig { default, extra };
    // Upstream keeps one reference for 0 and 1 together, so one of the two images would
    // be lost at the next gc.
    let epoch1 = formats.versions().filter(|version| version.epoch() == FormatEpoch::Epoch1).count();
    if epoch1 > 1 {
        return Err("formats 0 and 1 exclude each other: choose one of them".into());
    }
    Ok(formats)
}

/// What an existing repository says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Digest algorithm of objects.
    pub algorithm: Algorithm,
    /// The filesystem images that it wants for every container image.
    pub formats: FormatConfig,
    /// Whether it goes without fs-verity, told by `meta.json` itself having none.
    pub insecure: bool,
    /// Features that we do not know and that forbid us to write.
    pub unknown_features: Vec<String>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A repository that we understand.
    Existing(Meta),
    /// Nothing yet; [`init`] would succeed.
    ToCreate,
}

/// Looks at `path` without changing anything, and refuses what could not be used or created later.
///
/// # Errors
/// A repository of an unknown kind, or one that differs from what `options` ask for; a place where none can
/// be made: not writable, not empty, or without fs-verity unless `options.insecure`.
pub fn probe(path: &Path, options: &InitOptions) -> Result<Target, StoreError> {
    match open_dir(path) {
        Ok(dir) => match read_meta(&dir, path)? {
            Some(meta) => {
                refuse_difference(path, &meta, options)?;
                Ok(Target::Existing(meta))
            }
            None => {
                refuse_contents(&dir, path)?;
                refuse_unusable(&dir, path, options)?;
                Ok(Target::ToCreate)
            }
        },
        Err(Errno::NOENT) if fs::lstat(path).is_ok() => {
            Err(refused(path, "a dangling symlink: remove it or choose another place"))
        }
        Err(Errno::NOENT) => {
            refuse_unusable(&nearest_dir(path)?, path, options)?;
            Ok(Target::ToCreate)
        }
        Err(Errno::NOTDIR) => Err(refused(path, "not a directory: choose another place")),
        Err(errno) => Err(StoreError::errno(path, "opening it", errno)),
    }
}

/// Opens the repository at `path`; waits while a garbage collection runs in it.
///
/// # Errors
/// As [`probe`], and if there is none.
pub fn open(path: &Path) -> Result<AnyStore, StoreError> {
    match probe_existing(path)?.algorithm {
        Algorithm::Sha256 { .. } => Ok(AnyStore::Sha256(open_typed::<Sha256HashValue>(path)?)),
        Algorithm::Sha512 { .. } => Ok(AnyStore::Sha512(open_typed::<Sha512HashValue>(path)?)),
    }
}

/// Who has the repository for themselves now (a garbage collection), so that [`open`] would wait; `None` if
/// nobody has. Empty if it cannot be told who.
pub fn locked_by(path: &Path) -> Option<Vec<Holder>> {
    // A descriptor of our own: closing it releases this lock alone.
    let dir = open_dir(path).ok()?;
    match calls::flock(&dir, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => Some(holders(dir.as_fd())),
        _ => None,
    }
}

/// Makes a repository as `cfsctl init` does, or opens the one that is there if it has this configuration; the
/// flag says whether it was made. A failure leaves nothing behind.
///
/// # Errors
/// As [`probe`]; an existing repository that differs from `options` (what is not set counts as the default).
pub fn init(path: &Path, options: &InitOptions) -> Result<(AnyStore, bool), StoreError> {
    let options = InitOptions {
        algorithm: Some(options.algorithm()),
        formats: Some(options.formats()),
        ..options.clone()
    };
    let existing = || {
        let store = open(path)?;
        // What was looked at may have been replaced since.
        if options.require_verity {
            store.require_verity()?;
        }
        Ok((store, false))
    };
    if let Target::Existing(_) = probe(path, &options)? {
        return existing();
    }
    let missing = missing_dirs(path);
    let result = create(path, &missing, &options).and_then(|made| {
        let suitable =
            made.as_ref().map_or(Ok(()), |store| with_store!(store, store => store.require_suitable()));
        suitable.map(|()| made).inspect_err(|_| drop(std::fs::remove_file(path.join(REPO_METADATA_FILENAME))))
    });
    if result.is_err() {
        for dir in missing {
            // Only what is still empty goes.
            let _ = std::fs::remove_dir(dir);
        }
    }
    match result? {
        Some(store) => Ok((store, true)),
        None => {
            probe(path, &options)?;
            existing()
        }
    }
}

/// Makes a repository where there was none; `None` if somebody else has made one meanwhile.
pub(super) fn create(
    path: &Path,
    missing: &[PathBuf],
    options: &InitOptions,
) -> Result<Option<AnyStore>, StoreError> {
    // The first one is the repository itself, which upstream makes.
    for dir in missing.iter().skip(1).rev() {
        match fs::mkdir(dir, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => {
                return Err(StoreError::errno(path, format!("creating {}", dir.display()), errno));
            }
        }
    }
    Ok(match options.algorithm() {
        Algorithm::Sha256 { .. } => create_typed(path, options)?.map(AnyStore::Sha256),
        Algorithm::Sha512 { .. } => create_typed(path, options)?.map(AnyStore::Sha512),
    })
}

fn create_typed<H: FsVerityHashValue>(
    path: &Path,
    options: &InitOptions,
) -> Result<Option<std::sync::Arc<Store<H>>>, StoreError> {
    // Upstream drops the copy that it makes when a fork holds meta.json open for writing, and
    // links the file without fs-verity: an insecure repository that was meant to be secure. Seen
    // only as a race, so try again.
    for _ in 0..3 {
        let mut config = RepositoryConfig::new(options.algorithm());
        config.erofs_formats = options.formats();
        let config = if options.insecure { config.set_insecure() } else { config };
        // What an interrupted attempt has made, the next one takes as it is.
        let mut attempts = 0;
        let made = calls::until_it_ends(|| {
            attempts += 1;
            Repository::<H>::init_path(CWD, path, config.clone())
        });
        let (repo, made) = made.map_err(|error| not_created(path, &error))?;
        if !made && attempts == 1 {
            return Ok(None);
        }
        if repo.is_insecure() == options.insecure {
            return Ok(Some(Store::new(repo, path)));
        }
        drop(repo);
        let _ = std::fs::remove_file(path.join(REPO_METADATA_FILENAME));
    }
    Err(refused(path, "fs-verity could not be enabled on meta.json: try again"))
}

/// Why no repository was made. Upstream reaches what it writes by `/proc`, and what it
/// makes by its own permissions.
fn not_created(path: &Path, error: &anyhow::Error) -> StoreError {
    let known = match errno_in(error) {
        Some(Errno::NOENT) if !calls::has_proc() => Some(refused(path, NO_PROC)),
        Some(Errno::ACCESS) => denied_by_umask(path),
        _ => None,
    };
    known.unwrap_or_else(|| StoreError::upstream("creating the repository", error))
}

/// Why what was made a moment ago cannot be used: the umask can deny that to its owner.
pub(super) fn denied_by_umask(path: &Path) -> Option<StoreError> {
    let umask = calls::umask().filter(|umask| umask & 0o700 != 0)?;
    let why = format!("the umask ({umask:04o}) denies its owner what is new here: set another (umask 022)");
    Some(refused(path, &why))
}

/// Why nothing can be made without `/proc`.
const NO_PROC: &str =
    "/proc is not mounted, by which a new file gets its name: mount it (mount -t proc proc /proc)";

fn open_typed<H: FsVerityHashValue>(path: &Path) -> Result<std::sync::Arc<Store<H>>, StoreError> {
    let repo = calls::until_it_ends(|| Ok(Repository::<H>::open_path(CWD, path)?))
        .map_err(|error| StoreError::upstream(format!("opening {}", path.display()), &error))?;
    let store = Store::new(repo, path);
    store.require_folders()?;
    Ok(store)
}

fn probe_existing(path: &Path) -> Result<Meta, StoreError> {
    let none =
        || refused(path, "no repository here: make one with `cfs-dag init`, or name another with --repo");
    let dir = match open_dir(path) {
        Ok(dir) => dir,
        Err(Errno::NOENT | Errno::NOTDIR) => return Err(none()),
        Err(errno) => return Err(StoreError::errno(path, "opening it", errno)),
    };
    read_meta(&dir, path)?.ok_or_else(none)
}

/// Reads `meta.json`; `None` if there is none and the folder is no old repository either.
fn read_meta(dir: &OwnedFd, path: &Path) -> Result<Option<Meta>, StoreError> {
    let fault = |errno| StoreError::errno(path, REPO_METADATA_FILENAME, errno);
    let file = match beneath::file(dir.as_fd(), REPO_METADATA_FILENAME) {
        Ok(file) => file,
        Err(beneath::NO_FILE) => return Err(refused(path, "meta.json is no file: choose another place")),
        Err(Errno::NOENT) if fs::statat(dir, "objects", AtFlags::empty()).is_ok() => {
            let shown = path.display();
            return Err(StoreError::Refused(format!(
                "{shown}: a repository of an old format, without meta.json: let cfsctl upgrade it first, for \
                 example by `cfsctl --repo {shown} images`"
            )));
        }
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(fault(errno)),
    };
    let mut text = Vec::new();
    (&file).take(1 << 20).read_to_end(&mut text).map_err(|cause| StoreError::Io {
        what: path.join(REPO_METADATA_FILENAME).display().to_string(),
        cause,
    })?;
    let meta = parse_meta(&text, path)?;
    let unknown_features = match meta.features.check() {
        Ok(FeatureCheck::ReadWrite) => Vec::new(),
        Ok(FeatureCheck::ReadOnly(unknown)) => unknown,
        Err(error) => return Err(refused(path, &format!("{error}: use a newer cfs-dag"))),
    };
    let protected = match meta.algorithm {
        Algorithm::Sha256 { .. } => measure_verity_opt::<Sha256HashValue>(&file).map(|id| id.is_some()),
        Algorithm::Sha512 { .. } => measure_verity_opt::<Sha512HashValue>(&file).map(|id| id.is_some()),
    };
    let protected = protected
        .map_err(|error| refused(path, &format!("fs-verity of meta.json cannot be measured: {error}")))?;
    let formats = meta.format_config();
    Ok(Some(Meta { algorithm: meta.algorithm, formats, insecure: !protected, unknown_features }))
}

/// Parses `meta.json`, looking at the version before anything that a newer version may have changed.
fn parse_meta(text: &[u8], path: &Path) -> Result<RepoMetadata, StoreError> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let broken = |error: serde_json::Error| refused(path, &format!("meta.json cannot be read: {error}"));
    let Version { version } = serde_json::from_slice(text).map_err(broken)?;
    if version > REPO_FORMAT_VERSION {
        return Err(refused(
            path,
            &format!(
                "a repository of format {version}, and we know up to {REPO_FORMAT_VERSION}: use a newer \
                 cfs-dag"
            ),
        ));
    }
    serde_json::from_slice(text).map_err(broken)
}

fn refuse_difference(path: &Path, meta: &Meta, options: &InitOptions) -> Result<(), StoreError> {
    if options.require_verity && meta.insecure {
        return Err(unprotected(path));
    }
    let differs = |has: String, asked: String| {
        refused(path, &format!("has {has}, not {asked}: leave that option out, or choose another place"))
    };
    if let Some(asked) = options.algorithm
        && asked != meta.algorithm
    {
        return Err(differs(meta.algorithm.to_string(), asked.to_string()));
    }
    if let Some(asked) = &options.formats
        && !asked.versions().eq(meta.formats.versions())
    {
        let text = |formats: &FormatConfig| {
            let list: Vec<String> = formats.versions().map(|version| (version as u8).to_string()).collect();
            format!("erofs format {}", list.join(","))
        };
        return Err(differs(text(&meta.formats), text(asked)));
    }
    Ok(())
}

/// Refuses a folder that holds something. A new filesystem's `lost+found` is nothing.
fn refuse_contents(dir: &OwnedFd, path: &Path) -> Result<(), StoreError> {
    let fault = |errno| StoreError::errno(path, "listing it", errno);
    for entry in calls::entries(dir).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        if entry.file_name() != c"lost+found" {
            return Err(refused(path, "neither a repository nor an empty directory: choose another place"));
        }
    }
    Ok(())
}

/// Refuses a place where nothing could be written, or (unless insecure) nothing be protected.
fn refuse_unusable(dir: &OwnedFd, path: &Path, options: &InitOptions) -> Result<(), StoreError> {
    let fault = |errno| StoreError::errno(path, "looking at its place", errno);
    let mount = calls::fstatvfs(dir).map_err(fault)?;
    if mount.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(StoreError::ReadOnly(path.to_owned()));
    }
    match fs::accessat(dir, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty()) {
        Ok(()) => {}
        Err(Errno::ACCESS | Errno::PERM) => {
            return Err(refused(path, "no permission to create a repository here: choose another place"));
        }
        Err(errno) => return Err(fault(errno)),
    }
    if options.insecure {
        return Ok(());
    }
    let works = match options.algorithm() {
        Algorithm::Sha256 { .. } => has_verity::<Sha256HashValue>(dir),
        Algorithm::Sha512 { .. } => has_verity::<Sha512HashValue>(dir),
    };
    match works {
        Ok(true) => Ok(()),
        Ok(false) => Err(refused(
            path,
            "this filesystem has no fs-verity: choose another place, or accept an unprotected repository \
             with \
             --insecure",
        )),
        Err(Errno::NOENT) if !calls::has_proc() => Err(refused(path, NO_PROC)),
        Err(errno) => Err(StoreError::errno(path, "trying fs-verity", errno)),
    }
}

/// Tries fs-verity on an anonymous file in `dir`. Every filesystem with fs-verity has those.
fn has_verity<H: FsVerityHashValue>(dir: &OwnedFd) -> Result<bool, Errno> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mut file = match calls::openat(dir, ".", flags, Mode::from_raw_mode(0o600)) {
        Ok(fd) => File::from(fd),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOSYS | Errno::INVAL) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    file.write_all(&[0; 4096]).map_err(|error| errno_of(&error))?;
    let readable = reopen_read_only(file.as_fd())?;
    drop(file);
    match enable_verity_with_retry::<H>(&readable) {
        Ok(()) => Ok(true),
        Err(error) if is_unsupported(&error) => Ok(false),
        Err(EnableVerityError::Io(error)) => Err(errno_of(&error)),
        // A fork has the file open for writing, so verity itself is supported; the others cannot be.
        Err(_) => Ok(true),
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// The closest folder above `path` that exists.
fn nearest_dir(path: &Path) -> Result<OwnedFd, StoreError> {
    for dir in path.ancestors().skip(1) {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        match calls::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(StoreError::errno(path, dir.display().to_string(), errno)),
        }
    }
    Err(refused(path, "no directory above it exists"))
}

/// The folders down to `path` that do not exist yet, the deepest first: those that are removed if all fails.
/// So what cannot be told is taken to be there.
fn missing_dirs(path: &Path) -> Vec<PathBuf> {
    path.ancestors()
        .take_while(|dir| !dir.as_os_str().is_empty() && matches!(fs::lstat(*dir), Err(Errno::NOENT)))
        .map(Path::to_owned)
        .collect()
}

fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    calls::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

pub(super) fn unprotected(path: &Path) -> StoreError {
    refused(
        path,
        "a repository without fs-verity, where one with it is wanted: choose another place, or make it anew \
         on a filesystem that has it",
    )
}

fn refused(path: &Path, why: &str) -> StoreError {
    StoreError::Refused(format!("{}: {why}", path.display()))
}

//! Upstream as the judge: its own pull, fsck and gc, run in this process. Ignores everything of ours.
//!
//! A repository is opened for one call and closed again: two open ones in a process deadlock in `gc`.

use std::{collections::BTreeSet, fmt, path::Path, path::PathBuf, sync::Arc};

use composefs::{
    erofs::format::{FormatConfig, FormatVersion},
    fsverity::{Algorithm as FsVerity, FsVerityHashValue, Sha256HashValue, Sha512HashValue},
    repository::{GcResult, Repository, RepositoryConfig, read_repo_algorithm},
};
use composefs_oci::{OciImage, PullOptions};
use containers_image_proxy::ImageProxyConfig;
use rustix::fs::CWD;
use tempfile::TempDir;

/// The digest that names a repository's objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// 64 hexadecimal digits; the library's default.
    Sha256,
    /// 128 hexadecimal digits; what `cfsctl init` makes.
    Sha512,
}

/// The EROFS formats that a repository keeps of each image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formats {
    /// What `cfsctl init` makes.
    V1,
    /// The older format.
    V2,
    /// V1 by default, and V2 beside it.
    Both,
}

/// What a repository is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepoKind(pub Algorithm, pub Formats);

/// Every kind of repository.
pub const ALL_KINDS: [RepoKind; 6] = [
    RepoKind(Algorithm::Sha512, Formats::V1),
    RepoKind(Algorithm::Sha512, Formats::V2),
    RepoKind(Algorithm::Sha512, Formats::Both),
    RepoKind(Algorithm::Sha256, Formats::V1),
    RepoKind(Algorithm::Sha256, Formats::V2),
    RepoKind(Algorithm::Sha256, Formats::Both),
];

/// What `cfsctl init --insecure` makes.
pub const DEFAULT_KIND: RepoKind = ALL_KINDS[0];

impl fmt::Display for RepoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.0, self.1)
    }
}

/// Runs `$body` with the repository at `$path` open as `$repo`, whatever its algorithm.
macro_rules! with_repo {
    ($path:expr, $repo:ident => $body:expr) => {
        match algorithm_of($path) {
            Algorithm::Sha256 => {
                let $repo = open::<Sha256HashValue>($path);
                $body
            }
            Algorithm::Sha512 => {
                let $repo = open::<Sha512HashValue>($path);
                $body
            }
        }
    };
}

/// Makes an insecure repository at `path`, as `cfsctl init --insecure` does.
pub fn create(path: &Path, kind: RepoKind) {
    super::repo::fix_umask();
    let RepoKind(algorithm, formats) = kind;
    let config = |algorithm| {
        let mut config = RepositoryConfig::new(algorithm).set_insecure();
        config.erofs_formats = match formats {
            Formats::V1 => FormatConfig::single(FormatVersion::V1),
            Formats::V2 => FormatConfig::single(FormatVersion::V2),
            Formats::Both => FormatConfig { default: FormatVersion::V1, extra: [FormatVersion::V2].into() },
        };
        config
    };
    match algorithm {
        Algorithm::Sha256 => {
            Repository::<Sha256HashValue>::init_path(CWD, path, config(FsVerity::SHA256)).map(drop)
        }
        Algorithm::Sha512 => {
            Repository::<Sha512HashValue>::init_path(CWD, path, config(FsVerity::SHA512)).map(drop)
        }
    }
    .unwrap_or_else(|error| panic!("{error:#}"));
}

/// What a repository says about one image, whoever pulled it. All ids are hexadecimal fs-verity digests.
///
/// The manifest's stream id is left out: upstream writes its references in the order of a `HashMap`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// `sha256:…` of the manifest.
    pub manifest_digest: String,
    /// `sha256:…` of the config.
    pub config_digest: String,
    /// Stream id of the config, with its EROFS references.
    pub config_stream: String,
    /// (`diff_id`, stream id) of each layer, lowest first.
    pub layer_streams: Vec<(String, String)>,
    /// EROFS image id in format V1.
    pub erofs_v1: Option<String>,
    /// EROFS image id in format V2.
    pub erofs_v2: Option<String>,
}

/// A fresh repository with one image in it that upstream pulled.
pub struct Oracle {
    dir: TempDir,
    /// What it stored.
    pub stored: Stored,
}

impl Oracle {
    /// Where the repository is.
    pub fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }
}

/// Upstream's pull of `reference` into a fresh repository of that kind.
///
/// # Panics
/// If upstream refuses the image.
pub fn oracle(reference: &str, kind: RepoKind) -> Oracle {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("repo");
    create(&repo, kind);
    let stored = upstream_pull(&repo, reference, reference)
        .unwrap_or_else(|error| panic!("upstream refuses {reference} ({kind}): {error}"));
    Oracle { dir, stored }
}

/// Upstream's pull of `reference` into the repository at `path`, tagged `name`; or upstream's error.
pub fn upstream_pull(path: &Path, reference: &str, name: &str) -> Result<Stored, String> {
    upstream_pull_as(path, reference, name, plain_http())
}

/// The same with what `access` says about registries.
pub fn upstream_pull_as(
    path: &Path,
    reference: &str,
    name: &str,
    access: ImageProxyConfig,
) -> Result<Stored, String> {
    super::repo::fix_umask();
    with_repo!(path, repo => {
        let options = PullOptions { img_proxy_config: Some(access), ..PullOptions::default() };
        block_on(composefs_oci::pull(&repo, reference, Some(name), options)).map_err(|e| format!("{e:#}"))?;
    });
    Ok(stored(path, name))
}

fn plain_http() -> ImageProxyConfig {
    let mut config = ImageProxyConfig::default();
    config.insecure_skip_tls_verification = Some(true);
    config
}

/// What the repository at `path` says about the image tagged `name`.
pub fn stored(path: &Path, name: &str) -> Stored {
    with_repo!(path, repo => {
        let image = OciImage::open_ref(&repo, name).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let layers: Vec<String> = match image.config() {
            Some(config) => config.rootfs().diff_ids().clone(),
            None => image.layer_descriptors().iter().map(|layer| layer.digest().to_string()).collect(),
        };
        let stream_of = |id: String| {
            let stream = image.layer_verity(&id).unwrap_or_else(|| panic!("{name}: no stream for layer \
                                                                           {id}"));
            let hex = stream.to_hex();
            (id, hex)
        };
        Stored {
            manifest_digest: image.manifest_digest().to_string(),
            config_digest: image.config_digest().to_string(),
            config_stream: image.config_verity().to_hex(),
            layer_streams: layers.into_iter().map(stream_of).collect(),
            erofs_v1: image.image_ref_v1().map(FsVerityHashValue::to_hex),
            erofs_v2: image.image_ref_v2().map(FsVerityHashValue::to_hex),
        }
    })
}

/// What upstream's `fsck` and `oci_fsck` find wrong; nothing, if all is well.
pub fn fsck(path: &Path) -> Vec<String> {
    with_repo!(path, repo => {
        let result = block_on(repo.fsck()).unwrap_or_else(|error| panic!("fsck: {error:#}"));
        let mut findings: Vec<String> = result.errors().iter().map(ToString::to_string).collect();
        let images = block_on(composefs_oci::oci_fsck(&repo))
            .unwrap_or_else(|error| panic!("oci_fsck: {error:#}"));
        findings.extend(images.errors().iter().map(ToString::to_string));
        if findings.is_empty() && !(result.is_ok() && images.is_ok() && result.has_metadata()) {
            findings.push(format!("{result:?} {images:?}"));
        }
        findings
    })
}

/// Asserts that `fsck` and `oci_fsck` find nothing.
pub fn assert_clean(path: &Path) {
    let findings = fsck(path);
    assert!(findings.is_empty(), "{} is not clean:\n{}", path.display(), findings.join("\n"));
}

/// Upstream's garbage collection, and what it removed.
pub fn gc(path: &Path) -> GcResult {
    with_repo!(path, repo => repo.gc(&[]).unwrap_or_else(|error| panic!("gc: {error:#}")))
}

/// Asserts that `gc` finds nothing to remove.
pub fn assert_gc_removes_nothing(path: &Path) {
    let before = objects(path);
    let result = gc(path);
    let lost: Vec<_> = before.difference(&objects(path)).cloned().collect();
    let counts = (result.objects_removed, result.images_pruned, result.streams_pruned);
    assert!(counts == (0, 0, 0) && lost.is_empty(), "gc removed {result:?}: {lost:?}");
}

/// The names of all objects, `xx/rest`.
pub fn objects(path: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let Ok(folders) = std::fs::read_dir(path.join("objects")) else { return names };
    for folder in folders.map(Result::unwrap) {
        for object in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
            names.insert(format!("{}/{}", folder.file_name().display(), object.file_name().display()));
        }
    }
    names
}

/// The algorithm in a repository's `meta.json`.
pub fn algorithm_of(path: &Path) -> Algorithm {
    let folder = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    match read_repo_algorithm(&folder) {
        Ok(Some(FsVerity::Sha256 { .. })) => Algorithm::Sha256,
        Ok(Some(FsVerity::Sha512 { .. })) => Algorithm::Sha512,
        other => panic!("{} is no repository: {other:?}", path.display()),
    }
}

/// The EROFS format that a mount uses: V1 or V2.
pub fn default_format(path: &Path) -> Formats {
    match with_repo!(path, repo => repo.erofs_version()) {
        FormatVersion::V2 => Formats::V2,
        _ => Formats::V1,
    }
}

/// Opens the repository at `path`; close it before the next call here.
pub fn open<Id: FsVerityHashValue>(path: &Path) -> Arc<Repository<Id>> {
    Arc::new(Repository::open_path(CWD, path).unwrap_or_else(|error| panic!("{}: {error:#}", path.display())))
}

/// Runs `future` to its end on a runtime of its own.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(future)
}

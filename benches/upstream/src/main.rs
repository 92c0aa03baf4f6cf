//! `upstream-pull [--algorithm sha512|sha256] --repo PATH IMAGE...`: composefs-oci 0.9.4's pull, one image after another.
//!
//! What `cfsctl init --insecure` and `cfsctl oci pull` do, without their command line and progress bars. The
//! repository is made if it is not there. Registries are spoken to without TLS verification (they are on loopback).

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, bail};
use composefs::{
    fsverity::{Algorithm, FsVerityHashValue, Sha256HashValue, Sha512HashValue},
    repository::{Repository, RepositoryConfig},
};
use composefs_oci::PullOptions;
use containers_image_proxy::ImageProxyConfig;
use rustix::fs::CWD;

struct Order {
    algorithm: Algorithm,
    repo: PathBuf,
    images: Vec<String>,
}

fn main() -> Result<()> {
    let order = parse(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match order.algorithm {
        Algorithm::Sha256 { .. } => runtime.block_on(pull::<Sha256HashValue>(order)),
        Algorithm::Sha512 { .. } => runtime.block_on(pull::<Sha512HashValue>(order)),
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Order> {
    let (mut algorithm, mut repo, mut images) = (Algorithm::SHA512, None, Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--repo" => repo = args.next().map(PathBuf::from),
            "--algorithm" => match args.next().as_deref() {
                Some("sha256") => algorithm = Algorithm::SHA256,
                Some("sha512") => algorithm = Algorithm::SHA512,
                other => bail!("--algorithm is sha256 or sha512, not {other:?}"),
            },
            option if option.starts_with('-') => bail!("no such option: {option}"),
            _ => images.push(arg),
        }
    }
    Ok(Order { algorithm, repo: repo.context("--repo PATH is missing")?, images })
}

async fn pull<Id: FsVerityHashValue>(order: Order) -> Result<()> {
    let config = RepositoryConfig::new(order.algorithm).set_insecure();
    let (repo, _) = Repository::<Id>::init_path(CWD, &order.repo, config)?;
    let repo = Arc::new(repo);
    for image in &order.images {
        let mut proxy = ImageProxyConfig::default();
        proxy.insecure_skip_tls_verification = Some(true);
        let options = PullOptions { img_proxy_config: Some(proxy), ..PullOptions::default() };
        composefs_oci::pull(&repo, image, Some(image), options).await.with_context(|| image.clone())?;
    }
    Ok(())
}

//! The verbs that look after a repository: images, inspect, tag, untag, fsck, gc, mount. Knows how to
//! print what the store says.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{Exit, Problem, RepoArgs, print};
use crate::{
    render::words,
    store::{GcMode, Holder, ImageRow, RowDetails, name_holders},
    with_store,
};

#[derive(Debug, Args)]
pub(super) struct ImagesArgs {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The image's name, or the digest of its manifest
    name: String,
    /// As JSON: manifest, config, referrers, filesystem
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TagArgs {
    /// The image's name, or the digest of its manifest
    image: String,
    /// The further name
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct UntagArgs {
    /// The name to remove
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct FsckArgs {}

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Print what would be removed, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct MountArgs {
    /// The image's name, or the digest of its manifest
    name: String,
    /// Where to mount it
    #[arg(value_hint = ValueHint::DirPath)]
    dir: PathBuf,
}

pub(super) fn images(args: &ImagesArgs, repo: &RepoArgs) -> Result<Exit, Problem> {
    let rows = with_store!(repo.open()?, store => store.list_images())?;
    if args.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&rows)?))?;
        return Ok(Exit::Done);
    }
    let mut table = vec![["NAME", "MANIFEST", "PLATFORM", "LAYERS", "SIZE"].map(str::to_owned)];
    table.extend(rows.iter().map(row));
    for line in words::columns(&table, &[3, 4]) {
        print(&format!("{line}\n"))?;
    }
    Ok(Exit::Done)
}

fn row(image: &ImageRow) -> [String; 5] {
    let name = words::printable(&image.name).into_owned();
    let digest = format!("sha256:{}", image.manifest_digest.short());
    match &image.details {
        RowDetails::Read(details) => {
            let platform = match details.is_container {
                true => format!("{}/{}", details.os, details.architecture),
                false => "artifact".to_owned(),
            };
            let size = words::size(details.stored_bytes);
            [name, digest, words::printable(&platform).into_owned(), details.layer_count.to_string(), size]
        }
        RowDetails::Unreadable { error } => {
            [name, digest, format!("unreadable: {}", words::printable(error)), "-".into(), "-".into()]
        }
    }
}

pub(super) fn inspect(args: &InspectArgs, repo: &RepoArgs) -> Result<Exit, Problem> {
    let store = repo.open()?;
    if args.json {
        let value = with_store!(&store, store => store.inspect(&args.name))?;
        print(&format!("{}\n", serde_json::to_string_pretty(&value)?))?;
        return Ok(Exit::Done);
    }
    let (digest, rows) = with_store!(&store, store => {
        let digest = store.resolve(&args.name)?;
        (digest, store.list_images()?)
    });
    let details = with_store!(&store, store => store.details(&digest))?;
    let names: Vec<&str> =
        rows.iter().filter(|row| row.manifest_digest == digest).map(|row| row.name.as_str()).collect();
    let mut lines = vec![
        ["names".to_owned(), names.join(", ")],
        ["manifest".to_owned(), digest.to_string()],
        ["config".to_owned(), details.config_digest.clone()],
    ];
    if details.is_container {
        lines.push(["platform".to_owned(), format!("{}/{}", details.os, details.architecture)]);
    } else {
        lines.push(["kind".to_owned(), "artifact".to_owned()]);
    }
    lines.extend(details.created.iter().map(|created| ["created".to_owned(), created.clone()]));
    for image in &details.fs_images {
        lines.push(["erofs".to_owned(), format!("v{} {}", image.format, image.id)]);
    }
    let stored = words::size(details.stored_bytes);
    let transferred = words::size(details.compressed_bytes);
    let layers = format!("{}: {transferred} as transferred, {stored} unpacked", details.layer_count);
    lines.push(["layers".to_owned(), layers]);
    for [title, value] in lines {
        print(&format!("{title:<9} {}\n", words::printable(&value)))?;
    }
    Ok(Exit::Done)
}

pub(super) fn tag(args: &TagArgs, repo: &RepoArgs) -> Result<Exit, Problem> {
    let digest = with_store!(repo.open()?, store => store.tag(&args.image, &args.name))?;
    print(&format!("{}: {digest}\n", words::printable(&args.name)))?;
    Ok(Exit::Done)
}

pub(super) fn untag(args: &UntagArgs, repo: &RepoArgs) -> Result<Exit, Problem> {
    with_store!(repo.open()?, store => store.untag(&args.name))?;
    Ok(Exit::Done)
}

pub(super) fn fsck(_: &FsckArgs, repo: &RepoArgs) -> Result<Exit, Problem> {
    let result = with_store!(repo.open()?, store => store.fsck())?;
    let lines = result.lines().into_iter().map(|line| format!("{}\n", words::printable(&line)));
    print(&lines.collect::<String>())?;
    Ok(if result.is_ok() { Exit::Done } else { Exit::Failed })
}

pub(super) fn gc(args: &GcArgs, repo: &RepoArgs) -> Result<Exit, Problem> {
    let mode = if args.dry_run { GcMode::DryRun } else { GcMode::Remove };
    let waiting = |users: &[Holder]| match users {
        [] => super::say(format_args!("cfs-dag: the repository is in use: waiting for the others to end")),
        users => super::say(format_args!(
            "cfs-dag: the repository is in use by {}: waiting for them to end",
            name_holders(users)
        )),
    };
    let result = with_store!(repo.open()?, store => store.gc(mode, waiting))?;
    let verb = if args.dry_run { "would remove" } else { "removed" };
    // Links are not counted: upstream's dry run does not know which ones go.
    print(&format!(
        "{verb} {} ({}) and what links to them\n",
        words::count(result.objects_removed as usize, "object", "objects"),
        words::size(result.objects_bytes),
    ))?;
    Ok(Exit::Done)
}

pub(super) fn mount(args: &MountArgs, repo: &RepoArgs) -> Result<Exit, Problem> {
    with_store!(repo.open()?, store => store.mount_at(&args.name, &args.dir))?;
    Ok(Exit::Done)
}

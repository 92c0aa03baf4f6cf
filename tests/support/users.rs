//! Running programs as an ordinary user, and what came of it: modes and owners. Knows ids and
//! permissions; ignores what is run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
};

use rustix::process::geteuid;

use super::repo::Invocation;

/// Nobody in particular; without rights of any kind.
pub const USER: u32 = 65534;

/// The program, run by an ordinary user: by whoever we are, unless that is root.
pub fn as_user(program: Invocation) -> Invocation {
    match geteuid().is_root() {
        true => program.changed(|command| {
            command.uid(USER).gid(USER);
        }),
        false => program,
    }
}

/// Makes a folder the user's, if we are somebody else.
pub fn give_away(folder: &Path) {
    if geteuid().is_root() {
        chown(folder, Some(USER), Some(USER)).unwrap();
    }
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Which modes and owners each kind of thing has: upstream's manifests have ids of their
/// own, so objects go by kind.
///
/// `tightened`: without the right of group and others to write objects and their folders. Where the umask
/// leaves it, upstream gives it to those objects that it writes in one piece, and never to the others; we
/// give it to none, since an object's bytes are never to change.
pub fn kinds(repo: &Path, tightened: bool) -> BTreeMap<String, BTreeSet<(String, u32, u32)>> {
    let mut found: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    let mut folders = vec![repo.to_owned()];
    let mut note = |kind: String, path: &Path| {
        let m = path.symlink_metadata().unwrap();
        let mode = if tightened && kind.starts_with("objects/") { m.mode() & !0o022 } else { m.mode() };
        found.entry(kind).or_default().insert((format!("{mode:06o}"), m.uid(), m.gid()));
    };
    note(".".to_owned(), repo);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let below = path.strip_prefix(repo).unwrap().to_str().unwrap();
            if below == "cfs-dag" {
                continue;
            }
            let kind = match (below.split_once('/'), below.matches('/').count()) {
                (Some(("objects", _)), 1) => "objects/xx",
                (Some(("objects", _)), _) => "objects/xx/object",
                _ => below,
            };
            note(kind.to_owned(), &path);
            if path.symlink_metadata().unwrap().is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

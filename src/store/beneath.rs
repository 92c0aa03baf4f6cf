//! Paths in a repository, and never out of it. Knows openat2; ignores what the paths are for.
//!
//! Whoever may write in a repository may put a link there that leads elsewhere, also while we run. So every
//! path from the root is walked by the kernel without following any link (`RESOLVE_BENEATH`,
//! `RESOLVE_NO_SYMLINKS`), and what is done, is done to a name in the folder that was found. Nor is a pipe or
//! device ever waited for. Before upstream's functions, which walk paths by themselves, [`way_out`] looks at
//! all that they may come to.

use std::{
    ffi::{CStr, CString},
    fs::File,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::{Errno, Result, retry_on_intr},
    path::Arg,
};

use super::calls;

/// What [`file`] finds where there is no regular file.
pub(super) const NO_FILE: Errno = Errno::NXIO;

/// Opens what has this path below `root`, which holds no link; [`Errno::LOOP`] if it does.
fn open<P: Arg>(root: BorrowedFd<'_>, path: P, flags: OFlags) -> Result<OwnedFd> {
    open_as(root, path, flags, ResolveFlags::empty())
}

fn open_as<P: Arg>(root: BorrowedFd<'_>, path: P, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd> {
    let resolve = how | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    path.into_with_c_str(|path| {
        retry_on_intr(|| fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
    })
}

/// Opens a folder for reading.
pub(super) fn dir<P: Arg>(root: BorrowedFd<'_>, path: P) -> Result<OwnedFd> {
    open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens a folder as a place alone.
pub(super) fn place<P: Arg>(root: BorrowedFd<'_>, path: P) -> Result<OwnedFd> {
    open(root, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// The first folder on the way to `folder` that is another mount than the root.
pub(super) fn other_mount<'f>(root: BorrowedFd<'_>, folder: &'f str) -> Result<Option<&'f str>> {
    let open = |folder| open_as(root, folder, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::NO_XDEV);
    // Usually it is there, and no mount: then one call says it of all folders on the way.
    if open(folder).is_ok() {
        return Ok(None);
    }
    let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
    for way in ends.map(|end| &folder[..end]) {
        match open(way) {
            Err(Errno::XDEV) => return Ok(Some(way)),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(None)
}

/// Opens a regular file for reading; [`NO_FILE`] if it is something else.
pub(super) fn file<P: Arg>(root: BorrowedFd<'_>, path: P) -> Result<File> {
    let fd = open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    let is_file = FileType::from_raw_mode(fs::fstat(&fd)?.st_mode).is_file();
    if is_file { Ok(fd.into()) } else { Err(NO_FILE) }
}

/// Does something to the name at the end of `path`, in the folder that it is in.
fn at<'p, T>(
    root: BorrowedFd<'_>,
    path: &'p str,
    act: impl FnOnce(BorrowedFd<'_>, &'p str) -> Result<T>,
) -> Result<T> {
    match path.rsplit_once('/') {
        None => act(root, path),
        Some((folder, name)) => act(place(root, folder)?.as_fd(), name),
    }
}

/// What has this path, which may be a link itself.
pub(super) fn stat(root: BorrowedFd<'_>, path: &str) -> Result<Stat> {
    at(root, path, |folder, name| fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW))
}

/// What a link says.
pub(super) fn read_link(root: BorrowedFd<'_>, path: &str) -> Result<CString> {
    at(root, path, |folder, name| fs::readlinkat(folder, name, Vec::new()))
}

/// Makes a link where there is nothing.
pub(super) fn make_link(root: BorrowedFd<'_>, path: &str, target: &str) -> Result<()> {
    at(root, path, |folder, name| fs::symlinkat(target, folder, name))
}

/// Makes a folder (0755, less the umask) unless something is there: whether it had to.
pub(super) fn make_dir(root: BorrowedFd<'_>, path: &str) -> Result<bool> {
    match at(root, path, |folder, name| fs::mkdirat(folder, name, Mode::from_raw_mode(0o755))) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes a name away.
pub(super) fn unlink(root: BorrowedFd<'_>, path: &str) -> Result<()> {
    at(root, path, |folder, name| fs::unlinkat(folder, name, AtFlags::empty()))
}

/// Takes an empty folder away.
pub(super) fn remove_dir(root: BorrowedFd<'_>, path: &str) -> Result<()> {
    at(root, path, |folder, name| fs::unlinkat(folder, name, AtFlags::REMOVEDIR))
}

/// Moves `from` in the folder `scratch` to `path`, in the place of what is there.
pub(super) fn replace(scratch: BorrowedFd<'_>, from: &str, root: BorrowedFd<'_>, path: &str) -> Result<()> {
    at(root, path, |folder, name| fs::renameat(scratch, from, folder, name))
}

/// Gives `from` in the folder `scratch` the name `path` too, where there is nothing.
pub(super) fn link(scratch: BorrowedFd<'_>, from: &str, root: BorrowedFd<'_>, path: &str) -> Result<()> {
    at(root, path, |folder, name| fs::linkat(scratch, from, folder, name, AtFlags::empty()))
}

/// The names in a folder, without `.` and `..`; none if there is no such folder.
pub(super) fn names(root: BorrowedFd<'_>, path: &str) -> Result<Vec<CString>> {
    match dir(root, path) {
        Ok(folder) => names_in(&folder),
        Err(Errno::NOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn names_in(folder: &OwnedFd) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in calls::entries(folder)? {
        let entry = entry?;
        names.push(entry.file_name().to_owned());
    }
    Ok(names)
}

/// Folders that upstream opens by their paths.
const FOLDERS: [&str; 6] =
    ["objects", "streams", "streams/refs", "streams/refs/oci", "images", "images/refs"];

/// The first of `folders` that is there and no folder.
pub(super) fn no_folder<'f>(
    root: BorrowedFd<'_>,
    folders: impl IntoIterator<Item = &'f str>,
) -> Result<Option<&'f str>> {
    for folder in folders {
        match stat(root, folder) {
            Ok(found) if !FileType::from_raw_mode(found.st_mode).is_dir() => return Ok(Some(folder)),
            // Behind something that is no folder: that has been or will be told.
            Ok(_) | Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The first of upstream's folders that is there and no folder.
pub(super) fn foreign_folder(root: BorrowedFd<'_>) -> Result<Option<&'static str>> {
    no_folder(root, FOLDERS)
}

/// The path that was looked for, or where looking failed.
type Found = std::result::Result<Option<String>, (String, Errno)>;

fn at_path(path: &str) -> impl Fn(Errno) -> (String, Errno) {
    move |errno| (path.to_owned(), errno)
}

/// The first path, if any, over which upstream's functions would leave the repository: a folder of it that is
/// a link, or a link in `streams/` or `images/` that leads out.
pub(super) fn way_out(root: BorrowedFd<'_>) -> Found {
    if let Some(folder) = foreign_folder(root).map_err(at_path("looking at its folders"))? {
        return Ok(Some(folder.to_owned()));
    }
    for name in names(root, "objects").map_err(at_path("objects"))? {
        let path = format!("objects/{}", name.to_string_lossy());
        if is_link_at(root, &path).map_err(at_path(&path))? {
            return Ok(Some(path));
        }
    }
    for folder in ["streams", "images"] {
        let found = match dir(root, folder) {
            Ok(fd) => link_out(&fd, folder)?,
            Err(Errno::NOENT) => None,
            Err(error) => return Err((folder.to_owned(), error)),
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The first object that is no file: a link, or a pipe, on which upstream's functions would wait for ever.
/// Lists all objects, so it is for those who read them all anyway.
pub(super) fn odd_object(root: BorrowedFd<'_>) -> Found {
    for name in names(root, "objects").map_err(at_path("objects"))? {
        let path = format!("objects/{}", name.to_string_lossy());
        let folder = match dir(root, &*path) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(error) => return Err((path, error)),
        };
        for entry in calls::entries(&folder).map_err(at_path(&path))? {
            let entry = entry.map_err(at_path(&path))?;
            let name = entry.file_name();
            if !kind(&folder, name, entry.file_type()).map_err(at_path(&path))?.is_file() {
                return Ok(Some(format!("{path}/{}", name.to_string_lossy())));
            }
        }
    }
    Ok(None)
}

fn is_link_at(root: BorrowedFd<'_>, path: &str) -> Result<bool> {
    match stat(root, path) {
        Ok(found) => Ok(FileType::from_raw_mode(found.st_mode).is_symlink()),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// How deep folders of references may be; upstream's tags are three deep.
const DEEPEST: usize = 32;

/// A link below `folder` that leads out of the repository.
fn link_out(fd: &OwnedFd, folder: &str) -> Found {
    for entry in calls::entries(fd).map_err(at_path(folder))? {
        let entry = entry.map_err(at_path(folder))?;
        let name = entry.file_name();
        let path = format!("{folder}/{}", name.to_string_lossy());
        if kind(fd, name, entry.file_type()).map_err(at_path(&path))?.is_symlink() {
            match fs::readlinkat(fd, name, Vec::new()) {
                Ok(target) if leads_out(target.to_bytes(), folder) => return Ok(Some(path)),
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err((path, error)),
            }
        } else if let Ok(below) = calls::openat(
            fd,
            name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            if folder.split('/').count() == DEEPEST {
                return Ok(Some(path));
            }
            if let Some(found) = link_out(&below, &path)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// Whether a link's text, read in `folder`, names anything but an object or a stream or image. None of their
/// folders is a link, and what comes after is looked at by itself, so the text says it all.
fn leads_out(target: &[u8], folder: &str) -> bool {
    let mut place: Vec<&[u8]> = folder.split('/').map(str::as_bytes).collect();
    let mut down = target.first() == Some(&b'/');
    for part in target.split(|byte| *byte == b'/') {
        match part {
            // What went down may have gone through a link.
            b".." if down || place.pop().is_none() => return true,
            b".." | b"" | b"." => {}
            name => {
                down = true;
                place.push(name);
            }
        }
    }
    let known = match place[..] {
        [first, _, _] => first == b"objects",
        [first, _] => first == b"streams" || first == b"images",
        _ => false,
    };
    !known || target.first() == Some(&b'/')
}

/// What something is whose kind the listing says: not every filesystem tells it there.
fn kind(folder: &OwnedFd, name: &CStr, listed: FileType) -> Result<FileType> {
    match listed {
        FileType::Unknown => {
            let found = fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(FileType::from_raw_mode(found.st_mode))
        }
        kind => Ok(kind),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (dir, fd)
    }

    #[test]
    fn no_link_is_followed_wherever_it_leads() {
        let (dir_, fd) = root();
        let (path, root) = (dir_.path(), fd.as_fd());
        std::fs::create_dir_all(path.join("in/below")).unwrap();
        std::fs::write(path.join("in/below/f"), "x").unwrap();
        for (name, target) in [("inside", "in"), ("outside", "/"), ("above", "../..")] {
            symlink(target, path.join(name)).unwrap();
            let behind = format!("{name}/below/f");
            assert_eq!(file(root, &*behind).unwrap_err(), Errno::LOOP);
            assert_eq!(dir(root, name).unwrap_err(), Errno::LOOP);
            assert_eq!(make_dir(root, &format!("{name}/new")).unwrap_err(), Errno::LOOP);
            assert_eq!(make_link(root, &format!("{name}/new"), "x").unwrap_err(), Errno::LOOP);
            assert_eq!(unlink(root, &behind).unwrap_err(), Errno::LOOP);
            assert_eq!(stat(root, &behind).unwrap_err(), Errno::LOOP);
            assert_eq!(read_link(root, &behind).unwrap_err(), Errno::LOOP);
            assert_eq!(names(root, name).unwrap_err(), Errno::LOOP);
            assert!(!make_dir(root, name).unwrap(), "a link has the name");
        }
        assert_eq!(file(root, "../x").unwrap_err(), Errno::XDEV);
        assert!(file(root, "in/below/f").is_ok());
        assert_eq!(file(root, "in/below").unwrap_err(), NO_FILE);
        assert_eq!(names(root, "in").unwrap(), [c"below".to_owned()]);
        assert!(names(root, "nowhere").unwrap().is_empty());
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let (dir, fd) = root();
        rustix::fs::mknodat(&fd, "pipe", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(file(fd.as_fd(), "pipe").unwrap_err(), NO_FILE);
        drop(dir);
    }

    #[test]
    fn a_links_text_says_whether_it_leads_out() {
        let (streams, tags) = ("streams", "streams/refs/oci");
        for (target, folder, out) in [
            ("../objects/ab/cd", streams, false),
            ("../../oci-manifest-x", tags, false),
            ("../../../objects/ab/cd", tags, false),
            ("../hex", "images/refs", false),
            ("gone", streams, false),
            ("../../../../objects/ab/cd", tags, true),
            ("../../x", streams, true),
            ("/etc/passwd", tags, true),
            ("/objects/ab/cd", tags, true),
            ("../objects/../../x", streams, true),
            ("../objects/../x", streams, true),
            ("../foo/link", streams, true),
            ("../cfs-dag/x/y", streams, true),
            ("a/../../../x", tags, true),
            ("../..", tags, true),
        ] {
            assert_eq!(leads_out(target.as_bytes(), folder), out, "{target}");
        }
    }
}

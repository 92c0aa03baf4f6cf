//! A filesystem that lacks what others have: the case of names, links, a rename that replaces nothing. Knows
//! the kernel's protocol of filesystems in user space; all that it is asked it does in a folder.
//!
//! Source: linux/fuse.h, protocol 7.31. Requests are answered one after another by a thread of this process.

use std::{
    collections::HashMap,
    ffi::{CString, OsStr},
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
        },
    },
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// What the filesystem does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lacks {
    /// Names that differ in case are the same name.
    pub case: bool,
    /// No flag of a rename is known.
    pub rename_flags: bool,
    /// Files have one name.
    pub hard_links: bool,
    /// There are no symbolic links.
    pub symlinks: bool,
}

/// A mount that is gone with the value.
pub struct Fuse {
    at: PathBuf,
    serving: Option<JoinHandle<()>>,
}

impl Fuse {
    /// Shows the folder `backing` at the folder `at`; `None` where this process may not do that.
    pub fn new(backing: &Path, at: &Path, lacks: Lacks) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can mount");
            return None;
        }
        let Ok(device) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
            eprintln!("skipped: no /dev/fuse here");
            return None;
        };
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions", device.as_raw_fd());
        mount("lacking", at, "fuse", MountFlags::empty(), &*CString::new(options).unwrap()).unwrap();
        let mut server = Server::new(device, backing, lacks);
        let serving = std::thread::spawn(move || server.serve());
        Some(Self { at: at.to_owned(), serving: Some(serving) })
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
        // It ends when nothing of it is open any more, which nobody waits for in a panic.
        if !std::thread::panicking() {
            let _ = self.serving.take().map(JoinHandle::join);
        }
    }
}

/// The kernel's first node.
const ROOT: u64 = 1;

struct Server {
    device: File,
    lacks: Lacks,
    paths: HashMap<u64, PathBuf>,
    nodes: HashMap<PathBuf, u64>,
    /// By the handle that the kernel has; each with its node.
    files: HashMap<u64, (u64, File)>,
    /// The last number given, to nodes and handles.
    last: u64,
}

/// An answer's bytes, put together in the machine's order.
#[derive(Default)]
struct Answer(Vec<u8>);

impl Answer {
    fn u64s(mut self, values: &[u64]) -> Self {
        values.iter().for_each(|value| self.0.extend(value.to_ne_bytes()));
        self
    }

    fn u32s(mut self, values: &[u32]) -> Self {
        values.iter().for_each(|value| self.0.extend(value.to_ne_bytes()));
        self
    }

    fn u16s(mut self, values: &[u16]) -> Self {
        values.iter().for_each(|value| self.0.extend(value.to_ne_bytes()));
        self
    }

    /// `struct fuse_attr`.
    fn attributes(self, of: &Metadata) -> Self {
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        self.u64s(&[of.ino(), of.size(), of.blocks()])
            .u64s(&[seconds(of.atime()), seconds(of.mtime()), seconds(of.ctime())])
            .u32s(&[0, 0, 0, of.mode(), of.nlink() as u32, of.uid(), of.gid(), 0, 4096, 0])
    }
}

fn u64_at(body: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(body[at..at + 8].try_into().unwrap())
}

fn u32_at(body: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(body[at..at + 4].try_into().unwrap())
}

/// The texts of a request that end with NUL each.
fn texts(body: &[u8]) -> Vec<&OsStr> {
    body.split(|byte| *byte == 0).map(OsStr::from_bytes).collect()
}

fn lacking<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

impl Server {
    fn new(device: File, backing: &Path, lacks: Lacks) -> Self {
        let (paths, nodes) = ([(ROOT, backing.to_owned())].into(), [(backing.to_owned(), ROOT)].into());
        Self { device, lacks, paths, nodes, files: HashMap::new(), last: ROOT }
    }

    fn serve(&mut self) {
        let mut buffer = vec![0; 1 << 20];
        loop {
            let len = match self.device.read(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
                // A request that was taken back.
                Err(_) => continue,
            };
            let (head, body) = buffer[..len].split_at(40);
            let (kind, number, node) = (u32_at(head, 4), u64_at(head, 8), u64_at(head, 16));
            // They want no answer: what the kernel forgets.
            if [2, 42].contains(&kind) {
                continue;
            }
            let (error, answer) = match self.answer(kind, node, body) {
                Ok(answer) => (0, answer.0),
                Err(error) => (-error.raw_os_error().unwrap_or(libc::EIO), Vec::new()),
            };
            let mut bytes =
                Answer::default().u32s(&[16 + answer.len() as u32, error as u32]).u64s(&[number]).0;
            bytes.extend(answer);
            // It fails if the caller was killed.
            let _ = self.device.write(&bytes);
        }
    }

    fn answer(&mut self, kind: u32, node: u64, body: &[u8]) -> io::Result<Answer> {
        let answer = Answer::default();
        match kind {
            // INIT
            26 => Ok(answer
                .u32s(&[7, 31, u32_at(body, 8), 0])
                .u16s(&[16, 12])
                .u32s(&[1 << 17, 1])
                .u16s(&[32, 0])
                .u32s(&[0; 8])),
            // LOOKUP
            1 => {
                let path = self.child(node, texts(body)[0])?;
                self.entry(answer, &path)
            }
            // GETATTR
            3 => Ok(answer.u64s(&[0, 0]).attributes(&self.metadata(node)?)),
            4 => self.set_attributes(node, body),
            // READLINK
            5 => Ok(Answer(fs::read_link(self.path(node)?)?.into_os_string().into_encoded_bytes())),
            // SYMLINK
            6 if self.lacks.symlinks => lacking(libc::EPERM),
            6 => {
                let path = self.child(node, texts(body)[0])?;
                symlink(texts(body)[1], &path)?;
                self.entry(answer, &path)
            }
            // MKDIR
            9 => {
                let path = self.child(node, texts(&body[8..])[0])?;
                fs::create_dir(&path)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(u32_at(body, 0) & 0o7777))?;
                self.entry(answer, &path)
            }
            // UNLINK, RMDIR
            10 | 11 => {
                let path = self.child(node, texts(body)[0])?;
                if kind == 10 {
                    fs::remove_file(&path)?
                } else {
                    fs::remove_dir(&path)?
                }
                self.nodes.remove(&path);
                Ok(answer)
            }
            // RENAME, RENAME2
            12 => self.rename(node, u64_at(body, 0), &texts(&body[8..])).map(|()| answer),
            45 if self.lacks.rename_flags => lacking(libc::ENOSYS),
            45 => {
                self.rename_as(node, u64_at(body, 0), u32_at(body, 8), &texts(&body[16..])).map(|()| answer)
            }
            // LINK
            13 if self.lacks.hard_links => lacking(libc::EPERM),
            13 => {
                let path = self.child(node, texts(&body[8..])[0])?;
                fs::hard_link(self.path(u64_at(body, 0))?, &path)?;
                self.entry(answer, &path)
            }
            // OPEN
            14 => {
                let file = open(&self.path(node)?, u32_at(body, 0), 0)?;
                Ok(self.opened(answer, node, file))
            }
            // CREATE
            35 => {
                let path = self.child(node, texts(&body[16..])[0])?;
                let file = open(&path, u32_at(body, 0) | libc::O_CREAT as u32, u32_at(body, 4))?;
                let answer = self.entry(answer, &path)?;
                let node = self.node(&path);
                Ok(self.opened(answer, node, file))
            }
            // READ
            15 => {
                let mut bytes = vec![0; u32_at(body, 16) as usize];
                let len = self.file(u64_at(body, 0))?.read_at(&mut bytes, u64_at(body, 8))?;
                bytes.truncate(len);
                Ok(Answer(bytes))
            }
            // WRITE
            16 => {
                let bytes = &body[40..40 + u32_at(body, 16) as usize];
                self.file(u64_at(body, 0))?.write_all_at(bytes, u64_at(body, 8))?;
                Ok(answer.u32s(&[bytes.len() as u32, 0]))
            }
            // STATFS: much room, and no count of files, as many have it
            17 => {
                Ok(answer.u64s(&[1 << 30, 1 << 29, 1 << 29, 0, 0]).u32s(&[4096, 255, 4096, 0]).u32s(&[0; 6]))
            }
            // RELEASE
            18 => {
                self.files.remove(&u64_at(body, 0));
                Ok(answer)
            }
            // FSYNC, FLUSH, RELEASEDIR, FSYNCDIR, SYNCFS: whatever was written is with the kernel already
            20 | 25 | 29 | 30 | 50 => Ok(answer),
            // OPENDIR
            27 => Ok(answer.u64s(&[0, 0])),
            28 => self.list(node, u64_at(body, 8), u32_at(body, 16) as usize),
            // Anonymous files too, of which there are none.
            _ => lacking(libc::ENOSYS),
        }
    }

    fn path(&self, node: u64) -> io::Result<PathBuf> {
        self.paths.get(&node).cloned().ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    /// Where something of this name in a folder is, or would be.
    fn child(&self, folder: u64, name: &OsStr) -> io::Result<PathBuf> {
        let folder = self.path(folder)?;
        if self.lacks.case {
            for entry in fs::read_dir(&folder)? {
                let there = entry?.file_name();
                if there.eq_ignore_ascii_case(name) {
                    return Ok(folder.join(there));
                }
            }
        }
        Ok(folder.join(name))
    }

    fn node(&mut self, path: &Path) -> u64 {
        if let Some(node) = self.nodes.get(path) {
            return *node;
        }
        self.last += 1;
        self.nodes.insert(path.to_owned(), self.last);
        self.paths.insert(self.last, path.to_owned());
        self.last
    }

    /// `struct fuse_entry_out`.
    fn entry(&mut self, answer: Answer, path: &Path) -> io::Result<Answer> {
        let found = path.symlink_metadata()?;
        Ok(answer.u64s(&[self.node(path), 0, 0, 0]).u64s(&[0]).attributes(&found))
    }

    /// What a node is, also one whose names are gone and that is open.
    fn metadata(&self, node: u64) -> io::Result<Metadata> {
        match self.files.values().find(|(of, _)| *of == node) {
            Some((_, file)) => file.metadata(),
            None => self.path(node)?.symlink_metadata(),
        }
    }

    fn set_attributes(&mut self, node: u64, body: &[u8]) -> io::Result<Answer> {
        let (valid, handle) = (u32_at(body, 0), u64_at(body, 8));
        if valid & 1 != 0 {
            fs::set_permissions(self.path(node)?, fs::Permissions::from_mode(u32_at(body, 68) & 0o7777))?;
        }
        if valid & 8 != 0 {
            let size = u64_at(body, 16);
            match self.files.get(&handle).filter(|_| valid & 64 != 0) {
                Some((_, file)) => file.set_len(size)?,
                None => OpenOptions::new().write(true).open(self.path(node)?)?.set_len(size)?,
            }
        }
        Ok(Answer::default().u64s(&[0, 0]).attributes(&self.metadata(node)?))
    }

    fn rename_as(&mut self, from: u64, to: u64, flags: u32, names: &[&OsStr]) -> io::Result<()> {
        if flags & libc::RENAME_NOREPLACE != 0 && self.child(to, names[1])?.symlink_metadata().is_ok() {
            return lacking(libc::EEXIST);
        }
        self.rename(from, to, names)
    }

    fn rename(&mut self, from: u64, to: u64, names: &[&OsStr]) -> io::Result<()> {
        let (from, to) = (self.child(from, names[0])?, self.child(to, names[1])?);
        fs::rename(&from, &to)?;
        self.nodes.remove(&to);
        if let Some(node) = self.nodes.remove(&from) {
            self.paths.insert(node, to.clone());
            self.nodes.insert(to, node);
        }
        Ok(())
    }

    fn file(&self, handle: u64) -> io::Result<&File> {
        let found = self.files.get(&handle).map(|(_, file)| file);
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// `struct fuse_open_out`.
    fn opened(&mut self, answer: Answer, node: u64, file: File) -> Answer {
        self.last += 1;
        self.files.insert(self.last, (node, file));
        answer.u64s(&[self.last, 0])
    }

    /// `struct fuse_dirent`s from `offset` on, in no more than `size` bytes.
    fn list(&self, node: u64, offset: u64, size: usize) -> io::Result<Answer> {
        let entries: io::Result<Vec<_>> = fs::read_dir(self.path(node)?)?.collect();
        let mut entries = entries?;
        entries.sort_by_key(|entry| entry.file_name());
        let mut answer = Answer::default();
        for (place, entry) in (1..).zip(entries).skip(offset as usize) {
            let (name, found) = (entry.file_name(), entry.metadata()?);
            let one = Answer::default().u64s(&[found.ino(), place]);
            let mut one = one.u32s(&[name.len() as u32, found.mode() >> 12]).0;
            one.extend(name.as_bytes());
            one.resize(one.len().next_multiple_of(8), 0);
            if answer.0.len() + one.len() > size {
                break;
            }
            answer.0.extend(one);
        }
        Ok(answer)
    }
}

/// Opens a file as the kernel asks, which has looked at links and permissions itself.
fn open(path: &Path, flags: u32, mode: u32) -> io::Result<File> {
    let flags = flags as i32;
    let access = flags & libc::O_ACCMODE;
    let mut options = OpenOptions::new();
    options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY).mode(mode & 0o7777);
    match (flags & libc::O_CREAT != 0, flags & libc::O_EXCL != 0) {
        (true, true) => options.create_new(true),
        (true, false) => options.create(true),
        (false, _) => &mut options,
    };
    options.open(path)
}

//! What can go wrong in a repository, in words for people. Knows errno values and upstream's errors; ignores
//! which operation an image was in.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use crate::types::{errno_in_text, remedy};

/// Why the repository could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The filesystem has no room left (ENOSPC).
    #[error(
        "{}: no space left on the repository's filesystem: free some and run again; what was committed stays",
        .0.display()
    )]
    Full(PathBuf),
    /// The filesystem has room, but no inodes left (ENOSPC too).
    #[error(
        "{}: no inodes left on the repository's filesystem, and each file takes one: remove files (df -i \
         shows how many \
         there are), or make the filesystem with more of them, then run again; what was committed stays",
        .0.display()
    )]
    NoInodes(PathBuf),
    /// The user's quota is used up (EDQUOT).
    #[error(
        "{}: the disk quota is used up: raise it or free some space, then run again; what was committed \
         stays",
        .0.display()
    )]
    Quota(PathBuf),
    /// The filesystem is or became read-only (EROFS).
    #[error("{}: the filesystem is read-only: remount it for writing, or choose another repository",
        .0.display())]
    ReadOnly(PathBuf),
    /// Any other failure of a system call.
    #[error("{what}: {cause}{}", remedy(cause))]
    Io {
        /// The repository, and what was being done or the path in it.
        what: String,
        /// The system's reason.
        cause: io::Error,
    },
    /// What was written is not there any more when the run ends.
    #[error("{}: {detail}: another program moved or removed it during this run: run again", .path.display())]
    Gone {
        /// The repository.
        path: PathBuf,
        /// What is gone.
        detail: String,
    },
    /// A condition that we refuse to work under; a whole sentence with its remedy.
    #[error("{0}")]
    Refused(String),
    /// The repository holds something that cannot be right.
    #[error("{what}: {detail}: the repository is damaged: see `cfs-dag fsck`")]
    Damaged {
        /// Which file or link.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A function of composefs failed.
    #[error("{what}: {detail}")]
    Upstream {
        /// What was being done.
        what: String,
        /// Its error chain, on one line, and what to do if the system is to blame.
        detail: String,
    },
    /// An earlier sync failed, so nothing may be linked in this run any more: the kernel reports a lost
    /// write only once, and a later `syncfs` would succeed without the data being there.
    #[error("nothing is linked after a failed sync ({0}): check the disk, then run again")]
    AfterFailedSync(Errno),
    /// The commit thread ended before it got to this request.
    #[error("the run was ended before this was linked")]
    Ended,
}

impl StoreError {
    /// The same for somebody else who suffers from it.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Full(repo) => Self::Full(repo.clone()),
            Self::NoInodes(repo) => Self::NoInodes(repo.clone()),
            Self::Quota(repo) => Self::Quota(repo.clone()),
            Self::ReadOnly(repo) => Self::ReadOnly(repo.clone()),
            Self::Io { what, cause } => {
                let same = || io::Error::new(cause.kind(), cause.to_string());
                let cause = cause.raw_os_error().map_or_else(same, io::Error::from_raw_os_error);
                Self::Io { what: what.clone(), cause }
            }
            Self::AfterFailedSync(errno) => Self::AfterFailedSync(*errno),
            other => Self::Refused(other.to_string()),
        }
    }

    /// An error of composefs, its chain on one line.
    pub(super) fn upstream(what: impl Into<String>, error: &anyhow::Error) -> Self {
        let remedy = errno_in(error).map_or("", |errno| remedy(&errno.into()));
        Self::Upstream { what: what.into(), detail: format!("{error:#}").replace('\n', " ") + remedy }
    }

    /// A failed system call on something in the repository at `repo`.
    pub(super) fn errno(repo: &Path, what: impl Into<String>, errno: Errno) -> Self {
        let shown = repo.display();
        match errno {
            // From `beneath` alone: nothing else of ours follows links.
            Errno::LOOP => Self::Refused(format!(
                "{shown}: {} is a link, or behind one: no folder or file of a repository may be: find out \
                 who made \
                 it, then remove it",
                what.into()
            )),
            Errno::NOSYS => Self::Refused(format!(
                "{shown}: {}: the system lacks a call that we need (openat2, Linux 5.6), or a sandbox \
                 forbids it",
                what.into()
            )),
            Errno::NOSPC if has_no_inodes(repo) => Self::NoInodes(repo.to_owned()),
            Errno::NOSPC => Self::Full(repo.to_owned()),
            Errno::DQUOT => Self::Quota(repo.to_owned()),
            Errno::ROFS => Self::ReadOnly(repo.to_owned()),
            other => Self::Io { what: format!("{shown}: {}", what.into()), cause: other.into() },
        }
    }
}

/// Whether a filesystem that has a fixed number of inodes has none left.
fn has_no_inodes(repo: &Path) -> bool {
    rustix::fs::statvfs(repo).is_ok_and(|found| found.f_files > 0 && found.f_favail == 0)
}

/// A shortage behind a failure of upstream's functions, which says nothing about what they read.
pub(super) fn shortage_in(error: &anyhow::Error) -> Option<Errno> {
    errno_in(error).filter(|errno| matches!(*errno, Errno::NOMEM | Errno::MFILE | Errno::NFILE))
}

/// The failed system call behind an error of composefs, if there is one. Some of its errors hide the value
/// and show only the words.
pub(super) fn errno_in(error: &anyhow::Error) -> Option<Errno> {
    errno_in_text(&format!("{error:#}"))
}

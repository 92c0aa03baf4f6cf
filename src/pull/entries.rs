//! A layer's entries, collected while it is split so that no stream has to be read back. Knows what they
//! weigh; ignores how layers are merged.

use std::{os::unix::ffi::OsStrExt, sync::Arc};

use composefs::{
    fsverity::FsVerityHashValue,
    tree::{LeafContent, RegularFile},
};

use super::flow::Id;
use crate::{
    layer::entry::{Entry, Item, xattrs_footprint},
    types::{Budget, Hold},
};

/// How much memory is asked for at a time, in bytes.
const STEP: usize = 256 << 10;

/// What upstream's tree and EROFS writer take for an entry without its extended
/// attributes, in bytes, as measured.
const BYTES_PER_ENTRY: usize = 1400;

/// Collects while memory allows; a tree that does not fit is read back from its stream instead.
pub(super) struct Collector<H: FsVerityHashValue> {
    tree: Option<Tree<H>>,
    weight: usize,
    held: usize,
}

/// A collected tree. Clones share it and the memory that is counted for it.
pub(super) type Collected<H> = Arc<Tree<H>>;

/// The entries of one layer in tar order, and the ids of its external files.
pub(super) struct Tree<H: FsVerityHashValue> {
    entries: Vec<(Entry<H>, Option<Id<H>>)>,
    /// How many parent directories may have to be made for them, at most.
    parents: usize,
    /// What their extended attributes take, in bytes.
    xattrs: usize,
    _memory: Vec<Hold>,
}

impl<H: FsVerityHashValue> Collector<H> {
    /// A collector, or one that collects nothing if the tree is not `wanted`.
    pub(super) fn new(wanted: bool) -> Self {
        let tree = wanted.then(|| Tree { entries: Vec::new(), parents: 0, xattrs: 0, _memory: Vec::new() });
        Self { tree, weight: 0, held: 0 }
    }

    /// Adds an entry; `file` is the id of the last external file before it.
    pub(super) fn push(&mut self, entry: Entry<H>, file: Option<&Id<H>>, budget: &Budget) {
        let Some(tree) = &mut self.tree else { return };
        self.weight += entry.footprint();
        if self.weight > self.held {
            let Some(hold) = budget.spare(STEP) else {
                self.tree = None;
                return;
            };
            tree._memory.push(hold);
            self.held += STEP;
        }
        let external = matches!(&entry.item, Item::Leaf(LeafContent::Regular(RegularFile::External(..))));
        tree.xattrs += xattrs_footprint(&entry.stat);
        let before = tree.entries.last().map(|(entry, _)| entry.path.as_os_str().as_bytes());
        tree.parents += new_parents(before.unwrap_or_default(), entry.path.as_os_str().as_bytes());
        tree.entries.push((entry, file.filter(|_| external).cloned()));
    }

    /// What was collected, if all of it was.
    pub(super) fn finish(self) -> Option<Collected<H>> {
        self.tree.map(Arc::new)
    }
}

impl<H: FsVerityHashValue> Tree<H> {
    /// About how many bytes it takes to build a filesystem from it.
    pub(super) fn build_footprint(&self) -> usize {
        (self.entries.len() + self.parents) * BYTES_PER_ENTRY + self.xattrs
    }
}

/// How many directories are on the way to `path` that are not on the way to `before`, nor that itself: none
/// in a tar that has an entry for each directory before what is in it.
fn new_parents(before: &[u8], path: &[u8]) -> usize {
    let common = before.iter().zip(path).take_while(|(a, b)| a == b).count();
    let is_common = |end: usize| end == 0 || end < common || end == common && before.len() == end;
    (0..path.len()).skip(common).filter(|at| path[*at] == b'/' && !is_common(*at)).count()
}

/// Hands over all entries in tar order, with their ids filled in; copies of them if somebody
/// else needs the tree, too.
pub(super) fn for_each<H: FsVerityHashValue, E>(
    tree: Collected<H>,
    mut each: impl FnMut(Entry<H>) -> Result<(), E>,
) -> Result<(), E> {
    match Arc::try_unwrap(tree) {
        Ok(tree) => {
            tree.entries.into_iter().try_for_each(|(entry, file)| each(with_id(entry, file.as_ref())))
        }
        Err(tree) => {
            tree.entries.iter().try_for_each(|(entry, file)| each(with_id(entry.clone(), file.as_ref())))
        }
    }
}

fn with_id<H: FsVerityHashValue>(mut entry: Entry<H>, file: Option<&Id<H>>) -> Entry<H> {
    if let Item::Leaf(LeafContent::Regular(RegularFile::External(id, _))) = &mut entry.item
        && let Some(known) = file.and_then(|file| file.get())
    {
        *id = known.clone();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::new_parents;

    #[test]
    fn parents_that_may_be_missing_are_counted_once_for_neighbours() {
        for (before, path, want) in [
            ("", "/usr", 0),
            ("", "/a/b/c", 2),
            ("/a", "/a/b", 0),
            ("/a/b", "/a/b/c", 0),
            ("/a/b/c", "/a/b/d", 0),
            ("/a/b/c", "/a/d", 0),
            ("/a/b/c", "/a/d/e", 1),
            ("/a/bb/c", "/a/b/c", 1),
            ("/a/b", "/a/bb/c", 1),
            ("/a/b/c", "/", 0),
            ("/a/b/c", "", 0),
        ] {
            assert_eq!(new_parents(before.as_bytes(), path.as_bytes()), want, "{before} {path}");
        }
    }
}

use std::{collections::BTreeMap, ffi::OsStr};

use composefs::fsverity::Sha256HashValue;

use super::*;

fn entry(
    path: &str,
    item: TarItem<Sha256HashValue>,
    xattrs: &[(String, usize)],
) -> TarEntry<Sha256HashValue> {
    let xattr =
        |(name, len): &(String, usize)| (Box::from(OsStr::new(name)), vec![b'x'; *len].into_boxed_slice());
    let xattrs: BTreeMap<_, _> = xattrs.iter().map(xattr).collect();
    let stat = Stat { st_mode: 0o755, xattrs, ..Stat::uninitialized() };
    TarEntry { path: path.into(), stat, item }
}

fn image(entry: TarEntry<Sha256HashValue>) -> Result<(), FilesystemError> {
    let mut builder = FilesystemBuilder::default();
    builder.add(self::entry("/usr", TarItem::Directory, &[]))?;
    builder.add(entry)?;
    let filesystem = builder.finish()?;
    for format in [FormatVersion::V1, FormatVersion::V2] {
        assert!(!filesystem.erofs(format).is_empty());
    }
    Ok(())
}

#[test]
fn late_opaque_markers_are_collected_and_applied_as_upstream_does() {
    let mut builder = FilesystemBuilder::default();
    let mut layer = |paths: &[&str]| {
        builder.begin_layer();
        for path in paths {
            builder.add(entry(path, TarItem::Directory, &[])).unwrap();
        }
        builder.ambiguities().iter().map(|finding| finding.path.clone()).collect::<Vec<_>>()
    };
    assert!(layer(&["/usr", "/usr/d", "/usr/d/old", "/usr/e"]).is_empty());
    assert!(layer(&["/usr/d", "/usr/d/.wh..wh..opq", "/usr/d/new"]).is_empty());
    assert_eq!(layer(&["/usr/d/newer", "/usr/f", "/usr/d/.wh.old", "/usr/d/.wh..wh..opq"]), ["usr/d"]);
    assert_eq!(layer(&["/usr/e/f", "/usr/e/g", "/usr/e/.wh..wh..opq", "/usr/e/h"]), ["usr/e"]);
    let names = |path: &str| -> Vec<_> {
        let directory = builder.tree.root.get_directory(path.as_ref()).unwrap();
        directory.sorted_entries().map(|(name, _)| name.to_owned()).collect()
    };
    assert!(names("usr/d").is_empty());
    assert_eq!(names("usr/e"), ["h"]);
}

#[test]
fn what_no_image_can_hold_is_refused_and_what_is_just_small_enough_is_not() {
    let device = |number| entry("/usr/null", TarItem::Leaf(LeafContent::CharacterDevice(number)), &[]);
    let named = |len| entry(&format!("/usr/{}", "n".repeat(len)), TarItem::Directory, &[]);
    let hidden = |len| entry(&format!("/usr/.wh.{}", "n".repeat(len)), TarItem::Directory, &[]);
    let with = |xattrs: &[(String, usize)]| entry("/usr/d", TarItem::Directory, xattrs);
    let name = |len: usize| format!("user.{}", "n".repeat(len - 5));
    let many = |count: usize, len| -> Vec<_> {
        (0..count).map(|number| (format!("user.{number:05}"), len)).collect()
    };
    for (fits, entry) in [
        (true, device(u64::from(u32::MAX))),
        (false, device(1 << 32)),
        (true, named(255)),
        (false, named(256)),
        (false, named(5000)),
        (true, hidden(255)),
        (false, hidden(256)),
        (true, with(&[(name(255), 65_535)])),
        (false, with(&[(name(256), 1)])),
        (false, with(&[(name(6), 65_536)])),
        (true, with(&many(250, 8))),
        (false, with(&many(251, 8))),
        (false, with(&many(5, 60_000))),
    ] {
        let path = entry.path.clone();
        let made = image(entry);
        assert_eq!(made.is_ok(), fits, "{}: {made:?}", path.display());
    }
}

const LEAF: TarItem<Sha256HashValue> = TarItem::Leaf(LeafContent::Fifo);

fn link(target: &str) -> TarItem<Sha256HashValue> {
    TarItem::Leaf(LeafContent::Symlink(OsStr::new(target).into()))
}

fn hardlink(target: &str) -> TarItem<Sha256HashValue> {
    TarItem::Hardlink(target.into())
}

fn device_0() -> TarItem<Sha256HashValue> {
    TarItem::Leaf(LeafContent::CharacterDevice(0))
}

type Layer<'a> = &'a [(&'a str, TarItem<Sha256HashValue>)];

fn built(layer: Layer<'_>) -> Result<FilesystemBuilder<Sha256HashValue>, FilesystemError> {
    let mut builder = FilesystemBuilder::default();
    for (path, item) in layer {
        let item = match item {
            TarItem::Directory => TarItem::Directory,
            TarItem::Leaf(content) => TarItem::Leaf(content.clone()),
            TarItem::Hardlink(target) => TarItem::Hardlink(target.clone()),
        };
        builder.add(entry(path, item, &[]))?;
    }
    Ok(builder)
}

#[test]
fn missing_parents_are_made_once_and_only_for_what_adds_something() {
    let mut builder =
        built(&[("/usr", TarItem::Directory), ("/usr/x/y/f", LEAF), ("/usr/x/y/g", LEAF)]).unwrap();
    let made = MadeParents { entries: 2, path_bytes: "usr/x".len() as u64 + "usr/x/y".len() as u64 };
    assert_eq!(builder.made_parents(), made);
    for removes in ["/a/.wh.f", "/a/b/.wh..wh..opq", "/usr/z/.wh.f"] {
        builder.add(entry(removes, LEAF, &[])).unwrap();
    }
    assert_eq!(builder.made_parents(), made);
    assert!(builder.tree.root.lookup("a".as_ref()).is_none());
    let made = builder.tree.root.get_directory("usr/x/y".as_ref()).unwrap();
    assert_eq!(format!("{:?}", made.stat), format!("{:?}", plain_directory()));
    // An entry of its own that comes later has the last word.
    builder.add(entry("/usr/x/y", TarItem::Directory, &[("user.a".to_owned(), 3)])).unwrap();
    let told = builder.tree.root.get_directory("usr/x/y".as_ref()).unwrap();
    assert_eq!((told.stat.xattrs.len(), told.entries().count()), (1, 2));
}

#[test]
fn parent_that_was_removed_is_made_again() {
    let layer = [("/usr/d/f", LEAF), ("/usr/.wh.d", LEAF), ("/usr/d/g", LEAF), ("/usr/d/h", LEAF)];
    let builder = built(&layer).unwrap();
    let names: Vec<_> = builder
        .tree
        .root
        .get_directory("usr/d".as_ref())
        .unwrap()
        .sorted_entries()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["g", "h"]);
    assert_eq!(builder.made_parents().entries, 3);
}

#[test]
fn root_without_usr_has_fixed_metadata_and_run_is_emptied() {
    for layer in [
        &[][..],
        &[("/.", TarItem::Directory), ("/run", TarItem::Directory), ("/run/f", LEAF), ("/pause", LEAF)],
        &[("/usr", link("system/usr"))],
        &[("/usr", LEAF)],
    ] {
        let mut builder = built(layer).unwrap();
        builder.tree.root.stat.st_mode = 0o700;
        let tree = builder.finish().unwrap().0;
        assert_eq!(format!("{:?}", tree.root.stat), format!("{:?}", plain_directory()), "{layer:?}");
        if let Ok(Some(run)) = tree.root.get_directory_opt("run".as_ref()) {
            assert_eq!((run.entries().count(), run.stat.st_mode), (0, 0o755));
        }
    }
}

#[test]
fn contradictions_name_what_is_in_the_way_and_what_the_layer_needs() {
    let dir = || TarItem::Directory;
    let cases: [(Layer<'_>, &str); 16] = [
        (
            &[("/lib", link("usr/lib")), ("/lib/foo", LEAF)],
            "lib/foo: lib is a symlink to usr/lib: the layer has to carry usr/lib/foo",
        ),
        (
            &[("/usr", dir()), ("/usr/lib64", link("../opt/./lib")), ("/usr/lib64/a/b", dir())],
            "usr/lib64/a/b: usr/lib64 is a symlink to ../opt/./lib: the layer has to carry opt/lib/a/b",
        ),
        (
            &[("/a", link("/../../b")), ("/a/.wh.f", LEAF)],
            "a/.wh.f: a is a symlink to /../../b: the layer has to carry b/.wh.f",
        ),
        (
            &[("/f", LEAF), ("/f/g/h", LEAF)],
            "f/g/h: f is a named pipe where a directory is needed: the layer has to carry a directory f \
             before",
        ),
        (
            &[("/n", hardlink("/a/b"))],
            "n: a hard link to a/b, which does not exist: the layer has to carry a/b before the link",
        ),
        (
            &[("/d", dir()), ("/n", hardlink("/d"))],
            "n: a hard link to d, which is a directory: only files can have several names",
        ),
        (
            &[("/n", hardlink(""))],
            "n: a hard link to /, which is a directory: only files can have several names",
        ),
        (
            &[("/lib", link("usr/lib")), ("/n", hardlink("/lib/f"))],
            "n: a hard link to lib/f, but lib is a symlink to usr/lib: the hard link has to name usr/lib/f",
        ),
        (
            &[("/f", LEAF), ("/n", hardlink("/f/g"))],
            "n: a hard link to f/g, but f is a named pipe where a directory is needed: the layer has to \
             carry a \
             directory f before",
        ),
        (
            &[("/usr/.wh.x/y/f", LEAF)],
            "usr/.wh.x/y/f: usr/.wh.x is the name of a whiteout: a layer cannot have entries below it",
        ),
        (
            &[("/d/../f", LEAF)],
            "d/../f: a path with `..`, which would depend on what is there: the layer has to name it without",
        ),
        (
            &[("/d", dir()), ("/d/../.wh.f", LEAF)],
            "d/../.wh.f: a path with `..`, which would depend on what is there: the layer has to name it \
             without",
        ),
        (&[("/.", LEAF)], ".: the root of the filesystem cannot be anything but a directory"),
        (
            &[("/a\x1b[2J\n", LEAF), ("/a\x1b[2J\n/b", LEAF)],
            "a\\u{1b}[2J\\n/b: a\\u{1b}[2J\\n is a named pipe where a directory is needed: the layer has to \
             carry a \
             directory a\\u{1b}[2J\\n before",
        ),
        (
            &[("/run", link("var/run"))],
            "/run is a symlink to var/run where a directory is needed, since it is emptied (cfsctl does so, \
             too): make \
             it a directory in the image",
        ),
        (
            &[("/usr", dir()), ("/usr/c", device_0()), ("/usr/c2", hardlink("/usr/c"))],
            "usr/c: a device 0:0 with several names (usr/c, usr/c2) cannot be stored: give each name a \
             device of its \
             own",
        ),
    ];
    for (layer, want) in cases {
        let error = built(layer).and_then(FilesystemBuilder::finish).err().expect(want);
        assert_eq!(error.to_string(), want);
    }
}

#[test]
fn whiteout_device_with_one_name_is_stored() {
    let layer = [("/usr", TarItem::Directory), ("/usr/c", device_0()), ("/usr/d", device_0())];
    assert!(built(&layer).unwrap().finish().is_ok());
}

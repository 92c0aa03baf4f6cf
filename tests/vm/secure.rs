//! Repositories on a filesystem with fs-verity: what the kernel measures and refuses, what
//! is mended, what it finds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{ErrorKind, IoSlice, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use cfs_dag::store::{AnyStore, InitOptions, Put, init};
use composefs::fsverity::{
    FsVerityHashValue, MeasureVerityError, Sha256HashValue, Sha512HashValue, compute_verity, measure_verity,
};
use libc::EIO;
use rustix::{
    mount::{UnmountFlags, unmount},
    thread::{Timespec, nanosleep},
};

use super::{
    guest::{DISK, mount_disk},
    machine::{Disk, Machine},
};
use support::{
    image::{Image, Layout, layout},
    oracle,
    repo::{Invocation, cfs_dag, command, program},
    tar::{dir, file, noise, tar},
    users::{USER, as_user, give_away, kinds, set_mode},
};

/// What runs inside, by name.
pub const SCENARIOS: &[(&str, fn())] = &[
    ("guarded", guarded),
    ("mended", mended),
    ("changed", changed),
    ("busy", busy),
    ("small-blocks", small_blocks),
    ("unknown-option", unknown_option),
    ("ordinary-user", ordinary_user),
];

#[test]
fn the_kernel_guards_what_is_stored_and_mounts_it_with_verity_required() {
    Machine::boot("guarded", &[&Disk::new(96)]).assert_good();
}

#[test]
fn what_lacks_verity_or_bytes_is_mended_by_the_next_pull() {
    Machine::boot("mended", &[&Disk::new(96)]).assert_good();
}

#[test]
fn a_byte_that_changes_on_the_disk_is_found_and_mended() {
    Machine::boot("changed", &[&Disk::new(32)]).assert_good();
}

#[test]
fn programs_that_start_meanwhile_keep_no_object_from_being_sealed() {
    Machine::boot("busy", &[&Disk::new(32)]).assert_good();
}

#[test]
fn where_the_blocks_of_a_filesystem_are_too_small_for_verity_the_advice_works() {
    Machine::boot("small-blocks", &[&Disk::with_small_blocks(32)]).assert_good();
}

#[test]
fn that_a_kernel_lacks_the_mount_option_is_said() {
    Machine::boot("unknown-option", &[&Disk::new(32)]).assert_good();
}

#[test]
fn an_ordinary_user_has_secure_repositories_with_upstreams_modes() {
    Machine::boot("ordinary-user", &[&Disk::new(96)]).assert_good();
}

/// The files of the image, with their content.
fn files() -> BTreeMap<String, Vec<u8>> {
    let large = (0..8).map(|n: u64| (format!("usr/large-{n}"), noise(n, 20_000 + 4096 * n as usize)));
    let small = (0..8).map(|n: u64| (format!("usr/small-{n}"), noise(100 + n, 10 * n as usize)));
    // Longer than what is hashed in memory.
    let huge = ("usr/huge".to_owned(), noise(99, (2 << 20) + 4097));
    large.chain(small).chain([huge]).collect()
}

fn image(layout: &Layout) -> Image {
    let files: Vec<_> = files().into_iter().collect();
    let layer = |files: &[(String, Vec<u8>)]| {
        let files = files.iter().map(|(name, content)| file(name.clone(), content.clone()));
        tar(std::iter::once(dir("usr")).chain(files))
    };
    let (one, other) = files.split_at(files.len() / 2);
    layout.image("app").layer(layer(one)).layer(layer(other)).zstd().write()
}

fn pull(reference: &str, repo: &Path) -> Invocation {
    cfs_dag(["pull", "--format=json", "--progress=none"]).arg(reference).repo(repo)
}

/// Asserts that all of an image is stored as the kernel will have it.
fn assert_stored(repo: &Path) {
    assert_measured(repo);
    assert_linked(repo);
}

/// Asserts that the kernel measures every object as it is named.
fn assert_measured(repo: &Path) {
    assert!(oracle::objects(repo).len() > 8);
    let wrong = mismeasured(repo);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The objects that the kernel does not measure as they are named, and what it says of them.
pub fn mismeasured(repo: &Path) -> Vec<String> {
    match oracle::algorithm_of(repo) {
        oracle::Algorithm::Sha256 => mismeasured_as::<Sha256HashValue>(repo),
        oracle::Algorithm::Sha512 => mismeasured_as::<Sha512HashValue>(repo),
    }
}

fn mismeasured_as<H: FsVerityHashValue>(repo: &Path) -> Vec<String> {
    let wrong = |name: String| {
        let id = H::from_hex(name.replace('/', "")).unwrap_or_else(|error| panic!("{name}: {error}"));
        match measure_verity::<H>(File::open(repo.join("objects").join(&name)).unwrap()) {
            Ok(measured) if measured == id => None,
            Ok(measured) => Some(format!("{name} measures {}", measured.to_hex())),
            Err(error) => Some(format!("{name}: {error}")),
        }
    };
    oracle::objects(repo).into_iter().filter_map(wrong).collect()
}

/// Asserts that there are links of every kind, and that each leads to an object: to its
/// own, if its name is an id.
fn assert_linked(repo: &Path) {
    let objects = fs::canonicalize(repo.join("objects")).unwrap();
    for folder in ["streams", "images", "streams/refs/oci"] {
        let entries = fs::read_dir(repo.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let links: Vec<PathBuf> = entries.filter(|path| path.is_symlink()).collect();
        assert!(!links.is_empty(), "{folder}");
        for link in links {
            let object = fs::canonicalize(&link).unwrap();
            assert!(object.starts_with(&objects), "{link:?}");
            let name = link.file_name().unwrap().to_str().unwrap();
            if name.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                let (first, rest) = name.split_at(2);
                assert_eq!(object, objects.join(first).join(rest));
            }
        }
    }
}

fn guarded() {
    mount_disk("/dev/vda");
    let layout = layout();
    let image = image(&layout);
    for algorithm in ["sha512", "sha256"] {
        let (secure, insecure) = (Path::new(DISK).join(algorithm), Path::new("/tmp").join(algorithm));
        let flag = format!("--algorithm={algorithm}");
        let says = [
            (None, "created"),
            (None, "with the same options"),
            (Some("--insecure"), "protected by fs-verity"),
        ];
        for (insecure, word) in says {
            let made = cfs_dag(["init", &flag]).args(insecure).repo(&secure).expect_success();
            assert!(made.stdout.contains(word), "{made}");
        }
        let result = pull(&image.reference, &secure).expect_success().json();
        assert_stored(&secure);
        let other = pull(&image.reference, &insecure).args([&*flag, "--insecure"]).expect_success().json();
        assert_eq!(result["images"][0]["erofs"], other["images"][0]["erofs"]);
        assert_eq!(oracle::objects(&secure), oracle::objects(&insecure));
        // Without the promise, objects get fs-verity all the same where there is any.
        let open = Path::new(DISK).join(format!("{algorithm}-insecure"));
        let other = pull(&image.reference, &open).args([&*flag, "--insecure"]).expect_success().json();
        assert_eq!(result["images"][0]["erofs"], other["images"][0]["erofs"]);
        assert_stored(&open);
        cfs_dag(["fsck"]).repo(&open).expect_success();
        let refused = pull(&image.reference, &open).arg("--require-verity").expect_failure(1);
        refused.says(&["a repository without fs-verity, where one with it is wanted"]);
        assert_refuses_writes(&secure);
        assert_mounted_whole(&secure, &image.reference);
        cfs_dag(["fsck"]).repo(&secure).expect_success();
        // Warm, it is the same.
        pull(&image.reference, &secure).expect_success();
        assert_stored(&secure);
    }
}

fn assert_refuses_writes(repo: &Path) {
    for name in oracle::objects(repo) {
        let path = repo.join("objects").join(name);
        for options in [OpenOptions::new().write(true), OpenOptions::new().write(true).truncate(true)] {
            let refused = options.open(&path).map(|_| ()).map_err(|error| error.kind());
            assert_eq!(refused, Err(ErrorKind::PermissionDenied), "{}", path.display());
        }
    }
}

fn assert_mounted_whole(repo: &Path, name: &str) {
    fs::create_dir_all("/mnt/image").unwrap();
    cfs_dag(["mount", name, "/mnt/image"]).repo(repo).expect_success();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount =
        mounts.lines().find(|line| line.contains(" /mnt/image ")).unwrap_or_else(|| panic!("{mounts}"));
    assert!(mount.contains("verity=require"), "{mount}");
    for (name, content) in files() {
        assert_eq!(fs::read(Path::new("/mnt/image").join(&name)).unwrap(), content, "{name}");
    }
    unmount("/mnt/image", UnmountFlags::DETACH).unwrap();
}

/// The objects of at least `size` bytes.
fn objects(repo: &Path, size: u64) -> Vec<PathBuf> {
    let path = |name| repo.join("objects").join(name);
    oracle::objects(repo)
        .into_iter()
        .map(path)
        .filter(|path| fs::metadata(path).unwrap().len() >= size)
        .collect()
}

/// A file of these bytes without fs-verity in the place of an object.
fn replace(object: &Path, bytes: &[u8]) {
    fs::remove_file(object).unwrap();
    fs::write(object, bytes).unwrap();
    let measured = measure_verity::<Sha512HashValue>(File::open(object).unwrap());
    assert!(matches!(measured, Err(MeasureVerityError::VerityMissing)));
}

type Damage = (&'static str, fn(&Path));

/// What can befall an object, by name.
const DAMAGES: [Damage; 4] = [
    ("no fs-verity", |object: &Path| replace(object, &fs::read(object).unwrap())),
    ("cut short", |object: &Path| replace(object, &fs::read(object).unwrap()[..5000])),
    ("empty", |object: &Path| replace(object, b"")),
    ("other bytes", |object: &Path| {
        let wrong: Vec<u8> = fs::read(object).unwrap().iter().map(|byte| !byte).collect();
        replace(object, &wrong);
    }),
];

fn mended() {
    mount_disk("/dev/vda");
    let layout = layout();
    let image = image(&layout);
    let repo = Path::new(DISK).join("repo");
    pull(&image.reference, &repo).expect_success();
    let before = oracle::objects(&repo);
    let victims = objects(&repo, 10_000);
    assert!(victims.len() >= DAMAGES.len());
    let mend = || {
        pull(&image.reference, &repo).expect_success();
        assert_stored(&repo);
        assert_eq!(oracle::objects(&repo), before);
        cfs_dag(["fsck"]).repo(&repo).expect_success();
    };
    for ((what, damage), victim) in DAMAGES.iter().zip(&victims) {
        damage(victim);
        let name = victim.file_name().unwrap().to_str().unwrap();
        let found = cfs_dag(["fsck"]).repo(&repo).run().assert_code(1);
        assert!(found.stdout.contains(name), "{what}: no {name} in {found}");
        mend();
    }
    // What no tag vouches for is looked at by every pull; the rest once a check has found something.
    let ways: [&[&str]; 2] = [&["untag", &image.reference], &["fsck"]];
    for way in ways {
        DAMAGES.iter().zip(&victims).for_each(|((_, damage), victim)| damage(victim));
        cfs_dag(way).repo(&repo).run().assert_code(i32::from(way == ["fsck"]));
        mend();
    }
}

fn changed() {
    mount_disk("/dev/vda");
    let layout = layout();
    let image = image(&layout);
    let repo = Path::new(DISK).join("repo");
    pull(&image.reference, &repo).expect_success();
    let victim = "usr/large-3";
    let content = &files()[victim];
    let id = compute_verity::<Sha512HashValue>(content);
    let object = repo.join("objects").join(id.to_object_pathname());
    unmount(DISK, UnmountFlags::empty()).unwrap();
    flip(Path::new("/dev/vda"), &content[8192..8192 + 64]);

    mount_disk("/dev/vda");
    let error = fs::read(&object).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EIO), "{error}");
    fs::create_dir_all("/mnt/image").unwrap();
    cfs_dag(["mount", &image.reference, "/mnt/image"]).repo(&repo).expect_success();
    for (name, content) in files() {
        let read = fs::read(Path::new("/mnt/image").join(&name)).map_err(|error| error.raw_os_error());
        assert_eq!(read, if name == victim { Err(Some(EIO)) } else { Ok(content) }, "{name}");
    }
    unmount("/mnt/image", UnmountFlags::DETACH).unwrap();
    let name = object.strip_prefix(&repo).unwrap().display().to_string();
    let finished = cfs_dag(["fsck"]).repo(&repo).run().assert_code(1);
    assert!(format!("{finished}").contains(name.rsplit('/').next().unwrap()), "{name} in {finished}");
    pull(&image.reference, &repo).expect_success();
    assert_stored(&repo);
    cfs_dag(["fsck"]).repo(&repo).expect_success();
    assert_mounted_whole(&repo, &image.reference);
}

/// Objects get fs-verity although other threads start programs all the time, which hold copies of every
/// descriptor for a while: the kernel refuses files that somebody could write (ETXTBSY).
fn busy() {
    mount_disk("/dev/vda");
    let repo = Path::new(DISK).join("repo");
    let (store, _) = init(&repo, &InitOptions::default()).unwrap();
    let AnyStore::Sha512(store) = store else { panic!("{repo:?} has another algorithm") };
    let started = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while started.load(Ordering::Relaxed) < 40 {
                start_slowly();
                started.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut seed = 0;
        while started.load(Ordering::Relaxed) < 40 {
            let content = noise(seed, 3000);
            let id = compute_verity::<Sha512HashValue>(&content);
            let put = match seed % 2 {
                0 => store.put(&id, &[IoSlice::new(&content)]),
                _ => {
                    let mut file = store.spool().unwrap();
                    file.write_all(&content).unwrap();
                    store.put_file(&id, file, 3000)
                }
            };
            assert_eq!(put.unwrap_or_else(|error| panic!("{seed}: {error}")), Put::New);
            seed += 1;
        }
    });
    drop(store);
    assert_measured(&repo);
}

/// Starts a program that takes its time between being a copy of us and being itself.
fn start_slowly() {
    let mut program = Command::new(program());
    program.arg("--version").stdout(Stdio::null());
    // SAFETY: between fork and exec only nanosleep is called, which is safe there (signal-safety(7)).
    unsafe {
        program.pre_exec(|| {
            let _ = nanosleep(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 });
            Ok(())
        });
    }
    assert!(program.status().unwrap().success());
}

fn small_blocks() {
    mount_disk("/dev/vda");
    let layout = layout();
    let image = image(&layout);
    let repo = Path::new(DISK).join("repo");
    cfs_dag(["init"]).repo(&repo).expect_failure(1).says(&["no fs-verity", "--insecure"]);
    let pulled = pull(&image.reference, &repo).arg("--insecure").expect_success().json();
    let other = Path::new("/tmp/other");
    let expected = pull(&image.reference, other).arg("--insecure").expect_success().json();
    assert_eq!(pulled["images"][0]["erofs"], expected["images"][0]["erofs"]);
    assert_eq!(oracle::objects(&repo), oracle::objects(other));
    cfs_dag(["fsck"]).repo(&repo).expect_success();
}

/// Whoever may write a file may enable fs-verity on it.
fn ordinary_user() {
    mount_disk("/dev/vda");
    let layout = layout();
    let image = image(&layout);
    set_mode(layout.path().parent().unwrap(), 0o755);
    let home = Path::new(DISK).join("home");
    fs::create_dir(&home).unwrap();
    give_away(&home);
    let (ours, theirs) = (home.join("repo"), Path::new(DISK).join("theirs"));
    for invocation in [
        cfs_dag(["init"]).repo(&ours),
        pull(&image.reference, &ours),
        pull(&image.reference, &ours),
        cfs_dag(["tag", &image.reference, "other"]).repo(&ours),
        cfs_dag(["untag", "other"]).repo(&ours),
        cfs_dag(["gc"]).repo(&ours),
        cfs_dag(["fsck"]).repo(&ours),
    ] {
        as_user(invocation).expect_success();
    }
    assert_stored(&ours);
    cfs_dag(["init"]).repo(&theirs).expect_success();
    oracle::upstream_pull(&theirs, &image.reference, &image.reference).unwrap();
    let ours = kinds(&ours, false);
    let owners: BTreeSet<_> = ours.values().flatten().map(|(_, user, group)| (*user, *group)).collect();
    assert_eq!(owners, BTreeSet::from([(USER, USER)]));
    let modes = |kinds: BTreeMap<String, BTreeSet<(String, u32, u32)>>| -> BTreeMap<_, BTreeSet<_>> {
        let modes = |of: BTreeSet<(String, u32, u32)>| of.into_iter().map(|(mode, ..)| mode).collect();
        kinds.into_iter().map(|(kind, of)| (kind, modes(of))).collect()
    };
    assert_eq!(modes(ours), modes(kinds(&theirs, true)));
}

/// A kernel whose overlayfs does not know `verity=require`, as strace plays it.
fn unknown_option() {
    mount_disk("/dev/vda");
    let layout = layout();
    let image = image(&layout);
    let repo = Path::new(DISK).join("repo");
    pull(&image.reference, &repo).expect_success();
    fs::create_dir_all("/mnt/image").unwrap();
    let flags = ["-f", "-qq", "-o", "/tmp/trace", "--trace=fsconfig"];
    let mount = |flags: &[&str]| {
        let program = [program(), "mount", &image.reference, "/mnt/image"];
        command("/usr/bin/strace", flags.iter().chain(&program)).repo(&repo)
    };
    mount(&flags).expect_success();
    unmount("/mnt/image", UnmountFlags::DETACH).unwrap();
    let trace = fs::read_to_string("/tmp/trace").unwrap();
    let place = trace.lines().position(|call| call.contains("\"verity\"")).expect("the option is set") + 1;
    let inject = format!("--inject=fsconfig:error=EINVAL:when={place}+");
    let refused = mount(&[&flags[..], &[&inject]].concat()).expect_failure(1);
    refused.says(&[&image.reference, "no verity=require", "Linux 6.6", "nothing was mounted"]);
    assert!(!fs::read_to_string("/proc/mounts").unwrap().contains(" /mnt/image "));
}

/// Changes one bit of the one place on the disk where a block begins with `pattern`.
fn flip(device: &Path, pattern: &[u8]) {
    let mut disk = OpenOptions::new().read(true).write(true).open(device).unwrap();
    let mut blocks = vec![0; 1 << 20];
    let mut at = 0_u64;
    loop {
        let read = disk.read(&mut blocks).unwrap();
        assert!(read > 0, "the disk has no such block");
        if let Some(block) = blocks[..read].chunks(4096).position(|block| block.starts_with(pattern)) {
            let place = at + 4096 * block as u64 + 17;
            disk.seek(SeekFrom::Start(place)).unwrap();
            disk.write_all(&[pattern[17] ^ 1]).unwrap();
            disk.sync_all().unwrap();
            return;
        }
        at += read as u64;
    }
}

//! Claims: between stores, between processes, and where none can be made.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
};

use super::*;

const CHILD: &str = "CFS_DAG_TEST_CLAIM";

fn name() -> StreamName {
    StreamName::Layer(Digest::of(b"a layer"))
}

#[track_caller]
fn ours(claim: Claim) -> ClaimGuard {
    match claim {
        Claim::Ours(guard) => guard,
        Claim::Theirs(holder, _) => panic!("claimed by {holder}"),
    }
}

#[track_caller]
fn theirs(claim: Claim) -> Holder {
    match claim {
        Claim::Ours(_) => panic!("claimed twice"),
        Claim::Theirs(holder, _) => holder,
    }
}

fn claims<H: FsVerityHashValue>(scene: &Scene<H>) -> usize {
    fs::read_dir(scene.path("cfs-dag/claims")).unwrap().count()
}

#[test]
fn a_claimed_layer_is_nobody_elses_until_the_claim_ends() {
    let scene = repo::<Sha256HashValue>();
    let other = open_as::<Sha256HashValue>(scene.store.path());
    let guard = ours(scene.store.claim(&name()));
    assert!(guard.is_seen());
    for store in [&other, &scene.store] {
        let holder = theirs(store.claim(&name()));
        assert_eq!(holder.pid, Some(std::process::id()));
        assert!(holder.what.ends_with(", for 0 s"), "{holder}");
    }
    let unrelated = ours(other.claim(&StreamName::Layer(Digest::of(b"another"))));
    drop(guard);
    let guard = ours(other.claim(&name()));
    drop((guard, unrelated));
    assert_eq!(claims(&scene), 0);
}

#[test]
fn a_holder_that_gets_on_is_told_from_one_that_does_not() {
    let scene = repo::<Sha256HashValue>();
    let pulse = || match scene.store.claim(&name()) {
        Claim::Ours(_) => panic!("claimed twice"),
        Claim::Theirs(_, pulse) => pulse,
    };
    let guard = ours(scene.store.claim(&name()));
    let first = pulse();
    assert_eq!(pulse(), first);
    guard.beat();
    let second = pulse();
    assert_ne!(second, first);
    drop(guard);
    let next = ours(scene.store.claim(&name()));
    assert_ne!(pulse(), second, "that is another holder");
    drop(next);
}

#[test]
fn what_dead_processes_have_claimed_is_swept_and_living_claims_stay() {
    let scene = repo::<Sha256HashValue>();
    let living = ours(scene.store.claim(&name()));
    let dead = StreamName::Layer(Digest::of(b"dead"));
    let file = scene.path(&format!("cfs-dag/claims/{dead}"));
    // Longer than any of ours, so that no part of it may stay.
    let note = format!(r#"{{"pid":1,"what":"{}","since":0}}"#, "dead ".repeat(100));
    fs::write(&file, &note).unwrap();
    drop(Commit::start(&scene.store).unwrap());
    assert!(!file.exists());
    theirs(scene.store.claim(&name()));
    // And without a sweep it is free as well, and its note is never taken for the new holder's.
    fs::write(&file, note).unwrap();
    let guard = ours(scene.store.claim(&dead));
    let holder = theirs(scene.store.claim(&dead));
    assert_eq!(holder.pid, Some(std::process::id()));
    assert!(holder.what.ends_with(", for 0 s"), "{holder}");
    drop((guard, living));
    assert_eq!(claims(&scene), 0);
    scene.fsck_is_clean();
    scene.store.gc(GcMode::Remove, |_| ()).unwrap();
}

/// Not a test by itself: the process that the next one kills.
#[test]
fn claiming_child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = open_as::<Sha256HashValue>(Path::new(&path));
    let _guard = ours(store.claim(&name()));
    std::io::stderr().write_all(b"claimed\n").unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn the_claim_of_a_killed_process_is_free_at_once() {
    let scene = repo::<Sha256HashValue>();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::claims::claiming_child", "--nocapture"])
        .env(CHILD, scene.store.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.into_iter().any(|line| line == "claimed"));
    assert_eq!(theirs(scene.store.claim(&name())).pid, Some(child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(claims(&scene), 1);
    drop(ours(scene.store.claim(&name())));
    assert_eq!(claims(&scene), 0);
}

#[test]
fn a_program_that_is_started_meanwhile_does_not_inherit_a_claim() {
    let scene = repo::<Sha256HashValue>();
    let _guard = ours(scene.store.claim(&name()));
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let files = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    let open: Vec<PathBuf> = files.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect();
    assert!(!open.iter().any(|path| path.starts_with(scene.path(""))), "{open:?}");
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn two_never_have_the_same_layer_however_fast_claims_come_and_go() {
    let scene = repo::<Sha256HashValue>();
    let stores: Vec<_> = (0..4).map(|_| open_as::<Sha256HashValue>(scene.store.path())).collect();
    let (taken, start) = (AtomicBool::new(false), Barrier::new(stores.len()));
    std::thread::scope(|scope| {
        for store in &stores {
            scope.spawn(|| {
                start.wait();
                for _ in 0..2000 {
                    if let Claim::Ours(guard) = store.claim(&name())
                        && guard.is_seen()
                    {
                        assert!(!taken.swap(true, Ordering::SeqCst), "claimed twice");
                        std::thread::yield_now();
                        taken.store(false, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert_eq!(claims(&scene), 0);
}

#[test]
fn where_no_claim_can_be_made_the_work_is_done_anyway() {
    let scene = repo::<Sha256HashValue>();
    fs::create_dir(scene.path("cfs-dag")).unwrap();
    fs::write(scene.path("cfs-dag/claims"), "in the way").unwrap();
    let guard = ours(scene.store.claim(&name()));
    assert!(!guard.is_seen());
    let _again = ours(scene.store.claim(&name()));
}

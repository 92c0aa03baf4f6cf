//! One repository, two programs: upstream's pull and gc, and ours, one after the other, at once, and cut
//! short. Whatever they do, a tagged image stays whole.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use support::{
    image::{Image, Layout, layout},
    moments::{Strike, count, moments, prepare, reach, strike},
    oracle::{self, DEFAULT_KIND, Stored},
    pulls::*,
    repo::{Running, Scratch, assert_same_lines, cfs_dag, command, repo_manifest, scratch},
    tar::*,
    tree,
};

/// An image, what it is made of, and what has to be stored of it.
struct Wanted {
    image: Image,
    tars: Vec<Vec<u8>>,
    stored: Stored,
}

/// Three images over one base; the second has all layers of the first.
struct Images {
    _layout: Layout,
    all: [Wanted; 3],
}

fn images() -> &'static Images {
    static MADE: OnceLock<Images> = OnceLock::new();
    MADE.get_or_init(|| {
        let layout = layout();
        let base = files(1, 20, 300_000);
        let (top, more) = (files(2, 20, 80_000), files(3, 15, 1_200_000));
        let wanted = |tag: &str, tars: Vec<Vec<u8>>| {
            let image = tars.iter().fold(layout.image(tag), |image, tar| image.layer(tar.as_slice()));
            let image = image.env(&format!("NAME={tag}")).write();
            let stored = oracle::oracle(&image.reference, DEFAULT_KIND).stored;
            Wanted { image, tars, stored }
        };
        let all = [
            wanted("a", vec![base.clone(), top.clone()]),
            wanted("b", vec![base.clone(), top, more.clone()]),
            wanted("c", vec![base, more]),
        ];
        Images { _layout: layout, all }
    })
}

fn files(seed: u64, count: u64, large: usize) -> Vec<u8> {
    let name = |n: u64| format!("usr/{seed}-{n}");
    let small = (0..count).map(|n| file(name(n), noise(seed * 1000 + n, 30 + 97 * n as usize)));
    tar([dir("usr")].into_iter().chain(small).chain([file(name(count), noise(seed, large))]))
}

fn fresh() -> (Scratch, PathBuf) {
    let scratch = scratch();
    let repo = scratch.path("repo");
    prepare(&repo);
    (scratch, repo)
}

impl Wanted {
    fn reference(&self) -> &str {
        &self.image.reference
    }

    fn ours(&self, repo: &Path) {
        pull(repo, &[self.reference()]).expect_success();
    }

    fn theirs(&self, repo: &Path) {
        oracle::upstream_pull(repo, self.reference(), self.reference()).unwrap();
    }

    fn untag(&self, repo: &Path) {
        cfs_dag(["untag", self.reference()]).repo(repo).expect_success();
    }
}

/// Asserts that `wanted` are whole, and still are after a gc.
#[track_caller]
fn assert_whole(repo: &Path, wanted: &[&Wanted]) {
    let check = |when: &str| {
        for image in wanted {
            assert_eq!(oracle::stored(repo, image.reference()), image.stored, "{when}");
        }
    };
    check("before gc");
    oracle::gc(repo);
    check("after gc");
    oracle::assert_clean(repo);
    oracle::assert_gc_removes_nothing(repo);
    static CAN_MOUNT: OnceLock<bool> = OnceLock::new();
    if *CAN_MOUNT.get_or_init(tree::can_mount) {
        for image in wanted {
            tree::assert_mounts(repo, image.reference(), &image.tars);
        }
    }
    assert_no_leftovers(repo);
}

#[test]
fn what_upstream_has_pulled_is_taken_as_it_is() {
    let [a, b, c] = &images().all;
    let (_scratch, repo) = fresh();
    a.theirs(&repo);
    oracle::gc(&repo);
    let before = repo_manifest(&repo);
    a.ours(&repo);
    assert_same_lines("repository", &before, &repo_manifest(&repo));
    b.ours(&repo);
    oracle::gc(&repo);
    c.theirs(&repo);
    c.ours(&repo);
    oracle::assert_clean(&repo);
    assert_whole(&repo, &[a, b, c]);
}

#[test]
fn upstream_pulls_over_what_we_have_pulled() {
    let [a, b, c] = &images().all;
    let (_scratch, repo) = fresh();
    b.ours(&repo);
    oracle::assert_gc_removes_nothing(&repo);
    b.theirs(&repo);
    oracle::assert_clean(&repo);
    oracle::gc(&repo);
    a.theirs(&repo);
    c.ours(&repo);
    a.ours(&repo);
    oracle::assert_clean(&repo);
    assert_whole(&repo, &[a, b, c]);
    // And what is left when the rest goes is whole as well.
    b.untag(&repo);
    assert_whole(&repo, &[a, c]);
    a.untag(&repo);
    assert_whole(&repo, &[c]);
}

#[test]
fn both_pull_at_the_same_time() {
    let [a, b, c] = &images().all;
    let plans: [([&Wanted; 2], [&Wanted; 2]); 4] =
        [([a, b], [a, b]), ([a, b], [b, a]), ([a, c], [b, c]), ([c, b], [c, a])];
    let start = |repo: &Path, images: &[&Wanted; 2], jobs: &str| {
        pull(repo, &images.map(Wanted::reference)).arg("-j").arg(jobs).start()
    };
    let (_scratch, repo) = fresh();
    let (events, finished) = count(&repo, || start(&repo, &[a, b], "2"));
    finished.assert_code(0);
    // One begins when the other is so far.
    let moments = [0, 0, 0, 0].into_iter().chain(moments(4, 6, events));
    for (round, ((ours, theirs), at)) in plans.iter().cycle().zip(moments).enumerate() {
        let (_scratch, repo) = fresh();
        let jobs = ["1", "2", "8"][round % 3];
        if round % 4 == 3 {
            let upstream = reach(&repo, at, || start_upstream(&repo, theirs[0].reference()));
            let running = start(&repo, ours, jobs);
            upstream.wait().assert_code(0);
            theirs[1].theirs(&repo);
            running.wait().assert_code(0);
        } else {
            let running = reach(&repo, at, || start(&repo, ours, jobs));
            for image in theirs {
                image.theirs(&repo);
            }
            running.wait().assert_code(0);
        }
        oracle::assert_clean(&repo);
        let mut all: Vec<&Wanted> = ours.iter().chain(theirs).copied().collect();
        all.sort_by_key(|image| image.reference());
        all.dedup_by_key(|image| image.reference());
        assert_whole(&repo, &all);
    }
}

#[test]
fn two_of_us_pull_at_the_same_time_and_leave_what_one_would() {
    let [a, b, c] = &images().all;
    let start =
        |repo: &Path, one: &Wanted, two: &Wanted| pull(repo, &[one.reference(), two.reference()]).start();
    let (_clean, clean) = fresh();
    let (events, finished) = count(&clean, || start(&clean, a, b));
    finished.assert_code(0);
    start(&clean, b, c).wait().assert_code(0);
    let records = |repo: &Path| fs::read_dir(repo.join("cfs-dag/runs")).unwrap().count();
    for at in [0, 0, 0].into_iter().chain(moments(5, 5, events)) {
        let (_scratch, repo) = fresh();
        let one = reach(&repo, at, || start(&repo, a, b));
        let two = start(&repo, b, c);
        one.wait().assert_code(0);
        two.wait().assert_code(0);
        oracle::assert_clean(&repo);
        assert_eq!(records(&repo), 2);
        assert_whole(&repo, &[a, b, c]);
        assert_same_when_swept(&clean, &repo);
    }
}

#[test]
fn two_of_us_pull_the_same_at_the_same_time() {
    let [a, b, _] = &images().all;
    let start = |repo: &Path| pull(repo, &[a.reference(), b.reference()]).start();
    let (_clean, clean) = fresh();
    let (events, finished) = count(&clean, || start(&clean));
    finished.assert_code(0);
    for at in [0, 0].into_iter().chain(moments(6, 3, events)) {
        let (_scratch, repo) = fresh();
        // Three, so that two of them wait for the same one.
        let first = reach(&repo, at, || start(&repo));
        let others = [start(&repo), start(&repo)];
        first.wait().assert_code(0);
        for running in others {
            running.wait().assert_code(0);
        }
        oracle::assert_clean(&repo);
        assert_whole(&repo, &[a, b]);
        assert_same_when_swept(&clean, &repo);
    }
}

/// This process, as a message names it.
fn this_process() -> String {
    let program = std::env::current_exe().unwrap();
    format!("process {} ({}", std::process::id(), program.file_name().unwrap().display())
}

#[test]
fn a_command_that_waits_for_a_gc_says_whose_it_is() {
    let (_scratch, repo) = fresh();
    let collector = fs::File::open(&repo).unwrap();
    collector.lock().unwrap();
    let mut waiting = cfs_dag(["images"]).repo(&repo).start();
    waiting.until_it_says(&["waiting for a garbage collection to end", &this_process()]);
    drop(collector);
    waiting.wait().assert_code(0);
    let quiet = cfs_dag(["images"]).repo(&repo).expect_success();
    assert_eq!(quiet.stderr, "");
}

#[test]
fn a_gc_that_waits_for_others_says_who_they_are() {
    let (_scratch, repo) = fresh();
    let user = fs::File::open(&repo).unwrap();
    user.lock_shared().unwrap();
    let mut waiting = cfs_dag(["gc"]).repo(&repo).start();
    waiting.until_it_says(&["the repository is in use by", &this_process(), "waiting for them to end"]);
    // While it waits, others are not kept out.
    cfs_dag(["images"]).repo(&repo).expect_success();
    drop(user);
    waiting.wait().assert_code(0);
}

#[test]
fn a_gc_that_starts_during_a_pull_waits_or_comes_first() {
    let [a, b, c] = &images().all;
    for round in 0..4 {
        let (_scratch, repo) = fresh();
        a.ours(&repo);
        c.ours(&repo);
        c.untag(&repo);
        // What c has left behind is wanted by b, and garbage until b is tagged.
        let pull = pull(&repo, &[b.reference()]).start();
        if round % 2 == 0 {
            oracle::gc(&repo);
        } else {
            cfs_dag(["gc"]).repo(&repo).expect_success();
        }
        pull.wait().assert_code(0);
        oracle::assert_clean(&repo);
        assert_whole(&repo, &[a, b]);
    }
}

/// The objects that a gc would remove.
fn garbage(repo: &Path, scratch: &Scratch) -> Vec<String> {
    let copy = scratch.path("copy");
    let copied = Command::new("cp").arg("-a").arg(repo).arg(&copy).status().unwrap();
    assert!(copied.success());
    oracle::gc(&copy);
    let (before, after) = (oracle::objects(repo), oracle::objects(&copy));
    fs::remove_dir_all(copy).unwrap();
    before.difference(&after).cloned().collect()
}

/// A repository with `a` tagged, and `b` and `c` left behind, pulled by whom `by_us` says.
fn with_garbage(by_us: bool) -> (Scratch, PathBuf) {
    let [a, b, c] = &images().all;
    let (scratch, repo) = fresh();
    for image in [a, b, c] {
        if by_us { image.ours(&repo) } else { image.theirs(&repo) }
    }
    b.untag(&repo);
    c.untag(&repo);
    (scratch, repo)
}

#[test]
fn what_a_gc_that_died_half_way_has_left_is_not_believed() {
    let [a, b, c] = &images().all;
    for seed in 0..9 {
        let (scratch, repo) = with_garbage(seed % 2 == 0);
        let garbage = garbage(&repo, &scratch);
        assert!(garbage.len() > 10, "{garbage:?}");
        // From a single object to all but a few.
        let share = 1 + 28 * seed;
        for (object, byte) in garbage.iter().zip(noise(seed, garbage.len())) {
            if u64::from(byte) < share {
                fs::remove_file(repo.join("objects").join(object)).unwrap();
            }
        }
        match seed % 3 {
            0 => b.ours(&repo),
            1 => c.ours(&repo),
            _ => drop(pull(&repo, &[c.reference(), b.reference()]).expect_success()),
        }
        match seed % 3 {
            0 => assert_whole(&repo, &[a, b]),
            1 => assert_whole(&repo, &[a, c]),
            _ => assert_whole(&repo, &[a, b, c]),
        }
    }
}

#[test]
fn one_missing_object_is_found_whichever_it_is() {
    let [a, b, _] = &images().all;
    let (scratch, repo) = with_garbage(true);
    let garbage = garbage(&repo, &scratch);
    let (_clean, clean) = fresh();
    pull(&clean, &[a.reference(), b.reference()]).expect_success();
    let needed = oracle::objects(&clean);
    let of_b = garbage.iter().filter(|object| needed.contains(*object));
    // One after the other: each pull repairs what was taken away.
    for object in of_b.step_by(2) {
        fs::remove_file(repo.join("objects").join(object)).unwrap();
        b.ours(&repo);
        assert_eq!(oracle::stored(&repo, b.reference()), b.stored, "without {object}");
        let lost: Vec<_> = needed.difference(&oracle::objects(&repo)).cloned().collect();
        assert!(lost.is_empty(), "{lost:?}");
        b.untag(&repo);
    }
    b.ours(&repo);
    assert_whole(&repo, &[a, b]);
}

#[test]
fn a_gc_that_was_really_killed_leaves_nothing_that_harms() {
    let [a, b, c] = &images().all;
    let start = |repo: &Path| cfs_dag(["gc"]).repo(repo).start();
    let (_scratch, repo) = with_garbage(true);
    let (events, finished) = count(&repo, || start(&repo));
    finished.assert_code(0);
    for at in moments(1, 5, events) {
        let (_scratch, repo) = with_garbage(true);
        strike(Strike::Kill, &repo, at, || start(&repo));
        assert_eq!(oracle::stored(&repo, a.reference()), a.stored);
        pull(&repo, &[b.reference(), c.reference()]).expect_success();
        assert_whole(&repo, &[a, b, c]);
    }
}

#[test]
fn what_is_left_of_an_upstream_pull_without_its_last_links_is_used() {
    let [a, b, _] = &images().all;
    for seed in 0..8 {
        let (_scratch, repo) = fresh();
        a.ours(&repo);
        b.theirs(&repo);
        b.untag(&repo);
        // Upstream links layers first, then the config, then the manifest: all from some point on is missing.
        let layers = b.image.layers.iter().map(|layer| format!("streams/oci-layer-{}", layer.diff_id));
        let erofs = format!("images/{}", b.stored.erofs_v1.as_ref().unwrap());
        let documents = [&b.image.config, &b.image.manifest];
        let documents = [
            format!("streams/oci-config-{}", documents[0]),
            format!("streams/oci-manifest-{}", documents[1]),
        ];
        let links: Vec<String> = layers.chain([erofs]).chain(documents).collect();
        let shared = a.image.layers.len();
        for link in &links[(shared + seed % (links.len() - shared))..] {
            fs::remove_file(repo.join(link)).unwrap();
        }
        b.ours(&repo);
        oracle::assert_clean(&repo);
        assert_whole(&repo, &[a, b]);
    }
}

const CHILD: &str = "CFS_DAG_TEST_UPSTREAM_PULL";

/// Not a test by itself: the process that the next one kills.
#[test]
fn upstream_pull_child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let (repo, reference) = task.split_once('\n').unwrap();
    oracle::upstream_pull(Path::new(repo), reference, reference).unwrap();
}

fn start_upstream(repo: &Path, reference: &str) -> Running {
    let program = std::env::current_exe().unwrap();
    command(program.to_str().unwrap(), ["--exact", "mixed_use::upstream_pull_child"])
        .env(CHILD, format!("{}\n{reference}", repo.display()))
        .start()
}

#[test]
fn an_upstream_pull_that_was_killed_is_finished_by_us() {
    let [a, b, _] = &images().all;
    let (_scratch, repo) = fresh();
    let (events, finished) = count(&repo, || start_upstream(&repo, b.reference()));
    finished.assert_code(0);
    assert_whole(&repo, &[b]);
    for (round, at) in moments(2, 8, events).into_iter().enumerate() {
        let (_scratch, repo) = fresh();
        if round % 2 == 0 {
            a.ours(&repo);
        }
        strike(Strike::Kill, &repo, at, || start_upstream(&repo, b.reference()));
        b.ours(&repo);
        a.ours(&repo);
        oracle::assert_clean(&repo);
        assert_whole(&repo, &[a, b]);
    }
}

#[test]
fn a_pull_of_ours_that_was_killed_is_finished_by_upstream() {
    let [a, b, _] = &images().all;
    let start = |repo: &Path| pull(repo, &[a.reference(), b.reference()]).start();
    let (_scratch, repo) = fresh();
    let (events, finished) = count(&repo, || start(&repo));
    finished.assert_code(0);
    for at in moments(3, 5, events) {
        let (_scratch, repo) = fresh();
        strike(Strike::Kill, &repo, at, || start(&repo));
        b.theirs(&repo);
        oracle::assert_clean(&repo);
        a.theirs(&repo);
        cfs_dag(["gc"]).repo(&repo).expect_success();
        assert_whole(&repo, &[a, b]);
    }
}

//! Repositories in which somebody put links that lead elsewhere: what they lead to is neither
//! read, nor written, nor removed, and whoever runs a command hears where the link is. What such
//! names say is not obeyed.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode};

use support::{
    image::{Layout, layout},
    oracle,
    repo::{Finished, Invocation, Scratch, assert_same_lines, cfs_dag, repo_manifest, scratch},
    tar::*,
};

/// A repository that holds one image, a second image to pull, and a place outside.
struct Scene {
    scratch: Scratch,
    _layout: Layout,
    first: String,
    second: String,
}

/// Every folder that a repository has, ours and upstream's.
const FOLDERS: [&str; 9] = [
    "objects",
    "streams",
    "streams/refs",
    "streams/refs/oci",
    "images",
    "cfs-dag",
    "cfs-dag/tmp",
    "cfs-dag/nodes",
    "cfs-dag/runs",
];

impl Scene {
    fn new() -> Self {
        let (scratch, layout) = (scratch(), layout());
        let image = |tag: &str, seed: u64| {
            let files = (0..20u64).map(|n| file(format!("usr/{tag}{n}"), noise(seed * 100 + n, 500)));
            layout.image(tag).layer(tar([dir("usr")].into_iter().chain(files))).write().reference
        };
        let (first, second) = (image("first", 1), image("second", 2));
        let scene = Self { scratch, _layout: layout, first, second };
        scene.run(["pull", "--insecure", &scene.first]).expect_success();
        fs::create_dir(scene.outside()).unwrap();
        scene
    }

    /// Puts outside what a command would change or remove there that took a link for a folder: what folders
    /// hold, and what dead runs leave.
    fn put_decoys(&self) {
        for folder in ["streams/refs/oci", "streams", "images", "objects", "cfs-dag"] {
            let content = self.repo().join(folder).join(".");
            let copied = Command::new("cp").arg("-a").arg(content).arg(self.outside()).status();
            assert!(copied.is_ok_and(|copied| copied.success()), "cp failed");
        }
        for dead in ["dead", "tmp/dead"] {
            fs::create_dir_all(self.outside().join(dead)).unwrap();
            fs::write(self.outside().join(dead).join("file"), "somebody's").unwrap();
        }
    }

    fn repo(&self) -> PathBuf {
        self.scratch.path("repo")
    }

    fn outside(&self) -> PathBuf {
        self.scratch.path("outside")
    }

    fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Invocation {
        cfs_dag(args).time_limit(Duration::from_secs(40)).repo(self.repo())
    }

    /// Moves what is at `path` in the repository out of it and puts a link in its place.
    fn move_out(&self, path: &str, absolute: bool) {
        let (inside, outside) = (self.repo().join(path), self.outside().join("moved"));
        fs::rename(&inside, &outside).unwrap();
        let up = "../".repeat(path.split('/').count());
        let target = if absolute { outside } else { PathBuf::from(format!("{up}outside/moved")) };
        symlink(target, inside).unwrap();
    }

    /// What every verb on a repository ends with.
    fn every_verb(&self) -> Vec<Finished> {
        let (target, list) = (self.scratch.path("mnt"), self.scratch.path("list"));
        let _ = fs::create_dir(&target);
        fs::write(&list, &self.second).unwrap();
        let verbs: [&[&str]; 12] = [
            &["pull", "--progress=none", &self.second],
            &["mirror", "--progress=none", list.to_str().unwrap()],
            &["log"],
            &["init", "--insecure"],
            &["images"],
            &["inspect", &self.first],
            &["tag", &self.first, "other"],
            &["untag", &self.first],
            &["fsck"],
            &["gc", "--dry-run"],
            &["gc"],
            &["mount", &self.first, target.to_str().unwrap()],
        ];
        verbs.iter().map(|verb| self.run(verb.iter().copied()).run()).collect()
    }
}

/// Everything below `path`, also below `cfs-dag`.
fn listing(path: &Path) -> Vec<String> {
    let mut lines = repo_manifest(path);
    for own in ["cfs-dag", "moved/cfs-dag"] {
        if path.join(own).is_dir() {
            lines.extend(repo_manifest(&path.join(own)));
        }
    }
    lines
}

#[test]
fn a_folder_that_is_a_link_is_refused_by_every_verb() {
    for absolute in [true, false] {
        for folder in &FOLDERS[..5] {
            let scene = Scene::new();
            scene.move_out(folder, absolute);
            let before = listing(&scene.outside());
            for finished in scene.every_verb() {
                assert_eq!(finished.code, Some(1), "{folder}: {finished}");
                finished.says(&[folder, "is a link", "put the folder itself"]);
            }
            assert_eq!(before, listing(&scene.outside()), "{folder}");
        }
    }
}

#[test]
fn a_folder_of_ours_that_is_a_link_is_neither_read_nor_swept() {
    for folder in &FOLDERS[5..] {
        let scene = Scene::new();
        scene.move_out(folder, true);
        let kept = scene.outside().join("moved/kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "somebody else's").unwrap();
        let before = listing(&scene.outside());
        let pull = ["pull", "--progress=none", &scene.second];
        scene.run(pull).expect_failure(1).says(&[folder, "is not a folder: remove it"]);
        scene.run(["gc"]).expect_failure(1);
        let shown = scene.run(["log"]).run();
        assert_eq!(shown.code == Some(0), *folder == "cfs-dag/tmp" || *folder == "cfs-dag/nodes", "{shown}");
        assert_eq!(before, listing(&scene.outside()), "{folder}");
    }
}

/// A run's folder that is a link: sweeping it as a dead run's would empty what it leads to.
#[test]
fn what_a_link_in_the_folder_of_runs_leads_to_is_not_swept() {
    let scene = Scene::new();
    fs::write(scene.outside().join("precious"), "somebody else's").unwrap();
    for (name, target) in [("1-dead", "../../../outside".into()), ("2-dead", scene.outside())] {
        symlink(target, scene.repo().join("cfs-dag/tmp").join(name)).unwrap();
    }
    symlink(scene.outside().join("precious"), scene.repo().join("cfs-dag/claims/oci-layer-x")).unwrap();
    let before = listing(&scene.outside());
    scene.run(["pull", "--progress=none", &scene.second]).expect_success();
    scene.run(["gc"]).expect_success();
    assert_eq!(before, listing(&scene.outside()));
}

#[test]
fn records_behind_links_are_none() {
    let scene = Scene::new();
    let nodes = scene.repo().join("cfs-dag/nodes");
    for entry in fs::read_dir(&nodes).unwrap() {
        let name = entry.unwrap().file_name();
        let elsewhere = scene.outside().join(&name);
        fs::rename(nodes.join(&name), &elsewhere).unwrap();
        symlink(elsewhere, nodes.join(&name)).unwrap();
    }
    let runs = scene.repo().join("cfs-dag/runs");
    let run = fs::read_dir(&runs).unwrap().next().unwrap().unwrap().file_name();
    fs::rename(runs.join(&run), scene.outside().join("run")).unwrap();
    symlink(scene.outside().join("run"), runs.join(&run)).unwrap();
    let before = listing(&scene.outside());
    scene.run(["log"]).expect_failure(1);
    // What it made is stored; that it made it, it does not remember, nor where.
    scene.run(["pull", "--progress=none", &scene.first]).expect_success();
    scene.run(["pull", "--progress=none", &scene.second]).expect_success();
    assert_eq!(before, listing(&scene.outside()));
}

#[test]
fn a_folder_of_objects_that_is_a_link_gets_none_and_loses_none() {
    let scene = Scene::new();
    let objects = scene.repo().join("objects");
    for byte in 0..=u8::MAX {
        let (inside, outside) =
            (objects.join(format!("{byte:02x}")), scene.outside().join(format!("{byte:02x}")));
        if fs::rename(&inside, &outside).is_err() {
            fs::create_dir(&outside).unwrap();
        }
        symlink(outside, inside).unwrap();
    }
    let before = listing(&scene.outside());
    for finished in scene.every_verb() {
        if finished.code != Some(0) {
            assert_eq!(finished.code, Some(1), "{finished}");
            assert!(finished.stderr.contains("link"), "{finished}");
        }
    }
    scene.run(["pull", "--progress=none", &scene.second]).expect_failure(1).says(&["objects/", "is a link"]);
    scene.run(["gc"]).expect_failure(1).says(&["objects/", "link"]);
    assert_eq!(before, listing(&scene.outside()));
}

#[test]
fn an_object_that_is_a_link_or_a_pipe_is_replaced_by_a_pull_that_is_forced() {
    for kind in ["link", "pipe"] {
        let scene = Scene::new();
        let mut objects: Vec<PathBuf> = Vec::new();
        for folder in fs::read_dir(scene.repo().join("objects")).unwrap() {
            objects.extend(fs::read_dir(folder.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
        }
        for (n, object) in objects.iter().enumerate() {
            let elsewhere = scene.outside().join(n.to_string());
            fs::rename(object, &elsewhere).unwrap();
            match kind {
                "link" => symlink(&elsewhere, object).unwrap(),
                _ => rustix::fs::mknodat(CWD, object, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
            }
        }
        let before = listing(&scene.outside());
        for verb in ["fsck", "gc"] {
            scene.run([verb]).expect_failure(1).says(&["objects/", "is a link", "something else"]);
        }
        scene.run(["pull", "--progress=none", "--force", &scene.first]).expect_success();
        assert_eq!(before, listing(&scene.outside()));
        oracle::assert_clean(&scene.repo());
    }
}

#[test]
fn a_stream_or_name_that_leads_out_is_not_followed() {
    for (folder, verb) in [
        ("streams", "gc"),
        ("streams", "fsck"),
        ("images", "gc"),
        ("images", "mount"),
        ("streams/refs/oci", "gc"),
        ("streams/refs/oci", "images"),
    ] {
        let scene = Scene::new();
        let dir = scene.repo().join(folder);
        fs::write(scene.outside().join("secret"), "somebody else's").unwrap();
        let up = "../".repeat(folder.split('/').count() + 1);
        symlink(format!("{up}outside/secret"), dir.join("oci-layer-sha256:0")).unwrap();
        let target = scene.scratch.path("mnt");
        fs::create_dir(&target).unwrap();
        let args: Vec<&str> = match verb {
            "mount" => vec![verb, &scene.first, target.to_str().unwrap()],
            _ => vec![verb],
        };
        scene.run(args).expect_failure(1).says(&[folder, "leads out of the repository"]);
        assert_eq!(listing(&scene.outside()).len(), 1);
    }
}

#[test]
fn names_in_a_repository_cannot_forge_what_a_check_says() {
    let scene = Scene::new();
    let name = "evil\x1b[31m\r\nstatus: ok\n  - forged\u{9b}0m";
    for (folder, nowhere) in
        [("streams", "nowhere"), ("streams/refs/oci", "../../nowhere"), ("images", "nowhere")]
    {
        symlink(nowhere, scene.repo().join(folder).join(name)).unwrap();
    }
    let objects = fs::read_dir(scene.repo().join("objects")).unwrap().next().unwrap().unwrap().path();
    fs::write(objects.join(name), "no object").unwrap();
    let found = scene.run(["fsck"]).run().assert_code(1);
    assert!(found.stdout.matches("evil").count() >= 4, "{found}");
    assert!(found.stdout.chars().all(|c| c == '\n' || !c.is_control()), "{found}");
    for forged in ["status: ok", "  - forged"] {
        assert!(!found.stdout.lines().any(|line| line.starts_with(forged)), "{found}");
    }
    for real in ["objects: ", "status: ", "to mend: "] {
        assert_eq!(found.stdout.lines().filter(|line| line.starts_with(real)).count(), 1, "{found}");
    }
}

#[test]
fn a_repository_whose_description_is_a_link_or_a_pipe_is_refused() {
    for kind in ["link", "pipe"] {
        let scene = Scene::new();
        let meta = scene.repo().join("meta.json");
        fs::rename(&meta, scene.outside().join("meta.json")).unwrap();
        match kind {
            "link" => symlink("../outside/meta.json", &meta).unwrap(),
            _ => rustix::fs::mknodat(CWD, &meta, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
        }
        for finished in scene.every_verb() {
            assert_eq!(finished.code, Some(1), "{finished}");
            finished.says(&["meta.json", if kind == "link" { "is a link" } else { "is no file" }]);
        }
    }
}

/// Links that come and go while a pull is at work: whatever it ends with, nothing outside is
/// made, changed or removed.
#[test]
fn folders_that_become_links_while_a_pull_is_at_work_lead_nowhere() {
    let scene = Scene::new();
    scene.put_decoys();
    let outside = listing(&scene.outside());
    let ended = AtomicBool::new(false);
    // Links that come all the time are met at once, when the repository is opened: so they
    // come more and more rarely.
    let pause = AtomicUsize::new(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                for folder in ["streams/refs/oci", "streams", "images", "objects", "cfs-dag", "cfs-dag/tmp"] {
                    let (path, hidden) = (scene.repo().join(folder), scene.scratch.path("hidden"));
                    if fs::rename(&path, &hidden).is_err() {
                        continue;
                    }
                    let linked = symlink(scene.outside(), &path).is_ok();
                    std::thread::yield_now();
                    if linked {
                        fs::remove_file(&path).unwrap();
                    }
                    // The pull may have made it anew.
                    if fs::rename(&hidden, &path).is_err() {
                        fs::remove_dir_all(&hidden).unwrap();
                    }
                    (0..pause.load(Ordering::Relaxed)).for_each(|_| std::thread::yield_now());
                }
            }
        });
        let (mut whole, mut cut_short) = (0, 0);
        for n in 0..200 {
            pause.store(1 << (n % 16), Ordering::Relaxed);
            let finished = scene.run(["pull", "--progress=none", "--force", &scene.second]).run();
            assert!(matches!(finished.code, Some(0 | 1)), "{finished}");
            whole += u32::from(finished.code == Some(0));
            // Who names the image had opened the repository.
            cut_short += u32::from(finished.code == Some(1) && finished.stderr.contains(&*scene.second));
            if n >= 12 && whole > 0 && cut_short > 0 {
                break;
            }
        }
        ended.store(true, Ordering::Relaxed);
        assert!(whole > 0 && cut_short > 0, "{whole} whole, {cut_short} cut short");
    });
    assert_same_lines("what is outside", &outside, &listing(&scene.outside()));
}

/// The links of a sound repository lead nowhere else.
#[test]
fn a_sound_repository_is_taken_for_one() {
    let scene = Scene::new();
    fs::create_dir_all(scene.repo().join("streams/refs/mine/own")).unwrap();
    let stream = fs::read_dir(scene.repo().join("streams")).unwrap();
    let stream = stream.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let stream = stream.into_iter().find(|name| name.starts_with("oci-layer")).unwrap();
    symlink(format!("../../../{stream}"), scene.repo().join("streams/refs/mine/own/name")).unwrap();
    for verb in ["images", "fsck", "gc"] {
        scene.run([verb]).expect_success();
    }
    let linked = scene.scratch.path("linked");
    symlink(scene.repo(), &linked).unwrap();
    // The way to a repository may be a link: it is the user's.
    cfs_dag(["pull", "--progress=none", &scene.second]).repo(&linked).expect_success();
    cfs_dag(["fsck"]).repo(&linked).expect_success();
}

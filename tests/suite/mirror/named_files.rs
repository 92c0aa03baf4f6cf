//! Files that the command line names: what is read of them, and which may be written.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    process::Command,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use support::repo::{Invocation, cfs_dag, command, program};

use super::world::World;

const MIB: u64 = 1 << 20;

/// Asserts exit code 2 with one line that has all of `words`, that nothing was asked, and
/// that no repository was made.
#[track_caller]
fn assert_refused(world: &World, run: Invocation, words: &[&str]) {
    world.registry.forget_requests();
    let finished = run.expect_failure(2).says(words);
    assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
    assert!(!world.repo().exists(), "{finished}");
    assert!(world.registry.requests().is_empty(), "{:?}", world.registry.requests());
}

#[test]
fn a_list_lock_or_plan_without_an_end_is_refused_within_bounded_memory() {
    let world = World::new();
    world.images(["app:v1"]);
    let list = world.list("docker://HOST/app:v1\n");
    fs::File::create(world.path("huge")).unwrap().set_len(65 * MIB).unwrap();
    fs::File::create(world.path("huge-plan")).unwrap().set_len(257 * MIB).unwrap();
    mknodat(CWD, world.path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let lock = |path: &str| world.mirror(&list).arg("--lock").arg(world.path(path));
    let plan =
        |path: &str| cfs_dag(["pull", "--insecure", "--plan"]).arg(world.path(path)).repo(world.repo());
    let too_long = "longer than 64 MiB";
    assert_refused(&world, lock("/dev/full"), &["/dev/full: this is a device: a file is expected"]);
    assert_refused(&world, lock("/dev/zero").arg("--locked"), &["/dev/zero: this is a device"]);
    assert_refused(&world, lock("pipe"), &["pipe: this is a pipe"]);
    assert_refused(&world, lock("huge"), &["huge: ", too_long]);
    assert_refused(&world, lock("."), &[": this is a directory"]);
    assert_refused(&world, world.mirror("/dev/full".as_ref()), &["/dev/full: this is a device"]);
    assert_refused(&world, world.mirror(&world.path("huge")), &["huge: ", too_long]);
    assert_refused(&world, plan("/dev/full"), &["/dev/full: this is a device"]);
    assert_refused(&world, plan("huge-plan"), &["huge-plan: longer than 256 MiB"]);
    assert_refused(&world, plan("."), &[": this is a directory"]);
    // /dev/stdout behind a pipe: reading it would wait for ever.
    let script =
        "\"$0\" mirror \"$1\" --repo \"$2\" --insecure --lock /dev/stdout | cat; exit ${PIPESTATUS[0]}";
    let piped = command("bash", ["-c", script, program()]).arg(&list).arg(world.repo());
    assert_refused(&world, piped, &["/dev/stdout: this is a pipe"]);
    // What never ends is read up to the bound.
    let endless =
        command("bash", ["-c", "exec \"$0\" mirror - --repo \"$1\" --insecure </dev/zero", program()]);
    let running = endless.arg(world.repo()).start();
    let finished = running.wait().assert_code(2).says(&["standard input: longer than 64 MiB"]);
    assert!(finished.peak_memory < 300 * MIB, "{} MiB", finished.peak_memory / MIB);
}

#[test]
fn a_long_list_takes_memory_in_proportion_to_its_images() {
    let world = World::new();
    // 300 MB of it took 6 GB.
    fs::write(world.path("list"), "dir:a\n".repeat(1_000_001)).unwrap();
    let finished =
        world.mirror(&world.path("list")).expect_failure(2).says(&["line 1000001, column 1: more than"]);
    assert!(finished.peak_memory < 700 * MIB, "{} MiB", finished.peak_memory / MIB);
}

#[test]
fn a_list_may_come_through_a_pipe() {
    let world = World::new();
    world.images(["app:v1"]);
    let line = world.told("docker://HOST/app:v1");
    let script = "\"$0\" mirror <(echo \"$1\") --repo \"$2\" --insecure --tls-verify=false --progress=none";
    command("bash", ["-c", script, program()]).arg(line).arg(world.repo()).expect_success();
    assert_eq!(world.names(), ["app:v1"]);
}

#[test]
fn an_output_that_would_overwrite_an_input_or_another_output_is_refused() {
    let world = World::new();
    world.images(["app:v1"]);
    let text = world.told("docker://HOST/app:v1\n");
    let list = world.list(&text);
    let folder = list.parent().unwrap().to_owned();
    symlink("list", world.path("link")).unwrap();
    symlink("out", world.path("dangling")).unwrap();
    fs::hard_link(&list, world.path("hard")).unwrap();
    fs::create_dir(world.path("sub")).unwrap();
    let mirror = |flags: &[&str]| world.mirror(&list).args(flags).in_folder(&folder);
    for flag in ["--lock", "--digestfile", "--summary"] {
        for same in ["list", "./sub/../list", "link", "hard"] {
            assert_refused(
                &world,
                mirror(&[flag, same]),
                &[flag, same, "this is the list and would be overwritten"],
            );
        }
    }
    for (one, other) in [("out", "out"), ("out", "./out"), ("out", "sub/../out"), ("out", "dangling")] {
        for flags in [["--lock", one, "--digestfile", other], ["--digestfile", one, "--summary", other]] {
            assert_refused(&world, mirror(&flags), &["names this file, too"]);
        }
    }
    let locked = ["--lock", "hard", "--locked", "--summary", "hard"];
    assert_refused(&world, mirror(&locked), &["--summary hard: this is the"]);
    let stdin =
        command("bash", ["-c", "exec \"$0\" mirror - --summary list <list", program()]).in_folder(&folder);
    assert_refused(&world, stdin.repo(world.repo()), &["--summary list: this is the list"]);
    let auth = mirror(&["--authfile", "hard", "--summary", "hard"]);
    assert_refused(&world, auth, &["--summary hard: this is --authfile"]);
    assert_eq!(fs::read_to_string(&list).unwrap(), text);

    let pull =
        |flags: &[&str]| cfs_dag(["pull", "--insecure"]).args(flags).in_folder(&folder).repo(world.repo());
    assert_refused(
        &world,
        pull(&["--plan", "list", "--plan-out", "hard"]),
        &["--plan-out hard: this is the plan"],
    );
    assert_refused(
        &world,
        pull(&["--plan", "list", "--summary", "link"]),
        &["--summary link: this is the plan"],
    );
    let both = ["oci:a", "--plan-out", "out", "--summary", "./out"];
    assert_refused(&world, pull(&both), &["names this file, too"]);
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_anything_is_asked() {
    let world = World::new();
    world.images(["app:v1"]);
    let list = world.list("docker://HOST/app:v1\n");
    fs::create_dir(world.path("folder")).unwrap();
    fs::set_permissions(world.path("folder"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(world.path("file"), "").unwrap();
    let path = |name: &str| world.path(name).display().to_string();
    for flag in ["--lock", "--digestfile", "--summary"] {
        let mirror = |path: &str| world.mirror(&list).arg(flag).arg(path);
        assert_refused(&world, mirror(&path("none/out")), &[flag, "none/out: its folder is not there"]);
        assert_refused(&world, mirror(&path("folder")), &[flag, "folder: this is a directory"]);
        assert_refused(&world, mirror(&path("file/out")), &[flag, "file/out: Not a directory"]);
        assert_refused(&world, mirror(&path(&"x".repeat(256))), &[flag, "File name too long"]);
    }
    for flag in ["--plan-out", "--summary"] {
        let pull =
            cfs_dag(["pull", "oci:a", "--insecure", flag]).arg(world.path("none/out")).repo(world.repo());
        assert_refused(&world, pull, &[flag, "none/out: its folder is not there"]);
    }
}

#[test]
fn a_folder_that_another_user_owns_is_refused_as_an_output() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let world = World::new();
    let list = world.list("docker://HOST/app:v1\n");
    let folder = list.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = |command: &mut Command| {
        use std::os::unix::process::CommandExt as _;
        command.uid(65534).gid(65534);
    };
    // The built program may be where no other user may look.
    let copy = world.path("cfs-dag");
    fs::copy(program(), &copy).unwrap();
    let run = command(&copy.display().to_string(), ["mirror", "--insecure"]).changed(as_nobody);
    let run = run.arg(&list).arg("--summary").arg(world.path("out")).repo(world.repo());
    assert_refused(&world, run, &["--summary", "out: its folder cannot be written: Permission denied"]);
}

#[test]
fn streams_and_devices_can_be_outputs() {
    let world = World::new();
    world.images(["app:v1"]);
    let list = world.list("docker://HOST/app:v1\n");
    let run = |script: &str| {
        // Links of our own to the streams: a fault must not replace those in /dev.
        let script = script.replace("/dev/std", "std");
        let common = "--insecure --tls-verify=false --progress=none";
        let script = format!("\"$0\" mirror list --repo repo {common} {script}");
        command("bash", ["-c", &script, program()]).in_folder(list.parent().unwrap())
    };
    symlink("/proc/self/fd/1", world.path("stdout")).unwrap();
    symlink("/proc/self/fd/2", world.path("stderr")).unwrap();
    run("--digestfile /dev/null --summary /dev/null").expect_success();
    let piped = run("--summary /dev/stdout --digestfile /dev/stderr | cat").expect_success();
    assert!(piped.stdout.contains("unchanged 1 image\n") && piped.stdout.contains("\"images\""), "{piped}");
    // Behind a file as well, which is not replaced: what was printed stays.
    run("--summary /dev/stdout --digestfile /dev/stderr >out 2>err").expect_success();
    let out = fs::read_to_string(world.path("out")).unwrap();
    assert!(out.starts_with("unchanged 1 image\n{") && out.ends_with("}\n"), "{out}");
    assert!(fs::read_to_string(world.path("err")).unwrap().ends_with(&world.told(" docker://HOST/app:v1\n")));
    // And behind a file that was removed: what is replaced must not be the link in /dev.
    let script = "exec 9<>gone; rm gone; ln -s /proc/self/fd/9 fd; \"$0\" mirror list --repo repo \
                  --digestfile fd \
                  --tls-verify=false --progress=none && test -L fd && grep -q HOST/app:v1 /proc/self/fd/9";
    let unnamed = command("bash", ["-c", &world.told(script), program()]);
    unnamed.in_folder(list.parent().unwrap()).expect_success();
    // A link stays one, also one that leads to nothing so far.
    symlink("new", world.path("link")).unwrap();
    for _ in 0..2 {
        run("--digestfile link").expect_success();
        assert!(world.path("link").is_symlink() && world.path("new").is_file());
    }
}

#[test]
fn the_result_is_printed_although_a_file_cannot_be_written() {
    let world = World::new();
    world.images(["app:v1"]);
    let list = world.list("docker://HOST/app:v1\n");
    for flag in ["--summary", "--digestfile"] {
        let finished = world.mirror(&list).arg(flag).arg("/dev/full").expect_failure(1);
        assert!(finished.stdout.contains("app:v1") || finished.stdout == "unchanged 1 image\n", "{finished}");
        finished.says(&["/dev/full", "cannot be written: No space left on device"]);
    }
    let pull = cfs_dag(["pull", "--tls-verify=false", "--progress=none"]).arg(world.name("app:v1"));
    let finished = pull.args(["--summary", "/dev/full"]).repo(world.repo()).expect_failure(1);
    assert!(finished.stdout.contains("manifest "), "{finished}");
    let dry = cfs_dag(["pull", "--tls-verify=false", "--dry-run"]).arg(world.name("app:v1"));
    let finished = dry.args(["--plan-out", "/dev/full"]).repo(world.repo()).expect_failure(1);
    assert!(finished.stdout.contains("1 image"), "{finished}");
}

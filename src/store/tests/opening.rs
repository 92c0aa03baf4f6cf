//! Finding, refusing and making repositories.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::with_store;

fn insecure() -> InitOptions {
    InitOptions { insecure: true, ..InitOptions::default() }
}

fn snapshot(dir: &Path) -> Vec<(String, u32)> {
    let mut names = Vec::new();
    list(dir, dir, &mut names);
    names.sort();
    let mode = |name: &String| fs::symlink_metadata(dir.join(name)).unwrap().permissions().mode();
    names.iter().map(|name| (name.clone(), mode(name))).collect()
}

fn message<T>(result: Result<T, StoreError>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn a_new_repository_is_what_cfsctl_init_makes() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (dir.path().join("a/ours"), dir.path().join("theirs"));
    let (store, made) = init(&ours, &insecure()).unwrap();
    assert!(made);
    assert!(matches!(store, AnyStore::Sha512(_)));
    let config = RepositoryConfig::new(Algorithm::SHA512).set_insecure();
    Repository::<Sha512HashValue>::init_path(rustix::fs::CWD, &theirs, config).unwrap();
    assert_eq!(snapshot(&ours), snapshot(&theirs));
    assert_eq!(fs::read(ours.join("meta.json")).unwrap(), fs::read(theirs.join("meta.json")).unwrap());
    assert_eq!(fs::metadata(&ours).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn probing_changes_nothing_and_says_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x/y/repo");
    assert_eq!(probe(&path, &insecure()).unwrap(), Target::ToCreate);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let formats = parse_formats("1,2").unwrap();
    let options =
        InitOptions { algorithm: Some(Algorithm::SHA256), formats: Some(formats.clone()), ..insecure() };
    init(&path, &options).unwrap();
    let before = snapshot(&path);
    let meta = Meta { algorithm: Algorithm::SHA256, formats, insecure: true, unknown_features: Vec::new() };
    assert_eq!(probe(&path, &InitOptions::default()).unwrap(), Target::Existing(meta));
    assert_eq!(snapshot(&path), before);
}

#[test]
fn making_it_twice_is_fine_and_making_it_otherwise_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repo");
    init(&path, &insecure()).unwrap();
    assert!(!init(&path, &insecure()).unwrap().1);
    for other in [
        InitOptions { algorithm: Some(Algorithm::SHA256), ..insecure() },
        InitOptions { formats: Some(parse_formats("2").unwrap()), ..insecure() },
    ] {
        assert!(message(init(&path, &other)).contains("leave that option out"));
        assert!(message(probe(&path, &other)).contains("leave that option out"));
    }
    // What a pull did not ask for may be anything.
    let path = dir.path().join("other");
    init(&path, &InitOptions { algorithm: Some(Algorithm::SHA256), ..insecure() }).unwrap();
    assert!(matches!(probe(&path, &InitOptions::default()).unwrap(), Target::Existing(_)));
}

#[test]
fn what_another_program_makes_meanwhile_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repo");
    init(&path, &insecure()).unwrap();
    let before = fs::metadata(path.join("meta.json")).unwrap();
    // As after a look that found nothing.
    for insecure in [true, false] {
        let options = InitOptions { insecure, ..InitOptions::default() };
        assert!(super::super::open::create(&path, &[], &options).unwrap().is_none());
        let after = fs::metadata(path.join("meta.json")).unwrap();
        assert_eq!(after.ino(), before.ino());
    }
}

#[test]
fn a_place_without_verity_is_refused_before_anything_is_made() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    let path = dir.path().join("repo");
    let text = message(init(&path, &InitOptions::default()));
    let expected = "this filesystem has no fs-verity: choose another place, or accept an unprotected \
                    repository \
                    with --insecure";
    assert_eq!(text, format!("{}: {expected}", path.display()));
    assert_eq!(message(probe(&path, &InitOptions::default())), text);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_is_no_repository_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/file"), "").unwrap();
    fs::create_dir_all(at("old/objects")).unwrap();
    fs::write(at("file"), "").unwrap();
    std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
    fs::create_dir_all(at("fresh/lost+found")).unwrap();
    assert!(message(probe(&at("full"), &insecure())).contains("neither a repository nor an empty directory"));
    assert!(message(probe(&at("old"), &insecure())).contains("old format"));
    assert!(message(probe(&at("file"), &insecure())).contains("not a directory"));
    assert!(message(probe(&at("dangling"), &insecure())).contains("dangling symlink"));
    assert!(message(open(&at("full"))).contains("no repository here"));
    assert!(message(open(&at("absent"))).contains("no repository here"));
    assert_eq!(probe(&at("fresh"), &insecure()).unwrap(), Target::ToCreate);
}

#[test]
fn unknown_features_and_versions_are_respected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("repo");
    init(&path, &insecure()).unwrap();
    let meta = fs::read_to_string(path.join("meta.json")).unwrap();
    let rewrite = |from: &str, to: &str| {
        assert!(meta.contains(from));
        fs::write(path.join("meta.json"), meta.replace(from, to)).unwrap();
    };
    rewrite("\"v1_erofs\"", "\"v1_erofs\", \"frobnicate\"");
    let store = open(&path).unwrap();
    let text = with_store!(&store, store => message(store.require_writable()));
    assert!(text.contains("refuse to write") && text.contains("frobnicate"), "{text}");
    assert!(with_store!(&store, store => Commit::start(store).is_err()));
    rewrite("\"incompatible\": []", "\"incompatible\": [\"frobnicate\"]");
    assert!(message(open(&path)).contains("frobnicate"));
    rewrite("\"version\": 1", "\"version\": 2, \"unheard\": true");
    assert!(message(open(&path)).contains("a repository of format 2"));
    fs::write(path.join("meta.json"), "{").unwrap();
    assert!(message(open(&path)).contains("meta.json cannot be read"));
}

#[test]
fn a_failed_init_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let path = dir.path().join("file/below/repo");
    assert!(init(&path, &insecure()).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn algorithms_and_formats_have_short_names() {
    assert_eq!(parse_algorithm("sha512"), Ok(Algorithm::SHA512));
    assert_eq!(parse_algorithm("fsverity-sha256-12"), Ok(Algorithm::SHA256));
    assert!(parse_algorithm("md5").unwrap_err().contains("use sha512 or sha256"));
    assert_eq!(parse_formats("2").unwrap(), FormatConfig::single(FormatVersion::V2));
    let both = FormatConfig { default: FormatVersion::V2, extra: [FormatVersion::V1].into() };
    assert_eq!(parse_formats("2,1").unwrap(), both);
    for bad in ["", "3", "1,", "0,1"] {
        assert!(parse_formats(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_place_is_chosen_as_cfsctl_does() {
    let given = locate(Some(Path::new("./here")), true, true).unwrap();
    assert_eq!(given, Path::new("./here"));
    assert_eq!(locate(None, false, true).unwrap(), composefs::repository::system_path());
    if rustix::process::getuid().is_root() {
        assert_eq!(locate(None, false, false).unwrap(), composefs::repository::system_path());
    }
}

#[test]
fn a_folder_of_ours_that_leads_elsewhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (repo, elsewhere) = (dir.path().join("repo"), dir.path().join("elsewhere"));
    let (store, _) = init(&repo, &insecure()).unwrap();
    fs::create_dir_all(elsewhere.join("tmp/precious")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, repo.join("cfs-dag")).unwrap();
    let refused = message(with_store!(store, store => store.require_writable()));
    assert!(refused.ends_with("cfs-dag is not a folder: remove it"), "{refused}");
    assert!(elsewhere.join("tmp/precious").exists());
}

#[test]
fn who_has_the_repository_for_themselves_is_told() {
    let scene = repo::<Sha256HashValue>();
    let path = scene.store.path().to_owned();
    drop(scene.store);
    assert_eq!(locked_by(&path), None);
    assert_eq!(locked_by(Path::new("/nothing/here")), None);
    let collector = fs::File::open(&path).unwrap();
    collector.lock().unwrap();
    let [holder] = &locked_by(&path).unwrap()[..] else { panic!("one process holds it") };
    assert_eq!(holder.pid, Some(std::process::id()));
    let program = std::env::current_exe().unwrap();
    assert!(holder.what.starts_with(program.file_name().unwrap().to_str().unwrap()), "{holder}");
    drop(collector);
    assert_eq!(locked_by(&path), None);
}

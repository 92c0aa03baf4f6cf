//! The verbs, and the node cache.

use std::{
    sync::Mutex,
    time::{Duration, SystemTime},
};

use rustix::fs::Mode;

use super::{
    images::{artifact, without_fs_image},
    law::{Op, Recorder},
    *,
};

#[test]
fn images_are_listed_with_what_they_are() {
    let scene = repo::<Sha512HashValue>();
    let (manifest, _) = scene.stored_image(1, "docker://example.com/a%b:1");
    scene.stored_image(2, "other");
    let rows = scene.store.list_images().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!((&*rows[0].name, rows[0].manifest_digest), ("docker://example.com/a%b:1", manifest));
    let RowDetails::Read(details) = &rows[0].details else { panic!() };
    assert!(details.is_container);
    assert_eq!((details.layer_count, details.compressed_bytes), (1, 10_240));
    assert_eq!(details.stored_bytes, tar(&borrowed(&usr_files(1))).len() as u64);
    assert_eq!(details.fs_images.len(), 1);
    let text = serde_json::to_string(&rows[0]).unwrap();
    assert!(text.contains("\"manifestDigest\":\"sha256:") && text.contains("\"configDigest\""), "{text}");
    let id = scene.store.linked(&StreamName::Manifest(manifest)).unwrap().unwrap();
    fs::write(scene.object(&id), "torn").unwrap();
    assert!(matches!(scene.store.list_images().unwrap()[0].details, RowDetails::Unreadable { .. }));
}

#[test]
fn tags_come_and_go_and_unknown_names_are_named() {
    let scene = repo::<Sha256HashValue>();
    let (manifest, _) = scene.stored_image(1, "app");
    scene.store.tag("app", "again").unwrap();
    scene.store.tag(&format!("@{manifest}"), "third").unwrap();
    assert_eq!(scene.store.resolve("again").unwrap(), manifest);
    assert_eq!(scene.store.resolve(&manifest.to_string()).unwrap(), manifest);
    assert!(scene.store.inspect("third").unwrap()["manifest"]["layers"].is_array());
    scene.store.untag("app").unwrap();
    for error in [
        scene.store.untag("app").unwrap_err(),
        scene.store.tag("app", "x").unwrap_err(),
        scene.store.inspect("app").unwrap_err(),
        scene.store.untag("..").unwrap_err(),
    ] {
        assert!(error.to_string().contains("no image \""), "{error}");
    }
    assert!(scene.store.tag("again", "@bad").is_err());
    assert_eq!(scene.store.tags().unwrap().len(), 2);
    scene.fsck_is_clean();
}

#[test]
fn an_image_of_which_anything_is_gone_gets_no_tag() {
    let scene = repo::<Sha256HashValue>();
    let (manifest, _) = scene.stored_image(1, "app");
    scene.store.untag("app").unwrap();
    let mut parts = Vec::new();
    list(&scene.path(""), &scene.path(""), &mut parts);
    let parts: Vec<PathBuf> = ["objects/", "streams/oci-layer", "streams/oci-config", "images/"]
        .iter()
        .flat_map(|kind| parts.iter().filter(move |part| part.starts_with(kind)))
        .map(|part| scene.path(part))
        .filter(|path| !path.symlink_metadata().unwrap().is_dir())
        .collect();
    assert_eq!(parts.len(), 10, "seven objects and three links");
    for part in parts {
        let aside = scene.dir.path().join("aside");
        fs::rename(&part, &aside).unwrap();
        let store = open_as::<Sha256HashValue>(scene.store.path());
        let error = store.tag(&manifest.to_string(), "app").unwrap_err().to_string();
        assert!(error.contains("is not whole") && error.ends_with("pull it again"), "{error}");
        assert!(store.tags().unwrap().is_empty());
        fs::rename(&aside, &part).unwrap();
    }
    let scene = reopen(scene);
    scene.store.tag(&manifest.to_string(), "app").unwrap();
    scene.fsck_is_clean();
}

#[test]
fn what_never_had_a_filesystem_image_is_tagged_without_one() {
    let scene = repo::<Sha256HashValue>();
    let boot = scene.store.put_bytes(&[0xb0; 4000]).unwrap();
    let (image, _) = without_fs_image(&scene, &boot);
    let (artifact, mut set) = artifact(&scene, &[7; 300], StreamName::Layer);
    set.tags.clear();
    scene.commit(set);
    scene.store.untag("app").unwrap();
    let scene = reopen(scene);
    for manifest in [image, artifact] {
        scene.store.tag(&manifest.to_string(), "again").unwrap();
        assert_eq!(scene.store.resolve("again").unwrap(), manifest);
    }
}

/// As upstream stores the first of those that have this config.
#[test]
fn an_artifact_whose_config_names_its_own_layers_is_tagged() {
    let scene = repo::<Sha256HashValue>();
    let data = [7; 300];
    let object = scene.store.put_bytes(&data).unwrap();
    let layers = [(Digest::of(&data), scene.store.put_blob_stream(&object, 300).unwrap())];
    let id = scene.store.put_config(b"{}", &layers, &FsImages::default(), &BTreeMap::new()).unwrap();
    let name = StreamName::Config(Digest::of(b"{}"));
    scene.commit(LinkSet { documents: vec![DocumentLink { name, id, seen: None }], ..LinkSet::default() });
    let (artifact, mut set) = artifact(&scene, &data, StreamName::Layer);
    set.tags.clear();
    scene.commit(set);
    let scene = reopen(scene);
    scene.store.tag(&artifact.to_string(), "sbom").unwrap();
    scene.fsck_is_clean();
}

#[test]
fn a_tag_that_is_in_place_is_made_durable() {
    let scene = repo::<Sha256HashValue>();
    scene.stored_image(1, "app");
    let scene = reopen(scene);
    scene.store.tag("app", "app").unwrap();
    let dirs = ["images", "streams", "streams/refs/oci"];
    assert_eq!(scene.journal.ops(), dirs.map(|dir| Op::DirSynced(dir.into())));
}

/// Sees whether a file is there when a sync ends.
struct AtSyncs {
    path: PathBuf,
    there: Mutex<Vec<bool>>,
}

impl Recorder for AtSyncs {
    fn record(&self, op: Op) {
        if op == Op::SyncEnd {
            self.there.lock().unwrap().push(self.path.exists());
        }
    }
}

#[test]
fn gc_removes_nothing_before_the_links_that_it_goes_by_are_durable() {
    let scene = repo::<Sha256HashValue>();
    scene.stored_image(1, "app");
    scene.store.untag("app").unwrap();
    let seen = Arc::new(AtSyncs { path: scene.object(&compute_verity(&[1; 5000])), there: Mutex::default() });
    let Scene { dir, store, .. } = scene;
    drop(store);
    let store = open_as::<Sha256HashValue>(&dir.path().join("repo"));
    store.set_recorder(seen.clone());
    store.gc(GcMode::DryRun, |_| ()).unwrap();
    assert!(seen.there.lock().unwrap().is_empty(), "nothing is written for a dry run");
    store.gc(GcMode::Remove, |_| ()).unwrap();
    assert_eq!(*seen.there.lock().unwrap(), [true]);
    assert!(!seen.path.exists());
}

#[test]
fn gc_removes_what_no_tag_reaches_and_nothing_else() {
    let scene = repo::<Sha256HashValue>();
    scene.stored_image(1, "stays");
    let names = scene.names();
    scene.stored_image(2, "goes");
    scene.store.put_bytes(&[0x66; 900]).unwrap();
    scene.name_all();
    scene.store.untag("goes").unwrap();
    let would = scene.store.gc(GcMode::DryRun, |_| ()).unwrap();
    assert!(would.objects_removed > 3);
    let gone = scene.store.gc(GcMode::Remove, |_| ()).unwrap();
    assert_eq!(gone.objects_removed, would.objects_removed);
    assert_eq!(scene.names().into_iter().filter(|name| name.len() > 10).collect::<Vec<_>>(), {
        names.into_iter().filter(|name| name.len() > 10).collect::<Vec<_>>()
    });
    scene.fsck_is_clean();
    // What was known before is looked at again.
    assert!(!scene.store.contains(&compute_verity(&[0x66; 900]), 900).unwrap());
}

#[test]
fn gc_waits_for_another_user_and_says_so() {
    let scene = repo::<Sha256HashValue>();
    let other = open_as::<Sha256HashValue>(scene.store.path());
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let store = &scene.store;
        let collector =
            scope.spawn(move || store.gc(GcMode::Remove, |who| sender.send(who.to_vec()).unwrap()));
        let users: Vec<Option<u32>> = receiver.recv().unwrap().iter().map(|holder| holder.pid).collect();
        assert_eq!(users, [Some(std::process::id())]);
        assert_eq!(locked_by(scene.store.path()), None, "a waiting gc does not hold it yet");
        drop(other);
        collector.join().unwrap().unwrap();
    });
}

#[test]
fn fsck_may_be_called_from_inside_a_runtime() {
    let scene = repo::<Sha256HashValue>();
    scene.stored_image(1, "app");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { scene.fsck_is_clean() });
    fs::remove_file(scene.object(&compute_verity(&[1; 5000]))).unwrap();
    assert!(!scene.store.fsck().unwrap().is_ok());
}

#[test]
fn a_record_counts_while_its_outputs_are_there() {
    let scene = repo::<Sha512HashValue>();
    let data = vec![1; 3000];
    let id = scene.store.put_bytes(&data).unwrap();
    scene.name_all();
    let record = Record {
        kind: "split".into(),
        outputs: vec![Output { id: id.to_hex(), size: 3000 }],
        links: vec!["streams/x".into()],
        counts: BTreeMap::from([("files".into(), 7)]),
        millis: 12,
    };
    let key = "0123abcd".repeat(8);
    scene.store.remember(&key, &record).unwrap();
    assert_eq!(scene.store.remembered(&key), Some(record.clone()));
    let scene = reopen(scene);
    assert_eq!(scene.store.remembered(&key), Some(record.clone()));
    let file = scene.path(&format!("cfs-dag/nodes/01/{key}.json"));
    let text = fs::read_to_string(&file).unwrap();
    let alien = [
        text.replace("\"format\":1", "\"format\":2"),
        text.replace(&key[..8], "ffffffff"),
        text[..20].into(),
    ];
    for text in alien {
        fs::write(&file, text).unwrap();
        assert_eq!(scene.store.remembered(&key), None);
    }
    scene.store.remember(&key, &record).unwrap();
    assert!(scene.store.remember("../../etc", &record).is_err());
    // A gc knows nothing of records: they end with their outputs.
    scene.store.gc(GcMode::Remove, |_| ()).unwrap();
    assert_eq!(scene.store.remembered(&key), None);
    assert!(scene.store.is_recorded(&key), "a pull can still say that it was made");
    let old = SystemTime::now() - Duration::from_secs(31 * 24 * 3600);
    fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
    scene.store.gc(GcMode::Remove, |_| ()).unwrap();
    assert!(!file.exists() && !scene.store.is_recorded(&key));
    scene.fsck_is_clean();
}

#[test]
fn a_number_whose_record_is_forgotten_is_not_given_again() {
    let scene = repo::<Sha256HashValue>();
    for number in 1..=30 {
        assert_eq!(scene.store.keep_run(b"a run").unwrap(), number);
    }
    let scratch = scene.store.scratch().unwrap();
    let (_, name) = scratch.write(Mode::from_raw_mode(0o600), b"a late run").unwrap();
    for (number, is_free) in [(5, false), (10, false), (11, false), (30, false), (31, true)] {
        assert_eq!(scene.store.keep_run_as(number, &scratch, &name).unwrap(), is_free, "{number}");
    }
    assert_eq!(scene.store.runs(), (12..=31).collect::<Vec<_>>());
}

#[test]
fn many_keep_records_at_once_and_each_has_its_own_number() {
    const EACH: u64 = 60;
    let scene = repo::<Sha256HashValue>();
    let stores: Vec<_> = (0..4).map(|_| open_as::<Sha256HashValue>(scene.store.path())).collect();
    let key = "0123abcd".repeat(8);
    let start = std::sync::Barrier::new(stores.len());
    let numbers = std::sync::Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        for store in &stores {
            scope.spawn(|| {
                start.wait();
                for round in 0..EACH {
                    store.remember(&key, &Record { millis: round, ..Record::default() }).unwrap();
                    assert!(store.remembered(&key).is_some(), "a record is never seen half written");
                    let number = store.keep_run(b"a run").unwrap();
                    assert!(numbers.lock().unwrap().insert(number), "{number} was given twice");
                }
            });
        }
    });
    drop(stores);
    let last = EACH * 4;
    assert_eq!(scene.store.runs(), (last - RUNS_KEPT as u64 + 1..=last).collect::<Vec<_>>());
    assert_eq!(fs::read_dir(scene.path("cfs-dag/tmp")).unwrap().count(), 0);
}

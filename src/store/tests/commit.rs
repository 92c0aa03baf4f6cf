//! Group commit and the laws that it keeps.

use std::sync::{Condvar, Mutex};

use rustix::io::Errno;

use super::{
    law::{Op, Recorder},
    *,
};

#[test]
fn an_image_becomes_visible_bottom_up_behind_one_barrier() {
    let scene = repo::<Sha512HashValue>();
    let before = Before::of(&scene.store).unwrap();
    let layers = [scene.usr_layer(1), scene.usr_layer(2)];
    let (_, set) = scene.image(&layers, "docker://example.com/app:1");
    assert_eq!(scene.commit(set), Outcome::Linked);
    assert_eq!(scene.journal.barriers(), 1);
    assert_eq!(scene.breaches(before), Vec::<String>::new());
    scene.fsck_is_clean();
}

#[test]
fn what_is_linked_already_needs_no_barrier_and_writes_nothing() {
    let scene = repo::<Sha256HashValue>();
    scene.stored_image(1, "app");
    let scene = reopen(scene);
    let names = scene.names();
    let layer = scene.usr_layer(1);
    let (_, set) = scene.image(&[layer], "app");
    assert_eq!(scene.commit(set), Outcome::Linked);
    assert_eq!(scene.commit(LinkSet::default()), Outcome::Linked);
    assert_eq!(scene.journal.barriers(), 0);
    assert!(!scene.journal.ops().iter().any(|op| matches!(op, Op::Linked { .. })));
    assert_eq!(scene.names(), names);
}

#[test]
fn links_that_are_in_place_are_durable_before_a_run_ends() {
    let scene = repo::<Sha256HashValue>();
    Commit::start(&scene.store).unwrap().finish().unwrap();
    assert!(scene.journal.ops().is_empty(), "there is nothing yet");
    let layer = scene.usr_layer(1);
    let (_, set) = scene.image(&[layer], "app");
    // As a run that was killed leaves them: linked, and nothing synced afterwards.
    let commit = Commit::start(&scene.store).unwrap();
    submit(&commit, set.clone()).recv().unwrap().unwrap();
    drop(commit);
    let dirs = ["images", "streams", "streams/refs/oci"].map(|dir| Op::DirSynced(dir.into()));
    assert!(!dirs.iter().any(|dir| scene.journal.ops().contains(dir)));
    for set in [set, LinkSet::default()] {
        let scene = Scene {
            store: open_as(scene.store.path()),
            dir: tempfile::tempdir().unwrap(),
            journal: Arc::default(),
        };
        scene.store.set_recorder(scene.journal.clone());
        assert_eq!(scene.commit(set), Outcome::Linked);
        assert_eq!(scene.journal.ops(), dirs);
    }
}

/// Holds the first barrier back until it is opened.
#[derive(Default)]
struct Gate {
    journal: Journal,
    open: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn wait_for_barrier(&self) {
        let mut state = self.open.lock().unwrap();
        while !state.0 {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn open(&self) {
        self.open.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

impl Recorder for Gate {
    fn record(&self, op: Op) {
        let is_barrier = op == Op::SyncBegin;
        self.journal.record(op);
        if is_barrier {
            let mut state = self.open.lock().unwrap();
            state.0 = true;
            self.changed.notify_all();
            while !state.1 {
                state = self.changed.wait(state).unwrap();
            }
        }
    }
}

#[test]
fn what_arrives_during_a_barrier_waits_for_the_next_and_shares_it() {
    let scene = repo::<Sha256HashValue>();
    let store = open_as::<Sha256HashValue>(scene.store.path());
    let gate = Arc::new(Gate::default());
    store.set_recorder(gate.clone());
    let scene = Scene { dir: scene.dir, store, journal: scene.journal };
    let commit = Commit::start(&scene.store).unwrap();
    let first = submit(&commit, layer_set(&scene.usr_layer(1)));
    gate.wait_for_barrier();
    let later: Vec<_> = (2..6).map(|seed| submit(&commit, layer_set(&scene.usr_layer(seed)))).collect();
    gate.open();
    assert_eq!(first.recv().unwrap().unwrap(), Outcome::Linked);
    for answer in later {
        assert_eq!(answer.recv().unwrap().unwrap(), Outcome::Linked);
    }
    commit.finish().unwrap();
    assert_eq!(gate.journal.barriers(), 2);
    let found = breaches(&scene.store, Before::default(), &gate.journal.ops()).unwrap();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn the_checker_finds_every_wrong_order() {
    let scene = repo::<Sha256HashValue>();
    let layer = scene.usr_layer(1);
    let (_, set) = scene.image(&[layer], "app");
    scene.commit(set);
    let ops = scene.journal.ops();
    let find = |ops: &[Op]| breaches(&scene.store, Before::default(), ops).unwrap();
    assert!(find(&ops).is_empty());
    let position = |wanted: &dyn Fn(&Op) -> bool| ops.iter().position(wanted).unwrap();
    let begin = position(&|op| *op == Op::SyncBegin);
    let end = ops.iter().rposition(|op| *op == Op::SyncEnd).unwrap();
    let moved = |from: usize, to: usize| {
        let mut ops = ops.clone();
        let op = ops.remove(from);
        ops.insert(to, op);
        ops
    };
    let linked = |prefix: &'static str| {
        position(&|op| matches!(op, Op::Linked { path, .. } if path.starts_with(prefix)))
    };
    // A name before its object was synced; a link before the names were; an object that completes,
    // and one that is named, while a sync runs; the tag before its manifest; a manifest before its
    // config; no sync at the end.
    assert!(!find(&moved(begin + 2, begin + 1)).is_empty());
    assert!(!find(&moved(linked("streams"), end)).is_empty());
    assert!(!find(&moved(position(&|op| matches!(op, Op::Complete(_))), begin)).is_empty());
    assert!(!find(&moved(end - 2, end - 1)).is_empty());
    let tag = linked("streams/refs");
    let manifest = linked("streams/oci-manifest");
    let config = linked("streams/oci-config");
    assert!(!find(&moved(tag, manifest)).is_empty());
    assert!(!find(&moved(manifest, config)).is_empty());
    assert!(!find(&ops[..ops.len() - 1]).is_empty());
}

#[test]
fn the_first_writer_of_a_layer_wins_and_the_other_adopts() {
    let scene = repo::<Sha256HashValue>();
    let first = scene.usr_layer(1);
    scene.commit(layer_set(&first));
    let scene = reopen(scene);
    // Another stream under the same name: same tree, other bytes.
    let other = Layer { diff_id: first.diff_id, ..scene.layer_with_trailer(&borrowed(&usr_files(1)), 2048) };
    assert_ne!(other.id, first.id);
    let (_, set) = scene.image(std::slice::from_ref(&other), "app");
    let name = StreamName::Layer(first.diff_id);
    assert_eq!(scene.commit(set), Outcome::Adopted { name, id: first.id.clone() });
    assert_eq!(scene.store.linked(&name).unwrap(), Some(first.id.clone()));
    assert!(scene.store.tags().unwrap().is_empty(), "nothing after it was linked");
    let (_, set) = scene.image(&[first], "app");
    assert_eq!(scene.commit(set), Outcome::Linked);
    scene.fsck_is_clean();
}

/// A layer, and another one that has its `diff_id`.
fn two_for_one_name<H: FsVerityHashValue>(scene: &Scene<H>) -> [Layer<H>; 2] {
    let honest = scene.usr_layer(1);
    let lying = Layer { diff_id: honest.diff_id, ..scene.usr_layer(2) };
    [honest, lying]
}

#[test]
fn a_link_to_a_layer_of_another_tar_is_replaced() {
    let scene = repo::<Sha256HashValue>();
    let [honest, lying] = two_for_one_name(&scene);
    assert_eq!(scene.commit(layer_set(&lying)), Outcome::Linked);
    let scene = reopen(scene);
    assert_eq!(scene.commit(layer_set(&honest)), Outcome::Linked);
    assert_eq!(scene.store.linked(&StreamName::Layer(honest.diff_id)).unwrap(), Some(honest.id));
}

#[test]
fn images_that_took_a_replaced_layer_keep_it() {
    let scene = repo::<Sha256HashValue>();
    let [honest, lying] = two_for_one_name(&scene);
    let (_, set) = scene.image(std::slice::from_ref(&lying), "app");
    assert_eq!(scene.commit(set), Outcome::Linked);
    let scene = reopen(scene);
    assert_eq!(scene.commit(layer_set(&honest)), Outcome::Linked);
    let scene = reopen(scene);
    scene.store.gc(GcMode::Remove, |_| ()).unwrap();
    let file = compute_verity::<Sha256HashValue>(&[2; 5000]);
    assert!(scene.object(&file).exists(), "a file of an image that has a tag");
    scene.store.untag("app").unwrap();
    let scene = reopen(scene);
    scene.store.gc(GcMode::Remove, |_| ()).unwrap();
    assert!(!scene.object(&file).exists());
}

#[test]
fn what_is_no_file_is_not_read_to_tell_what_a_layer_is() {
    let scene = repo::<Sha256HashValue>();
    let [honest, lying] = two_for_one_name(&scene);
    let (_, set) = scene.image(std::slice::from_ref(&lying), "app");
    assert_eq!(scene.commit(set), Outcome::Linked);
    let object = scene.object(&compute_verity(&[2; 5000]));
    fs::remove_file(&object).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &object, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let scene = reopen(scene);
    assert_eq!(scene.commit(layer_set(&honest)), Outcome::Linked);
}

#[test]
fn a_link_to_a_broken_layer_is_replaced() {
    let scene = repo::<Sha256HashValue>();
    let first = scene.usr_layer(1);
    scene.commit(layer_set(&first));
    fs::remove_file(scene.object(&compute_verity(&[1; 5000]))).unwrap();
    let scene = reopen(scene);
    let other = Layer { diff_id: first.diff_id, ..scene.layer_with_trailer(&borrowed(&usr_files(2)), 2048) };
    let set = LinkSet { layers: vec![other.link()], ..LinkSet::default() };
    assert_eq!(scene.commit(set), Outcome::Linked);
    assert_eq!(scene.store.linked(&StreamName::Layer(first.diff_id)).unwrap(), Some(other.id));
}

#[test]
fn a_name_taken_by_the_other_kind_of_layer_stays() {
    let scene = repo::<Sha256HashValue>();
    let layer = scene.usr_layer(1);
    scene.commit(layer_set(&layer));
    let scene = reopen(scene);
    let blob = scene.store.put_bytes(&[8; 500]).unwrap();
    let name = StreamName::Layer(layer.diff_id);
    let id = scene.store.put_blob_stream(&blob, 500).unwrap();
    let raw = |name| LinkSet {
        layers: vec![LayerLink { name, content: Content::Blob, id: id.clone(), diff_id: None }],
        ..LinkSet::default()
    };
    assert_eq!(scene.commit(raw(name)), Outcome::Taken { name });
    assert_eq!(scene.store.linked(&name).unwrap(), Some(layer.id));
    assert_eq!(scene.commit(raw(StreamName::Blob(layer.diff_id))), Outcome::Linked);
}

#[test]
fn a_document_is_replaced_only_if_it_is_the_one_that_was_seen() {
    let scene = repo::<Sha256HashValue>();
    let json = documents::<Sha256HashValue>(&[]).0;
    let name = StreamName::Config(Digest::of(&json));
    let put = |boot: &[u8]| {
        let boot = BTreeMap::from([("composefs.image.boot".into(), scene.store.put_bytes(boot).unwrap())]);
        scene.store.put_config(&json, &[], &FsImages::default(), &boot).unwrap()
    };
    let set = |id: &Sha256HashValue, seen: Option<&Sha256HashValue>| LinkSet {
        documents: vec![DocumentLink { name, id: id.clone(), seen: seen.cloned() }],
        ..LinkSet::default()
    };
    let (first, second, third) = (put(&[1; 100]), put(&[2; 100]), put(&[3; 100]));
    assert_eq!(scene.commit(set(&first, None)), Outcome::Linked);
    assert_eq!(scene.commit(set(&second, None)), Outcome::Adopted { name, id: first.clone() });
    assert_eq!(scene.commit(set(&second, Some(&first))), Outcome::Linked);
    assert_eq!(scene.commit(set(&third, Some(&first))), Outcome::Adopted { name, id: second.clone() });
    assert_eq!(scene.commit(set(&second, Some(&first))), Outcome::Linked, "someone else did the same");
}

#[test]
fn a_config_stays_that_something_with_a_name_needs_as_it_is() {
    let scene = repo::<Sha256HashValue>();
    let (manifest, _) = scene.stored_image(1, "app");
    let scene = reopen(scene);
    let StoredImage::Whole(image) = scene.store.image(&manifest).unwrap() else { panic!() };
    let (name, seen) = (StreamName::Config(image.config_digest), image.config.id);
    let json = scene.store.config_bytes(&image.config_digest).unwrap().unwrap();
    let id = scene.store.put_config(&json, &[], &FsImages::default(), &BTreeMap::new()).unwrap();
    let documents = vec![DocumentLink { name, id, seen: Some(seen.clone()) }];
    let set = LinkSet { documents, ..LinkSet::default() };
    assert_eq!(scene.commit(set), Outcome::Adopted { name, id: seen });
    scene.fsck_is_clean();
}

#[test]
fn a_tag_moves_at_once() {
    let scene = repo::<Sha256HashValue>();
    let (first, _) = scene.stored_image(1, "app");
    let (second, _) = scene.stored_image(2, "app");
    assert_ne!(first, second);
    assert_eq!(scene.store.tags().unwrap(), [("app".to_owned(), second)]);
    assert_eq!(fs::read_dir(scene.path("streams/refs/oci")).unwrap().count(), 1);
}

#[test]
fn an_abandoned_run_answers_everyone() {
    let scene = repo::<Sha256HashValue>();
    let store = open_as::<Sha256HashValue>(scene.store.path());
    let gate = Arc::new(Gate::default());
    store.set_recorder(gate.clone());
    let scene = Scene { dir: scene.dir, store, journal: scene.journal };
    let commit = Commit::start(&scene.store).unwrap();
    let first = submit(&commit, layer_set(&scene.usr_layer(1)));
    gate.wait_for_barrier();
    let second = submit(&commit, layer_set(&scene.usr_layer(2)));
    let dropped = std::thread::spawn(move || drop(commit));
    assert!(matches!(second.recv().unwrap(), Err(StoreError::Ended)));
    gate.open();
    dropped.join().unwrap();
    assert_eq!(first.recv().unwrap().unwrap(), Outcome::Linked, "the round that was running ends as usual");
}

#[test]
fn a_panicking_callback_leaves_nobody_waiting() {
    let scene = repo::<Sha256HashValue>();
    let commit = Commit::start(&scene.store).unwrap();
    commit.submit(layer_set(&scene.usr_layer(1)), |_| panic!("a callback that panics on purpose"));
    let answer = loop {
        let answer = submit(&commit, layer_set(&scene.usr_layer(2))).recv().unwrap();
        if answer.is_err() {
            break answer;
        }
    };
    assert!(matches!(answer, Err(StoreError::Ended)));
    assert!(commit.finish().is_err());
}

#[test]
fn the_last_handle_may_go_in_a_callback() {
    let scene = repo::<Sha256HashValue>();
    let commit = Arc::new(Mutex::new(None));
    let (sender, receiver) = mpsc::channel();
    let running = Commit::start(&scene.store).unwrap();
    let slot = commit.clone();
    let mut held = commit.lock().unwrap();
    running.submit(layer_set(&scene.usr_layer(1)), move |_| {
        drop(slot.lock().unwrap().take());
        sender.send(()).unwrap();
    });
    *held = Some(running);
    drop(held);
    receiver.recv().unwrap();
}

#[test]
fn a_mended_object_behind_old_links_is_synced() {
    let scene = repo::<Sha512HashValue>();
    let layer = scene.usr_layer(1);
    let (_, set) = scene.image(std::slice::from_ref(&layer), "a");
    scene.commit(set.clone());
    let scene = reopen(scene);
    let id = set.images[0].clone();
    let bytes = fs::read(scene.object(&id)).unwrap();
    fs::write(scene.object(&id), b"").unwrap();
    scene.store.put(&id, &[IoSlice::new(&bytes)]).unwrap();
    assert_eq!(scene.commit(set), Outcome::Linked);
    assert_eq!(scene.journal.barriers(), 1);
}

#[test]
fn nothing_is_linked_after_a_failed_sync_by_no_later_run_either() {
    let scene = repo::<Sha256HashValue>();
    scene.store.lost.set(Errno::IO).unwrap();
    for _ in 0..2 {
        let commit = Commit::start(&scene.store).unwrap();
        let answer = submit(&commit, layer_set(&scene.usr_layer(1))).recv().unwrap();
        assert!(matches!(answer, Err(StoreError::AfterFailedSync(Errno::IO))));
        drop(commit);
        scene.store.end_of_writing();
    }
}

//! Objects: completeness under every start condition.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::*;

fn id_of<H: FsVerityHashValue>(data: &[u8]) -> H {
    compute_verity(data)
}

/// Stores an object with its name.
fn put<H: FsVerityHashValue>(scene: &Scene<H>, data: &[u8]) -> Put {
    let put = scene.store.put(&id_of(data), &[IoSlice::new(data)]).unwrap();
    scene.name_all();
    put
}

#[test]
fn an_object_is_written_once_and_found_afterwards() {
    let scene = repo::<Sha512HashValue>();
    let data = vec![7; 100_000];
    assert!(!scene.store.contains(&id_of(&data), 100_000).unwrap());
    assert_eq!(put(&scene, &data), Put::New);
    assert_eq!(put(&scene, &data), Put::Present);
    let scene = reopen(scene);
    assert!(scene.store.contains(&id_of(&data), 100_000).unwrap());
    assert_eq!(put(&scene, &data), Put::Present);
    assert_eq!(fs::read(scene.object(&id_of(&data))).unwrap(), data);
    scene.fsck_is_clean();
}

#[test]
fn an_empty_repository_is_told_from_one_that_has_objects() {
    let scene = repo::<Sha512HashValue>();
    assert!(!scene.store.may_have_objects());
    put(&scene, &[7; 100]);
    assert!(scene.store.may_have_objects());
    assert!(reopen(scene).store.may_have_objects());
}

#[test]
fn parts_become_one_object_however_many_there_are() {
    let scene = repo::<Sha256HashValue>();
    let data: Vec<u8> = (0..5000u32).flat_map(u32::to_le_bytes).collect();
    let mut parts: Vec<IoSlice<'_>> = data.chunks(7).map(IoSlice::new).collect();
    parts.insert(0, IoSlice::new(b""));
    parts.insert(100, IoSlice::new(b""));
    assert!(parts.len() > 2 * 1024, "more than one writev takes");
    assert_eq!(scene.store.put(&id_of(&data), &parts).unwrap(), Put::New);
    scene.name_all();
    assert_eq!(fs::read(scene.object(&id_of(&data))).unwrap(), data);
}

#[test]
fn a_truncated_object_is_replaced_and_its_name_never_vanishes() {
    let scene = repo::<Sha256HashValue>();
    let data = vec![1; 9000];
    put(&scene, &data);
    let scene = reopen(scene);
    File::options().write(true).open(scene.object(&id_of(&data))).unwrap().set_len(100).unwrap();
    assert!(!scene.store.contains(&id_of(&data), 9000).unwrap());
    assert_eq!(put(&scene, &data), Put::Replaced);
    assert_eq!(fs::read(scene.object(&id_of(&data))).unwrap(), data);
    scene.fsck_is_clean();
}

#[test]
fn a_link_or_an_empty_file_under_an_objects_name_is_replaced() {
    let scene = repo::<Sha256HashValue>();
    let (first, second) = (vec![1; 200], vec![2; 200]);
    for data in [&first, &second] {
        fs::create_dir_all(scene.object(&id_of(data)).parent().unwrap()).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", scene.object(&id_of(&first))).unwrap();
    fs::write(scene.object(&id_of(&second)), "").unwrap();
    assert_eq!((put(&scene, &first), put(&scene, &second)), (Put::Replaced, Put::Replaced));
    scene.fsck_is_clean();
}

#[test]
fn threads_with_the_same_object_all_find_it_complete() {
    let scene = repo::<Sha256HashValue>();
    let objects: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; 20_000 + usize::from(n)]).collect();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for data in &objects {
                    put(&scene, data);
                    assert_eq!(fs::metadata(scene.object(&id_of(data))).unwrap().len(), data.len() as u64);
                }
            });
        }
    });
    scene.fsck_is_clean();
}

#[test]
fn a_spooled_file_becomes_an_object_and_a_wrong_size_is_refused() {
    let scene = repo::<Sha512HashValue>();
    let data = vec![9; 300_000];
    let spool = || {
        let mut file = scene.store.spool().unwrap();
        file.write_all(&data).unwrap();
        file
    };
    let id = id_of(&data);
    assert!(scene.store.put_file(&id, spool(), 5).is_err());
    assert_eq!(scene.store.put_file(&id, spool(), 300_000).unwrap(), Put::New);
    assert_eq!(scene.store.put_file(&id, spool(), 300_000).unwrap(), Put::Present);
    scene.name_all();
    assert_eq!(fs::read(scene.object(&id)).unwrap(), data);
}

#[test]
fn without_anonymous_files_nothing_temporary_is_named_in_objects() {
    let scene = repo::<Sha256HashValue>();
    scene.store.objects.no_tmpfile.store(true, Ordering::Relaxed);
    let (small, large) = (vec![3; 1000], vec![4; 200_000]);
    assert_eq!(put(&scene, &small), Put::New);
    let mut file = scene.store.spool().unwrap();
    file.write_all(&large).unwrap();
    assert_eq!(scene.store.put_file(&id_of(&large), file, 200_000).unwrap(), Put::New);
    scene.name_all();
    fs::write(scene.object(&id_of(&small)), "torn").unwrap();
    let scene = reopen(scene);
    scene.store.objects.no_tmpfile.store(true, Ordering::Relaxed);
    assert_eq!(put(&scene, &small), Put::Replaced);
    scene.fsck_is_clean();
    drop(scene.store);
    assert_eq!(fs::read_dir(scene.dir.path().join("repo/cfs-dag/tmp")).unwrap().count(), 0);
}

#[test]
fn linking_through_proc_works_where_a_descriptor_alone_does_not() {
    let scene = repo::<Sha256HashValue>();
    scene.store.objects.link_by_proc.store(true, Ordering::Relaxed);
    assert_eq!(put(&scene, &[5; 100]), Put::New);
    scene.fsck_is_clean();
}

#[test]
fn objects_have_upstreams_mode() {
    let scene = repo::<Sha256HashValue>();
    put(&scene, &[5; 100]);
    let theirs = scene.store.upstream().ensure_object(&[6; 100]).unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode();
    let ours = scene.object(&id_of(&[5; 100]));
    assert_eq!(mode(ours.clone()), mode(scene.object(&theirs)));
    assert_eq!(mode(ours).to_owned() & 0o7777 & !0o644, 0);
}

#[test]
fn forgetting_ids_costs_a_stat_and_no_more() {
    let scene = repo::<Sha256HashValue>();
    put(&scene, &[1; 100]);
    // Fill the table far beyond its limit with ids that were never stored.
    for n in 0..300_000u32 {
        let id = Sha256HashValue::from_hex(format!("{:0<64}", format!("{:08x}", n.swap_bytes()))).unwrap();
        scene.store.objects.known.insert(&id);
    }
    assert_eq!(put(&scene, &[1; 100]), Put::Present);
}

#[test]
fn what_others_put_into_a_directory_that_we_made_is_found() {
    let scene = repo::<Sha256HashValue>();
    let (right, wrong) = (vec![2; 200], vec![3; 300]);
    for data in [&right, &wrong] {
        assert!(scene.store.make_object_dir(&id_of(data)).unwrap().fresh);
    }
    fs::write(scene.object(&id_of(&right)), &right).unwrap();
    fs::write(scene.object(&id_of(&wrong)), "torn").unwrap();
    let inode = || fs::metadata(scene.object(&id_of(&right))).unwrap().ino();
    let theirs = inode();
    put(&scene, &right);
    put(&scene, &wrong);
    assert_eq!(inode(), theirs);
    scene.fsck_is_clean();
}

#[test]
fn an_object_has_no_name_before_a_barrier_and_can_be_read_all_the_same() {
    let scene = repo::<Sha256HashValue>();
    let data = vec![7; 100_000];
    let id = id_of(&data);
    assert_eq!(scene.store.put(&id, &[IoSlice::new(&data)]).unwrap(), Put::New);
    scene.store.objects.known.clear();
    assert!(!scene.object(&id).exists());
    assert_eq!(scene.store.put(&id, &[IoSlice::new(&data)]).unwrap(), Put::Present);
    scene.store.objects.known.clear();
    assert!(scene.store.contains(&id, 100_000).unwrap());
    let mut read = Vec::new();
    scene.store.open_verified(&id).unwrap().unwrap().read_to_end(&mut read).unwrap();
    assert!(read == data);
    scene.name_all();
    assert!(fs::read(scene.object(&id)).unwrap() == data);
    assert!(scene.store.open_staged(&id).unwrap().is_none(), "not kept open");
}

#[test]
fn what_gets_no_barrier_leaves_nothing() {
    let scene = repo::<Sha256HashValue>();
    let id: Sha256HashValue = compute_verity(&[7; 100]);
    for no_tmpfile in [false, true] {
        scene.store.objects.no_tmpfile.store(no_tmpfile, Ordering::Relaxed);
        scene.store.put(&id, &[IoSlice::new(&[7; 100])]).unwrap();
        scene.store.end_of_writing();
        assert!(!scene.store.contains(&id, 100).unwrap());
        assert!(fs::read_dir(scene.path("cfs-dag/tmp")).map_or(0, Iterator::count) == 0);
    }
}

#[test]
fn so_many_objects_wait_and_no_more() {
    let scene = repo::<Sha256HashValue>();
    scene.store.objects.staged.most.store(100, Ordering::Relaxed);
    let most = put_many(&scene, 4, 1000);
    assert!((50..=4 + 100 + 4).contains(&most), "{most} open files");
    scene.name_all();
    assert!(scene.journal.barriers() == 1);
    scene.fsck_is_clean();
}

#[test]
fn with_a_commit_thread_nobody_else_gives_names_in_time() {
    let scene = repo::<Sha256HashValue>();
    scene.store.objects.staged.most.store(100, Ordering::Relaxed);
    let commit = Commit::start(&scene.store).unwrap();
    let most = put_many(&scene, 4, 1000);
    assert!((50..=4 + 200 + 4).contains(&most), "{most} open files");
    commit.finish().unwrap();
    assert!(scene.journal.barriers() == 0);
    scene.name_all();
    // Without one again.
    assert!(put_many(&scene, 5, 400) <= 4 + 100 + 5);
    scene.name_all();
    scene.fsck_is_clean();
}

/// Stores so many small objects from so many threads, and says how many waited at most.
fn put_many(scene: &Scene<Sha256HashValue>, threads: u32, each: u32) -> usize {
    let most = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..threads {
            let most = &most;
            scope.spawn(move || {
                for number in 0..each {
                    let data = (thread << 16 | number).to_le_bytes();
                    scene.store.put(&id_of(&data), &[IoSlice::new(&data)]).unwrap();
                    most.fetch_max(scene.store.objects.staged.len(), Ordering::Relaxed);
                }
            });
        }
    });
    most.into_inner()
}

#[test]
fn what_cannot_be_named_is_not_forgotten_where_all_links_are_in_place() {
    let scene = repo::<Sha256HashValue>();
    let set = layer_set(&scene.usr_layer(1));
    scene.commit(set.clone());
    let data = [7; 100];
    let in_the_way = scene.object(&id_of(&data));
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    scene.store.put(&id_of(&data), &[IoSlice::new(&data)]).unwrap();
    fs::create_dir(&in_the_way).unwrap();
    commit_once_gone(&scene, &set, &in_the_way);
    assert!(fs::read(&in_the_way).unwrap() == data);
}

#[test]
fn what_cannot_be_named_waits_until_it_can() {
    let scene = repo::<Sha256HashValue>();
    let objects: Vec<Vec<u8>> = (0..20u8).map(|n| vec![n; 1000]).collect();
    for data in &objects {
        scene.store.put(&id_of(data), &[IoSlice::new(data)]).unwrap();
    }
    let in_the_way = scene.object(&id_of(&objects[7]));
    fs::create_dir(&in_the_way).unwrap();
    commit_once_gone(&scene, &layer_set(&scene.usr_layer(1)), &in_the_way);
    for data in &objects {
        assert!(fs::read(scene.object(&id_of(data))).unwrap() == *data);
    }
    scene.fsck_is_clean();
}

/// Asserts that nothing is committed, again and again, while the folder is in the way,
/// and the set afterwards.
fn commit_once_gone(scene: &Scene<Sha256HashValue>, set: &LinkSet<Sha256HashValue>, in_the_way: &Path) {
    let commit = Commit::start(&scene.store).unwrap();
    for _ in 0..2 {
        let answer = submit(&commit, set.clone()).recv().unwrap();
        assert!(matches!(answer, Err(StoreError::Io { .. })), "{answer:?}");
    }
    fs::remove_dir(in_the_way).unwrap();
    assert_eq!(submit(&commit, set.clone()).recv().unwrap().unwrap(), Outcome::Linked);
    commit.finish().unwrap();
}

#[test]
fn a_folder_in_an_objects_place_stops_only_who_wants_the_object() {
    let scene = repo::<Sha256HashValue>();
    let data = [7; 100];
    let path = scene.object(&id_of(&data));
    fs::create_dir_all(&path).unwrap();
    let error = scene.store.put(&id_of(&data), &[IoSlice::new(&data)]).unwrap_err();
    assert!(error.to_string().contains("directory"), "{error}");
    scene.name_all();
}

#[test]
fn an_object_that_somebody_else_named_meanwhile_is_left_alone() {
    let scene = repo::<Sha256HashValue>();
    let data = [7; 100];
    scene.store.put(&id_of(&data), &[IoSlice::new(&data)]).unwrap();
    scene.store.upstream().ensure_object(&data).unwrap();
    let inode = || fs::metadata(scene.object(&id_of(&data))).unwrap().ino();
    let theirs = inode();
    scene.name_all();
    assert_eq!(inode(), theirs);
}

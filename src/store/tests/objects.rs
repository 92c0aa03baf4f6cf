//! Objects: completeness under every start condition.

use std::{fs::File, io::Write, os::unix::fs::PermissionsExt, sync::atomic::Ordering, thread};

use super::*;

fn id_of<H: FsVerityHashValue>(data: &[u8]) -> H {
    compute_verity(data)
}

fn put<H: FsVerityHashValue>(scene: &Scene<H>, data: &[u8]) -> Put {
    scene.store.put(&id_of(data), &[IoSlice::new(data)]).unwrap()
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
    assert_eq!((put(&scene, &right), put(&scene, &wrong)), (Put::Present, Put::Replaced));
    scene.fsck_is_clean();
}

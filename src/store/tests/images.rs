//! Recognising what is stored, ours and upstream's, whole and damaged.

use super::*;
use crate::types::LayerKind;

fn outdated<H: FsVerityHashValue>(scene: &Scene<H>, manifest: &Digest) -> Outdated {
    match scene.store.image(manifest).unwrap() {
        StoredImage::Outdated(image) => image.why,
        other => panic!("{other:?}"),
    }
}

fn is_whole<H: FsVerityHashValue>(scene: &Scene<H>, manifest: &Digest) -> Image<H> {
    match scene.store.image(manifest).unwrap() {
        StoredImage::Whole(image) => image,
        other => panic!("{other:?}"),
    }
}

#[test]
fn our_image_is_whole_in_every_format_and_upstream_reads_it() {
    for formats in ["0", "1", "2", "1,2", "2,1"] {
        let scene = repo_with::<Sha512HashValue>(parse_formats(formats).unwrap());
        let (manifest, layer) = scene.stored_image(1, "app");
        let scene = reopen(scene);
        let image = is_whole(&scene, &manifest);
        assert_eq!(image.layers, [(layer.diff_id, layer.id)]);
        let theirs = composefs_oci::OciImage::open_ref(scene.store.upstream(), "app").unwrap();
        for version in scene.store.formats() {
            assert_eq!(theirs.image_ref(version), image.images.get(version));
        }
        scene.fsck_is_clean();
        let gone = scene.store.gc(GcMode::Remove, |_| ()).unwrap();
        assert_eq!((gone.objects_removed, gone.streams_pruned, gone.images_pruned), (0, 0, 0));
        is_whole(&scene, &manifest);
    }
}

#[test]
fn upstreams_image_is_whole_and_the_same_as_ours() {
    for formats in ["1", "2", "1,2"] {
        let theirs = repo_with::<Sha256HashValue>(parse_formats(formats).unwrap());
        let layers = [theirs.usr_layer(1), theirs.usr_layer(2)];
        let set = LinkSet { layers: layers.iter().map(Layer::link).collect(), ..LinkSet::default() };
        theirs.commit(set);
        let (config, manifest) = documents(&layers);
        let refs: Vec<_> = layers
            .iter()
            .map(|layer| (layer.diff_id.to_string().parse().unwrap(), layer.id.clone()))
            .collect();
        let repo = theirs.store.upstream();
        composefs_oci::layer_sync::finalize_oci_image(repo, &manifest, &config, &refs, Some("app"), None)
            .unwrap();
        let their_image = is_whole(&reopen(theirs), &Digest::of(&manifest));

        let ours = repo_with::<Sha256HashValue>(parse_formats(formats).unwrap());
        let layers = [ours.usr_layer(1), ours.usr_layer(2)];
        let (digest, set) = ours.image(&layers, "app");
        ours.commit(set);
        let our_image = is_whole(&ours, &digest);
        assert_eq!(our_image.config, their_image.config);
        assert_eq!(our_image.images, their_image.images);
        assert_eq!(our_image.layers, their_image.layers);
    }
}

#[test]
fn each_kind_of_damage_is_named() {
    let remove = |scene: &Scene<Sha256HashValue>, path: String| fs::remove_file(scene.path(&path)).unwrap();
    let damaged = |damage: &dyn Fn(&Scene<Sha256HashValue>, &Image<Sha256HashValue>)| {
        let scene = repo::<Sha256HashValue>();
        let (manifest, _) = scene.stored_image(1, "app");
        damage(&scene, &is_whole(&scene, &manifest));
        // Untagged, nothing is believed any more.
        scene.store.untag("app").unwrap();
        outdated(&reopen(scene), &manifest)
    };
    let config = |scene: &Scene<Sha256HashValue>, image: &Image<Sha256HashValue>| {
        remove(scene, format!("streams/{}", image.config.name));
    };
    assert_eq!(damaged(&config), Outdated::ConfigMissing);
    let config_object = |scene: &Scene<Sha256HashValue>, image: &Image<Sha256HashValue>| {
        fs::remove_file(scene.object(&image.config.id)).unwrap();
    };
    assert!(matches!(damaged(&config_object), Outdated::ConfigBroken(_)));
    let manifest_object = |scene: &Scene<Sha256HashValue>, image: &Image<Sha256HashValue>| {
        fs::write(scene.object(&image.manifest.id), "torn").unwrap();
    };
    assert!(matches!(damaged(&manifest_object), Outdated::ManifestBroken(_)));
    let layer_link = |scene: &Scene<Sha256HashValue>, image: &Image<Sha256HashValue>| {
        remove(scene, format!("streams/{}", StreamName::Layer(image.layers[0].0)));
    };
    assert!(matches!(damaged(&layer_link), Outdated::LayerMissing(_)));
    let file = |scene: &Scene<Sha256HashValue>, _: &Image<Sha256HashValue>| {
        fs::remove_file(scene.object(&compute_verity(&[1; 5000]))).unwrap();
    };
    assert!(matches!(damaged(&file), Outdated::LayerMissing(_)));
    let mountable = |scene: &Scene<Sha256HashValue>, image: &Image<Sha256HashValue>| {
        remove(scene, format!("images/{}", image.images.iter().next().unwrap().to_hex()));
    };
    assert_eq!(damaged(&mountable), Outdated::FsImageMissing(FormatVersion::V1));
    let torn_image = |scene: &Scene<Sha256HashValue>, image: &Image<Sha256HashValue>| {
        fs::write(scene.object(image.images.iter().next().unwrap()), "torn").unwrap();
    };
    assert_eq!(damaged(&torn_image), Outdated::FsImageMissing(FormatVersion::V1));
}

/// An upstream image that has no filesystem image yet, as older versions left them.
pub(super) fn without_fs_image(
    scene: &Scene<Sha256HashValue>,
    boot: &Sha256HashValue,
) -> (Digest, Layer<Sha256HashValue>) {
    let layer = scene.usr_layer(1);
    let (manifest, mut set) = scene.image(std::slice::from_ref(&layer), "app");
    let (config_json, manifest_json) = documents(std::slice::from_ref(&layer));
    let pairs = [(layer.diff_id, layer.id.clone())];
    let boots = BTreeMap::from([("composefs.image.boot".to_owned(), boot.clone())]);
    let config = scene.store.put_config(&config_json, &pairs, &FsImages::default(), &boots).unwrap();
    set.images.clear();
    set.documents[1].id =
        scene.store.put_manifest(&manifest_json, (&Digest::of(&config_json), &config), &pairs).unwrap();
    set.documents[0].id = config;
    assert_eq!(scene.commit(set), Outcome::Linked);
    (manifest, layer)
}

#[test]
fn an_upgraded_config_keeps_boot_images_and_old_manifests_alive_all_the_while() {
    let scene = repo::<Sha256HashValue>();
    let boot = scene.store.put_bytes(&[0xb0; 4000]).unwrap();
    let (manifest, layer) = without_fs_image(&scene, &boot);
    let scene = reopen(scene);
    let StoredImage::Outdated(image) = scene.store.image(&manifest).unwrap() else { panic!() };
    assert_eq!(image.why, Outdated::FsImageMissing(FormatVersion::V1));
    let StoredDocument::Whole(config) = image.config else { panic!() };
    assert_eq!(config.boot_images().values().collect::<Vec<_>>(), [&boot]);
    let StreamName::Config(config_digest) = config.name else { panic!() };
    let config_json = scene.store.config_bytes(&config_digest).unwrap().unwrap();

    // The config is replaced, and the manifest is not, as if the run had died in between.
    let images = scene.fs_images(std::slice::from_ref(&layer));
    let pairs = [(layer.diff_id, layer.id.clone())];
    let id = scene.store.put_config(&config_json, &pairs, &images, &config.boot_images()).unwrap();
    let upgrade = DocumentLink { name: config.name, id: id.clone(), seen: Some(config.id.clone()) };
    let StoredDocument::Whole(old) = image.manifest else { panic!() };
    let unseen = DocumentLink { name: old.name, id: id.clone(), seen: None };
    let documents = vec![upgrade, unseen];
    let set = LinkSet { images: images.iter().cloned().collect(), documents, ..LinkSet::default() };
    assert_eq!(scene.commit(set), Outcome::Adopted { name: old.name, id: old.id });
    let scene = reopen(scene);
    assert_eq!(outdated(&scene, &manifest), Outdated::ConfigReplaced);
    scene.store.gc(GcMode::Remove, |_| ()).unwrap();
    let theirs = composefs_oci::OciImage::open_ref(scene.store.upstream(), "app").unwrap();
    assert_eq!(theirs.read_config_json(scene.store.upstream()).unwrap(), config_json, "still readable");

    // The next run starts over and ends as if nothing had happened.
    let images = scene.fs_images(std::slice::from_ref(&layer));
    let id = scene.store.put_config(&config_json, &pairs, &images, &config.boot_images()).unwrap();
    let StoredDocument::Whole(old) = scene.store.manifest(&manifest).unwrap() else { panic!() };
    let old_json = scene.store.manifest_bytes(&manifest).unwrap().unwrap();
    let new = scene.store.put_manifest(&old_json, (&config_digest, &id), &pairs).unwrap();
    let seen = scene.store.linked(&config.name).unwrap();
    let set = LinkSet {
        images: images.iter().cloned().collect(),
        documents: vec![
            DocumentLink { name: config.name, id, seen },
            DocumentLink { name: old.name, id: new, seen: Some(old.id) },
        ],
        ..LinkSet::default()
    };
    assert_eq!(scene.commit(set), Outcome::Linked);
    is_whole(&scene, &manifest);
    let scene = reopen(scene);
    drop(Commit::start(&scene.store).unwrap());
    assert!(!scene.names().iter().any(|name| name.contains("kept")));
    scene.fsck_is_clean();
}

#[test]
fn other_tagged_manifests_of_a_config_are_found() {
    let scene = repo::<Sha256HashValue>();
    let (first, layer) = scene.stored_image(1, "app");
    let (_, manifest_json) = documents(std::slice::from_ref(&layer));
    let mut value: serde_json::Value = serde_json::from_slice(&manifest_json).unwrap();
    value["annotations"] = serde_json::json!({ "rebuilt": "yes" });
    let json = serde_json::to_vec(&value).unwrap();
    let config = is_whole(&scene, &first);
    let pairs = [(layer.diff_id, layer.id)];
    let id = scene.store.put_manifest(&json, (&config.config_digest, &config.config.id), &pairs).unwrap();
    let second = Digest::of(&json);
    scene.commit(LinkSet {
        documents: vec![DocumentLink { name: StreamName::Manifest(second), id, seen: None }],
        tags: vec![(Tag::new("again").unwrap(), second)],
        ..LinkSet::default()
    });
    scene.stored_image(2, "unrelated");
    let naming = scene.store.manifests_naming(&config.config_digest).unwrap();
    let mut expected = [first, second].map(StreamName::Manifest);
    expected.sort();
    assert_eq!(naming.iter().map(|manifest| manifest.name).collect::<Vec<_>>(), expected);
    is_whole(&scene, &second);
}

#[test]
fn a_layer_is_adopted_only_with_all_its_objects() {
    let scene = repo::<Sha256HashValue>();
    let layer = scene.usr_layer(1);
    let name = StreamName::Layer(layer.diff_id);
    let stored = |scene: &Scene<Sha256HashValue>, kind| scene.store.layer(&layer.diff_id, kind).unwrap();
    assert_eq!(stored(&scene, LayerKind::Tar), StoredLayer::Missing { name });
    scene.commit(layer_set(&layer));
    let whole = StoredLayer::Whole { name, id: layer.id.clone(), content: Content::Layer };
    assert_eq!(stored(&scene, LayerKind::Tar), whole);
    assert_eq!(stored(&scene, LayerKind::ArtifactTar), whole);
    let other = StreamName::Blob(layer.diff_id);
    assert_eq!(stored(&scene, LayerKind::Raw), StoredLayer::Missing { name: other });
    let file = scene.object(&compute_verity(&[1; 5000]));
    let content = fs::read(&file).unwrap();
    for damage in [&b""[..], &content[..4999]] {
        fs::write(&file, damage).unwrap();
        let scene = open_as::<Sha256HashValue>(scene.store.path());
        let found = scene.layer(&layer.diff_id, LayerKind::Tar).unwrap();
        assert!(matches!(found, StoredLayer::Broken { .. }), "{found:?}");
    }
    fs::remove_file(&file).unwrap();
    let scene = reopen(scene);
    assert!(matches!(stored(&scene, LayerKind::Tar), StoredLayer::Broken { .. }));
    fs::remove_file(scene.object(&layer.id)).unwrap();
    assert!(matches!(stored(&scene, LayerKind::Tar), StoredLayer::Broken { .. }));
}

#[test]
fn a_raw_layer_under_an_images_layer_name_is_foreign_to_it() {
    let scene = repo::<Sha256HashValue>();
    let blob = scene.store.put_bytes(&[8; 500]).unwrap();
    let digest = Digest::of(&[8; 500]);
    let name = StreamName::Layer(digest);
    let id = scene.store.put_blob_stream(&blob, 500).unwrap();
    let link = LayerLink { name, content: Content::Blob, id: id.clone(), diff_id: None };
    scene.commit(LinkSet { layers: vec![link], ..LinkSet::default() });
    let whole = StoredLayer::Whole { name, id, content: Content::Blob };
    assert_eq!(scene.store.layer(&digest, LayerKind::Raw).unwrap(), whole);
    assert_eq!(scene.store.layer(&digest, LayerKind::ArtifactTar).unwrap(), whole);
    assert_eq!(scene.store.layer(&digest, LayerKind::Tar).unwrap(), StoredLayer::Foreign { name });
    fs::write(scene.object(&blob), "torn").unwrap();
    let scene = reopen(scene);
    assert!(matches!(scene.store.layer(&digest, LayerKind::Raw).unwrap(), StoredLayer::Broken { .. }));
}

#[test]
fn reading_and_planning_create_nothing() {
    let scene = repo::<Sha512HashValue>();
    let digest = Digest::of(b"nothing");
    assert_eq!(scene.store.image(&digest).unwrap(), StoredImage::Missing);
    scene.store.layer(&digest, LayerKind::Tar).unwrap();
    scene.store.config(&digest).unwrap();
    assert!(!scene.store.contains(&compute_verity(b"x"), 1).unwrap());
    assert!(scene.store.remembered(&"ab".repeat(32)).is_none());
    assert!(scene.store.list_images().unwrap().is_empty());
    assert_eq!(fs::read_dir(scene.path("")).unwrap().count(), 1, "meta.json alone");
}

/// An artifact of one raw layer; its config is the empty one that all artifacts share.
pub(super) fn artifact(
    scene: &Scene<Sha256HashValue>,
    data: &[u8],
    name: fn(Digest) -> StreamName,
) -> (Digest, LinkSet<Sha256HashValue>) {
    let (config, layer) = (Digest::of(b"{}"), Digest::of(data));
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config.to_string(),
        "size": 2 },
        "layers": [{ "mediaType": "text/plain", "digest": layer.to_string(), "size": data.len() }],
    }))
    .unwrap();
    let digest = Digest::of(&manifest);
    let blob = scene.store.put_bytes(data).unwrap();
    let id = scene.store.put_blob_stream(&blob, data.len() as u64).unwrap();
    let config_id = match scene.store.config(&config).unwrap() {
        StoredDocument::Whole(document) => document.id,
        _ => scene.store.put_config(b"{}", &[], &FsImages::default(), &BTreeMap::new()).unwrap(),
    };
    let manifest =
        scene.store.put_manifest(&manifest, (&config, &config_id), &[(layer, id.clone())]).unwrap();
    let document = |name, id| DocumentLink { name, id, seen: None };
    let set = LinkSet {
        layers: vec![LayerLink { name: name(layer), content: Content::Blob, id, diff_id: None }],
        documents: vec![
            document(StreamName::Config(config), config_id),
            document(StreamName::Manifest(digest), manifest),
        ],
        tags: vec![(Tag::new(&layer.short()).unwrap(), digest)],
        ..LinkSet::default()
    };
    (digest, set)
}

#[test]
fn artifacts_share_a_config_and_keep_their_layers() {
    let scene = repo::<Sha256HashValue>();
    // The second one's layer name is taken by a split layer of the same digest.
    let (image, layer) = scene.stored_image(1, "app");
    let taken = tar(&borrowed(&usr_files(1)));
    assert_eq!(Digest::of(&taken), layer.diff_id);
    let (first, set) = artifact(&scene, &[7; 300], StreamName::Layer);
    assert_eq!(scene.commit(set), Outcome::Linked);
    let (second, set) = artifact(&scene, &taken, StreamName::Blob);
    assert_eq!(scene.commit(set), Outcome::Linked);
    let scene = reopen(scene);
    for manifest in [first, second, image] {
        is_whole(&scene, &manifest);
    }
    assert!(is_whole(&scene, &first).images.iter().next().is_none());
    scene.fsck_is_clean();
    assert_eq!(scene.store.gc(GcMode::Remove, |_| ()).unwrap().objects_removed, 0);
    for row in scene.store.list_images().unwrap() {
        let RowDetails::Read(details) = row.details else { panic!() };
        assert!(details.stored_bytes > 0);
        assert_eq!(details.is_container, row.name == "app");
    }
}

#[test]
fn a_name_gives_its_documents_only_while_its_image_is_whole() {
    let scene = repo::<Sha256HashValue>();
    let tag = |name: &str| Tag::new(name).unwrap();
    let documents = |scene: &Scene<_>| scene.store.tagged_image(&tag("app")).unwrap();
    assert_eq!(documents(&scene), None);
    let (manifest, layer) = scene.stored_image(1, "app");
    let scene = reopen(scene);
    let image = is_whole(&scene, &manifest);
    let expected = TaggedImage {
        manifest_digest: manifest,
        manifest: scene.store.manifest_bytes(&manifest).unwrap().unwrap(),
        config_digest: image.config_digest,
        config: scene.store.config_bytes(&image.config_digest).unwrap().unwrap(),
    };
    assert_eq!(documents(&scene), Some(expected.clone()));
    assert_eq!(scene.store.tagged_image(&tag("other")).unwrap(), None);
    let name = StreamName::Layer(layer.diff_id);
    let documents_without = |path: PathBuf| {
        let aside = scene.dir.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        let found = documents(&scene);
        fs::rename(&aside, &path).unwrap();
        found
    };
    let erofs = image.images.iter().next().unwrap();
    let parts = [
        scene.path(&format!("streams/{name}")),
        scene.path(&format!("streams/{}", image.config.name)),
        scene.path(&format!("streams/{}", image.manifest.name)),
        scene.path(&format!("images/{}", erofs.to_hex())),
        scene.object(&layer.id),
        scene.object(&image.config.id),
        scene.object(&image.manifest.id),
        scene.object(&compute_verity(&expected.config)),
        scene.object(erofs),
    ];
    for part in parts {
        assert_eq!(documents_without(part.clone()), None, "{}", part.display());
    }
    assert_eq!(documents(&scene), Some(expected));
    // A tag that leads elsewhere is no name of an image, and no reason to end a run.
    let link = scene.path("streams/refs/oci/app");
    for target in ["../../oci-config-x", "/etc/passwd"] {
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(target, &link).unwrap();
        assert_eq!(documents(&scene), None, "{target}");
    }
}

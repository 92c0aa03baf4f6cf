//! Configs and manifests against upstream's own.

use std::collections::HashMap;

use super::*;
use crate::types::MAX_DOCUMENT;

fn agrees_with_upstream<H: FsVerityHashValue>() {
    let scene = repo::<H>();
    let layers = [scene.usr_layer(1), scene.usr_layer(2), scene.usr_layer(1)];
    let (config, manifest) = documents(&layers);
    let pairs: Vec<_> = layers.iter().map(|layer| (layer.diff_id, layer.id.clone())).collect();
    let refs: HashMap<Box<str>, H> =
        pairs.iter().map(|(digest, id)| (digest.to_string().into(), id.clone())).collect();
    let object = |text: &str| scene.store.put_bytes(text.repeat(100).as_bytes()).unwrap();
    let (v1, v2, boot) = (object("one"), object("two"), object("boot"));
    // More than one boot image has no fixed order upstream.
    let boots = BTreeMap::from([("composefs.image.boot.v1".to_owned(), boot.clone())]);
    let their_boots: HashMap<Box<str>, H> = HashMap::from([("composefs.image.boot.v1".into(), boot)]);
    for (one, two) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut images = FsImages::default();
        if one {
            images.set(FormatVersion::V1, v1.clone());
        }
        if two {
            images.set(FormatVersion::V2, v2.clone());
        }
        let (one, two) = (one.then_some(&v1), two.then_some(&v2));
        let ours = scene.store.put_config(&config, &pairs, &images, &boots).unwrap();
        let repo = scene.store.upstream();
        let (digest, theirs) =
            composefs_oci::write_config_raw(repo, &config, refs.clone(), two, one, &their_boots).unwrap();
        assert_eq!(ours, theirs);
        let digest: Digest = digest.to_string().parse().unwrap();
        let StoredDocument::Whole(stored) = scene.store.config(&digest).unwrap() else { panic!() };
        assert_eq!(stored.id, ours);
        assert_eq!(scene.store.config_bytes(&digest).unwrap().as_ref(), Some(&config));
    }
    // Upstream's manifests are reproducible when there is one layer.
    let pairs = &pairs[..1];
    let config_digest = Digest::of(&config);
    let ours = scene.store.put_manifest(&manifest, (&config_digest, &v1), pairs).unwrap();
    let parsed = composefs_oci_manifest(&manifest);
    let layer_refs: Vec<(String, H)> =
        pairs.iter().map(|(digest, id)| (digest.to_string(), id.clone())).collect();
    let text = parsed.to_string().unwrap();
    let digest = Digest::of(text.as_bytes());
    let (_, theirs) = composefs_oci::oci_image::write_manifest(
        scene.store.upstream(),
        &parsed,
        &digest.to_string().parse().unwrap(),
        &v1,
        &layer_refs,
        None,
    )
    .unwrap();
    if text.as_bytes() == manifest {
        assert_eq!(ours, theirs);
    } else {
        let ours = scene.store.put_manifest(text.as_bytes(), (&config_digest, &v1), pairs).unwrap();
        assert_eq!(ours, theirs);
    }
}

fn composefs_oci_manifest(json: &[u8]) -> containers_image_proxy::oci_spec::image::ImageManifest {
    containers_image_proxy::oci_spec::image::ImageManifest::from_reader(json).unwrap()
}

#[test]
fn streams_equal_upstreams_in_both_algorithms() {
    agrees_with_upstream::<Sha256HashValue>();
    agrees_with_upstream::<Sha512HashValue>();
}

#[test]
fn a_raw_layers_stream_equals_upstreams() {
    let scene = repo::<Sha256HashValue>();
    let blob = scene.store.put_bytes(&[1; 700]).unwrap();
    let mut stream = scene.store.upstream().create_stream(Content::Blob.code()).unwrap();
    stream.add_external_size(700);
    stream.write_reference(blob.clone()).unwrap();
    assert_eq!(stream.done().unwrap(), scene.store.put_blob_stream(&blob, 700).unwrap());
}

#[test]
fn a_damaged_document_is_broken_and_no_panic() {
    let scene = repo::<Sha512HashValue>();
    let (manifest, _) = scene.stored_image(1, "app");
    let id = scene.store.linked(&StreamName::Manifest(manifest)).unwrap().unwrap();
    let whole = fs::read(scene.object(&id)).unwrap();
    let broken = |bytes: &[u8]| {
        fs::write(scene.object(&id), bytes).unwrap();
        let stored = scene.store.manifest(&manifest).unwrap();
        assert!(matches!(&stored, StoredDocument::Broken { .. }), "{stored:?}");
        assert_eq!(stored.id(), Some(&id));
    };
    for length in [0, 1, 31, 111, 112, 200, whole.len() - 1] {
        broken(&whole[..length]);
    }
    broken(&vec![0; whole.len()]);
    broken(
        b"SplitStream but nothing else that would be one, and long enough to hold both of its fixed \
             headers, \
             which this text is, at last",
    );
    // A range that claims more than there is must not be believed.
    let mut huge = whole.clone();
    huge[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
    broken(&huge);
    fs::remove_file(scene.object(&id)).unwrap();
    assert!(matches!(scene.store.manifest(&manifest).unwrap(), StoredDocument::Broken { .. }));
}

#[test]
fn a_document_with_other_bytes_is_broken() {
    let scene = repo::<Sha256HashValue>();
    let json = documents::<Sha256HashValue>(&[]).0;
    let id = scene.store.put_config(&json, &[], &FsImages::default(), &BTreeMap::new()).unwrap();
    let wrong = Digest::of(b"another config");
    let name = StreamName::Config(wrong);
    let set = LinkSet { documents: vec![DocumentLink { name, id, seen: None }], ..LinkSet::default() };
    scene.commit(set);
    assert!(matches!(scene.store.config(&wrong).unwrap(), StoredDocument::Broken { .. }));
}

/// Property: whatever is done to a repository, the bytes that are given have the digest that was asked for.
#[test]
fn bytes_that_are_given_have_the_digest_that_was_asked_for() {
    let scene = repo::<Sha512HashValue>();
    let (manifest, _) = scene.stored_image(1, "app");
    let (other, _) = scene.stored_image(2, "other");
    let whole = scene.store.manifest_bytes(&manifest).unwrap().expect("it is stored");
    assert_eq!(Digest::of(&whole), manifest);
    let StoredImage::Whole(image) = scene.store.image(&manifest).unwrap() else { panic!() };
    let config = scene.store.config_bytes(&image.config_digest).unwrap().expect("it is stored");
    assert_eq!(Digest::of(&config), image.config_digest);
    assert_eq!(scene.store.config_bytes(&manifest).unwrap(), None);
    assert_eq!(scene.store.manifest_bytes(&Digest::of(b"absent")).unwrap(), None);

    let link = scene.path(&format!("streams/{}", image.manifest.name));
    let target = fs::read_link(&link).unwrap();
    let other = scene.path(&format!("streams/{}", StreamName::Manifest(other)));
    let to_config = fs::read_link(scene.path(&format!("streams/{}", image.config.name))).unwrap();
    for elsewhere in [&*fs::read_link(other).unwrap(), &to_config, Path::new("/etc/passwd"), Path::new("x")] {
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(elsewhere, &link).unwrap();
        assert_eq!(scene.store.manifest_bytes(&manifest).unwrap(), None, "{}", elsewhere.display());
    }
    fs::remove_file(&link).unwrap();
    fs::write(&link, &whole).unwrap();
    assert_eq!(scene.store.manifest_bytes(&manifest).unwrap(), None, "no link at all");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(target, &link).unwrap();

    let json = scene.object(&compute_verity(&whole));
    let longer = [&whole[..], b" "].concat();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for bytes in [&longer[..], &flipped, &whole[1..], b""] {
        fs::write(&json, bytes).unwrap();
        assert_eq!(scene.store.manifest_bytes(&manifest).unwrap(), None);
    }
    fs::write(&json, &whole).unwrap();
    let stream = scene.object(&image.manifest.id);
    let bytes = fs::read(&stream).unwrap();
    for length in (0..bytes.len()).step_by(7) {
        fs::write(&stream, &bytes[..length]).unwrap();
        assert_eq!(scene.store.manifest_bytes(&manifest).unwrap(), None, "{length}");
    }
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x40;
        fs::write(&stream, bytes).unwrap();
        // Not every bit of a stream counts.
        let found = scene.store.manifest_bytes(&manifest).unwrap();
        assert!(found.is_none_or(|found| found == whole), "{at}");
    }
    fs::write(&stream, &bytes).unwrap();
    assert_eq!(scene.store.manifest_bytes(&manifest).unwrap(), Some(whole));
    fs::remove_file(&json).unwrap();
    assert_eq!(scene.store.manifest_bytes(&manifest).unwrap(), None);
}

#[test]
fn a_document_above_the_limit_is_not_read() {
    let scene = repo::<Sha256HashValue>();
    for (size, is_read) in [(MAX_DOCUMENT, true), (MAX_DOCUMENT + 1, false)] {
        let json = vec![b' '; size as usize];
        let digest = Digest::of(&json);
        let id = scene.store.put_config(&json, &[], &FsImages::default(), &BTreeMap::new()).unwrap();
        let link = DocumentLink { name: StreamName::Config(digest), id, seen: None };
        scene.commit(LinkSet { documents: vec![link], ..LinkSet::default() });
        assert_eq!(scene.store.config_bytes(&digest).unwrap().is_some(), is_read, "{size}");
    }
}

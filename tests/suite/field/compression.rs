//! Blobs compressed in ways that OCI does not have, or badly: the line says which, not that a tar is broken.

use std::fs;

use support::{
    image::{gzip, layout, sha256, zstd},
    oracle,
    pulls::{assert_absent, assert_no_leftovers},
    repo::{cfs_dag, scratch},
    tar::{dir, file, noise, tar},
};

const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

fn sample() -> Vec<u8> {
    tar([dir("usr"), file("usr/f", noise(1, 90)), file("usr/big", noise(2, 200_000))])
}

/// The first bytes of files that these programs write, and more.
fn foreign(magic: &[u8], len: usize) -> Vec<u8> {
    [magic, &noise(3, len)].concat()
}

/// Pulls an image of one layer, `blob`, and asserts that nothing but one line comes of it.
#[track_caller]
fn refused(media_type: &str, blob: &[u8], of: &[u8], says: &[&str]) {
    let (layout, scratch) = (layout(), scratch());
    let image = layout.image("x").layer(blob).plain().media_type(media_type).claims_diff_id_of(of).write();
    let repo = scratch.path("repo");
    let done = cfs_dag(["pull", &image.reference, "--insecure"]).repo(&repo).expect_failure(1);
    let lines = done.stderr.lines().filter(|line| line.contains("layer 1 of 1")).count();
    assert_eq!(lines, 1, "{done}");
    done.says(&["layer 1 of 1", &image.layers[0].blob[..19]]).says(says);
    assert_absent(&repo, &image, &[0]);
    assert_no_leftovers(&repo);
    oracle::fsck(&repo);
}

#[test]
fn formats_that_oci_does_not_have_are_named_whatever_the_label_says() {
    for (name, blob) in [
        ("xz", foreign(b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46", 70_000)),
        ("bzip2", foreign(b"BZh91AY&SY", 100)),
        ("lz4", foreign(b"\x04\x22\x4d\x18\x64\x40\xa7", 700)),
        ("lzip", foreign(b"LZIP\x01\x0c", 40)),
        ("compress (.Z)", foreign(b"\x1f\x9d\x90", 3000)),
        ("lzma", foreign(b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff", 600)),
    ] {
        for media_type in [PLAIN, GZIP, ZSTD] {
            let says = format!("the blob is {name}-compressed, which OCI does not know");
            refused(media_type, &blob, &sample(), &[&says, "rebuild the image with gzip or zstd"]);
        }
    }
}

#[test]
fn a_layer_compressed_twice_is_told_as_that() {
    let xz = foreign(b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46", 2000);
    refused(GZIP, &gzip(&gzip(&sample())), &sample(), &["compressed twice, gzip inside gzip"]);
    refused(ZSTD, &zstd(&gzip(&sample())), &sample(), &["compressed twice, gzip inside zstd"]);
    refused(GZIP, &gzip(&xz), &sample(), &["compressed twice, xz inside gzip"]);
}

#[test]
fn a_tar_whose_first_path_looks_like_another_format_is_stored() {
    let (layout, scratch) = (layout(), scratch());
    for (at, name) in ["BZh91AY&SY", "LZIP\x01"].into_iter().enumerate() {
        let odd = tar([file(name, noise(5, 80)), dir("usr"), file("usr/f", "x")]);
        let image = layout.image(&at.to_string()).layer(odd.clone()).plain().layer(odd).zstd().write();
        cfs_dag(["pull", &image.reference, "--insecure"]).repo(scratch.path("repo")).expect_success();
    }
}

#[test]
fn bytes_after_the_last_frame_or_member_are_counted() {
    let (frame, member) = (zstd(&sample()), gzip(&sample()));
    let frames = [&frame[..200], &frame[200..], &zstd(b"")].concat();
    let zeros = |count| vec![0; count];
    for (media_type, blob, tail, says) in [
        (ZSTD, &frame, zeros(512), "512 bytes follow the last zstd frame, zero padding"),
        (ZSTD, &frames, zeros(900_000), "900000 bytes follow the last zstd frame"),
        (ZSTD, &frame, noise(1, 77), "77 bytes follow the last zstd frame, not a zstd frame"),
        (ZSTD, &frame, member.clone(), "follow the last zstd frame, not a zstd frame"),
        (
            GZIP,
            &member,
            noise(1, 77),
            "77 bytes follow the last gzip member, neither a member nor zero padding",
        ),
        (GZIP, &member, [zeros(9), b"x".to_vec()].concat(), "10 bytes follow the last gzip member"),
    ] {
        refused(media_type, &[&blob[..], &tail].concat(), &sample(), &[says]);
    }
}

#[test]
fn a_zstd_frame_that_needs_a_dictionary_is_told_as_one() {
    let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 1, 7 << 3, 42][..], &[1, 0, 0]].concat();
    refused(
        ZSTD,
        &frame,
        &sample(),
        &["a zstd frame needs a dictionary", "rebuild the image with zstd without one"],
    );
}

#[test]
fn a_zstd_frame_cut_off_in_the_middle_ends_too_early() {
    let frame = zstd(&sample());
    let (layout, scratch) = (layout(), scratch());
    let image = layout.image("x").layer(&frame[..frame.len() / 2]).plain().media_type(ZSTD).write();
    cfs_dag(["pull", &image.reference, "--insecure"])
        .repo(scratch.path("repo"))
        .expect_failure(1)
        .says(&["layer 1 of 1", "the zstd data ends too early"]);
}

#[test]
fn an_artifact_that_calls_other_formats_a_tar_stores_them_as_they_are() {
    let (layout, scratch) = (layout(), scratch());
    for (tag, blob) in [
        ("xz", foreign(b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46", 70_000)),
        ("bzip2", foreign(b"BZh91AY&SY", 100)),
        ("padded", [zstd(&sample()), vec![0; 512]].concat()),
        ("twice", gzip(&gzip(&sample()))),
        ("dictionary", vec![0x28, 0xb5, 0x2f, 0xfd, 1, 7 << 3, 42, 1, 0, 0]),
    ] {
        let image = layout.artifact(tag).raw(GZIP, blob.clone()).write();
        let repo = scratch.path(tag);
        cfs_dag(["pull", &image.reference, "--insecure"]).repo(&repo).expect_success();
        let stored = fs::symlink_metadata(repo.join(format!("streams/oci-layer-{}", sha256(&blob))));
        assert!(stored.is_ok(), "{tag}");
    }
}

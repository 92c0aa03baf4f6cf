//! Pulls of images that lie, beside images that do not. One scenario a test.

use support::{
    image::{gzip, layout},
    repo::{cfs_dag, scratch},
    tar::{Entry, dir, file, noise, tar, unfinished},
};

fn base() -> Vec<Entry> {
    vec![dir("usr"), file("usr/a", noise(1, 5000))]
}

#[test]
fn a_file_that_claims_an_exabyte_costs_no_memory() {
    let layout = layout();
    let huge = file("usr/huge", Vec::new()).pax("size", (1u64 << 60).to_string());
    let mut bytes = unfinished([huge]);
    bytes.extend(noise(7, 3 << 20));
    layout.image("huge").layer(bytes).write();
    let scratch = scratch();
    cfs_dag(["pull", &layout.reference("huge"), "--insecure"])
        .repo(scratch.path("repo"))
        .expect_failure(1)
        .says(&["layer 1 of 1", "ends too early"]);
}

#[test]
fn an_artifact_that_calls_text_a_tar_is_stored_raw() {
    let layout = layout();
    let tar_type = "application/vnd.oci.image.layer.v1.tar";
    let mut broken_gzip = gzip(&noise(3, 900_000));
    broken_gzip[500_000] ^= 1;
    for (tag, bytes) in [
        ("short", b"hello".to_vec()),
        ("empty", Vec::new()),
        ("long", noise(2, 700_000)),
        ("gzip", broken_gzip),
        ("cut", unfinished([file("a", noise(4, 100)), file("b", Vec::new()).claims_size(7000)])),
    ] {
        layout.artifact(tag).raw(tar_type, bytes).write();
        let scratch = scratch();
        cfs_dag(["pull", &layout.reference(tag), "--insecure"]).repo(scratch.path("repo")).expect_success();
    }
}

#[test]
fn an_image_that_fails_leaves_a_shared_layer_to_the_others_blob() {
    let layout = layout();
    let shared = tar(base());
    // The larger layer is fetched first, and fails while the shared one waits for the only slot.
    let large = tar([file("usr/large", noise(9, 4 << 20))]);
    layout.image("bad").layer(&*shared).gzip().layer(large).wrong_diff_id().write();
    layout.image("good").layer(&*shared).zstd().write();
    let scratch = scratch();
    let done = cfs_dag(["pull", &layout.reference("bad"), &layout.reference("good"), "--insecure"])
        .arg("--downloads=1")
        .repo(scratch.path("repo"))
        .expect_failure(3);
    done.says(&["layer 2 of 2", "diff_id"]);
}

#[test]
fn a_damaged_copy_of_a_blob_does_not_harm_who_has_a_good_one() {
    let (one, other) = (layout(), layout());
    let image = tar(base());
    let first = one.image("a").layer(&*image).write();
    other.image("a").layer(&*image).write();
    let blob = one.blob(&first.layers[0].blob);
    let mut bytes = std::fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    for order in [[&one, &other], [&other, &one]] {
        let scratch = scratch();
        let [a, b] = order.map(|layout| layout.reference("a"));
        cfs_dag(["pull", &a, &b, "--insecure"]).repo(scratch.path("repo")).expect_success();
    }
}

#[test]
fn many_failing_images_leave_memory_for_the_good_one() {
    let layout = layout();
    let mut args = vec!["pull".to_owned()];
    for i in 0..12u64 {
        let bad = tar([file("usr/bad", noise(100 + i, 300_000 + i as usize))]);
        let fine = tar([dir("usr"), file("usr/fine", noise(200 + i, 600_000 + i as usize))]);
        layout.image(&format!("bad{i}")).layer(fine).layer(bad).wrong_diff_id().write();
        args.push(layout.reference(&format!("bad{i}")));
    }
    layout.image("good").layer(tar(base())).write();
    args.push(layout.reference("good"));
    let scratch = scratch();
    cfs_dag(args)
        .arg("--insecure")
        .arg("--memory=18MiB")
        .time_limit(std::time::Duration::from_secs(40))
        .repo(scratch.path("repo"))
        .expect_failure(3);
}

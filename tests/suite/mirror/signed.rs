//! Lists of all tags of repositories in which images are signed: most tags are not images, and one is of an
//! empty index.

use serde_json::{Value, json};
use support::{
    layout::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, descriptor},
    oracle,
};

use super::world::{World, lines_of};

const LIST: &str = "HOST:\n  images:\n    app:\n";

impl World {
    /// What cosign keeps of an image: an image by its config, whose layers are not tars.
    fn statement(&self, tag: &str, media_type: &str, bytes: &[u8]) {
        let layer = descriptor(media_type, bytes);
        let layers = [&layer, &layer];
        let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({"os": "", "architecture": "", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = config.to_string();
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers,
            "config": descriptor(OCI_CONFIG, config.as_bytes())});
        self.registry.blob("app", bytes);
        self.registry.blob("app", config.as_bytes());
        self.registry.manifest("app", Some(tag), OCI_MANIFEST, manifest.to_string().as_bytes());
    }

    /// `app:v1`, signed, with an attestation, an SBOM, and the tag that the referrers fall-back leaves. Gives
    /// that tag.
    fn signed(&self) -> String {
        let [image] = self.images(["app:v1"]);
        let name = image.manifest.to_string().replace(':', "-");
        let signature = "application/vnd.dev.cosign.simplesigning.v1+json";
        self.statement(&format!("{name}.sig"), signature, br#"{"critical":{}}"#);
        self.statement(&format!("{name}.att"), "application/vnd.dsse.envelope.v1+json", b"{}");
        self.statement(&format!("{name}.sbom"), "text/spdx", b"SPDXVersion: SPDX-2.2");
        self.index(&name, &[]);
        name
    }

    fn index(&self, tag: &str, entries: &[Value]) {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        self.registry.manifest("app", Some(tag), OCI_INDEX, index.to_string().as_bytes());
    }
}

#[test]
fn all_tags_of_a_signed_repository_are_mirrored_and_pruned() {
    let world = World::new();
    let name = world.signed();
    world.images(["lib:v1"]);
    let finished = world.mirror_of(&format!("{LIST}    lib: [v1]\n")).expect_success();
    let kept = [".att", ".sbom", ".sig"].map(|kind| format!("app:{name}{kind}"));
    let all = [&kept[..], &["app:v1".to_owned(), "lib:v1".to_owned()]].concat();
    assert_eq!(world.names(), all);
    assert_eq!(finished.stderr, "", "a mirror without trouble says nothing");
    let artifacts = lines_of(&finished, "new");
    assert_eq!(artifacts.iter().filter(|line| line.ends_with(", artifact")).count(), 3, "{finished}");
    oracle::assert_clean(&world.repo());

    let list = world.list(LIST);
    let finished = world.mirror(&list).arg("--prune").expect_success();
    assert_eq!(lines_of(&finished, "untagged"), [world.name("lib:v1")]);
    assert_eq!(world.names(), all[..4]);
    let finished = world.mirror(&list).args(["--prune", "-v"]).expect_success();
    finished.says(&[&format!("passed over: {}", world.name(&format!("app:{name}: "))), "an empty index"]);
    world.mirror(&list).arg("--dry-run").expect_success();
}

#[test]
fn an_empty_index_that_a_list_names_itself_fails() {
    let world = World::new();
    let name = world.signed();
    let finished = world.mirror_of(&world.name(&format!("app:{name}\n"))).expect_failure(1);
    finished.says(&["nothing to store: an empty index"]);
}

#[test]
fn a_name_whose_tag_has_become_an_empty_index_is_not_pruned() {
    let world = World::new();
    world.images(["app:v1", "app:v2"]);
    world.mirror_of(LIST).expect_success();
    world.index("v2", &[]);
    world.mirror_of(LIST).arg("--prune").expect_success();
    assert_eq!(world.names(), ["app:v1", "app:v2"]);
}

#[test]
fn a_rule_that_chose_only_empty_indexes_is_done() {
    let world = World::new();
    world.index("empty", &[]);
    world.mirror_of(LIST).expect_success();
    assert!(world.names().is_empty());
}

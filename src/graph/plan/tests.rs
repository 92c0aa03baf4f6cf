//! What the planner makes of inputs and facts.

use super::*;

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn layer(name: &str, blob: &str, size: u64) -> LayerInput {
    let blob = Descriptor { media_type: String::new(), digest: digest(blob), size };
    LayerInput { name: digest(name), kind: LayerKind::Tar, blob }
}

fn image(name: &str, layers: Vec<LayerInput>) -> ImageInput {
    ImageInput {
        name: name.into(),
        reference: format!("oci:{name}"),
        manifest: (digest(&format!("manifest {name}")), 10),
        config: (digest(&format!("config {name}")), 20),
        layers,
        container: true,
        config_lists_layers: true,
        platform: None,
    }
}

fn inputs(images: Vec<ImageInput>) -> Inputs {
    Inputs { images, repository: "sha512 v1".into(), ..Inputs::default() }
}

fn of(plan: &Plan, kind: Kind) -> Vec<&Node> {
    plan.graph.node_weights().filter(|n| n.kind == kind).collect()
}

#[test]
fn a_layer_that_five_images_want_is_there_once() {
    let images = (0..5).map(|i| image(&format!("i{i}"), vec![layer("base", "blob", 7)])).collect();
    let plan = plan(&inputs(images), &Facts::default());
    for kind in [Kind::Fetch, Kind::Split, Kind::Write, Kind::Encode, Kind::Finalize, Kind::Filesystem] {
        assert_eq!(of(&plan, kind).len(), 1, "{kind:?}");
        assert_eq!(of(&plan, kind)[0].wanted_by, (0..5).map(ImageIx).collect::<Vec<_>>());
    }
    assert_eq!((of(&plan, Kind::Config).len(), of(&plan, Kind::Tag).len()), (5, 5));
    assert!(plan.graph.node_count() <= 10 + 5 * 5);
}

#[test]
fn differently_compressed_blobs_are_candidates_of_one_layer() {
    let images = vec![
        image("a", vec![layer("base", "gzip", 7)]),
        image("b", vec![layer("base", "zstd", 5)]),
        image("c", vec![layer("base", "gzip", 7)]),
    ];
    let plan = plan(&inputs(images), &Facts::default());
    let fetches = of(&plan, Kind::Fetch);
    let got: Vec<_> = fetches.iter().map(|n| (n.state, n.wanted_by.clone())).collect();
    assert_eq!(got, vec![(State::Needed, vec![ImageIx(0), ImageIx(2)]), (State::Standby, vec![ImageIx(1)])]);
    let ranks: Vec<Edge> =
        plan.graph.edge_weights().copied().filter(|e| matches!(e, Edge::Candidate { .. })).collect();
    assert_eq!(ranks, vec![Edge::Candidate { rank: 0 }, Edge::Candidate { rank: 1 }]);
}

#[test]
fn what_is_stored_is_not_done_again() {
    let request = inputs(vec![image("a", vec![layer("base", "gzip", 7), layer("top", "top", 3)])]);
    let mut facts = Facts::default();
    facts.layers.insert((digest("base"), LayerKind::Tar));
    let half = plan(&request, &facts);
    let needed = |plan: &Plan| plan.graph.node_weights().filter(|n| n.state == State::Needed).count();
    assert_eq!(needed(&half), 5 + 4, "one layer, the filesystem, config, manifest and tag");
    facts.layers.insert((digest("top"), LayerKind::Tar));
    facts.trees.insert(tree_key("sha512 v1", [&digest("base"), &digest("top")]));
    facts.configs.insert((request.images[0].config.0, true), true);
    facts.manifests.insert(request.images[0].manifest.0, true);
    facts.tags.insert("a".into(), request.images[0].manifest.0);
    assert_eq!(needed(&plan(&request, &facts)), 0);
    facts.tags.insert("a".into(), digest("another"));
    let moved = plan(&request, &facts);
    assert_eq!((needed(&moved), of(&moved, Kind::Tag)[0].reason), (1, Reason::TagMoved));
}

#[test]
fn a_config_waits_for_its_layers_also_when_the_filesystem_is_there() {
    let request = inputs(vec![image("a", vec![layer("base", "gzip", 7), layer("top", "top", 3)])]);
    let mut facts = Facts::default();
    facts.layers.insert((digest("base"), LayerKind::Tar));
    facts.broken_layers.insert((digest("top"), LayerKind::Tar), Damage::Missing);
    facts.trees.insert(tree_key("sha512 v1", [&digest("base"), &digest("top")]));
    facts.configs.insert((request.images[0].config.0, true), false);
    let plan = plan(&request, &facts);
    let is = |node: NodeId, kind| plan.graph[node].kind == kind;
    let config = plan.graph.node_indices().find(|node| is(*node, Kind::Config)).unwrap();
    let before = plan.graph.neighbors_directed(config, petgraph::Direction::Incoming);
    assert_eq!(before.filter(|node| is(*node, Kind::Finalize)).count(), 2);
}

#[test]
fn a_key_covers_what_changes_bytes_and_nothing_else() {
    let one = inputs(vec![image("a", vec![layer("base", "gzip", 7)])]);
    let mut renamed = one.clone();
    renamed.images[0].name = "b".into();
    renamed.images[0].reference = "docker://elsewhere".into();
    let mut other_repository = one.clone();
    other_repository.repository = "sha256 v1".into();
    let key = |inputs: &Inputs, kind| of(&plan(inputs, &Facts::default()), kind)[0].key;
    for kind in [Kind::Fetch, Kind::Split, Kind::Finalize, Kind::Filesystem, Kind::Config, Kind::Manifest] {
        assert_eq!(key(&one, kind), key(&renamed, kind), "{kind:?}");
        assert_ne!(key(&one, kind), key(&other_repository, kind), "{kind:?}");
    }
    assert_ne!(key(&one, Kind::Tag), key(&renamed, Kind::Tag));
}

#[test]
fn a_layer_that_occurs_twice_in_an_image_is_one_layer() {
    let plan =
        plan(&inputs(vec![image("a", vec![layer("x", "x", 1), layer("x", "x", 1)])]), &Facts::default());
    assert_eq!(of(&plan, Kind::Split).len(), 1);
    assert_eq!(plan.images[0].layers.len(), 2);
    assert_ne!(tree_key("", [&digest("x")]), tree_key("", [&digest("x"), &digest("x")]));
}

/// What a pull of `request` leaves behind.
fn all_stored(request: &Inputs) -> Facts {
    let mut facts = Facts::default();
    for image in &request.images {
        let layers = image.layers.iter();
        facts.layers.extend(layers.clone().map(|layer| (layer.name, layer.kind)));
        let tree = tree_key(&request.repository, layers.map(|layer| &layer.name));
        facts.trees.insert(tree);
        facts.configs.insert((image.config.0, true), true);
        facts.manifests.insert(image.manifest.0, true);
        facts.tags.insert(image.name.clone(), image.manifest.0);
        let before = Before {
            format: FORMAT.into(),
            repository: request.repository.clone(),
            manifest: image.manifest.0,
            config: image.config.0,
            tree: Some(tree),
        };
        facts.before.insert(image.name.clone(), before);
    }
    facts
}

/// The reasons of an image's nodes: of its layers' last steps, then filesystem, config, manifest and tag.
fn reasons(request: &Inputs, facts: &Facts) -> Vec<String> {
    let plan = plan(request, facts);
    let kinds = [Kind::Finalize, Kind::Filesystem, Kind::Config, Kind::Manifest, Kind::Tag];
    kinds.iter().flat_map(|kind| of(&plan, *kind)).map(|node| node.reason.to_string()).collect()
}

#[test]
fn every_reason_has_its_facts() {
    let request = inputs(vec![image("a", vec![layer("base", "gzip", 7)])]);
    let stored = all_stored(&request);
    let name = (digest("base"), LayerKind::Tar);
    assert_eq!(reasons(&request, &Facts::default()), ["not stored"; 5]);
    assert_eq!(reasons(&request, &stored), ["stored"; 5]);
    assert_eq!(reasons(&Inputs { force: true, ..request.clone() }, &stored), ["forced"; 5]);

    let mut facts = stored.clone();
    facts.layers.clear();
    for (damage, reason) in [(Damage::Missing, "outputs missing"), (Damage::Size, "size wrong")] {
        facts.broken_layers.insert(name, damage);
        let expected = [reason, "stored", "stored", "stored", "outputs missing"];
        assert_eq!(reasons(&request, &facts), expected);
    }

    let mut facts = stored.clone();
    facts.trees.clear();
    facts.configs.insert((request.images[0].config.0, true), false);
    facts.manifests.clear();
    let expected = ["stored", "outputs missing", "outputs missing", "outputs missing", "outputs missing"];
    assert_eq!(reasons(&request, &facts), expected, "the same was there when it was pulled last");
}

#[test]
fn what_changed_since_the_last_pull_of_a_name_is_told() {
    let old = inputs(vec![image("a", vec![layer("base", "gzip", 7)])]);
    let before = all_stored(&old);
    let mut new = inputs(vec![image("a", vec![layer("base", "gzip", 7), layer("top", "top", 3)])]);
    new.images[0].manifest.0 = digest("new manifest");
    new.images[0].config.0 = digest("new config");
    let expected = [
        "stored",
        "not stored",
        "key changed (layers)",
        "key changed (digest)",
        "key changed (digest)",
        "tag moved",
    ];
    assert_eq!(reasons(&new, &before), expected);

    let mut rebuilt = old.clone();
    rebuilt.images[0].manifest.0 = digest("new manifest");
    let expected = ["stored", "stored", "stored", "key changed (digest)", "tag moved"];
    assert_eq!(reasons(&rebuilt, &before), expected);

    let mut facts = all_stored(&old);
    (facts.trees, facts.configs) = Default::default();
    let before = facts.before.get_mut("a").unwrap();
    before.repository = "sha512 v2".into();
    before.tree = Some(tree_key("sha512 v2", [&digest("base")]));
    let expected = ["stored", "key changed (repository)", "key changed (repository)"];
    assert_eq!(reasons(&old, &facts)[..3], expected);
    facts.before.get_mut("a").unwrap().format = "cfs-dag 0".into();
    assert_eq!(reasons(&old, &facts)[1], "key changed (format)");
}

#[test]
fn a_name_that_was_pulled_with_another_config_or_filesystem_is_told() {
    let request = inputs(vec![image("a", vec![layer("base", "gzip", 7)])]);
    let mut facts = all_stored(&request);
    (facts.configs, facts.manifests) = Default::default();
    let before = facts.before.get_mut("a").unwrap();
    before.tree = Some(tree_key("sha512 v1", [&digest("another")]));
    let expected = ["stored", "stored", "key changed (filesystem)", "outputs missing", "outputs missing"];
    assert_eq!(reasons(&request, &facts), expected);
    facts.before.get_mut("a").unwrap().config = digest("another");
    let expected = ["stored", "stored", "key changed (digest)", "outputs missing", "outputs missing"];
    assert_eq!(reasons(&request, &facts), expected);
}

#[test]
fn a_name_that_moves_is_told_also_when_all_is_forced() {
    let request = Inputs { force: true, ..inputs(vec![image("a", vec![layer("base", "gzip", 7)])]) };
    let mut facts = all_stored(&request);
    facts.tags.insert("a".into(), digest("another"));
    assert_eq!(reasons(&request, &facts), ["forced", "forced", "forced", "forced", "tag moved"]);
}

#[test]
fn all_steps_of_a_layer_have_its_reason() {
    let images = vec![image("a", vec![layer("base", "gzip", 7)]), image("b", vec![layer("base", "zstd", 5)])];
    let request = inputs(images);
    let mut facts = all_stored(&request);
    let whole = plan(&request, &facts);
    facts.layers.clear();
    facts.broken_layers.insert((digest("base"), LayerKind::Tar), Damage::Size);
    let broken = plan(&request, &facts);
    for (plan, reason, states) in [
        (whole, Reason::Stored, [State::Stored; 2]),
        (broken, Reason::SizeWrong, [State::Needed, State::Standby]),
    ] {
        for kind in [Kind::Fetch, Kind::Split, Kind::Write, Kind::Encode, Kind::Finalize] {
            assert!(of(&plan, kind).iter().all(|node| node.reason == reason), "{kind:?}");
        }
        assert_eq!(of(&plan, Kind::Fetch).iter().map(|node| node.state).collect::<Vec<_>>(), states);
    }
}

#[test]
fn an_artifacts_config_waits_for_the_layers_that_it_lists_and_for_no_others() {
    for lists_layers in [true, false] {
        let artifact = image("artifact", vec![layer("words", "words", 9)]);
        let artifact = ImageInput { container: false, config_lists_layers: lists_layers, ..artifact };
        let plan = plan(&inputs(vec![artifact]), &Facts::default());
        let config = plan.graph.node_indices().find(|id| plan.graph[*id].kind == Kind::Config).unwrap();
        let before = plan.graph.neighbors_directed(config, petgraph::Direction::Incoming).count();
        assert_eq!(before, usize::from(lists_layers));
    }
}

#[test]
fn a_nodes_parts_are_what_its_key_covers() {
    let mut request = inputs(vec![
        image("a", vec![layer("base", "gzip", 7), layer("top", "top", 3), layer("base", "gzip", 7)]),
        image("b", vec![layer("base", "zstd", 5)]),
        ImageInput {
            container: false,
            config_lists_layers: false,
            ..image("artifact", vec![layer("words", "words", 9)])
        },
        ImageInput { container: false, ..image("signature", vec![layer("signed", "signed", 9)]) },
    ]);
    request.images[2].layers[0].kind = LayerKind::Raw;
    request.images[3].layers[0].kind = LayerKind::Raw;
    let plan = plan(&request, &Facts::default());
    for id in plan.graph.node_indices() {
        let (node, parts) = (&plan.graph[id], plan.parts(id));
        assert!(!parts.is_empty(), "{node:?}");
        assert_eq!(parts::key(node.kind, &parts), node.key, "{node:?} {parts:?}");
    }
}

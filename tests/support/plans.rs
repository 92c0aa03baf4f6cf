//! Plans from made-up inputs, and a made-up run over them. Knows the planner; ignores
//! repositories and registries.

use std::{collections::BTreeMap, time::Duration};

use cfs_dag::{
    graph::{Facts, ImageInput, Inputs, Kind, LayerInput, NodeId, Plan, State, plan},
    render::{Marks, Measured},
    types::{Descriptor, Digest, LayerKind},
};

/// A digest by a word.
pub fn digest(word: &str) -> Digest {
    Digest::of(word.as_bytes())
}

/// A layer by a word, reached by a blob of the same word and `ending`.
pub fn layer(word: &str, ending: &str, size: u64) -> LayerInput {
    let blob = Descriptor { media_type: String::new(), digest: digest(&format!("{word}{ending}")), size };
    LayerInput { name: digest(word), kind: LayerKind::Tar, blob }
}

/// An image of these layers.
pub fn image(name: &str, layers: Vec<LayerInput>) -> ImageInput {
    ImageInput {
        name: name.into(),
        reference: format!("docker://registry.example/{name}"),
        manifest: (digest(&format!("{name} manifest")), 1_200),
        config: (digest(&format!("{name} config")), 7_400),
        layers,
        container: true,
        config_lists_layers: true,
        platform: None,
    }
}

/// The plan for `images` in an empty repository.
pub fn planned(images: Vec<ImageInput>) -> Plan {
    planned_over(images, &Facts::default())
}

/// The plan for `images` in a repository that holds `facts`.
pub fn planned_over(images: Vec<ImageInput>, facts: &Facts) -> Plan {
    plan(&Inputs { images, repository: "sha512 v1".into(), ..Inputs::default() }, facts)
}

/// `images` images of `layers` layers each, none shared.
pub fn distinct(images: usize, layers: usize) -> Vec<ImageInput> {
    let layers = |i: usize| {
        (0..layers).map(move |l| layer(&format!("{i}.{l}"), ".gz", 1_000 + (l as u64 * 7_919) % 50_000))
    };
    (0..images).map(|i| image(&format!("team/service-{i}:v1"), layers(i).collect())).collect()
}

/// Five images on one base, which is stored; two of them reach a layer by different blobs.
pub fn five_on_one_base() -> Plan {
    let base = || vec![layer("debian", ".gz", 48_500_000), layer("certs", ".gz", 900_000)];
    let with = |name: &str, more: Vec<LayerInput>| image(name, [base(), more].concat());
    let node = |ending, size| layer("node", ending, size);
    let mut facts = Facts::default();
    facts.layers.insert((digest("debian"), LayerKind::Tar));
    let images = vec![
        with("webapp:latest", vec![node(".gz", 31_200_000), layer("web", ".gz", 12_000_000)]),
        with("node:22", vec![node(".zst", 27_800_000)]),
        with("python:3.13", vec![layer("python", ".gz", 19_400_000), layer("pip", ".gz", 2_300_000)]),
        with("jobs:v7", vec![layer("python", ".gz", 19_400_000), layer("jobs", ".gz", 5_100_000)]),
        with(
            "nginx:1.29",
            vec![layer("nginx", ".gz", 8_700_000), layer("conf", ".gz", 640), layer("conf", ".gz", 640)],
        ),
    ];
    planned_over(images, &facts)
}

/// A run of `plan` in which the step of `kind` of the last layer failed; without a kind all went well.
pub fn run_of(plan: &Plan, failing: Option<Kind>) -> Marks {
    let needed = |id: &NodeId| plan.graph[*id].state == State::Needed;
    let failed = failing
        .and_then(|kind| plan.graph.node_indices().filter(needed).rfind(|&id| plan.graph[id].kind == kind));
    let mut lost = BTreeMap::new();
    let mut todo: Vec<_> = failed.into_iter().collect();
    while let Some(id) = todo.pop() {
        if lost.insert(id, ()).is_none() {
            todo.extend(plan.graph.neighbors(id));
        }
    }
    let ms = Duration::from_millis;
    let nodes = plan.graph.node_indices().filter(needed).zip(1u64..).map(|(id, place)| {
        let node = &plan.graph[id];
        let outcome = match () {
            () if failed == Some(id) => "failed",
            () if lost.contains_key(&id) => "cancelled",
            () => "finished",
        };
        let start = ms(place * 13);
        let took = ms(2 + node.cost_bytes / 12_000);
        let measured = Measured {
            outcome,
            start: (outcome != "cancelled").then_some(start),
            end: (outcome != "cancelled").then_some(start + took),
            cpu: took / 2,
            bytes: node.cost_bytes,
            counts: BTreeMap::from([("files".to_owned(), place * 3), ("objects_new".to_owned(), place)]),
            error: (outcome == "failed")
                .then(|| "the tar does not match its diff_id: broken or hostile".to_owned()),
        };
        (id, measured)
    });
    Marks { critical: longest_chain(plan), nodes: nodes.collect() }
}

/// The chain to the first image's tag that begins with the largest blob.
pub fn longest_chain(plan: &Plan) -> Vec<NodeId> {
    let fetches = plan.graph.node_indices().filter(|&id| plan.graph[id].kind == Kind::Fetch);
    let needed = fetches.filter(|&id| plan.graph[id].state == State::Needed);
    let mut chain: Vec<_> = needed.max_by_key(|&id| plan.graph[id].cost_bytes).into_iter().collect();
    while let Some(&last) = chain.last() {
        // The first consumer by kind: split, then encode.
        match plan.graph.neighbors(last).min_by_key(|&id| (plan.graph[id].kind, id)) {
            Some(next) => chain.push(next),
            None => break,
        }
    }
    chain
}

/// `images` images of the same `layers` layers, and one of their own each.
pub fn all_alike(images: usize, layers: usize) -> Vec<ImageInput> {
    let common: Vec<_> =
        (0..layers).map(|l| layer(&format!("common {l}"), ".gz", 1_000 * (l as u64 + 1))).collect();
    let own = |i: usize| vec![layer(&format!("own {i}"), ".gz", 5_000)];
    (0..images).map(|i| image(&format!("team/service-{i}:v1"), [common.clone(), own(i)].concat())).collect()
}

/// Asserts that `plan` is what `graphs/plan.schema.json` says.
#[track_caller]
pub fn assert_is_plan(name: &str, plan: &str) {
    let schema = std::fs::read_to_string(super::root().join("graphs/plan.schema.json"));
    let schema = serde_json::from_str(&schema.unwrap()).unwrap();
    let judge = jsonschema::draft202012::new(&schema).unwrap();
    let plan = serde_json::from_str(plan).unwrap();
    let errors: Vec<String> = judge.iter_errors(&plan).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}");
}

//! Tests of what is drawn and where. How it looks is for the browser's tests, and for eyes.

use std::{collections::BTreeMap, time::Duration};

use super::{
    bands::{ALL_ROWS, BAND_ROWS, Bands, Look, What, bands},
    html,
    layout::{Layout, Scale, Style, scale, share},
    svg,
};
use crate::{
    graph::{Facts, ImageInput, Inputs, Kind, LayerInput, NodeId, Plan, PlannedImage, plan},
    render::{Marks, Measured, sample},
    types::{Descriptor, LayerKind},
};

/// The plan of images, each a name and its layers; a layer is a word, and a blob for it if there are several.
fn planned<'a>(images: impl IntoIterator<Item = (&'a str, Vec<String>)>) -> Plan {
    let images = images.into_iter().map(|(name, layers)| ImageInput {
        name: name.into(),
        reference: format!("oci:{name}"),
        manifest: (sample::digest(&format!("{name} manifest")), 500),
        config: (sample::digest(&format!("{name} config")), 700),
        layers: layers.iter().map(|layer| self::layer(layer)).collect(),
        container: true,
        config_lists_layers: true,
        platform: None,
    });
    plan(&Inputs { images: images.collect(), ..Inputs::default() }, &Facts::default())
}

fn layer(word: &str) -> LayerInput {
    let name = word.split('@').next().unwrap_or_default();
    let blob =
        Descriptor { media_type: String::new(), digest: sample::digest(&format!("{word} blob")), size: 1000 };
    LayerInput { name: sample::digest(name), kind: LayerKind::Tar, blob }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn many(prefix: &str, number: usize) -> Vec<String> {
    (0..number).map(|n| format!("{prefix}{n}")).collect()
}

/// The rows of a band in words.
fn rows(bands: &Bands, image: usize) -> Vec<String> {
    let row = |what: &What| match what {
        What::Layer { places, .. } => format!("layer {places:?}"),
        What::Ghost { owner, layers } => format!("{layers} of image {}", owner.0),
        What::Folded => "folded".to_owned(),
    };
    bands.bands[image].rows.iter().map(|r| row(&r.what)).collect()
}

#[test]
fn a_layer_is_drawn_by_its_first_image_and_others_refer_to_it() {
    let plan = planned([
        ("a", words(&["base", "libs"])),
        ("b", words(&["base", "own", "libs"])),
        ("c", words(&["own", "base", "more"])),
    ]);
    let bands = bands(&plan, &Marks::default(), true);
    assert_eq!(rows(&bands, 0), ["layer [1]", "layer [2]"]);
    assert_eq!(rows(&bands, 1), ["2 of image 0", "layer [2]"]);
    assert_eq!(rows(&bands, 2), ["1 of image 1", "1 of image 0", "layer [3]"]);
    assert_eq!(bands.order.len(), plan.graph.node_count(), "every node once");
}

#[test]
fn images_of_the_same_layers_share_a_filesystem() {
    let plan = planned([("a", words(&["base"])), ("b", words(&["base"]))]);
    let bands = bands(&plan, &Marks::default(), true);
    let looks = |image: usize| bands.bands[image].own.iter().map(|cell| cell.look).collect::<Vec<_>>();
    assert_eq!(looks(0), [Look::One; 4]);
    assert_eq!(looks(1), [Look::Ghost, Look::One, Look::One, Look::One]);
    let svg = svg(&plan, &Marks::default());
    assert!(svg.contains("shared with a") && svg.contains("with a<") && svg.contains("×2"), "{svg}");
}

#[test]
fn a_layer_used_twice_has_one_row() {
    let bands = bands(&sample::twice_the_same_layer(), &Marks::default(), true);
    assert_eq!(rows(&bands, 0), ["layer [1, 2]"]);
}

#[test]
fn long_bands_fold_and_so_do_many_short_ones_but_not_on_a_page() {
    let at_limit = planned([("a", many("", BAND_ROWS))]);
    assert_eq!(rows(&bands(&at_limit, &Marks::default(), true), 0).len(), BAND_ROWS);
    let long = planned([("a", many("", BAND_ROWS + 1)), ("b", words(&["one"]))]);
    assert_eq!(rows(&bands(&long, &Marks::default(), true), 0), ["folded"]);
    assert_eq!(rows(&bands(&long, &Marks::default(), true), 1), ["layer [1]"]);
    assert_eq!(rows(&bands(&long, &Marks::default(), false), 0).len(), BAND_ROWS + 1);
    let names = many("image ", ALL_ROWS + 1);
    let crowd = planned(names.iter().map(|name| (name.as_str(), vec![format!("layer of {name}")])));
    assert_eq!(rows(&bands(&crowd, &Marks::default(), true), 7), ["folded"]);
    let fold = svg(&long, &Marks::default());
    assert!(fold.contains("25 layers: 25 new") && fold.contains("25 fetch: 25 needed"), "{fold}");
}

#[test]
fn blobs_beyond_a_few_share_a_cell() {
    let names = many("image ", 9);
    let plan = planned(names.iter().map(|name| (name.as_str(), vec![format!("base@{name}")])));
    let bands = bands(&plan, &Marks::default(), true);
    let fetches = bands.bands[0].rows[0].cells.iter().filter(|cell| Kind::ALL[cell.column] == Kind::Fetch);
    let nodes: Vec<usize> = fetches.map(|cell| cell.nodes.len()).collect();
    assert_eq!(nodes, [1, 1, 1, 6]);
}

#[test]
fn widths_are_shares_of_the_largest() {
    assert_eq!([0, 1, 500, 1000].map(|value| share(value, 1000, 80)), [3, 3, 40, 80]);
    let plan = planned([("a", words(&["base"]))]);
    assert_eq!(scale(&plan, &Marks::default()), Scale::Bytes(1000));
    let marks = Marks { nodes: BTreeMap::from([(NodeId::new(0), measured("finished"))]), ..Marks::default() };
    assert_eq!(scale(&plan, &marks), Scale::Time(2_000_000_000));
}

#[test]
fn lines_show_how_steps_hang_together_and_the_critical_one_is_on_top() {
    let plan = planned([("a", words(&["base", "top"]))]);
    let of = |kind| plan.graph.node_indices().find(|&id| plan.graph[id].kind == kind).unwrap();
    let marks = Marks { critical: vec![of(Kind::Finalize), of(Kind::Filesystem)], ..Marks::default() };
    let bands = bands(&plan, &marks, true);
    let laid = Layout::new(&plan, &marks).band(&bands.bands[0]);
    let styles: Vec<_> = laid.rows[0].lines.iter().map(|line| line.style).collect();
    let count = |style| styles.iter().filter(|other| **other == style).count();
    assert_eq!([Style::Candidate, Style::Streams, Style::Needs].map(count), [1, 3, 2]);
    let critical: Vec<_> = laid.lines.iter().map(|line| line.critical).collect();
    assert_eq!(critical, [false, false, false, false, true]);
}

#[test]
fn a_picture_does_not_depend_on_the_numbers_of_nodes() {
    let plan = planned([
        ("a", words(&["base@gzip", "libs"])),
        ("b", words(&["base@zstd", "own", "libs"])),
        ("c", words(&["base@gzip", "libs"])),
    ]);
    let other = renumbered(&plan);
    assert_eq!(svg(&plan, &Marks::default()), svg(&other, &Marks::default()));
    assert_eq!(html(&plan, &Marks::default()), html(&other, &Marks::default()));
}

/// The same plan with its nodes in the opposite order.
fn renumbered(plan: &Plan) -> Plan {
    let last = plan.graph.node_count() - 1;
    let new = |id: NodeId| NodeId::new(last - id.index());
    let mut other = Plan::default();
    for id in plan.graph.node_indices().rev() {
        other.graph.add_node(plan.graph[id].clone());
    }
    for edge in plan.graph.raw_edges().iter().rev() {
        other.graph.add_edge(new(edge.source()), new(edge.target()), edge.weight);
    }
    other.images = plan
        .images
        .iter()
        .map(|image| PlannedImage {
            layers: image.layers.iter().map(|&id| new(id)).collect(),
            tag: new(image.tag),
            ..image.clone()
        })
        .collect();
    other
}

#[test]
fn a_failure_is_said_where_it_happened() {
    let plan = planned([("a", words(&["base"]))]);
    let split = plan.graph.node_indices().find(|&id| plan.graph[id].kind == Kind::Split).unwrap();
    let mut failed = measured("failed");
    failed.error = Some("the tar is <broken>\nor hostile".to_owned());
    let marks = Marks { nodes: BTreeMap::from([(split, failed)]), ..Marks::default() };
    let svg = svg(&plan, &marks);
    for part in
        ["1 step failed", "n failed", "failed in 2.00 s: the tar is &lt;broken&gt;", "widths are times"]
    {
        assert!(svg.contains(part), "{part}: {svg}");
    }
    assert!(html(&plan, &marks).contains("the tar is \\u003cbroken> or hostile"));
}

fn measured(outcome: &'static str) -> Measured {
    Measured {
        outcome,
        start: Some(Duration::from_secs(1)),
        end: Some(Duration::from_secs(3)),
        cpu: Duration::from_secs(1),
        bytes: 1000,
        counts: BTreeMap::new(),
        error: None,
    }
}

#[test]
fn a_layer_of_a_large_page_takes_little() {
    let page = |layers| html(&planned([("a", many("", layers))]), &Marks::default()).len();
    let each = (page(1100) - page(100)) / 1000;
    assert!(each < 1000, "{each} bytes a layer");
}

#[test]
fn nothing_asked_is_an_empty_picture() {
    let plan = Plan::default();
    assert!(svg(&plan, &Marks::default()).contains("0 images"));
    assert!(html(&plan, &Marks::default()).contains("0 images"));
    assert!(bands(&plan, &Marks::default(), true).bands.is_empty());
}

#[test]
fn a_list_is_told_before_its_images() {
    let plan = sample::of_a_list();
    for drawn in [svg(&plan, &Marks::default()), html(&plan, &Marks::default())] {
        for part in [
            "untagged after everything else succeeded: 1 name",
            "webapp:&quot;old&quot; &amp; so",
            "rule registry.example/*:latest: 2 images",
            "rule registry.example/gone:&lt;b&gt; : no images",
            ">linux/arm64<",
        ] {
            assert!(drawn.contains(part), "{part}: {drawn}");
        }
    }
}

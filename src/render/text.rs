//! A plan as text, for `--dry-run`. Knows what people ask first: what is fetched, what is not, why.

use std::collections::BTreeMap;

use super::{
    Totals,
    totals::layer_states,
    words::{columns, image_names, printable, size},
};
use crate::graph::{ImageIx, Kind, NodeId, Plan, PlannedImage, PlannedLayer, State, Subject};

/// Subject, short digest, size, state, reason.
type Row = [String; 5];

/// `plan` as text of about 80 columns: every image with its documents and layers, then the totals. Ends with a
/// newline; the same plan gives the same text.
///
/// A state is what it is for the image under which it stands: work that an earlier image has done is `shared`.
pub fn text(plan: &Plan) -> String {
    let layers: BTreeMap<_, _> = plan.layers().into_iter().map(|layer| (layer.finalize, layer)).collect();
    let blocks: Vec<Vec<Row>> =
        (0..plan.images.len()).map(|ix| image_rows(plan, &layers, ImageIx(ix))).collect();
    // All rows at once, so that the columns of all images stand below each other.
    let mut lines = columns(&blocks.concat(), &[2]).into_iter();
    let mut out = String::new();
    for (image, rows) in plan.images.iter().zip(&blocks) {
        out += &heading(image);
        for line in lines.by_ref().take(rows.len()) {
            out += &format!("  {line}\n");
        }
        out.push('\n');
    }
    out += &totals_text(&Totals::of(plan));
    out
}

fn heading(image: &PlannedImage) -> String {
    let (name, reference) = (printable(&image.name), printable(&image.reference));
    if name == reference { format!("{name}\n") } else { format!("{name}  ({reference})\n") }
}

fn image_rows(plan: &Plan, layers: &BTreeMap<NodeId, PlannedLayer>, ix: ImageIx) -> Vec<Row> {
    let image = &plan.images[ix.0];
    let own = plan.own_nodes(ix);
    let of_kind = |kind| own.iter().copied().filter(move |&id| plan.graph[id].kind == kind);
    let mut rows = Vec::new();
    for (kind, digest) in [(Kind::Manifest, image.manifest), (Kind::Config, image.config)] {
        let node = of_kind(kind).find(|&id| plan.graph[id].subject == Subject::Document(digest));
        let [state, reason] = node.map_or_else(Default::default, |id| state_cells(plan, id, ix));
        rows.push([kind.name().to_owned(), digest.short(), String::new(), state, reason]);
    }
    rows.extend(layer_rows(plan, layers, ix));
    for (kind, word) in [(Kind::Image, "filesystem"), (Kind::Tag, "tag")] {
        for id in of_kind(kind) {
            let [state, reason] = state_cells(plan, id, ix);
            // The name stands in the heading.
            let short = if kind == Kind::Tag { String::new() } else { short(&plan.graph[id].subject) };
            rows.push([word.to_owned(), short, String::new(), state, reason]);
        }
    }
    rows
}

fn layer_rows(plan: &Plan, layers: &BTreeMap<NodeId, PlannedLayer>, ix: ImageIx) -> Vec<Row> {
    let mut first: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut rows = Vec::new();
    for (place, (id, state)) in (1..).zip(layer_states(plan, ix)) {
        let blob = plan.blob_of(&layers[&id], ix);
        let bytes = blob.map_or_else(String::new, |blob| size(plan.graph[blob].cost_bytes));
        let again = *first.entry(id).or_insert(place);
        let [state, reason] = match state {
            State::Shared if again != place => [state.name().to_owned(), format!("with layer {again}")],
            _ => state_cells(plan, id, ix),
        };
        let reason = with_others(plan, id, ix, &state, reason);
        rows.push([format!("layer {place}"), short(&plan.graph[id].subject), bytes, state, reason]);
    }
    rows
}

/// The state and the reason of a node as an image sees them.
fn state_cells(plan: &Plan, id: NodeId, ix: ImageIx) -> [String; 2] {
    let node = &plan.graph[id];
    let state = node.state_for(ix);
    let reason = match (state, node.wanted_by.first()) {
        (State::Shared, Some(&first)) if first != ix => format!("with {}", image_names(plan, &[first])),
        _ => node.reason.to_string(),
    };
    [state.name().to_owned(), reason]
}

/// Adds the other images that want a layer, unless the reason names the one that does the work.
fn with_others(plan: &Plan, id: NodeId, ix: ImageIx, state: &str, reason: String) -> String {
    let others: Vec<_> = plan.graph[id].wanted_by.iter().copied().filter(|&other| other != ix).collect();
    if others.is_empty() || state == State::Shared.name() {
        return reason;
    }
    format!("{reason}, also in {}", image_names(plan, &others))
}

/// A subject in at most a few characters; names in full.
pub(super) fn short(subject: &Subject) -> String {
    match subject {
        Subject::Blob(digest) | Subject::Layer(digest) | Subject::Document(digest) => digest.short(),
        Subject::Tree(key) => key.short(),
        Subject::Name(name) => printable(name).into_owned(),
    }
}

fn totals_text(totals: &Totals) -> String {
    const KINDS: [Kind; 9] = [
        Kind::Fetch,
        Kind::Split,
        Kind::Encode,
        Kind::Write,
        Kind::Finalize,
        Kind::Config,
        Kind::Manifest,
        Kind::Image,
        Kind::Tag,
    ];
    const STATES: [State; 4] = [State::Needed, State::Shared, State::Stored, State::Standby];
    let used = |state: State| totals.nodes.values().any(|by_state| by_state.contains_key(state.name()));
    let cell = |kind: Kind, state: State| match totals.nodes[kind.name()].get(state.name()) {
        Some(count) => count.to_string(),
        None if used(state) => "-".to_owned(),
        None => String::new(),
    };
    let title = |state: State| if used(state) { state.name().to_owned() } else { String::new() };
    let mut rows =
        vec![["nodes".to_owned(), title(STATES[0]), title(STATES[1]), title(STATES[2]), title(STATES[3])]];
    for kind in KINDS.into_iter().filter(|kind| totals.nodes.contains_key(kind.name())) {
        let [needed, shared, stored, standby] = STATES.map(|state| cell(kind, state));
        rows.push([format!("  {}", kind.name()), needed, shared, stored, standby]);
    }
    let mut lines = columns(&rows, &[1, 2, 3, 4]);
    let layers = totals.layers;
    lines.push(format!("layers  {} new, {} shared, {} stored", layers.new, layers.shared, layers.stored));
    lines.push(format!(
        "bytes   {} to fetch, {} shared, {} stored",
        size(totals.fetch_bytes),
        size(totals.shared_bytes),
        size(totals.stored_bytes)
    ));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::{Facts, ImageInput, Inputs, LayerInput, plan},
        render::sample,
        types::{Descriptor, LayerKind},
    };

    #[test]
    fn two_images_that_share_a_layer() {
        let expected = "\
webapp:latest  (docker://registry.example/webapp:latest)
  manifest    dd9c4f1001f8           needed  document is new
  config      45d940ac529f           needed  document is new
  layer 1     cae662172fd4  31.2 MB  stored  layer is stored, also in node:latest
  layer 2     739a304e183a  12.0 MB  needed  layer is new, also in node:latest
  filesystem  fdcb1d1516d7           needed  filesystem is new
  tag                                needed  name is new

node:latest  (docker://registry.example/node:latest)
  manifest    7664adb9c112           needed  document is new
  config      668be71212fa           needed  document is new
  layer 1     cae662172fd4  31.2 MB  stored  layer is stored, also in webapp:latest
  layer 2     739a304e183a  12.0 MB  shared  with webapp:latest
  filesystem  1ff15a6174b9           needed  filesystem is new
  tag                                needed  name is new

nodes       needed  stored
  fetch          1       1
  split          1       1
  encode         1       1
  write          1       1
  finalize       1       1
  config         2       -
  manifest       2       -
  image          2       -
  tag            2       -
layers  1 new, 1 shared, 2 stored
bytes   12.0 MB to fetch, 12.0 MB shared, 31.2 MB stored
";
        assert_eq!(text(&sample::two_images()), expected);
    }

    #[test]
    fn an_image_that_uses_a_layer_twice_fetches_it_once() {
        let expected = "\
odd:v1  (docker://registry.example/odd:v1)
  manifest    b3cb5731e069        needed  document is new
  config      085c2a4443ad        needed  document is new
  layer 1     2e1cfa82b035  32 B  needed  layer is new
  layer 2     2e1cfa82b035  32 B  shared  with layer 1
  filesystem  a21ec8346ef7        needed  filesystem is new
  tag                             needed  name is new

nodes       needed
  fetch          1
  split          1
  encode         1
  write          1
  finalize       1
  config         1
  manifest       1
  image          1
  tag            1
layers  1 new, 1 shared, 0 stored
bytes   32 B to fetch, 32 B shared, 0 B stored
";
        assert_eq!(text(&sample::twice_the_same_layer()), expected);
    }

    #[test]
    fn the_planner_makes_what_is_drawn_here() {
        let layer = |blob: &str, size| LayerInput {
            name: sample::digest("libs"),
            kind: LayerKind::Tar,
            blob: Descriptor { media_type: String::new(), digest: sample::digest(blob), size },
        };
        let image = |name: &str, layer| ImageInput {
            name: name.into(),
            reference: name.into(),
            manifest: (sample::digest(&format!("{name} manifest")), 500),
            config: (sample::digest(&format!("{name} config")), 700),
            layers: vec![layer],
            container: true,
        };
        let images = vec![image("a:v1", layer("libs.gz", 1000)), image("b:v1", layer("libs.zst", 800))];
        let text = text(&plan(&Inputs { images, ..Inputs::default() }, &Facts::default()));
        let expected = "\
a:v1
  manifest    cf31f2185c02           needed  document is new
  config      3ba8db4d21a0           needed  document is new
  layer 1     739a304e183a  1.00 kB  needed  layer is new, also in b:v1
  filesystem  36d0f670d556           needed  filesystem is new
  tag                                needed  name is new

b:v1
  manifest    70acb423cae0           needed  document is new
  config      f428f1d7e63a           needed  document is new
  layer 1     739a304e183a    800 B  shared  with a:v1
  filesystem  36d0f670d556           shared  with a:v1
  tag                                needed  name is new

nodes       needed  standby
  fetch          1        1
  split          1        -
  encode         1        -
  write          1        -
  finalize       1        -
  config         2        -
  manifest       2        -
  image          1        -
  tag            2        -
layers  1 new, 1 shared, 0 stored
bytes   1.00 kB to fetch, 800 B shared, 0 B stored
";
        assert_eq!(text, expected);
    }

    #[test]
    fn nothing_asked_nothing_to_do() {
        let expected =
            "nodes\nlayers  0 new, 0 shared, 0 stored\nbytes   0 B to fetch, 0 B shared, 0 B stored\n";
        assert_eq!(text(&Plan::default()), expected);
    }
}

//! A run for tests that looks like life: three images, ten layers, four workers, three downloads at once.
//! Made by a small simulation in ticks; ignores memory and failures.

use std::time::{Duration, UNIX_EPOCH};

use cfs_dag::{
    graph::{Facts, ImageInput, Inputs, Kind, LayerInput, NodeId, Plan, plan},
    report::{Limits, NodeOutcome, NodeRecord, Record, Run, RunEnd, Span, Summary},
    types::{Descriptor, Digest, LayerKind},
};

const TICK_US: u64 = 2000;
const WORKERS: usize = 4;
const DOWNLOADS: usize = 3;
/// Compressed bytes that come in a tick on all transfers together.
const NETWORK: u64 = 24_000_000 / 500;
/// Compressed bytes that one worker gets through in a tick.
const SPLIT: u64 = 40_000_000 / 500;
const WRITE: u64 = 24_000_000 / 500;
const ENCODE: u64 = 500_000_000 / 500;
/// How far a fetch runs ahead of its split, and a split of its write.
const AHEAD: u64 = 4_000_000;

const LAYERS: [(&str, u64); 10] = [
    ("base", 31_200_000),
    ("libs", 12_000_000),
    ("tools", 5_400_000),
    ("app", 900_000),
    ("runtime", 42_000_000),
    ("modules", 8_100_000),
    ("blas", 22_000_000),
    ("empty", 32),
    ("conf", 3_300_000),
    ("model", 17_000_000),
];
const IMAGES: [(&str, &[usize]); 3] =
    [("webapp:latest", &[0, 1, 2, 3]), ("node:22", &[0, 1, 4, 5]), ("ml:v3", &[0, 6, 7, 8, 9])];

/// The run.
pub fn sample() -> Run {
    let images = IMAGES.map(|(name, layers)| image(name, layers)).to_vec();
    let plan = plan(&Inputs { images, ..Inputs::default() }, &Facts::default());
    let mut world = World::new(&plan);
    world.run();
    let (mut nodes, wall_us) = (world.nodes, world.now_us);
    nodes.retain(|node| node.start_us.is_some());
    world.spans.sort_unstable();
    let mut record = Record { schema: 1, wall_us, nodes, spans: world.spans, ..Record::default() };
    for (at_us, fetched, written) in world.amounts {
        record.fetched.add(at_us, fetched);
        record.written.add(at_us, written);
    }
    let summary = Summary::new(&plan, &record);
    let limits = Limits { workers: WORKERS, downloads: DOWNLOADS, memory_bytes: 256 << 20 };
    let began = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    Run::new(plan, record, &summary, began, limits, RunEnd::Whole)
}

/// A long run: as many spans as a record may have, most of them tiny.
pub fn many_spans() -> Run {
    let mut run = sample();
    let (spans, wall_us) = (16_000, run.record.wall_us);
    let nodes: Vec<usize> = run.record.spans.iter().map(|span| span.node).collect();
    let step = wall_us * WORKERS as u64 / spans;
    let span = |n: u64| {
        let start_us = n / WORKERS as u64 * step;
        let node = nodes[(n * 7919) as usize % nodes.len()];
        Span { worker: n as usize % WORKERS, node, start_us, end_us: start_us + 1 + n * 31 % step }
    };
    run.record.spans = (0..spans).map(span).collect();
    run.record.spans.sort_unstable();
    run
}

fn image(name: &str, layers: &[usize]) -> ImageInput {
    let digest = |word: String| Digest::of(word.as_bytes());
    let layer = |layer: &usize| {
        let (word, size) = LAYERS[*layer];
        let blob = Descriptor { media_type: String::new(), digest: digest(format!("{word}.gz")), size };
        LayerInput { name: digest(word.into()), kind: LayerKind::Tar, blob }
    };
    ImageInput {
        name: name.into(),
        reference: format!("docker://registry.example/{name}"),
        manifest: (digest(format!("{name} manifest")), 1200),
        config: (digest(format!("{name} config")), 5000),
        layers: layers.iter().map(layer).collect(),
        container: true,
        config_lists_layers: true,
        platform: None,
    }
}

/// A layer on its way, in compressed bytes.
struct Way {
    /// Fetch, split, write, encode, finalize.
    nodes: [NodeId; 5],
    size: u64,
    /// How far each of them is; a finalize is done or not.
    done: [u64; 5],
    held_us: u64,
}

struct World<'a> {
    plan: &'a Plan,
    now_us: u64,
    ways: Vec<Way>,
    nodes: Vec<NodeRecord>,
    spans: Vec<Span>,
    last: [Option<NodeId>; WORKERS],
    busy_until: [u64; WORKERS],
    amounts: Vec<(u64, u64, u64)>,
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan) -> Self {
        let way = |layer: cfs_dag::graph::PlannedLayer| {
            let of = |kind| layer.nodes.iter().copied().find(|node| plan.graph[*node].kind == kind).unwrap();
            let nodes = [Kind::Fetch, Kind::Split, Kind::Write, Kind::Encode, Kind::Finalize].map(of);
            Way { size: plan.graph[nodes[0]].cost_bytes, nodes, done: [0; 5], held_us: 0 }
        };
        let nodes =
            plan.graph.node_indices().map(|node| NodeRecord { node: node.index(), ..Default::default() });
        Self {
            plan,
            now_us: 6000,
            ways: plan.layers().into_iter().map(way).collect(),
            nodes: nodes.collect(),
            spans: Vec::new(),
            last: [None; WORKERS],
            busy_until: [0; WORKERS],
            amounts: Vec::new(),
        }
    }

    fn run(&mut self) {
        let tags: Vec<NodeId> = self.plan.images.iter().map(|image| image.tag).collect();
        while tags.iter().any(|tag| self.nodes[tag.index()].end_us.is_none_or(|end| end > self.now_us)) {
            self.transfer();
            let mut taken = Vec::new();
            for worker in 0..WORKERS {
                self.work(worker, &mut taken);
            }
            self.finish_images();
            self.now_us += TICK_US;
        }
    }

    fn transfer(&mut self) {
        let open = |way: &Way| way.done[0] < way.size;
        let going: Vec<usize> =
            (0..self.ways.len()).filter(|w| open(&self.ways[*w])).take(DOWNLOADS).collect();
        for &w in &going {
            let way = &mut self.ways[w];
            let node = &mut self.nodes[way.nodes[0].index()];
            node.start_us.get_or_insert(self.now_us);
            for step in &way.nodes[1..4] {
                self.nodes[step.index()].start_us.get_or_insert(self.now_us);
            }
            if way.done[0] - way.done[1] > AHEAD {
                way.held_us += TICK_US;
                continue;
            }
            let share = NETWORK / going.len() as u64;
            let bytes = share.min(way.size - way.done[0]);
            way.done[0] += bytes;
            self.amounts.push((self.now_us, bytes, 0));
            if way.done[0] == way.size {
                let (node, size, held_us) = (way.nodes[0], way.size, way.held_us);
                self.end(node, self.now_us + TICK_US, size);
                self.nodes[node.index()].counts = [("held_us".to_owned(), held_us)].into();
            }
        }
    }

    /// One tick of one worker: goes on with what it did if there is more of that, else takes what is next.
    fn work(&mut self, worker: usize, taken: &mut Vec<NodeId>) {
        if self.busy_until[worker] > self.now_us {
            return;
        }
        let mut ready: Vec<(usize, usize)> = Vec::new();
        for (w, way) in self.ways.iter().enumerate() {
            let [fetched, split, written, encoded, finalized] = way.done;
            let whole = |done: u64| done == way.size;
            // Nobody is woken for a little; who is awake goes on to the end.
            let worth = |step: usize, before: u64| {
                let left = before - way.done[step];
                left > 0 && (left >= 400_000 || whole(before) || self.last[worker] == Some(way.nodes[step]))
            };
            let can = [
                (4, whole(encoded) && whole(written) && finalized == 0),
                (3, written - encoded > 2_000_000 || (whole(written) && !whole(encoded))),
                (2, worth(2, split)),
                (1, worth(1, fetched) && split - written < AHEAD),
            ];
            let alone = |step: usize| step == 2 || !taken.contains(&way.nodes[step]);
            ready.extend(can.iter().filter(|(step, can)| *can && alone(*step)).map(|(step, _)| (w, *step)));
        }
        let same = ready.iter().find(|(w, step)| Some(self.ways[*w].nodes[*step]) == self.last[worker]);
        let Some(&(w, step)) = same.or(ready.get(worker % ready.len().max(1))) else {
            self.last[worker] = None;
            return;
        };
        let way = &mut self.ways[w];
        let (limit, most) =
            [(0, 0), (way.done[0], SPLIT), (way.done[1], WRITE), (way.done[2], ENCODE), (1, 1)][step];
        let bytes = most.min(limit - way.done[step]);
        way.done[step] += bytes;
        let (node, took_us) = (way.nodes[step], (TICK_US * bytes / most).max(20));
        let over = if step == 4 { way.done[4] == 1 } else { way.done[step] == way.size };
        let size = way.size;
        taken.push(node);
        self.last[worker] = Some(node);
        self.span(worker, node, self.now_us, took_us);
        if step == 2 {
            self.amounts.push((self.now_us, 0, bytes * 5 / 2));
        }
        if over {
            self.end(node, self.now_us + took_us, if step == 4 { 0 } else { size * 5 / 2 });
        }
    }

    fn span(&mut self, worker: usize, node: NodeId, start_us: u64, took_us: u64) {
        let did = &mut self.nodes[node.index()];
        did.start_us.get_or_insert(start_us);
        did.cpu_us += took_us;
        let end_us = start_us + took_us;
        let same = |span: &&mut Span| {
            span.worker == worker && span.node == node.index() && span.end_us + 250 > start_us
        };
        match self.spans.iter_mut().rev().take(2 * WORKERS).find(same) {
            Some(span) => span.end_us = end_us,
            None => self.spans.push(Span { worker, node: node.index(), start_us, end_us }),
        }
    }

    fn end(&mut self, node: NodeId, at_us: u64, bytes: u64) {
        let did = &mut self.nodes[node.index()];
        (did.end_us, did.outcome, did.bytes) = (Some(at_us), NodeOutcome::Finished, bytes);
    }

    /// Filesystem, config, manifest and tag of an image follow each other once its layers are there.
    fn finish_images(&mut self) {
        for image in 0..self.plan.images.len() {
            let planned = &self.plan.images[image];
            let done = |way: &Way| way.done[4] == 1 || !planned.layers.contains(&way.nodes[4]);
            if self.nodes[planned.tag.index()].start_us.is_some() || !self.ways.iter().all(done) {
                continue;
            }
            let (tag, layers) = (planned.tag, planned.layers.len() as u64);
            let own = self.plan.own_nodes(cfs_dag::graph::ImageIx(image));
            let mut at_us = self.now_us + TICK_US;
            for (kind, took_us) in [
                (Kind::Filesystem, layers * 21_000),
                (Kind::Config, 700),
                (Kind::Manifest, 500),
                (Kind::Tag, 74_000),
            ] {
                let node = own.iter().copied().find(|node| self.plan.graph[*node].kind == kind).unwrap();
                match node == tag {
                    true => self.nodes[node.index()].start_us = Some(at_us),
                    false => self.span(image % WORKERS, node, at_us, took_us),
                }
                at_us += took_us;
                if node != tag {
                    self.busy_until[image % WORKERS] = at_us;
                }
                self.end(node, at_us, 0);
            }
        }
    }
}

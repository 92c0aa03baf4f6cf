//! Progress as JSON lines for programs. Knows the field names; ignores who reads them.
//!
//! One object a line, in the order in which things happened; `event` says which:
//!
//! | `event` | further fields |
//! |---|---|
//! | `plan` | first line of a run, before any work: `schema`, `to_fetch_bytes`, `layers`, `nodes`, `images` |
//! | `tick` | `fraction`, `fetched_bytes`, `to_fetch_bytes`; `bytes_per_second`, `eta_ms` if known |
//! | `started` | `node`, `kind`, `subject`, `cost_bytes`, `images` (their numbers) |
//! | `progress` | `node`, `bytes`, `fetched_bytes`, `to_fetch_bytes` |
//! | `restarted`, `finished`, `cancelled` | `node` |
//! | `failed` | `node`, `error` |
//! | `layer` | a layer is stored: `node` (its last), `layers_done`, `layers` |
//! | `image` | an image ended: `image`, `outcome`, `error` if failed |
//! | `message` | `text`, a warning or a line of the log, for people |
//! | `end` | last line of a run: `fetched_bytes`, `layers_done`, `images_ok`, `images_failed` |
//!
//! | field | what it is |
//! |---|---|
//! | `t_ms` | milliseconds since the run began; in all but `plan` and `message` |
//! | `fraction` | how much of the whole is done, 0 to 1, where nothing is left: what a splash screen shows |
//! | `fetched_bytes`, `to_fetch_bytes` | compressed bytes that came, and that will have come in all |
//! | `bytes_per_second` | of late, from all fetches together |
//! | `eta_ms` | the time left, if all goes on as it does |
//! | `layers`, `layers_done` | layers to make in all, and made; those that are stored already do not count |
//! | `nodes` | how many steps are needed, by `kind`: `{"fetch": 3, …}` |
//! | `images` | in `plan` all images in the order of the request: `image`, `name`, `reference`, `stored` |
//! | `node` | a step, by the name that the plan in JSON gives it |
//! | `kind`, `subject`, `cost_bytes` | as in the plan in JSON |
//! | `bytes` | bytes through this step since it last started over |
//! | `outcome` | `ok` or `failed` |
//!
//! `fraction` falls only when work is added. In `images`, `image` is the image's number, and `stored` says
//! that there is nothing to do for it. `bytes` are compressed ones of a `fetch`, tar bytes of a `split`,
//! bytes of new objects of a `write`.
//!
//! Only while a run goes on: errors before it, and the reasons of failed images after it, are lines for
//! people, as always. A mirror whose registries do not all answer in time is several runs: after an `end` may
//! come another `plan`, with which `t_ms`, `fraction` and the numbers of images begin anew.
//!
//! A `tick` comes when something in it has changed, a `progress` when bytes have come, each at most ten times
//! a second (`progress` for each node). The totals may change during a run: work that is cancelled is taken
//! off, another blob of a layer is added. A reader that wants a bar needs `tick` and `end` alone. Fields and
//! events are only added while `schema` (1) stays the same; a reader skips what it does not know.

use std::{collections::BTreeMap, io::Write, time::Duration};

use serde::Serialize;

use super::{Eta, News, Tracker, View, progress::Lines};
use crate::{exec::Event, graph::State, render::SubjectJson};

/// One JSON object a line, as the head of this file says.
pub struct Json {
    out: Lines,
    ticked: Option<Tick>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Plan {
        schema: u32,
        to_fetch_bytes: u64,
        layers: usize,
        nodes: BTreeMap<&'static str, usize>,
        images: Vec<PlanImage<'a>>,
    },
    Tick {
        t_ms: u64,
        #[serde(flatten)]
        tick: Tick,
    },
    Started {
        t_ms: u64,
        node: String,
        kind: &'static str,
        subject: SubjectJson,
        cost_bytes: u64,
        images: Vec<usize>,
    },
    Progress {
        t_ms: u64,
        node: String,
        bytes: u64,
        fetched_bytes: u64,
        to_fetch_bytes: u64,
    },
    Restarted {
        t_ms: u64,
        node: String,
    },
    Finished {
        t_ms: u64,
        node: String,
    },
    Cancelled {
        t_ms: u64,
        node: String,
    },
    Failed {
        t_ms: u64,
        node: String,
        error: &'a str,
    },
    Layer {
        t_ms: u64,
        node: String,
        layers_done: usize,
        layers: usize,
    },
    Image(ImageEnd<'a>),
    Message {
        text: &'a str,
    },
    End {
        t_ms: u64,
        fetched_bytes: u64,
        layers_done: usize,
        images_ok: usize,
        images_failed: usize,
    },
}

#[derive(Serialize, Clone, PartialEq)]
struct Tick {
    fraction: f64,
    fetched_bytes: u64,
    to_fetch_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_ms: Option<u64>,
}

#[derive(Serialize)]
struct PlanImage<'a> {
    image: usize,
    name: &'a str,
    reference: &'a str,
    stored: bool,
}

#[derive(Serialize)]
struct ImageEnd<'a> {
    t_ms: u64,
    image: usize,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl Json {
    /// Lines to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out: Lines::new(out), ticked: None }
    }

    fn write(&mut self, line: &Line<'_>) {
        // Such lines have text keys only, so there is always something to write.
        if let Ok(text) = serde_json::to_string(line) {
            self.out.write(&text);
        }
    }
}

impl View for Json {
    fn begin(&mut self, seen: &Tracker) {
        let plan = seen.plan();
        let images = plan.images.iter().enumerate().map(|(image, planned)| PlanImage {
            image,
            name: &planned.name,
            reference: &planned.reference,
            stored: plan.graph[planned.tag].state == State::Stored,
        });
        let (_, to_fetch_bytes) = seen.bytes();
        let (_, layers) = seen.layers();
        let mut nodes = BTreeMap::new();
        for node in plan.graph.node_weights().filter(|node| node.state == State::Needed) {
            *nodes.entry(node.kind.name()).or_default() += 1;
        }
        self.write(&Line::Plan { schema: 1, to_fetch_bytes, layers, nodes, images: images.collect() });
    }

    fn event(&mut self, seen: &Tracker, at: Duration, event: &Event, news: &[News]) {
        let (t_ms, id) = (millis(at), event.node());
        // The tracker ignores such nodes too.
        let Some(planned) = seen.plan().graph.node_weight(id) else { return };
        let node = seen.plan().id(id);
        let (fetched_bytes, to_fetch_bytes) = seen.bytes();
        self.write(&match event {
            Event::Started(_) => Line::Started {
                t_ms,
                node,
                kind: planned.kind.name(),
                subject: SubjectJson::from(&planned.subject),
                cost_bytes: planned.cost_bytes,
                images: planned.wanted_by.iter().map(|ix| ix.0).collect(),
            },
            Event::Progress { .. } => {
                Line::Progress { t_ms, node, bytes: seen.node_bytes(id), fetched_bytes, to_fetch_bytes }
            }
            Event::Restarted(_) => Line::Restarted { t_ms, node },
            Event::Finished(_) => Line::Finished { t_ms, node },
            Event::Cancelled(_) => Line::Cancelled { t_ms, node },
            Event::Failed(_, error) => Line::Failed { t_ms, node, error },
        });
        for news in news {
            self.write(&news_line(seen, t_ms, news));
        }
    }

    fn line(&mut self, text: &str) {
        self.write(&Line::Message { text });
    }

    fn tick(&mut self, seen: &Tracker, now: Duration) {
        let tick = Tick::new(seen);
        if self.ticked.as_ref() != Some(&tick) {
            self.write(&Line::Tick { t_ms: millis(now), tick: tick.clone() });
            self.ticked = Some(tick);
        }
    }

    fn end(&mut self, seen: &Tracker, now: Duration) {
        self.tick(seen, now);
        let (fetched_bytes, _) = seen.bytes();
        let (layers_done, _) = seen.layers();
        let (images_ok, images_failed, _) = seen.images();
        self.write(&Line::End { t_ms: millis(now), fetched_bytes, layers_done, images_ok, images_failed });
    }
}

impl Tick {
    fn new(seen: &Tracker) -> Self {
        let (fetched_bytes, to_fetch_bytes) = seen.bytes();
        // Digits that nobody sees would only make lines.
        let fraction = (seen.fraction() * 10_000.0).floor() / 10_000.0;
        let bytes_per_second = seen.bytes_per_second().map(|rate| rate as u64);
        let eta_ms = match seen.eta() {
            Eta::Left(time) => Some(millis(time)),
            Eta::Unknown | Eta::Finishing => None,
        };
        Self { fraction, fetched_bytes, to_fetch_bytes, bytes_per_second, eta_ms }
    }
}

fn news_line<'a>(seen: &Tracker, t_ms: u64, news: &'a News) -> Line<'a> {
    match news {
        News::LayerDone(layer) => {
            let (layers_done, layers) = seen.layers();
            Line::Layer { t_ms, node: seen.plan().id(layer.finalize), layers_done, layers }
        }
        News::ImageDone(ix) => Line::Image(ImageEnd { t_ms, image: ix.0, outcome: "ok", error: None }),
        News::ImageFailed(ix, text) => {
            Line::Image(ImageEnd { t_ms, image: ix.0, outcome: "failed", error: Some(text) })
        }
    }
}

/// A time in whole milliseconds; half a billion years are enough.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::progress::testing::{Page, show},
        *,
    };
    use crate::{graph::NodeId, render::sample};

    #[test]
    fn a_run_in_objects() {
        let page = Page::default();
        let (mut view, mut tracker) =
            (Json::new(Box::new(page.clone())), Tracker::new(Arc::new(sample::two_candidates())));
        let id = NodeId::new;
        view.begin(&tracker);
        show(&mut view, &mut tracker, 1, Event::Started(id(0)));
        show(&mut view, &mut tracker, 2, Event::Progress { node: id(0), bytes: 400 });
        show(&mut view, &mut tracker, 3, Event::Failed(id(0), "wrong digest".into()));
        show(&mut view, &mut tracker, 4, Event::Restarted(id(2)));
        show(&mut view, &mut tracker, 5, Event::Finished(id(13)));
        view.line("a \"warning\"");
        view.end(&tracker, Duration::from_millis(6));
        let expected = r#"
{"event":"plan","schema":1,"to_fetch_bytes":1000,"layers":1,"nodes":{"config":2,"encode":1,"fetch":1,"finalize":1,"image":2,"manifest":2,"split":1,"tag":2,"write":1},"images":[{"image":0,"name":"a:v1","reference":"docker://registry.example/a:v1","stored":false},{"image":1,"name":"b:v1","reference":"docker://registry.example/b:v1","stored":false}]}
{"event":"started","t_ms":1,"node":"@FETCH@","kind":"fetch","subject":{"blob":"@BLOB@"},"cost_bytes":1000,"images":[0]}
{"event":"tick","t_ms":1,"fraction":0.0,"fetched_bytes":0,"to_fetch_bytes":1000}
{"event":"progress","t_ms":2,"node":"@FETCH@","bytes":400,"fetched_bytes":400,"to_fetch_bytes":1000}
{"event":"tick","t_ms":2,"fraction":0.384,"fetched_bytes":400,"to_fetch_bytes":1000}
{"event":"failed","t_ms":3,"node":"@FETCH@","error":"wrong digest"}
{"event":"image","t_ms":3,"image":0,"outcome":"failed","error":"wrong digest"}
{"event":"tick","t_ms":3,"fraction":0.97,"fetched_bytes":400,"to_fetch_bytes":400}
{"event":"restarted","t_ms":4,"node":"@SPLIT@"}
{"event":"finished","t_ms":5,"node":"@TAG@"}
{"event":"image","t_ms":5,"image":1,"outcome":"ok"}
{"event":"tick","t_ms":5,"fraction":0.98,"fetched_bytes":400,"to_fetch_bytes":400}
{"event":"message","text":"a \"warning\""}
{"event":"end","t_ms":6,"fetched_bytes":400,"layers_done":0,"images_ok":1,"images_failed":1}
"#;
        let mut expected = expected.trim_start().replace("@BLOB@", &sample::digest("libs.gz").to_string());
        for (word, node) in [("@FETCH@", 0), ("@SPLIT@", 2), ("@TAG@", 13)] {
            expected = expected.replace(word, &tracker.plan().id(id(node)));
        }
        assert_eq!(page.text(), expected);
    }
}

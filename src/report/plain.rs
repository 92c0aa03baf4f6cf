//! Progress as lines for people and logs. Knows the words; ignores terminals.

use std::{io::Write, time::Duration};

use super::{ActiveLayer, Eta, News, Tracker, View, progress::Lines};
use crate::{
    exec::Event,
    graph::{ImageIx, Plan},
    render::words::{clock, count, image_names, printable, short, size},
};

/// The least time between two lines about bytes.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// One line for each layer and each image that ends, and at most every ten seconds one
/// about bytes, if some came.
pub struct Plain {
    out: Lines,
    beat: Duration,
    beat_bytes: u64,
}

impl Plain {
    /// Lines to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out: Lines::new(out), beat: Duration::ZERO, beat_bytes: 0 }
    }

    fn news(&mut self, seen: &Tracker, at: Duration, news: &News) {
        let line = match news {
            News::LayerDone(layer) => layer_line(seen, layer, at),
            News::ImageDone(ix) => format!("{}: {}", image_names(seen.plan(), &[*ix]), done(seen, *ix, at)),
            // Why is told once, at the end of the run, with the layer and if asked for with the causes.
            News::ImageFailed(ix, _) => format!("{}: failed", image_names(seen.plan(), &[*ix])),
        };
        self.out.write(&line);
    }
}

impl View for Plain {
    fn begin(&mut self, seen: &Tracker) {
        let (done, _, images) = seen.images();
        if done == images {
            return self.out.write("nothing to do: all is stored already");
        }
        let mut line = format!(
            "{} to fetch in {} for {}",
            size(seen.bytes().1),
            count(seen.layers().1, "layer", "layers"),
            count(images, "image", "images"),
        );
        if done > 0 {
            line += &format!(", {done} stored already");
        }
        self.out.write(&line);
    }

    fn event(&mut self, seen: &Tracker, at: Duration, _: &Event, news: &[News]) {
        for news in news {
            self.news(seen, at, news);
        }
    }

    fn line(&mut self, text: &str) {
        self.out.write(&printable(text));
    }

    fn tick(&mut self, seen: &Tracker, now: Duration) {
        let (fetched, to_fetch) = seen.bytes();
        if now.saturating_sub(self.beat) < HEARTBEAT || fetched == self.beat_bytes {
            return;
        }
        (self.beat, self.beat_bytes) = (now, fetched);
        let (done, layers) = seen.layers();
        let rate = seen.bytes_per_second().map_or("--".to_owned(), |rate| format!("{}/s", size(rate as u64)));
        let bytes = format!("{} of {}", size(fetched), size(to_fetch));
        self.out.write(&format!("{bytes}, {rate}, {}, {done} of {layers} layers", eta_text(seen.eta())));
    }

    fn end(&mut self, _: &Tracker, _: Duration) {}
}

fn layer_line(seen: &Tracker, layer: &ActiveLayer, at: Duration) -> String {
    let (done, layers) = seen.layers();
    let seconds = at.saturating_sub(layer.since).as_secs_f64();
    let title = layer_title(seen.plan(), layer);
    format!("layer {title}: {} in {seconds:.1} s ({done} of {layers})", size(layer.bytes))
}

/// How an image was done, to be said after its name.
pub(super) fn done(seen: &Tracker, ix: ImageIx, at: Duration) -> String {
    let fetched = match seen.image_bytes(ix) {
        0 => "nothing".to_owned(),
        bytes => size(bytes),
    };
    let seconds = at.saturating_sub(seen.image_since(ix).unwrap_or(at)).as_secs_f64();
    format!("done, {fetched} fetched, {seconds:.1} s")
}

/// A layer's short digest and image.
fn layer_title(plan: &Plan, layer: &ActiveLayer) -> String {
    let image = layer.image.map(|ix| format!(" of {}", image_names(plan, &[ix])));
    format!("{}{}", short_layer(plan, layer), image.unwrap_or_default())
}

/// A layer's short digest.
pub(super) fn short_layer(plan: &Plan, layer: &ActiveLayer) -> String {
    short(&plan.graph[layer.finalize].subject)
}

/// The time left, if it is known.
pub(super) fn eta_text(eta: Eta) -> String {
    match eta {
        Eta::Unknown => "eta --".to_owned(),
        Eta::Left(time) => format!("eta {}", clock(time)),
        Eta::Finishing => "finishing".to_owned(),
    }
}

/// Why an image failed, to be said after its name.
pub(super) fn failed(plan: &Plan, ix: ImageIx, text: &str) -> String {
    let name = image_names(plan, &[ix]);
    let reference = plan.images.get(ix.0).map_or("", |image| &image.reference);
    let text = printable(text);
    format!("failed: {}", without_name(&text, &[&name, reference]))
}

/// `text` without the name with which errors about an image begin.
pub(super) fn without_name<'a>(text: &'a str, names: &[&str]) -> &'a str {
    let rest = |name: &&str| text.strip_prefix(*name)?.strip_prefix(": ");
    names.iter().find_map(rest).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::progress::testing::{Page, show},
        *,
    };
    use crate::{graph::NodeId, render::sample};

    fn started(plan: Plan) -> (Page, Plain, Tracker) {
        let page = Page::default();
        let (mut view, tracker) = (Plain::new(Box::new(page.clone())), Tracker::new(Arc::new(plan)));
        view.begin(&tracker);
        (page, view, tracker)
    }

    fn id(index: usize) -> NodeId {
        NodeId::new(index)
    }

    #[test]
    fn a_run_in_lines() {
        let (page, mut view, mut tracker) = started(sample::two_images());
        show(&mut view, &mut tracker, 0, Event::Started(id(5)));
        for second in 1..=12 {
            show(&mut view, &mut tracker, second * 1000, Event::Progress { node: id(5), bytes: 1_000_000 });
        }
        show(&mut view, &mut tracker, 12_000, Event::Finished(id(5)));
        show(&mut view, &mut tracker, 12_340, Event::Finished(id(9)));
        show(&mut view, &mut tracker, 12_500, Event::Finished(id(13)));
        let error = "node:latest: the disk is full: free some space";
        show(&mut view, &mut tracker, 12_600, Event::Failed(id(16), error.into()));
        view.end(&tracker, Duration::from_secs(13));
        let expected = "\
12.0 MB to fetch in 1 layer for 2 images
10.0 MB of 12.0 MB, 1.00 MB/s, eta 0:02, 0 of 1 layers
layer 739a304e183a of webapp:latest: 12.0 MB in 12.3 s (1 of 1)
webapp:latest: done, 12.0 MB fetched, 12.5 s
node:latest: failed
";
        assert_eq!(page.text(), expected);
    }

    #[test]
    fn no_heartbeat_without_bytes() {
        let (page, mut view, mut tracker) = started(sample::two_images());
        show(&mut view, &mut tracker, 0, Event::Started(id(5)));
        view.tick(&tracker, Duration::from_secs(60));
        assert_eq!(page.text().lines().count(), 1);
    }
}

//! The tracker fed with made-up events.

use super::*;
use crate::render::sample;

const LIBS: u64 = 12_000_000;

/// A tracker of two images over a stored and a needed layer; nodes 5 to 9 make the needed one.
fn tracker() -> Tracker {
    Tracker::new(Arc::new(sample::two_images()))
}

fn id(index: usize) -> NodeId {
    NodeId::new(index)
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn feed(tracker: &mut Tracker, events: impl IntoIterator<Item = Event>) -> Vec<News> {
    events.into_iter().flat_map(|event| tracker.apply(s(0), &event)).collect()
}

fn bytes(node: usize, bytes: u64) -> Event {
    Event::Progress { node: id(node), bytes }
}

#[test]
fn totals_are_known_before_the_first_byte() {
    let tracker = tracker();
    assert_eq!(tracker.bytes(), (0, LIBS));
    assert_eq!(tracker.layers(), (0, 1));
    assert_eq!(tracker.images(), (0, 0, 2));
    assert_eq!(tracker.eta(), Eta::Unknown);
}

#[test]
fn a_layer_and_its_images_are_done() {
    let mut tracker = tracker();
    feed(&mut tracker, [Event::Started(id(5)), bytes(5, LIBS), Event::Finished(id(5))]);
    let active = tracker.active().next().unwrap();
    assert_eq!((active.stage, active.bytes, active.size_bytes), (Stage::Splitting, LIBS, LIBS));
    feed(&mut tracker, [6, 7, 8].map(|node| Event::Finished(id(node))));
    let active = tracker.active().next().unwrap();
    assert_eq!(active.stage, Stage::Finalizing);
    let news = feed(&mut tracker, [Event::Finished(id(9)), Event::Finished(id(13)), Event::Finished(id(17))]);
    assert_eq!(news, [News::LayerDone(active), News::ImageDone(ImageIx(0)), News::ImageDone(ImageIx(1))]);
    assert_eq!((tracker.layers(), tracker.active().len()), ((1, 1), 0));
}

#[test]
fn a_restart_takes_its_bytes_back() {
    let mut tracker = tracker();
    feed(&mut tracker, [Event::Started(id(5)), bytes(5, 5000), Event::Restarted(id(5)), bytes(5, 700)]);
    assert_eq!(tracker.bytes(), (700, LIBS));
    assert_eq!(tracker.node_bytes(id(5)), 700);
}

#[test]
fn a_candidate_that_becomes_active_is_added_and_fails_only_its_own_image_before() {
    let mut tracker = Tracker::new(Arc::new(sample::two_candidates()));
    assert_eq!(tracker.bytes(), (0, 1000));
    feed(&mut tracker, [Event::Started(id(0)), bytes(0, 400)]);
    let news = feed(&mut tracker, [Event::Failed(id(0), "bad digest".into()), Event::Started(id(1))]);
    assert_eq!(news, [News::ImageFailed(ImageIx(0), "bad digest".into())]);
    assert_eq!(tracker.bytes(), (400, 1200));
    assert_eq!(tracker.layers(), (0, 1));
}

#[test]
fn cancelled_work_leaves_the_totals() {
    let mut tracker = tracker();
    feed(&mut tracker, [Event::Started(id(5)), bytes(5, 400)]);
    let news = feed(&mut tracker, [Event::Failed(id(6), "broken tar".into())]);
    assert_eq!(news.len(), 2);
    feed(&mut tracker, [5, 7, 8, 9, 13, 17].map(|node| Event::Cancelled(id(node))));
    assert_eq!((tracker.bytes(), tracker.layers(), tracker.active().len()), ((400, 400), (0, 0), 0));
    assert_eq!(tracker.images(), (0, 2, 2));
}

#[test]
fn stored_nodes_that_end_change_nothing() {
    let mut tracker = tracker();
    assert_eq!(feed(&mut tracker, (0..5).map(|node| Event::Finished(id(node)))), []);
    assert_eq!((tracker.bytes(), tracker.layers()), ((0, LIBS), (0, 1)));
}

#[test]
fn the_eta_never_promises_less_than_the_slowest_fetch_needs() {
    let plan = sample::Sample::default()
        .layer("fast", State::Needed, &[0], &[(("fast.gz", 1_000_000), &[0])])
        .layer("slow", State::Needed, &[0], &[(("slow.gz", 100_000), &[0])])
        .image("a:v1", State::Needed, &["fast", "slow"]);
    let mut tracker = Tracker::new(Arc::new(plan.plan()));
    feed(&mut tracker, [Event::Started(id(0)), Event::Started(id(5))]);
    for second in 1..=10 {
        feed(&mut tracker, [bytes(0, 90_000), bytes(5, 1000)]);
        tracker.advance(s(second));
    }
    // The whole: 190 000 bytes at 91 000 a second. The slow one: 90 000 bytes at 1000 a second.
    let Eta::Left(left) = tracker.eta() else { panic!("{:?}", tracker.eta()) };
    assert_eq!(left.as_secs_f64().round(), 90.0);
}

#[test]
fn the_stage_is_the_first_step_that_has_not_ended() {
    let mut tracker = tracker();
    let mut stage_after = |event| {
        feed(&mut tracker, [event]);
        tracker.active().next().unwrap().stage
    };
    assert_eq!(stage_after(Event::Started(id(5))), Stage::Fetching);
    assert_eq!(stage_after(Event::Started(id(6))), Stage::Fetching, "the split runs beside it");
    assert_eq!(stage_after(Event::Finished(id(5))), Stage::Splitting);
    assert_eq!(stage_after(Event::Restarted(id(5))), Stage::Splitting);
    assert_eq!(stage_after(Event::Started(id(5))), Stage::Fetching, "the same blob once more");
    assert_eq!(stage_after(Event::Finished(id(5))), Stage::Splitting);
    assert_eq!(stage_after(Event::Finished(id(7))), Stage::Splitting);
    assert_eq!(stage_after(Event::Finished(id(6))), Stage::Writing);
    assert_eq!(stage_after(Event::Finished(id(8))), Stage::Finalizing);
}

#[test]
fn what_is_built_and_committed_is_known() {
    let mut tracker = tracker();
    feed(&mut tracker, [10, 14, 13, 17].map(|node| Event::Started(id(node))));
    let expected = [
        ImageStep::Building(vec![ImageIx(0)]),
        ImageStep::Building(vec![ImageIx(1)]),
        ImageStep::Committing(vec![ImageIx(0), ImageIx(1)]),
    ];
    assert_eq!(tracker.image_steps(), expected);
    feed(
        &mut tracker,
        [Event::Finished(id(10)), Event::Failed(id(14), "no".into()), Event::Finished(id(13))],
    );
    assert_eq!(tracker.image_steps(), [ImageStep::Committing(vec![ImageIx(1)])]);
}

#[test]
fn an_image_has_bytes_and_a_beginning() {
    let mut tracker = tracker();
    assert_eq!(tracker.image_since(ImageIx(0)), None);
    tracker.apply(s(3), &Event::Started(id(5)));
    tracker.apply(s(5), &bytes(5, 700));
    assert_eq!((tracker.image_since(ImageIx(0)), tracker.image_bytes(ImageIx(0))), (Some(s(3)), 700));
    assert_eq!((tracker.image_since(ImageIx(1)), tracker.image_bytes(ImageIx(1))), (Some(s(3)), 0), "shared");
}

/// Property: the fraction never falls unless work is added, and is 1 exactly when nothing is left.
#[test]
fn the_fraction_only_grows() {
    let mut tracker = tracker();
    let mut last = tracker.fraction();
    assert_eq!(last, 0.0);
    let fetched = [Event::Started(id(5)), bytes(5, 5_000_000), Event::Restarted(id(5)), bytes(5, LIBS)];
    let ends = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17].map(|node| Event::Finished(id(node)));
    for event in fetched.into_iter().chain(ends) {
        assert!(last < 1.0, "finished before {event:?}");
        feed(&mut tracker, [event]);
        tracker.advance(s(0));
        assert!(tracker.fraction() >= last);
        last = tracker.fraction();
    }
    assert_eq!(last, 1.0);
}

#[test]
fn added_work_makes_the_fraction_smaller() {
    let mut tracker = Tracker::new(Arc::new(sample::two_candidates()));
    feed(&mut tracker, [Event::Started(id(0)), bytes(0, 1000), Event::Finished(id(0))]);
    tracker.advance(s(0));
    let before = tracker.fraction();
    feed(&mut tracker, [Event::Failed(id(0), "bad tar".into()), Event::Started(id(1))]);
    tracker.advance(s(0));
    assert!(tracker.fraction() < before);
}

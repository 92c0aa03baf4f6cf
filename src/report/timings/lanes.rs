//! Slices that are too narrow to be seen, put together. Knows times and pixels; ignores what is drawn.

use std::collections::BTreeMap;

use crate::{
    graph::NodeId,
    report::timeline::{Lane, Slice},
};

/// The slices of a lane, drawn on so many pixels: of those that begin within one pixel and are narrower than
/// it, only the busiest node is left, over the time of all.
pub(super) fn thinned(lane: &Lane, length_us: u64, pixels: usize) -> Lane {
    let pixel_us = (length_us / pixels as u64).max(1);
    let mut thin = Lane::new();
    for slices in lane.chunk_by(|a, b| narrow(a, b, pixel_us)) {
        let (Some(first), Some(last)) = (slices.first(), slices.last()) else { continue };
        // One pixel is the least that can be seen; what comes next is drawn over it.
        let least = first.start_us.saturating_add(pixel_us / 2).min(length_us);
        let node = if slices.len() == 1 { first.node } else { busiest(slices) };
        thin.push(Slice { node, start_us: first.start_us, end_us: last.end_us.max(least) });
    }
    thin
}

fn narrow(a: &Slice, b: &Slice, pixel_us: u64) -> bool {
    let narrow = |slice: &Slice| slice.took_us() < pixel_us;
    narrow(a) && narrow(b) && a.start_us / pixel_us == b.start_us / pixel_us
}

fn busiest(slices: &[Slice]) -> NodeId {
    let mut sums: BTreeMap<NodeId, u64> = BTreeMap::new();
    for slice in slices {
        *sums.entry(slice.node).or_default() += slice.took_us();
    }
    sums.into_iter().max_by_key(|(_, sum)| *sum).map_or(slices[0].node, |(node, _)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_has_no_more_slices_than_pixels_have_room_for() {
        let slice =
            |n: u64| Slice { start_us: n * 10, end_us: n * 10 + 9, node: NodeId::new(n as usize % 3) };
        let lane: Lane = (0..10_000).map(slice).collect();
        let thin = thinned(&lane, 100_000, 500);
        assert!((400..=501).contains(&thin.len()), "{}", thin.len());
        assert!(thin.windows(2).all(|two| two[0].start_us < two[1].start_us));
        assert_eq!(thin.first().map(|slice| slice.start_us), Some(0));
    }

    #[test]
    fn what_can_be_seen_stays_as_it_is() {
        let slice = |start_us, end_us, node| Slice { start_us, end_us, node: NodeId::new(node) };
        let lane = vec![slice(0, 5_000, 1), slice(5_000, 9_000, 2), slice(9_000, 20_000, 1)];
        assert_eq!(thinned(&lane, 20_000, 100), lane);
    }
}

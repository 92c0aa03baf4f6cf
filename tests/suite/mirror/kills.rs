//! A mirror that is killed again and again: it goes on from there, and nothing that was
//! whole is fetched twice.

use std::collections::HashMap;

use support::{
    moments::{Strike, count, moments, prepare, strike},
    oracle,
    pulls::{assert_no_leftovers, assert_same_when_swept, linked_layers},
};

use super::shop::{Mirror, Shop, visible};

#[test]
fn a_mirror_that_is_killed_again_and_again_gets_there_in_the_end() {
    let shop = Shop::new(1, 3, 8);
    let references = shop.references();
    let clean = Mirror::of(&references);
    prepare(&clean.repo());
    let (events, finished) = count(&clean.repo(), || clean.command().start());
    finished.assert_code(0);
    let layers: HashMap<String, _> = shop
        .shelves
        .iter()
        .flat_map(|shelf| &shelf.images)
        .flat_map(|image| &image.layers)
        .map(|layer| (layer.diff_id.clone(), layer.blob.parse().unwrap()))
        .collect();
    for seed in 0..2 {
        shop.registry.forget_requests();
        let mirror = Mirror::of(&references);
        prepare(&mirror.repo());
        // What was sent of a layer until it was whole.
        let mut sent: HashMap<String, u64> = HashMap::new();
        let mut killed = 0;
        for at in moments(seed, 6, events / 3) {
            let finished = strike(Strike::Kill, &mirror.repo(), at, || mirror.command().start());
            killed += usize::from(finished.code.is_none());
            // Even now nothing is visible that is not whole.
            oracle::assert_clean(&mirror.repo());
            let (linked, counts) = (linked_layers(&mirror.repo()), shop.registry.counts());
            for layer in linked {
                let now = counts.sent(layers[&layer]).bytes;
                assert_eq!(*sent.entry(layer).or_insert(now), now, "what was whole was fetched again");
            }
            for name in visible(&mirror.repo()) {
                assert_eq!(oracle::stored(&mirror.repo(), &name), oracle::stored(&clean.repo(), &name));
            }
        }
        println!("seed {seed}: killed {killed} times, {} layers by then", sent.len());
        assert!(killed >= 3, "most runs were faster: {killed}");
        mirror.command().expect_success();
        let counts = shop.registry.counts();
        for (layer, sent) in sent {
            assert_eq!(counts.sent(layers[&layer]).bytes, sent, "what was whole was fetched again");
        }
        assert_no_leftovers(&mirror.repo());
        oracle::assert_clean(&mirror.repo());
        assert_same_when_swept(&clean.repo(), &mirror.repo());
    }
}

//! Pages of timings, looked at by a real browser.

use std::{fs, path::PathBuf};

use cfs_dag::report::{Run, timings};
use support::{
    browser,
    repo::{Scratch, scratch},
    sample_run,
};

/// The page of a run as a file.
fn page(scratch: &Scratch, name: &str, run: &Run) -> PathBuf {
    let path = scratch.path(name).with_extension("html");
    fs::write(&path, timings(run)).unwrap();
    path
}

#[test]
fn a_page_of_timings_can_be_read_and_used_in_light_and_dark() {
    let scratch = scratch();
    let pages =
        [page(&scratch, "usual", &sample_run::sample()), page(&scratch, "large", &sample_run::many_spans())];
    browser::check("timings", &pages);
}

#[test]
fn a_hostile_name_stays_text() {
    let scratch = scratch();
    let mut run = sample_run::sample();
    let evil = "</script><script>window.hacked=1</script>\u{202e}<img src=x onerror=\"window.hacked=1\">";
    for image in &mut run.plan.images {
        image.name = evil.into();
    }
    for image in &mut run.head.images {
        (image.name, image.error) = (evil.into(), Some(evil.into()));
    }
    for node in &mut run.record.nodes {
        node.error = Some(evil.into());
    }
    browser::check("timings_hostile", &[page(&scratch, "hostile", &run)]);
}

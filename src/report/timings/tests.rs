//! The page's promises that need no browser: whole, small, and deaf to names.

use super::*;
use crate::report::sample_run;

#[test]
fn a_page_needs_nothing_else() {
    let page = timings(&sample_run::sample());
    for loads in ["src=", "href=", "url(", "@import", "http://", "https://", "fetch("] {
        let at = page.find(loads).map(|at| &page[at.saturating_sub(40)..at + 40]);
        // The name of SVG's namespace is no address.
        assert!(at.is_none_or(|at| at.contains("www.w3.org/2000/svg")), "{at:?}");
    }
    for id in [
        "data-group=\"workers\"",
        "data-group=\"network\"",
        "data-group=\"barrier\"",
        "id=\"cpu\"",
        "id=\"network\"",
    ] {
        assert!(page.contains(id), "{id}");
    }
    assert_eq!(page.matches("data-group=\"critical\"").count(), 1);
}

#[test]
fn a_long_run_is_a_small_page() {
    let page = timings(&sample_run::many_spans());
    assert!(page.len() < 2_000_000, "{}", page.len());
}

#[test]
fn a_hostile_name_is_only_text() {
    let mut run = sample_run::sample();
    let evil = "</script><img src=x onerror='a()'>&\"\u{202e}<!--";
    for image in &mut run.plan.images {
        image.name = evil.into();
    }
    for image in &mut run.head.images {
        (image.name, image.error) = (evil.into(), Some(evil.into()));
    }
    for node in &mut run.record.nodes {
        node.error = Some(evil.into());
    }
    let page = timings(&run);
    assert!(!page.contains("<img") && !page.contains('\u{202e}') && !page.contains("<!--"));
    assert_eq!(page.matches("</script>").count(), 2);
}

#[test]
fn nothing_done_is_a_page() {
    let mut run = sample_run::sample();
    run.record = Default::default();
    run.head.limits.workers = 0;
    assert!(timings(&run).ends_with("</html>\n"));
}

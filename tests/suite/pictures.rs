//! Pictures of plans, looked at by a real browser.

use std::{fs, path::PathBuf};

use cfs_dag::{
    graph::{Kind, Plan, Subject},
    render::{Marks, html, svg},
};
use support::{
    browser, plans,
    repo::{Scratch, scratch},
};

/// The page of a plan as a file.
fn page(scratch: &Scratch, name: &str, plan: &Plan, marks: &Marks) -> PathBuf {
    let path = scratch.path(name).with_extension("html");
    fs::write(&path, html(plan, marks)).unwrap();
    path
}

/// The image of a plan as a file.
fn image(scratch: &Scratch, name: &str, plan: &Plan, marks: &Marks) -> PathBuf {
    let path = scratch.path(name).with_extension("svg");
    fs::write(&path, svg(plan, marks)).unwrap();
    path
}

#[test]
fn a_page_finds_and_lights_and_can_be_read_in_light_and_dark() {
    let scratch = scratch();
    let plan = plans::five_on_one_base();
    browser::check("plan", &[page(&scratch, "five", &plan, &Marks::default())]);
}

#[test]
fn a_page_of_a_failed_run_says_what_failed() {
    let scratch = scratch();
    let plan = plans::five_on_one_base();
    browser::check("failed", &[page(&scratch, "failed", &plan, &plans::run_of(&plan, Some(Kind::Split)))]);
}

#[test]
fn a_thousand_layers_and_a_thousand_images_open() {
    let scratch = scratch();
    let tall = page(&scratch, "tall", &plans::planned(plans::distinct(1, 1000)), &Marks::default());
    let many = page(&scratch, "many", &plans::planned(plans::distinct(1000, 40)), &Marks::default());
    browser::check("large", &[tall, many]);
}

#[test]
fn a_hostile_name_stays_text() {
    let scratch = scratch();
    let names = [
        "</script><script>window.hacked=1</script>",
        "\"><img src=x onerror=\"window.hacked=1\">",
        "'><svg onload='window.hacked=1'>",
        "<!--<script>",
        "]]>&#x3c;/style&#x3e;</style><script>window.hacked=1</script>",
        "\u{202e}gnp.exe\u{2066}\u{0}\u{1b}[2J\u{ffff}",
        "\u{2028}${window.hacked=1}`\\",
    ];
    let images = names.map(|name| plans::image(name, vec![plans::layer(name, ".gz", 1_000)]));
    let plan = plans::planned(images.to_vec());
    let mut marks = plans::run_of(&plan, Some(Kind::Fetch));
    for measured in marks.nodes.values_mut() {
        measured.error = Some(names[0].to_owned());
        measured.counts.insert(names[1].to_owned(), 1);
    }
    let mut odd = plan.clone();
    for node in odd.graph.node_weights_mut() {
        node.subject = Subject::Name(names[0].to_owned());
    }
    let files = [
        page(&scratch, "hostile", &plan, &marks),
        page(&scratch, "subjects", &odd, &marks),
        image(&scratch, "hostile", &plan, &marks),
        image(&scratch, "subjects", &odd, &marks),
    ];
    browser::check("hostile", &files);
    browser::check("image", &files[2..3]);
}

#[test]
fn an_svg_is_an_image_of_the_size_that_it_says() {
    let scratch = scratch();
    let five = plans::five_on_one_base();
    let one = plans::planned(vec![plans::image("app:v1", vec![plans::layer("app", ".gz", 4_200_000)])]);
    let files = [
        image(&scratch, "one", &one, &Marks::default()),
        image(&scratch, "five", &five, &Marks::default()),
        image(&scratch, "failed", &five, &plans::run_of(&five, Some(Kind::Encode))),
        image(&scratch, "tall", &plans::planned(plans::distinct(1, 1000)), &Marks::default()),
        image(&scratch, "many", &plans::planned(plans::distinct(1000, 40)), &Marks::default()),
    ];
    browser::check("image", &files);
}

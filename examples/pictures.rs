//! Draws made-up plans into a folder and says how long it took: `cargo run --release --example pictures FOLDER
//! [IMAGES LAYERS]`. To look at, and to see that a thousand images of forty layers are drawn without trouble.

use std::{fs, path::Path, time::Instant};

use cfs_dag::{
    graph::{Kind, Plan},
    render::{Marks, html, svg},
};
use support::plans;

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, other: usize| args.get(at).and_then(|arg| arg.parse().ok()).unwrap_or(other);
    let (images, layers) = (number(1, 1000), number(2, 40));
    let folder = Path::new(args.first().map_or("target/pictures", String::as_str));
    fs::create_dir_all(folder)?;
    let draw = |name: &str, plan: &Plan, marks: &Marks| -> std::io::Result<()> {
        for (ending, draw) in [("svg", svg as fn(&Plan, &Marks) -> String), ("html", html)] {
            let began = Instant::now();
            let picture = draw(plan, marks);
            let took = began.elapsed();
            println!(
                "{name}.{ending}: {} nodes, {took:.2?}, {} kB",
                plan.graph.node_count(),
                picture.len() / 1000
            );
            fs::write(folder.join(name).with_extension(ending), picture)?;
        }
        Ok(())
    };
    let one = plans::planned(vec![plans::image("app:v1", vec![plans::layer("app", ".gz", 4_200_000)])]);
    draw("one", &one, &Marks::default())?;
    let five = plans::five_on_one_base();
    draw("five", &five, &Marks { critical: plans::longest_chain(&five), ..Marks::default() })?;
    draw("run", &five, &plans::run_of(&five, None))?;
    draw("failed", &five, &plans::run_of(&five, Some(Kind::Split)))?;
    draw("tall", &plans::planned(plans::distinct(1, 1000)), &Marks::default())?;
    draw("shared", &plans::planned(plans::all_alike(images, layers)), &Marks::default())?;
    let began = Instant::now();
    let many = plans::planned(plans::distinct(images, layers));
    println!("{images} images of {layers} layers: planned in {:.2?}", began.elapsed());
    draw("many", &many, &Marks::default())
}

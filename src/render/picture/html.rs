//! The page. Knows what stands where on it; what happens when it is used is in `page.js`.

use std::fmt::{self, Write};

use super::{
    bands::{ALL_ROWS, BAND_ROWS, Band, bands},
    data,
    layout::{COLUMN_NAMES, Layout, WIDTH},
    palette,
    svg::{Pen, column_names, headline, legend, sums},
};
use crate::{
    graph::Plan,
    render::{
        Marks, list,
        words::{count, escape},
    },
};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What the bands of a page say in every row. In bands that are not drawn so far each is one character for
/// private use, which no text on the page has: 40 000 layers take 20 MB instead of 60.
const REPEATED: [&str; 18] = [
    "<g class=\"row\"><text class=\"end\" x=\"38\" y=\"",
    "</text><text class=\"mono ink\" x=\"50\" y=\"",
    "</text><text class=\"end\" x=\"196\" y=\"",
    "</text><text x=\"208\" y=\"",
    "</text><path class=\"e candidate\" d=\"M436 ",
    "\"/><path class=\"e streams\" d=\"M",
    "\"/><path class=\"e needs\" d=\"M",
    "\"/><path class=\"e needs\" data-a=\"",
    "\"/><g class=\"n needed\" data-n=\"",
    "\"/></g><g class=\"n needed\" data-n=\"",
    "\"/></g><g class=\"n stored\" data-n=\"",
    "\"><rect class=\"t\" x=\"",
    "\" width=\"80\" height=\"12\" rx=\"3\"/><rect class=\"f needed\" x=\"",
    "\" width=\"80\" height=\"12\" rx=\"3\"/><rect class=\"f stored\" x=\"",
    "\" height=\"18\" rx=\"5.5\"/><rect class=\"t\" x=\"",
    "\" height=\"12\" rx=\"",
    "\" width=\"",
    "\" y=\"",
];

/// `plan` as one HTML page that needs nothing else, with details, search, and what a step needs and who needs
/// it; the same plan gives the same text.
///
/// Bands are drawn as by [`svg`](super::svg()), but never folded: one that is long, or among many, is closed,
/// and its markup is only text until it is opened.
pub fn html(plan: &Plan, marks: &Marks) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_page(plan, marks, &mut out);
    out
}

fn write_page(plan: &Plan, marks: &Marks, out: &mut String) -> fmt::Result {
    let bands = bands(plan, marks, false);
    let layout = Layout::new(plan, marks);
    let pen = Pen { plan, marks, bands: &bands, layout: &layout, titles: false };
    let (title, lead) = headline(plan, marks);
    let crowded = bands.bands.iter().map(|band| band.rows.len()).sum::<usize>() > ALL_ROWS;
    // Nothing may be loaded, from anywhere: the page is complete, and names in it are not to be trusted.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri \
                  'none'; \
                  form-action 'none'";
    writeln!(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
    writeln!(out, "<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">")?;
    writeln!(out, "<meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>")?;
    writeln!(out, "<style>\n{}{STYLE}</style>\n</head>\n<body>", palette::page())?;
    writeln!(out, "<header><div class=\"line\"><h1>{title}</h1>")?;
    writeln!(
        out,
        "<label class=\"search\"><span class=\"away\">Search</span><input id=\"search\" type=\"search\" \
         placeholder=\"digest, image, kind, state\" autocomplete=\"off\" spellcheck=\"false\"></label>\
         <output id=\"hits\" for=\"search\"></output>\
         <button id=\"theme\" type=\"button\">Dark</button></div>"
    )?;
    writeln!(out, "<p>{lead}</p></header>\n<main>")?;
    out.push_str(&listed(plan));
    for (band, number) in bands.bands.iter().zip(0..) {
        let laid = layout.band(band);
        let open = !crowded && band.rows.len() <= BAND_ROWS;
        let mut markup = String::new();
        let height = laid.height + COLUMN_NAMES;
        write!(
            markup,
            "<svg width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"group\">"
        )?;
        write!(markup, "{}<g transform=\"translate(0 {COLUMN_NAMES})\">", column_names())?;
        pen.band(band, &laid, &mut markup)?;
        markup.push_str("</g></svg>");
        write!(out, "<details class=\"band\" data-band=\"{number}\"{}>", if open { " open" } else { "" })?;
        summary(plan, marks, band, out)?;
        match open {
            true => writeln!(out, "<div class=\"sheet\">{markup}</div></details>")?,
            // The markup has no text that is not escaped, so nothing in it can end the script element.
            false => writeln!(
                out,
                "<div class=\"sheet\"></div><script type=\"text/plain\">{}</script></details>",
                shortened(markup)
            )?,
        }
    }
    writeln!(out, "</main>")?;
    writeln!(
        out,
        "<svg class=\"legend\" width=\"{WIDTH}\" height=\"32\" viewBox=\"0 0 {WIDTH} 32\" role=\"img\" \
         aria-label=\"Legend\">{}</svg>",
        legend(plan, marks)
    )?;
    writeln!(out, "<aside id=\"details\" aria-live=\"polite\" aria-label=\"Details\"></aside>")?;
    writeln!(
        out,
        "<script id=\"data\" type=\"application/json\">{}</script>",
        data::data(plan, marks, &bands, &REPEATED)
    )?;
    writeln!(out, "<script>\n{SCRIPT}</script>\n</body>\n</html>")
}

/// What the list says: the names that go, and what each rule chose; nothing for a pull.
fn listed(plan: &Plan) -> String {
    let entries = list::entries(plan);
    let mut out = String::new();
    for entry in &entries {
        out += &format!("<p><b>{}</b>", escape(&entry.title()));
        entry.all().iter().for_each(|line| out += &format!("<br>{}", escape(line)));
        out += "</p>\n";
    }
    if entries.is_empty() { out } else { format!("<section aria-label=\"List\">\n{out}</section>\n") }
}

/// The line that opens and closes a band: name, sums, and the states of its steps as one bar.
fn summary(plan: &Plan, marks: &Marks, band: &Band, out: &mut String) -> fmt::Result {
    let image = &plan.images[band.image.0];
    write!(out, "<summary><b>{}</b>", escape(&image.name))?;
    if image.reference != image.name {
        write!(out, " <i>{}</i>", escape(&image.reference))?;
    }
    if let Some(platform) = &image.platform {
        write!(out, " <i>{}</i>", escape(platform))?;
    }
    write!(out, "<em></em><span>{}</span>", sums(band, marks))?;
    let steps = band.nodes.len();
    write!(out, "<u role=\"img\" aria-label=\"{}", count(steps, "step", "steps"))?;
    for (class, number) in &band.classes {
        write!(out, ", {number} {class}")?;
    }
    out.write_str("\">")?;
    for (class, number) in &band.classes {
        write!(out, "<s class=\"{class}\" style=\"flex-grow:{number}\"></s>")?;
    }
    out.write_str("</u></summary>")
}

/// `markup` with a character for each of `REPEATED`.
fn shortened(markup: String) -> String {
    let letters = '\u{e000}'..;
    REPEATED
        .iter()
        .zip(letters)
        .fold(markup, |markup, (repeated, letter)| markup.replace(repeated, letter.encode_utf8(&mut [0; 4])))
}

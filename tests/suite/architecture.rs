//! Documents and source agree: the map in ARCHITECTURE.md equals the imports, relative links lead to a file
//! and a heading, and lines fit into 110 columns.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

/// As in `rustfmt.toml`, which breaks neither comments nor string literals.
const COLUMNS: usize = 110;

/// The room that imports and the room that it imports from.
type Arrow = (String, String);

#[test]
fn the_map_of_rooms_equals_the_imports() {
    let (drawn, found) = (drawn_arrows(), imported_arrows());
    let undrawn: Vec<String> = found
        .iter()
        .filter(|(arrow, _)| !drawn.contains(*arrow))
        .map(|((from, to), file)| format!("{from} -> {to} ({})", file.display()))
        .collect();
    let unused: Vec<String> = drawn
        .iter()
        .filter(|arrow| !found.contains_key(*arrow))
        .map(|(from, to)| format!("{from} -> {to}"))
        .collect();
    assert!(undrawn.is_empty(), "imports that are not on the map in ARCHITECTURE.md: {undrawn:#?}");
    assert!(unused.is_empty(), "arrows on the map in ARCHITECTURE.md that no file imports: {unused:#?}");
}

#[test]
fn rooms_do_not_import_each_other_in_a_circle() {
    let mut arrows: BTreeSet<Arrow> = imported_arrows().into_keys().collect();
    loop {
        let importing: BTreeSet<String> = arrows.iter().map(|(from, _)| from.clone()).collect();
        let before = arrows.len();
        arrows.retain(|(_, to)| importing.contains(to));
        if arrows.len() == before {
            break;
        }
    }
    assert!(arrows.is_empty(), "circles of imports: {arrows:?}");
}

#[test]
fn relative_links_of_documents_lead_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    let mut links = 0;
    for document in documents() {
        let text = read(&document);
        for target in link_targets(&text).into_iter().filter(|target| !is_elsewhere(target)) {
            links += 1;
            if let Err(why) = follow(&document, &target) {
                broken.push(format!("{}: {target}: {why}", shown(&document)));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(links > 10, "only {links} links were found");
}

#[test]
fn no_line_of_source_is_over_110_columns() {
    let mut long = Vec::new();
    for file in ["src", "tests"].into_iter().flat_map(|folder| sources(&root().join(folder))) {
        let text = read(&file);
        // What a test expects of a program's output stands in raw literals, and cannot be broken.
        let raw: Vec<Range<usize>> =
            parts(&text).into_iter().filter(|(_, part)| *part == Part::Raw).map(|(range, _)| range).collect();
        let mut start = 0;
        for (number, line) in (1..).zip(text.split('\n')) {
            let end = start + line.len();
            let columns = line.chars().count();
            if columns > COLUMNS && !raw.iter().any(|raw| raw.start < end && start < raw.end) {
                long.push(format!("{}:{number}: {columns} columns", shown(&file)));
            }
            start = end + 1;
        }
    }
    assert!(long.is_empty(), "{} lines: {long:#?}", long.len());
}

#[test]
fn imports_are_found_in_code_alone() {
    let source = r##"
        use crate::{graph::{Key, Plan}, store::{self}};
        // crate::cli and "crate::cli
        /* crate::cli /* crate::cli */ crate::cli */
        fn f<'a>(x: &'a str) -> [char; 3] { crate::exec::run(x); ['"', '\'', '\u{7f}'] }
        const A: &str = "crate::cli \" crate::cli";
        const B: &[u8] = br#"crate::cli " crate::cli"#;
        pub(crate) fn g() -> pub_crate::cli::C {}
        #[cfg(test)]
        #[path = "x.rs"]
        mod sample;
        #[cfg(test)]
        mod tests { use crate::cli::{A, B}; fn h() { let x = [1; 2]; } }
        use crate::types::Digest;
    "##;
    let code = code(source);
    assert_eq!(test_modules(&code), ["sample"]);
    let expected = ["graph", "store", "exec", "types"].map(str::to_owned);
    assert_eq!(imports(&without_tests(&code)), BTreeSet::from(expected));
}

#[test]
fn links_and_headings_are_read_as_a_forge_reads_them() {
    let text = "# A *title*: `code` & more\n\n[a](b.md#c \"t\") `[no](no.md)` ![p](p.svg)\n\
                ```\n# no\n[no](no)\n```\n## Twice\n## Twice\n[long\ntext](<d.md>)\n";
    assert_eq!(link_targets(text), ["b.md#c", "p.svg", "d.md"]);
    let expected = ["a-title-code--more", "twice", "twice-1"].map(str::to_owned);
    assert_eq!(anchors(text), BTreeSet::from(expected));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A path of the project as a person would name it.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The Rust files below `folder`, sorted.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                // Installed by npm for the tests with a browser.
                if path.file_name().is_none_or(|name| name != "node_modules") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The Markdown files at the root, in `docs/`, and beside benches and fuzz targets.
fn documents() -> Vec<PathBuf> {
    let mut documents = vec![root().join("benches/README.md"), root().join("fuzz/README.md")];
    for folder in [root().to_owned(), root().join("docs")] {
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        documents.extend(entries.filter(|path| path.extension().is_some_and(|ending| ending == "md")));
    }
    documents.sort();
    documents
}

/// The arrows of the fenced block `map` in ARCHITECTURE.md, whose lines are `room -> room, room`.
fn drawn_arrows() -> BTreeSet<Arrow> {
    let text = read(&root().join("ARCHITECTURE.md"));
    let (_, block) = text.split_once("\n```map\n").expect("ARCHITECTURE.md has a fenced block `map`");
    let (block, _) = block.split_once("\n```").expect("the block `map` ends");
    let mut arrows = BTreeSet::new();
    for line in block.lines() {
        let Some((from, to)) = line.split_once(" -> ") else { panic!("not `room -> room, room`: {line}") };
        for to in to.split(", ") {
            assert!(arrows.insert((from.to_owned(), to.to_owned())), "{from} -> {to} is on the map twice");
        }
    }
    arrows
}

/// The arrows that code outside of tests imports, each with a file that does. A room is a folder of `src`:
/// `lib.rs` and `main.rs`, which name all rooms, are in none.
fn imported_arrows() -> BTreeMap<Arrow, PathBuf> {
    let src = root().join("src");
    let read_code = |path: PathBuf| {
        let code = code(&read(&path));
        (path, code)
    };
    let files: Vec<(PathBuf, String)> = sources(&src).into_iter().map(read_code).collect();
    let of_tests: Vec<PathBuf> = files
        .iter()
        .flat_map(|(path, code)| {
            test_modules(code).into_iter().map(move |name| module_folder(path).join(name))
        })
        .collect();
    let room = |path: &Path| match path.strip_prefix(&src).unwrap().components().collect::<Vec<_>>()[..] {
        [room, _, ..] => Some(room.as_os_str().to_str().unwrap().to_owned()),
        _ => None,
    };
    let rooms: BTreeSet<String> = files.iter().filter_map(|(path, _)| room(path)).collect();
    assert!(rooms.contains("types") && rooms.len() > 5, "rooms: {rooms:?}");
    let mut arrows = BTreeMap::new();
    for (path, code) in &files {
        let is_test = of_tests.iter().any(|module| path.with_extension("").starts_with(module));
        let Some(from) = room(path).filter(|_| !is_test) else { continue };
        // Other names behind `crate::` are macros, which their room exports at the root.
        let others = imports(&without_tests(code)).into_iter().filter(|to| *to != from && rooms.contains(to));
        for to in others {
            arrows.entry((from.clone(), to)).or_insert_with(|| path.strip_prefix(root()).unwrap().to_owned());
        }
    }
    arrows
}

/// Where the modules are that a file declares.
fn module_folder(file: &Path) -> PathBuf {
    let is_folder = ["mod.rs", "lib.rs"].iter().any(|name| file.ends_with(name));
    if is_folder { file.parent().unwrap().to_owned() } else { file.with_extension("") }
}

/// The first names behind `crate::`, also inside braces.
fn imports(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        if code[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(first_names(list)),
            None => names.extend(word(rest)),
        }
    }
    names
}

/// The first name of each path in `{a::b, c::{d, e}}`, given what follows the brace.
fn first_names(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                names.extend(word(&list[start..at]));
                start = at + 1;
            }
            '}' => {
                names.extend(word(&list[start..at]));
                break;
            }
            _ => {}
        }
    }
    names
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

const TEST_ONLY: &str = "#[cfg(test)]";

/// The items for tests alone, with their attribute.
fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut items = Vec::new();
    let mut from = 0;
    while let Some(found) = code[from..].find(TEST_ONLY) {
        let start = from + found;
        let body = start + TEST_ONLY.len();
        let end = body + item_length(&code[body..]);
        items.push(start..end);
        from = end;
    }
    items
}

/// How long an item is: to its semicolon, or to the brace that ends its body.
fn item_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && matches!(c, ';' | '}') {
            return at + 1;
        }
    }
    code.len()
}

fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut from = 0;
    for item in test_items(code) {
        kept.push_str(&code[from..item.start]);
        from = item.end;
    }
    kept + &code[from..]
}

/// The modules for tests alone that have a file of their own.
fn test_modules(code: &str) -> Vec<String> {
    let items = test_items(code).into_iter().map(|item| &code[item]);
    let declared = items.filter_map(|item| item.strip_suffix(';')?.rsplit_once("mod "));
    declared.filter_map(|(_, name)| word(name)).collect()
}

/// A part of a source file that is not code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Comment,
    Text,
    Raw,
}

/// The comments and the literals of a source file, in order.
fn parts(source: &str) -> Vec<(Range<usize>, Part)> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < source.len() {
        let rest = &source[at..];
        let in_word = source[..at].chars().next_back().is_some_and(is_word);
        let found = if rest.starts_with("//") {
            Some((rest.find('\n').unwrap_or(rest.len()), Part::Comment))
        } else if rest.starts_with("/*") {
            Some((comment_length(rest), Part::Comment))
        } else if let Some(length) = raw_length(rest).filter(|_| !in_word) {
            Some((length, Part::Raw))
        } else if rest.starts_with('"') {
            Some((text_length(rest), Part::Text))
        } else {
            character_length(rest).map(|length| (length, Part::Text))
        };
        match found {
            Some((length, part)) => {
                parts.push((at..at + length, part));
                at += length;
            }
            None => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    parts
}

/// A source file with spaces in the place of its comments and literals.
fn code(source: &str) -> String {
    let mut code = source.as_bytes().to_vec();
    for (range, _) in parts(source) {
        code[range].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    }
    String::from_utf8(code).unwrap()
}

/// Of a block comment, which may hold others.
fn comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// Of `r"…"`, `br#"…"#` and the like; `None` where there is none.
fn raw_length(rest: &str) -> Option<usize> {
    let marked = rest.strip_prefix(['b', 'c']).unwrap_or(rest).strip_prefix('r')?;
    let quoted = marked.trim_start_matches('#');
    let end = format!("\"{}", "#".repeat(marked.len() - quoted.len()));
    let inside = quoted.strip_prefix('"')?;
    Some(rest.len() - inside.len() + inside.find(&end)? + end.len())
}

fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Of a character literal; `None` where there is none, as at a lifetime.
fn character_length(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let mut chars = inside.chars();
    match chars.next()? {
        // The character behind the backslash may be a quote.
        '\\' => {
            let escaped = 1 + chars.next()?.len_utf8();
            Some(1 + escaped + inside[escaped..].find('\'')? + 1)
        }
        c => (chars.next()? == '\'').then(|| 1 + c.len_utf8() + 1),
    }
}

/// Whether a link leaves the project.
fn is_elsewhere(target: &str) -> bool {
    ["https://", "http://", "mailto:"].iter().any(|scheme| target.starts_with(scheme))
}

/// Whether what a link of `document` names is there.
fn follow(document: &Path, target: &str) -> Result<(), String> {
    let (path, anchor) = match target.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (target, None),
    };
    let file = if path.is_empty() { document.to_owned() } else { document.parent().unwrap().join(path) };
    if !file.exists() {
        return Err("no such file".to_owned());
    }
    let Some(anchor) = anchor else { return Ok(()) };
    if file.extension().is_none_or(|ending| ending != "md") {
        return Err("an anchor in a file that has no headings".to_owned());
    }
    let has_heading = anchors(&read(&file)).contains(anchor);
    if has_heading { Ok(()) } else { Err("no such heading".to_owned()) }
}

/// The lines of a Markdown text outside of fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    })
}

/// Where the inline links of a Markdown text lead. What stands in code spans is not one.
fn link_targets(text: &str) -> Vec<String> {
    let prose: Vec<&str> = prose(text).collect();
    let prose: String = prose.join("\n").split('`').step_by(2).collect::<Vec<_>>().join("code");
    let ends = prose.match_indices("](").map(|(at, found)| &prose[at + found.len()..]);
    let targets = ends.filter_map(|rest| rest.split([')', ' ', '\n']).next());
    targets.map(|target| target.trim_matches(['<', '>']).to_owned()).collect()
}

/// The names that a forge gives the headings of a Markdown text.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in prose(text).filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| is_word(*c) || matches!(c, ' ' | '-'));
        let name: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let mut numbered = (1..).map(|number| format!("{name}-{number}"));
        let mut anchor = name.clone();
        while !anchors.insert(anchor.clone()) {
            anchor = numbered.next().unwrap();
        }
    }
    anchors
}

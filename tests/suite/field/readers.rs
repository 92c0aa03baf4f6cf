//! Tars compared entry by entry with the readings of other programs.

mod gnu;
mod known;
mod ours;
mod python;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use support::{
    odd_tar::{Piece, pieces, random_entry},
    random::Random,
    repo::scratch,
    tar::{file, tar, unfinished},
};

use self::ours::Seen;

/// What a tar is called, and its bytes.
type Tars = Vec<(String, Vec<u8>)>;

/// Where we accept a tar, how other readers differ, by the tar's name: one line for each difference.
fn differences(tars: &Tars) -> BTreeMap<String, Vec<String>> {
    let scratch = scratch();
    let mut accepted: Vec<(String, PathBuf, Vec<Seen>)> = Vec::new();
    for (at, (name, bytes)) in tars.iter().enumerate() {
        if let Ok(entries) = ours::read(bytes) {
            let path = scratch.path(&at.to_string());
            fs::write(&path, bytes).unwrap();
            accepted.push((name.clone(), path, entries));
        }
    }
    assert!(accepted.len() * 3 > tars.len(), "only {} of {} tars are accepted", accepted.len(), tars.len());
    let paths: Vec<&Path> = accepted.iter().map(|(_, path, _)| path.as_path()).collect();
    let pythons = python::read(&paths);
    let mut found = BTreeMap::new();
    for ((name, path, ours), python) in accepted.iter().zip(pythons) {
        let mut lines = Vec::new();
        compare("Python", &ours.iter().map(Seen::line).collect::<Vec<_>>(), &python, &mut lines);
        compare("GNU tar", &ours.iter().map(gnu::expected).collect::<Vec<_>>(), &gnu::list(path), &mut lines);
        let content: Vec<u8> = ours.iter().flat_map(|entry| entry.content.clone()).collect();
        if lines.is_empty() && gnu::content(path) != content {
            lines.push("GNU tar extracts other content".to_owned());
        }
        if !lines.is_empty() {
            found.insert(name.clone(), lines);
        }
    }
    found
}

fn compare(reader: &str, ours: &[String], theirs: &[String], lines: &mut Vec<String>) {
    for at in 0..ours.len().max(theirs.len()) {
        let (ours, theirs) = (ours.get(at), theirs.get(at));
        if ours != theirs {
            let shown = |line: Option<&String>| line.map_or("nothing", |line| line).to_owned();
            lines.push(format!("{} for us, for {reader}: {}", shown(ours), shown(theirs)));
        }
    }
}

/// A tar of these pieces, with an entry behind them that all readers have to find.
fn whole(pieces: &[&Piece]) -> Vec<u8> {
    let entries: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
    [entries, tar([file("last", "the end")])].concat()
}

#[track_caller]
fn assert_none(differences: &BTreeMap<String, Vec<String>>) {
    let text: Vec<String> =
        differences.iter().map(|(name, lines)| format!("{name}:\n  {}", lines.join("\n  "))).collect();
    assert!(text.is_empty(), "{} tars are read differently and accepted:\n{}", text.len(), text.join("\n"));
}

#[test]
fn an_odd_entry_is_read_as_others_read_it_or_refused() {
    let tars: Tars = pieces().iter().map(|piece| (piece.name.clone(), whole(&[piece]))).collect();
    let names: Vec<&str> = tars.iter().map(|(name, _)| name.as_str()).collect();
    let listed: Vec<&str> = known::all().collect();
    let unknown: Vec<&&str> = listed.iter().filter(|name| !names.contains(name)).collect();
    assert!(unknown.is_empty(), "pieces that do not exist: {unknown:?}");
    let mut found = differences(&tars);
    let alike: Vec<&str> = listed
        .iter()
        .copied()
        .filter(|name| found.remove(*name).is_none())
        .filter(|name| tars.iter().any(|(own, bytes)| own == name && ours::read(bytes).is_ok()))
        .collect();
    assert_none(&found);
    assert!(alike.is_empty(), "read alike by now, take them off the list: {alike:?}");
}

#[test]
fn odd_entries_in_a_row_are_read_as_others_read_them() {
    let listed: Vec<&str> = known::all().collect();
    let pieces: Vec<Piece> = pieces()
        .into_iter()
        .filter(|piece| !listed.contains(&piece.name.as_str()) && ours::read(&whole(&[piece])).is_ok())
        .collect();
    let mut random = Random(16);
    let tars: Tars = (0..60)
        .map(|_| {
            let row: Vec<&Piece> = (0..6).map(|_| &pieces[random.below(pieces.len())]).collect();
            let names: Vec<&str> = row.iter().map(|piece| piece.name.as_str()).collect();
            (names.join(", "), whole(&row))
        })
        .collect();
    assert_none(&differences(&tars));
}

#[test]
fn tars_of_any_writer_are_read_as_others_read_them() {
    let mut random = Random(1);
    let tars: Tars = (0..150)
        .map(|at| {
            let entries: Vec<_> = (0..1 + random.below(5)).map(|_| random_entry(&mut random)).collect();
            (at.to_string(), [unfinished(entries), tar([file("last", "the end")])].concat())
        })
        .collect();
    let refused: Vec<String> = tars
        .iter()
        .filter_map(|(name, bytes)| Some(format!("{name}: {}", ours::read(bytes).err()?)))
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert_none(&differences(&tars));
}

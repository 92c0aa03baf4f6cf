//! What a list says of its plan: the names that go, and what each rule chose. Knows how names are gathered
//! and shortened; ignores the language of the picture.

use super::words::{clip, count, printable};
use crate::graph::Plan;

/// So many names of an entry are shown as lines; then comes how many more there are.
const NAMES: usize = 40;
/// A note in a picture has so many lines at most, of so many characters: Mermaid refuses
/// what is too large for it.
const NOTE_LINES: usize = 12;
const NOTE_WIDTH: usize = 120;

/// Names that belong together, and why.
pub(super) struct Entry<'a> {
    /// What they are: a rule in the words of its author, or words of ours.
    what: &'a str,
    is_rule: bool,
    names: Vec<&'a str>,
}

/// What the list of `plan` says: first the names that go, then each rule. Empty for a pull.
pub(super) fn entries(plan: &Plan) -> Vec<Entry<'_>> {
    let gone = Entry {
        what: "untagged after everything else succeeded",
        is_rule: false,
        names: plan.untag.iter().map(|name| &**name).collect(),
    };
    let rules = plan.selections.iter().map(|selection| {
        let images = selection.images.iter().filter_map(|image| plan.images.get(image.0));
        Entry { what: &selection.rule, is_rule: true, names: images.map(|image| &*image.name).collect() }
    });
    Some(gone).filter(|gone| !gone.names.is_empty()).into_iter().chain(rules).collect()
}

/// What the list of `plan` says, in the few lines of a note; none for a pull.
pub(super) fn note(plan: &Plan) -> Vec<String> {
    let entries = entries(plan);
    let shown = if entries.len() > NOTE_LINES { NOTE_LINES - 1 } else { entries.len() };
    let mut lines: Vec<String> = entries[..shown].iter().map(Entry::line).collect();
    if entries.len() > shown {
        lines.push(format!("and {} more rules", entries.len() - shown));
    }
    lines
}

impl Entry<'_> {
    /// What the names are, and how many.
    pub(super) fn title(&self) -> String {
        let (rule, one, many) =
            if self.is_rule { ("rule ", "image", "images") } else { ("", "name", "names") };
        let number = match self.names.len() {
            0 => format!("no {many}"),
            number => count(number, one, many),
        };
        format!("{rule}{}: {number}", printable(self.what))
    }

    /// All names, a line for each repository.
    pub(super) fn all(&self) -> Vec<String> {
        groups(&self.names).iter().map(|words| words.join(" ")).collect()
    }

    /// The names as lines of `width` columns, unless a name is longer. Of many the first; the last line then
    /// says how many more there are.
    pub(super) fn lines(&self, width: usize) -> Vec<String> {
        let (shown, hidden) = self.names.split_at(self.names.len().min(NAMES));
        let mut lines: Vec<String> = groups(shown).iter().flat_map(|words| wrapped(words, width)).collect();
        if !hidden.is_empty() {
            lines.push(format!("and {} more", hidden.len()));
        }
        lines
    }

    /// The entry in one line of a note.
    fn line(&self) -> String {
        let mut line = clip(&self.title(), NOTE_WIDTH / 2);
        let mut before = None;
        for (place, name) in self.names.iter().enumerate() {
            let more = format!(" and {} more", self.names.len() - place);
            let repository = repository(name);
            let own = match repository {
                Some(shown) if before == Some(shown) => &name[shown.len() + 1..],
                _ => name,
            };
            before = repository;
            let name = format!("{} {}", if place == 0 { ";" } else { "," }, clip(own, NOTE_WIDTH / 3));
            if line.chars().count() + name.chars().count() + more.chars().count() > NOTE_WIDTH {
                return line + &more;
            }
            line += &name;
        }
        line
    }
}

/// The names as words of a line each, neighbours of one repository together: `app:v1`, or `app:` `v1,` `v2`.
fn groups(names: &[&str]) -> Vec<Vec<String>> {
    let together = |a: &&str, b: &&str| repository(a).is_some_and(|of_a| repository(b) == Some(of_a));
    names.chunk_by(together).map(words).collect()
}

fn words(names: &[&str]) -> Vec<String> {
    match (names, names.first().and_then(|name| repository(name))) {
        ([_, _, ..], Some(repository)) => {
            let tags = names.iter().enumerate().map(|(place, name)| {
                let comma = if place + 1 < names.len() { "," } else { "" };
                format!("{}{comma}", printable(&name[repository.len() + 1..]))
            });
            std::iter::once(format!("{}:", printable(repository))).chain(tags).collect()
        }
        _ => names.iter().map(|name| printable(name).into_owned()).collect(),
    }
}

/// What stands before the tag of a name.
fn repository(name: &str) -> Option<&str> {
    let (repository, tag) = name.rsplit_once(':')?;
    (!tag.contains('/')).then_some(repository)
}

fn wrapped(words: &[String], width: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in words {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, " ".to_owned()));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::{ImageIx, Selection, State},
        render::sample::Sample,
    };

    fn listed(names: &[&str], rules: &[&str], untag: usize) -> Plan {
        let sample = Sample::default().layer("base", State::Needed, &[0], &[(("base.gz", 7), &[0])]);
        let images = names.iter().fold(sample, |sample, name| sample.image(name, State::Needed, &["base"]));
        let selection = |rule: &&str| Selection {
            rule: (*rule).to_owned(),
            images: (0..names.len()).map(ImageIx).collect(),
        };
        let untag = (0..untag).map(|n| format!("old:v{n}")).collect();
        Plan { selections: rules.iter().map(selection).collect(), untag, ..images.plan() }
    }

    #[test]
    fn names_of_one_repository_stand_together() {
        let plan = listed(&["r/app:v1", "r/app:v2", "r/base:v1", "r:80/x", "r:80/y"], &["r/**"], 1);
        let [gone, rule] = &entries(&plan)[..] else { panic!("two entries") };
        assert_eq!(gone.title(), "untagged after everything else succeeded: 1 name");
        assert_eq!(gone.lines(80), ["old:v0"]);
        assert_eq!(rule.title(), "rule r/**: 5 images");
        assert_eq!(rule.lines(80), ["r/app: v1, v2", "r/base:v1", "r:80/x", "r:80/y"]);
        assert_eq!(rule.lines(10), ["r/app: v1,", "  v2", "r/base:v1", "r:80/x", "r:80/y"]);
        assert!(
            entries(&listed(&["a:v1"], &[], 0)).is_empty() && note(&listed(&["a:v1"], &[], 0)).is_empty()
        );
        assert_eq!(entries(&listed(&[], &["x"], 0))[0].title(), "rule x: no images");
    }

    #[test]
    fn what_is_not_shown_is_counted() {
        let plan = listed(&["a:v1"], &["all"], 1000);
        let lines = entries(&plan)[0].lines(75);
        assert!(lines.iter().all(|line| line.chars().count() <= 75), "{lines:?}");
        assert!(lines[..lines.len() - 1].join("").ends_with("v39"), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "and 960 more");
        assert_eq!(entries(&plan)[0].all()[0].matches(", ").count(), 999, "pages have them all");
    }

    #[test]
    fn a_note_stays_small_whatever_is_in_it() {
        let long = "größe/".repeat(500);
        let plan = listed(&[&long, "b:v1"], &vec![&*long; 30], 1000);
        let lines = note(&plan);
        assert_eq!((lines.len(), &*lines[NOTE_LINES - 1]), (NOTE_LINES, "and 20 more rules"));
        assert!(lines.iter().all(|line| line.chars().count() <= NOTE_WIDTH), "{lines:?}");
        let hidden: usize =
            lines[0].rsplit_once(" and ").unwrap().1.strip_suffix(" more").unwrap().parse().unwrap();
        assert!(lines[0].contains(": 1000 names; old:v0, v1, v2, "), "{}", lines[0]);
        assert_eq!(lines[0].matches(" v").count() + 1 + hidden, 1000, "{}", lines[0]);
        assert!(lines[1].contains(": 2 images; größe/"), "{}", lines[1]);
        assert!(lines[1].ends_with(", b:v1"), "{}", lines[1]);
    }
}

//! A tar as GNU tar reads it: what it lists, and the content of all files in their order.

use std::{
    path::Path,
    process::{Command, Output},
};

use super::ours::{Seen, shown};

/// What GNU tar says of records that it does not know, as POSIX wants.
const HARMLESS: &str = "tar: Ignoring unknown extended header keyword";

fn run(tar: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("tar");
    command.args(args).args(["--absolute-names", "--file"]).arg(tar).envs([("LC_ALL", "C"), ("TZ", "UTC0")]);
    command.output().unwrap()
}

/// All that `tar --extract` would write into files, one after another.
pub fn content(tar: &Path) -> Vec<u8> {
    run(tar, &["--extract", "--to-stdout"]).stdout
}

/// One line for each entry, and one for each complaint.
pub fn list(tar: &Path) -> Vec<String> {
    let style = ["--verbose", "--full-time", "--numeric-owner", "--quoting-style=c"];
    let output = run(tar, &[&["--list"][..], &style].concat());
    let lines = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let complaints = errors.lines().filter(|line| !line.starts_with(HARMLESS));
    lines.lines().map(entry).chain(complaints.map(str::to_owned)).collect()
}

/// An entry as `list` should have it.
pub fn expected(seen: &Seen) -> String {
    let size = match seen.device {
        Some((major, minor)) => format!("{major},{minor}"),
        None => seen.content.len().to_string(),
    };
    let ((uid, gid), (seconds, nanos)) = (seen.owner, seen.time);
    let fraction = format!("{nanos:09}");
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    line(
        seen.kind,
        &permissions(seen.mode),
        &format!("{uid}/{gid}"),
        &size,
        &format!("{seconds}{point}{fraction}"),
        &shown(&seen.path),
        &shown(&seen.link),
    )
}

fn line(kind: &str, mode: &str, owner: &str, size: &str, time: &str, path: &str, link: &str) -> String {
    format!("{kind} {path} -> {link} {mode} {owner} {time} {size}")
}

fn permissions(mode: u32) -> String {
    let mut text: Vec<char> = (0..9)
        .map(|at| if mode >> (8 - at) & 1 == 1 { "rwxrwxrwx".as_bytes()[at].into() } else { '-' })
        .collect();
    for (bit, at, set) in [(0o4000, 2, 's'), (0o2000, 5, 's'), (0o1000, 8, 't')] {
        if mode & bit != 0 {
            text[at] = if text[at] == 'x' { set } else { set.to_ascii_uppercase() };
        }
    }
    text.into_iter().collect()
}

/// A line of the list in our words; as it is, if it has another form.
fn entry(text: &str) -> String {
    parse(text).unwrap_or_else(|| text.to_owned())
}

fn parse(text: &str) -> Option<String> {
    let mut rest = text;
    let mut field = || {
        let (field, after) = rest.split_once(' ')?;
        rest = after.trim_start_matches(' ');
        Some(field)
    };
    let (mode, owner, size, date) = (field()?, field()?, field()?, field()?);
    let kind = match mode.as_bytes()[0] {
        b'-' | b'C' => "file",
        b'd' => "dir",
        b'h' => "hard",
        b'l' => "sym",
        b'c' => "char",
        b'b' => "block",
        b'p' => "fifo",
        _ => return None,
    };
    let time =
        if date.contains(':') || !date.contains('-') { date.to_owned() } else { seconds(date, field()?)? };
    let (path, after) = quoted(rest)?;
    let link = match kind {
        "hard" => quoted(after.strip_prefix(" link to ")?)?.0,
        "sym" => quoted(after.strip_prefix(" -> ")?)?.0,
        _ => Vec::new(),
    };
    let bare = |name: &[u8]| {
        let name = name.strip_prefix(b"/").unwrap_or(name);
        let end = name.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        name[..end].to_vec()
    };
    let link = if kind == "hard" { bare(&link) } else { link };
    Some(line(kind, &mode[1..], owner, size, &time, &shown(&bare(&path)), &shown(&link)))
}

/// Seconds since 1970 with the fraction that was there. Source: days from civil dates, H. Hinnant.
fn seconds(date: &str, clock: &str) -> Option<String> {
    let mut parts = date.rsplitn(3, '-').map(str::parse::<i64>);
    let (day, month, year) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let year_of_era = year.rem_euclid(400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let parts: Vec<i64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = parts[..] else { return None };
    let whole = days * 86_400 + hours * 3600 + minutes * 60 + seconds;
    let fraction = fraction.trim_end_matches('0');
    Some(if fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") })
}

/// A name as `--quoting-style=c` has it, and what follows it.
fn quoted(text: &str) -> Option<(Vec<u8>, &str)> {
    let text = text.strip_prefix('"')?;
    let (bytes, mut name, mut at) = (text.as_bytes(), Vec::new(), 0);
    loop {
        let (byte, used) = match &bytes[at..] {
            [b'"', ..] => return Some((name, &text[at + 1..])),
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), 4)
            }
            [b'\\', letter, ..] => {
                let meant = match letter {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'a' => 7,
                    b'b' => 8,
                    b'v' => 11,
                    b'f' => 12,
                    other => *other,
                };
                (meant, 2)
            }
            [byte, ..] => (*byte, 1),
            [] => return None,
        };
        name.push(byte);
        at += used;
    }
}

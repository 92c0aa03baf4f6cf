//! A second reader of tars, written from POSIX (pax, "ustar Interchange Format") and the manual of GNU tar (appendix D), as
//! short as can be: paths, kinds and sizes. Knows nothing of our splitter or of the parser that it uses.
//!
//! It does not guess. Of a tar that such readers do not all read alike it says so.

/// An entry: its path without slashes at both ends, its type flag (`0` for all files), and the size of its content.
pub(crate) type Named = (Vec<u8>, u8, u64);

/// Why a tar has no reading that all would share.
#[derive(Debug)]
pub(crate) enum Unclear {
    /// Readers find other files: we must refuse it.
    Ambiguous(&'static str),
    /// In a spelling or of a kind that this reader does not go into.
    Unusual(#[allow(dead_code, reason = "shown where a target is debugged")] &'static str),
}

/// The entries of `tar` up to its end mark or its end.
pub(crate) fn read(tar: &[u8]) -> Result<Vec<Named>, Unclear> {
    let (mut entries, mut rest, mut extended) = (Vec::new(), tar, Extended::default());
    // What makes the next entry ambiguous, if there is one.
    let mut doubt = None;
    while let Some((block, after)) = rest.split_first_chunk::<512>() {
        if block.iter().all(|byte| *byte == 0) {
            if after.is_empty() || after.iter().take(512).all(|byte| *byte == 0) {
                return Ok(entries);
            }
            (doubt, rest) = (Some("a lone zero block"), after);
            continue;
        }
        let header = Header(block);
        let kind = header.kind();
        let size = header.size()?;
        let content = usize::try_from(size).ok().and_then(|size| after.get(..size));
        match kind {
            b'x' | b'L' | b'K' | b'g' if header.format() == Format::Other => {
                return Err(Unclear::Unusual("an extended header in a format without"));
            }
            b'g' => {
                let lost = std::mem::take(&mut extended).any;
                doubt = doubt.or(lost.then_some("a global header behind an entry's own"));
            }
            b'x' | b'L' | b'K' => match extended.add(kind, content.ok_or(Unclear::Unusual("cut off"))?) {
                Err(Unclear::Ambiguous(why)) => doubt = doubt.or(Some(why)),
                added => added?,
            },
            _ => {
                if let Some(doubt) = doubt {
                    return Err(Unclear::Ambiguous(doubt));
                }
                let size = entry(&header, std::mem::take(&mut extended), size, &mut entries)?;
                rest = behind(after, size)?;
                continue;
            }
        }
        rest = behind(after, size)?;
    }
    Ok(entries)
}

/// Adds an entry, and tells how many bytes of content follow its header.
fn entry(header: &Header, extended: Extended, size: u64, entries: &mut Vec<Named>) -> Result<u64, Unclear> {
    let size = extended.size.unwrap_or(size);
    let path = match extended.path {
        Some(path) => path,
        None => header.path()?,
    };
    let kind = match header.kind() {
        0 | b'0' | b'7' => b'0',
        kind @ b'1'..=b'6' => kind,
        _ => return Err(Unclear::Unusual("another type")),
    };
    if path.contains(&0) {
        return Err(Unclear::Ambiguous("a NUL in a path"));
    }
    if kind == b'0' && path.ends_with(b"/") {
        return Err(Unclear::Ambiguous("a file named as a directory"));
    }
    if kind != b'0' && size > 0 {
        return Err(Unclear::Ambiguous("a size without data"));
    }
    let path = path.strip_prefix(b"/").unwrap_or(&path);
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    entries.push((path[..end].to_vec(), kind, size));
    Ok(size)
}

/// What is behind a content of this size and its padding.
fn behind(content: &[u8], size: u64) -> Result<&[u8], Unclear> {
    let padded = size.checked_next_multiple_of(512).and_then(|size| usize::try_from(size).ok());
    padded.and_then(|size| content.get(size..)).ok_or(Unclear::Unusual("cut off"))
}

/// What extended headers say of the entry that follows.
#[derive(Default)]
struct Extended {
    any: bool,
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extended {
    fn add(&mut self, kind: u8, content: &[u8]) -> Result<(), Unclear> {
        self.any = true;
        if kind == b'x' {
            return self.records(content);
        }
        let name = content.strip_suffix(b"\0").unwrap_or(content);
        if name.contains(&0) {
            return Err(Unclear::Ambiguous("a NUL in a long name"));
        }
        if kind == b'K' {
            return Ok(());
        }
        match self.path.replace(name.to_vec()) {
            Some(before) if before != name => Err(Unclear::Ambiguous("two long names")),
            _ => Ok(()),
        }
    }

    fn records(&mut self, mut rest: &[u8]) -> Result<(), Unclear> {
        let odd = Unclear::Ambiguous("records in another form");
        let before = self.path.take();
        while !rest.is_empty() {
            let Some(space) = rest.iter().position(|byte| *byte == b' ') else { return Err(odd) };
            let Some(len) = decimal(&rest[..space]).and_then(|len| usize::try_from(len).ok()) else {
                return Err(odd);
            };
            let Some((record, after)) = rest.split_at_checked(len) else { return Err(odd) };
            let Some(pair) = record.get(space + 1..).and_then(|pair| pair.strip_suffix(b"\n")) else {
                return Err(odd);
            };
            let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { return Err(odd) };
            let (key, value) = (&pair[..equals], &pair[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"size" => {
                    self.size = Some(decimal(value).ok_or(Unclear::Unusual("a size in another form"))?)
                }
                key if key.starts_with(b"GNU.sparse.") => return Err(Unclear::Ambiguous("a sparse file")),
                _ => {}
            }
            rest = after;
        }
        match (before, &self.path) {
            (Some(before), Some(path)) if before != *path => Err(Unclear::Ambiguous("two long names")),
            (Some(_), Some(_)) => Ok(()),
            (before @ Some(_), None) => {
                self.path = before;
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Format {
    Posix,
    Gnu,
    Other,
}

struct Header<'a>(&'a [u8; 512]);

impl Header<'_> {
    fn format(&self) -> Format {
        match &self.0[257..265] {
            b"ustar\x0000" => Format::Posix,
            b"ustar  \0" => Format::Gnu,
            _ => Format::Other,
        }
    }

    fn kind(&self) -> u8 {
        self.0[156]
    }

    /// Octal digits between spaces, up to a NUL if there is one, or 63 bits of GNU's binary form.
    fn number(&self, field: std::ops::Range<usize>) -> Option<u64> {
        let field = &self.0[field];
        if let [0x80, 0, 0, 0, number @ ..] = field {
            let number = number.try_into().map(u64::from_be_bytes).ok();
            return number.filter(|number| number >> 63 == 0);
        }
        let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
        let digits = text.trim_ascii();
        let plain = text.iter().all(|byte| matches!(byte, b' ' | b'0'..=b'7')) && !digits.contains(&b' ');
        // Before a NUL that other readers pass over, there is nothing.
        let blank = !digits.is_empty() || field.iter().all(|byte| matches!(byte, b' ' | 0));
        (plain && blank).then(|| digits.iter().fold(0, |sum, digit| sum * 8 + u64::from(digit - b'0')))
    }

    fn size(&self) -> Result<u64, Unclear> {
        self.number(124..136).ok_or(Unclear::Ambiguous("a number in another form"))
    }

    /// Whether a field holds a time, which GNU tar also writes as a negative number of its binary form.
    fn is_time(&self, field: std::ops::Range<usize>) -> bool {
        let negative = matches!(self.0[field.clone()], [0xff, 0xff, 0xff, 0xff, 0x80..=0xff, ..]);
        negative || self.number(field).is_some()
    }

    fn path(&self) -> Result<Vec<u8>, Unclear> {
        let text = |field: &[u8]| field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let (name, prefix) = (text(&self.0[..100]), text(&self.0[345..500]));
        match self.format() {
            _ if prefix.is_empty() => Ok(name),
            // The prefix of star is shorter; times follow.
            Format::Posix if self.0[508..] == *b"tar\0" && prefix.len() > 130 => {
                Err(Unclear::Ambiguous("a long prefix in a header of star"))
            }
            Format::Posix => Ok([prefix, name].join(&b'/')),
            // Old versions of GNU tar have the times of access and change there.
            Format::Gnu if self.is_time(345..357) && self.is_time(357..369) => Ok(name),
            Format::Gnu => Err(Unclear::Ambiguous("a prefix in a header of GNU tar")),
            Format::Other if self.0[257..263] == *b"ustar\0" => {
                Err(Unclear::Ambiguous("a prefix of an odd version"))
            }
            Format::Other => Ok(name),
        }
    }
}

/// A number of digits alone.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| str::from_utf8(text).ok()?.parse().ok()).flatten()
}

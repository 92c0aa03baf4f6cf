//! Finds entries that tar readers read differently, in the bytes of their headers. The kinds are those of
//! [`AmbiguityKind`]; what an opaque marker does to its directory is seen where layers are applied, not here.

use tar_core::{EntryType, HEADER_SIZE, Header, PaxExtension, PaxExtensions, parse::ParsedEntry};

use crate::types::{Ambiguity, AmbiguityKind, escape_controls};

/// Characters of a path that are shown.
const MAX_SHOWN: usize = 300;

/// In which ways an entry is ambiguous, given the bytes of all its headers. Mostly none.
pub(super) fn kinds(entry: &ParsedEntry<'_>, headers: &[u8]) -> Vec<AmbiguityKind> {
    use AmbiguityKind::*;
    let mut kinds = Vec::new();
    let mut note = |is_so: bool, kind| {
        if is_so && !kinds.contains(&kind) {
            kinds.push(kind);
        }
    };
    let is_symlink = entry.entry_type == EntryType::Symlink;
    let is_file = entry.entry_type.is_file() || entry.entry_type == EntryType::Continuous;
    note(has_no_data(entry.entry_type) && entry.size > 0, SizeWithoutData);
    note(is_file && names_directory(&entry.path), FileNamedAsDirectory);
    note(has_odd_number(entry), OddNumber);
    note(entry.uid.max(entry.gid) > u64::from(u32::MAX), OwnerOutOfRange);
    note(is_symlink && entry.link_target.is_none(), EmptyTarget);
    note(is_odd_whiteout(&entry.path), OddWhiteout);
    if let Some(kind) = lost_prefix(entry.header)
        && !is_named_elsewhere(entry, headers)
    {
        note(true, kind);
    }
    // Names in the entry's own header end at a NUL byte, and it has no records.
    if headers.len() > HEADER_SIZE {
        note(
            blocks(headers).any(|block| matches!(block, Block::Header(it, _) if has_odd_size(it))),
            OddNumber,
        );
        note(has_nul(entry), NulInName);
        note(has_conflict(headers), ConflictingNames);
        note(blocks(headers).any(|block| matches!(block, Block::Zero)), LoneZeroBlock);
        if let Some(records) = entry.pax {
            of_records(records, &mut note);
        }
    }
    kinds
}

/// The ambiguity of an entry, named by its path. A prefix that upstream ignores belongs to that path
/// for the reader of an error.
pub(super) fn ambiguity(kind: AmbiguityKind, entry: &ParsedEntry<'_>) -> Ambiguity {
    let ignored = match kind {
        AmbiguityKind::UstarVersion | AmbiguityKind::GnuPrefix => prefix(entry.header),
        _ => &[],
    };
    let path = match ignored {
        [] => entry.path.to_vec(),
        prefix => [prefix, b"/", &entry.path].concat(),
    };
    // Errors, notes and records repeat it.
    let mut path = printable(&path);
    if let Some((end, _)) = path.char_indices().nth(MAX_SHOWN) {
        path.truncate(end);
        path.push('…');
    }
    Ambiguity { kind, path }
}

/// What is ambiguous in headers that belong to no entry because the last of them is a global one. An odd size
/// comes first: where the content of a header ends decides which entries there are.
pub(super) fn before_global(headers: &[u8]) -> Option<AmbiguityKind> {
    let odd_size = blocks(headers).any(|block| matches!(block, Block::Header(it, _) if has_odd_size(it)));
    if odd_size {
        return Some(AmbiguityKind::OddNumber);
    }
    blocks(headers).find_map(|block| match block {
        Block::Zero => Some(AmbiguityKind::LoneZeroBlock),
        Block::Header(header, _) => is_extension(header).then_some(AmbiguityKind::LostExtendedHeader),
    })
}

/// The ambiguity of headers at the end of an archive, behind which other readers may find
/// entries that upstream does not.
pub(super) fn at_end(before_entry: Option<AmbiguityKind>) -> Option<Ambiguity> {
    let kind = before_entry.filter(|kind| *kind == AmbiguityKind::OddNumber)?;
    Some(Ambiguity { kind, path: "a global header at the end of the archive".to_owned() })
}

/// Which name the headers at the beginning of `input` give their entry, as far as they are
/// there and sound. For errors.
pub(super) fn name(input: &[u8]) -> Option<String> {
    let mut rest = input;
    let mut long = None;
    loop {
        let block: &[u8; HEADER_SIZE] = rest.first_chunk()?;
        let header = Header::from_bytes(block);
        if !is_extension(header) {
            let name = long.unwrap_or_else(|| header.path_bytes().to_vec());
            return (!name.is_empty()).then(|| printable(&name));
        }
        let size = usize::try_from(header.entry_size().ok()?).ok()?;
        let content = rest[HEADER_SIZE..].get(..size)?;
        match header.entry_type() {
            EntryType::XHeader => {
                let mut records = records_of(content);
                let path = records.find(|record| record.key_bytes() == b"path");
                long = path.map(|record| record.value_bytes().to_vec()).or(long);
            }
            EntryType::GnuLongName => long = Some(content.strip_suffix(b"\0").unwrap_or(content).to_vec()),
            _ => {}
        }
        rest = rest.get(HEADER_SIZE + size.next_multiple_of(HEADER_SIZE)..)?;
    }
}

/// A name as it can be shown on one line.
pub(super) fn printable(name: &[u8]) -> String {
    escape_controls(&String::from_utf8_lossy(name))
}

/// Whether entries of this type have no data, whatever their size says (POSIX, pax, "ustar Header Block").
fn has_no_data(kind: EntryType) -> bool {
    use EntryType::{Block, Char, Directory, Fifo, Link, Symlink};
    matches!(kind, Link | Symlink | Directory | Char | Block | Fifo)
}

/// Whether a path ends in a slash, or in a `.` component, which upstream takes off: then a file
/// would replace the directory.
fn names_directory(path: &[u8]) -> bool {
    path.ends_with(b"/") || path.ends_with(b"/.") || path == b"."
}

/// The field for a name prefix, up to a NUL byte.
fn prefix(header: &Header) -> &[u8] {
    let field = &header.as_bytes()[345..500];
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// In which way readers disagree about a header's name prefix.
fn lost_prefix(header: &Header) -> Option<AmbiguityKind> {
    let block = header.as_bytes();
    if block[345] == 0 {
        return None;
    }
    if block[257..].starts_with(b"ustar") && !header.is_ustar() && !header.is_gnu() {
        return Some(AmbiguityKind::UstarVersion);
    }
    // Two times of incremental archives stand there; Go takes the field for a prefix if
    // one of them is no number.
    if header.is_gnu() && !(is_plain_time_field(&block[345..357]) && is_plain_time_field(&block[357..369])) {
        return Some(AmbiguityKind::GnuPrefix);
    }
    let is_star = header.is_ustar() && block[508..] == *b"tar\0";
    (is_star && !block[345..476].contains(&0)).then_some(AmbiguityKind::StarPrefix)
}

/// Whether extended headers name the entry, so that its own header's name and prefix do not count.
fn is_named_elsewhere(entry: &ParsedEntry<'_>, headers: &[u8]) -> bool {
    let is_path = |record: PaxExtension<'_>| record.key_bytes() == b"path";
    let is_long_name = |block: Block<'_>| match block {
        Block::Header(header, _) => is_extension(header) && header.entry_type() == EntryType::GnuLongName,
        Block::Zero => false,
    };
    entry.pax.is_some_and(|records| records_of(records).any(is_path))
        || (headers.len() > HEADER_SIZE && blocks(headers).any(is_long_name))
}

/// Whether readers disagree about where the content of a header ends. That of an extended
/// header may hold an entry.
fn has_odd_size(header: &Header) -> bool {
    !is_plain(&header.as_bytes()[124..136])
}

/// Whether a number that counts for this entry is one that readers take differently.
fn has_odd_number(entry: &ParsedEntry<'_>) -> bool {
    let block = entry.header.as_bytes();
    let is_device = matches!(entry.entry_type, EntryType::Char | EntryType::Block);
    let numbers = [100..108, 108..116, 116..124, 124..136];
    let devices = [329..337, 337..345];
    let odd = |field: &std::ops::Range<usize>| !is_plain(&block[field.clone()]);
    numbers.iter().any(odd)
        || !is_plain_time_field(&block[136..148])
        || (is_device && devices.iter().any(odd))
}

/// The same as [`is_plain`] for a time, which may be before 1970 as GNU tar writes it.
fn is_plain_time_field(field: &[u8]) -> bool {
    (field[..4] == [0xff; 4] && field[4] & 0x80 != 0) || is_plain(field)
}

/// Whether all readers take a field for the same number: octal digits after spaces, up to a NUL byte, spaces
/// or the end; or base-256 of at most 63 bits.
fn is_plain(field: &[u8]) -> bool {
    if field[0] == 0x80 {
        let value = &field[1..];
        let (beyond, value) = value.split_at(value.len().saturating_sub(8));
        return beyond.iter().all(|byte| *byte == 0) && (value.len() < 8 || value[0] & 0x80 == 0);
    }
    let is_blank = |byte: &u8| matches!(*byte, b' ' | 0);
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = field[start..].iter().take_while(|byte| matches!(**byte, b'0'..=b'7')).count();
    let rest = &field[start + digits..];
    if digits == 0 {
        return rest.iter().all(is_blank);
    }
    rest.iter().find(|byte| **byte != b' ').is_none_or(|byte| *byte == 0)
}

fn is_odd_whiteout(path: &[u8]) -> bool {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let name = path[..end].rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.strip_prefix(b".wh.").is_some_and(|hidden| matches!(hidden, b"" | b"." | b".."))
}

/// Whether a GNU long name (or link target) and a PAX one differ.
fn has_conflict(headers: &[u8]) -> bool {
    let (mut gnu, mut pax) = ([None; 2], [None; 2]);
    for block in blocks(headers) {
        let Block::Header(header, content) = block else { continue };
        match header.entry_type() {
            _ if !is_extension(header) => {}
            EntryType::GnuLongName => gnu[0] = Some(content.strip_suffix(b"\0").unwrap_or(content)),
            EntryType::GnuLongLink => gnu[1] = Some(content.strip_suffix(b"\0").unwrap_or(content)),
            _ => {
                for record in records_of(content) {
                    match record.key_bytes() {
                        b"path" => pax[0] = Some(record.value_bytes()),
                        b"linkpath" => pax[1] = Some(record.value_bytes()),
                        _ => {}
                    }
                }
            }
        }
    }
    gnu.iter().zip(pax).any(|(gnu, pax)| gnu.is_some() && pax.is_some() && *gnu != pax)
}

fn has_nul(entry: &ParsedEntry<'_>) -> bool {
    let target = entry.link_target.as_deref().unwrap_or_default();
    entry.path.contains(&0) || target.contains(&0) || entry.xattrs.iter().any(|(name, _)| name.contains(&0))
}

/// PAX records up to the first one that is malformed: from there on the parser gives the same error for ever.
fn records_of(content: &[u8]) -> impl Iterator<Item = PaxExtension<'_>> {
    PaxExtensions::new(content).map_while(Result::ok)
}

/// What is ambiguous in an entry's PAX records.
fn of_records(records: &[u8], note: &mut impl FnMut(bool, AmbiguityKind)) {
    note(!are_whole(records), AmbiguityKind::MalformedRecord);
    let mut time: Option<&[u8]> = None;
    for record in records_of(records) {
        let (key, value) = (record.key_bytes(), record.value_bytes());
        note(key.starts_with(b"GNU.sparse."), AmbiguityKind::UnknownSparseForm);
        if key == b"mtime" {
            note(!is_plain_time(value), AmbiguityKind::OddTime);
            let before = time.replace(value);
            note(before.is_some_and(|before| before != value), AmbiguityKind::RepeatedTime);
        }
    }
}

/// Whether records follow each other without other bytes: `LENGTH KEY=VALUE\n` (POSIX,
/// pax, "pax Extended Header").
fn are_whole(mut records: &[u8]) -> bool {
    while !records.is_empty() {
        let digits = records.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let length = std::str::from_utf8(&records[..digits]).ok().and_then(|text| text.parse::<usize>().ok());
        let Some((record, rest)) = length.and_then(|length| records.split_at_checked(length)) else {
            return false;
        };
        let body = record.get(digits..).and_then(|body| body.strip_prefix(b" ")?.strip_suffix(b"\n"));
        if body.is_none_or(|body| !body.contains(&b'=') || body.starts_with(b"=")) {
            return false;
        }
        records = rest;
    }
    true
}

/// Whether a PAX time is seconds of at most 63 bits with a decimal fraction or none.
fn is_plain_time(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    let text = text.strip_prefix('+').unwrap_or(text);
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits(seconds) && are_digits(fraction) && seconds.parse::<i64>().is_ok()
}

enum Block<'a> {
    Zero,
    /// With the content of an extended header; the entry's own header has none here.
    Header(&'a Header, &'a [u8]),
}

/// The blocks of an entry's headers.
fn blocks(headers: &[u8]) -> impl Iterator<Item = Block<'_>> {
    let mut rest = headers;
    std::iter::from_fn(move || {
        let block: &[u8; HEADER_SIZE] = rest.first_chunk()?;
        if block[0] == 0 && block.iter().all(|byte| *byte == 0) {
            rest = &rest[HEADER_SIZE..];
            return Some(Block::Zero);
        }
        let header = Header::from_bytes(block);
        // The parser has read these sizes; the last header's content is not among the headers.
        let size = header.entry_size().map_or(0, |size| size.min(headers.len() as u64)) as usize;
        let behind = &rest[HEADER_SIZE..];
        let content = behind.get(..size).unwrap_or_default();
        rest = behind.get(size.next_multiple_of(HEADER_SIZE)..).unwrap_or_default();
        Some(Block::Header(header, content))
    })
}

fn is_extension(header: &Header) -> bool {
    let is_known_format = header.is_ustar() || header.is_gnu();
    let kind = header.entry_type();
    is_known_format && matches!(kind, EntryType::XHeader | EntryType::GnuLongName | EntryType::GnuLongLink)
}

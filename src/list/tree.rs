//! YAML as a tree in which everything has its place. Knows YAML; ignores what a list may say in it.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::ListError;

/// A value and where it begins.
#[derive(Debug)]
pub(super) struct Node {
    line: usize,
    column: usize,
    value: Value,
}

#[derive(Debug)]
enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar as written, which is what Go makes of `1.0` and `true` where a text is wanted.
    Text(String),
    Sequence(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping; no two of one mapping are the same.
#[derive(Debug)]
pub(super) struct Key {
    /// The line, from 1.
    pub line: usize,
    column: usize,
    /// The key itself.
    pub text: String,
}

/// Reads the one document of `text`.
///
/// Aliases are refused: expanding them lets a small file become a large list, and lists hardly need them.
pub(super) fn read(text: &str) -> Result<Node, ListError> {
    let mut reader = Reader(Parser::new_from_str(text));
    let mut root = Node { line: 1, column: 1, value: Value::Null };
    let mut documents = 0;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(root),
            Event::DocumentStart(_) if documents > 0 => {
                return Err(error(span, "a second document begins here: a list is one document"));
            }
            Event::DocumentStart(_) => documents += 1,
            Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
            event => root = reader.node(event, span, MAX_DEPTH)?,
        }
    }
}

/// More than a list needs, and few enough for the stack.
const MAX_DEPTH: usize = 8;

struct Reader<'a>(Parser<'a, StrInput<'a>>);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), ListError> {
        match self.0.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(cause)) => {
                let at = cause.marker();
                let text = format!("this is not YAML: {}", cause.info().replace('\n', " "));
                Err(ListError::new(at.line().max(1), at.col() + 1, text))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// The node that begins with `event`. `depth` is how many levels may still follow.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, ListError> {
        if depth == 0 {
            return Err(error(span, "nested too deep: nothing in a list is"));
        }
        let value = match event {
            Event::Scalar(text, style, _, tag) => {
                check_tag(span, tag.as_deref())?;
                let null = style == ScalarStyle::Plain && ["", "~", "null", "Null", "NULL"].contains(&&*text);
                if null && tag.is_none_or(|tag| tag.suffix == "null") {
                    Value::Null
                } else {
                    Value::Text(text.into_owned())
                }
            }
            Event::SequenceStart(_, tag) => {
                check_tag(span, tag.as_deref())?;
                self.sequence(depth)?
            }
            Event::MappingStart(_, tag) => {
                check_tag(span, tag.as_deref())?;
                self.mapping(depth)?
            }
            Event::Alias(_) => return Err(error(span, "aliases are not supported: write out what is meant")),
            _ => return Err(error(span, "this is not YAML: a value is expected")),
        };
        Ok(Node { line: span.start.line(), column: span.start.col() + 1, value })
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, ListError> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Sequence(nodes)),
                (event, span) => nodes.push(self.node(event, span, depth - 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, ListError> {
        let mut entries = Vec::new();
        let mut lines = HashMap::new();
        loop {
            let key = match self.next()? {
                (Event::MappingEnd, _) => return Ok(Value::Mapping(entries)),
                (event, span) => self.node(event, span, depth - 1)?.into_key()?,
            };
            if let Some(line) = lines.insert(key.text.clone(), key.line) {
                return Err(key.error(format!("{} is there twice: first in line {line}", key.text)));
            }
            let (event, span) = self.next()?;
            entries.push((key, self.node(event, span, depth - 1)?));
        }
    }
}

/// Only the tags that every YAML has mean something here; `!!binary` would have to be decoded.
fn check_tag(span: Span, tag: Option<&Tag>) -> Result<(), ListError> {
    const KNOWN: [&str; 8] = ["str", "int", "float", "bool", "null", "seq", "map", "timestamp"];
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && KNOWN.contains(&&*tag.suffix)) => {
            Err(error(span, "the tag of this value is not supported: leave it out"))
        }
        _ => Ok(()),
    }
}

fn error(span: Span, text: &str) -> ListError {
    ListError::new(span.start.line(), span.start.col() + 1, text)
}

impl Key {
    /// An error at this place.
    pub(super) fn error(&self, text: impl ToString) -> ListError {
        ListError::new(self.line, self.column, text)
    }

    /// That nobody knows this key where only `known` ones are.
    pub(super) fn unknown(&self, known: &str) -> ListError {
        self.error(format!("{:?} is not known here (known are {known})", self.text))
    }
}

impl Node {
    /// The line, from 1.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// An error at this place.
    pub(super) fn error(&self, text: impl ToString) -> ListError {
        ListError::new(self.line, self.column, text)
    }

    /// Whether nothing is there.
    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The entries of a mapping, or `None` if it is something else. Nothing is an empty mapping.
    pub(super) fn entries(&self) -> Option<&[(Key, Node)]> {
        match &self.value {
            Value::Mapping(entries) => Some(entries),
            Value::Null => Some(&[]),
            _ => None,
        }
    }

    /// The nodes of a sequence, or `None` if it is something else. Nothing is an empty sequence.
    pub(super) fn items(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Sequence(nodes) => Some(nodes),
            Value::Null => Some(&[]),
            _ => None,
        }
    }

    /// A scalar as written, or `None` if it is something else or nothing.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn into_key(self) -> Result<Key, ListError> {
        match self.value {
            Value::Text(text) => Ok(Key { line: self.line, column: self.column, text }),
            _ => Err(self.error("a key must be a text")),
        }
    }
}

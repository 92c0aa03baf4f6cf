//! YAML as a tree in which everything has its place. Knows YAML with anchors, aliases and merge keys; ignores
//! what a list may say in it.

use std::{collections::HashMap, rc::Rc};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::ListError;
use crate::source::without_login;

/// A value and where it begins. An alias begins where it stands, what is inside of it where it is written.
///
/// A clone shares what is inside, so aliases take no memory of their own.
#[derive(Debug, Clone)]
pub(super) struct Node {
    line: usize,
    column: usize,
    /// How many levels it has.
    height: usize,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar as written, which is what Go makes of `1.0` and `true` where a text is wanted.
    Text(Rc<str>),
    Sequence(Rc<Vec<Node>>),
    Mapping(Rc<Vec<(Key, Node)>>),
}

/// A key of a mapping; no two of one mapping are the same.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// The line, from 1.
    pub line: usize,
    column: usize,
    /// The key itself.
    pub text: Rc<str>,
}

/// Reads the one document of `text`.
pub(super) fn read(text: &str) -> Result<Node, ListError> {
    let parser = Parser::new_from_str(text);
    let mut reader = Reader { parser, anchors: HashMap::new(), nodes: 0, aliased: 0 };
    let mut root = Node { line: 1, column: 1, height: 1, value: Value::Null };
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

/// Values of a list, keys counted too: a million images that are named one by one. A
/// node takes about 100 bytes.
const MAX_NODES: usize = 2_000_000;

/// Values that all aliases of a list stand for, all together. Each becomes rules, which take memory however
/// small the file is: a list of 200 bytes could stand for millions of images.
pub(super) const MAX_ALIASED: usize = 100_000;

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// What has an anchor and is complete.
    anchors: HashMap<usize, Anchored>,
    /// How many nodes were read, those of aliases included.
    nodes: usize,
    /// How many of them aliases stood for.
    aliased: usize,
}

struct Anchored {
    node: Node,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), ListError> {
        match self.parser.next_event() {
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
        let before = self.nodes;
        self.nodes += 1;
        if self.nodes - self.aliased > MAX_NODES {
            return Err(error(span, &format!("more than {MAX_NODES} values: split the list")));
        }
        let (line, column) = (span.start.line(), span.start.col() + 1);
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                check_tag(span, tag.as_deref())?;
                let null = style == ScalarStyle::Plain && ["", "~", "null", "Null", "NULL"].contains(&&*text);
                let null = null && tag.is_none_or(|tag| tag.suffix == "null");
                (if null { Value::Null } else { Value::Text(text.into()) }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(span, tag.as_deref())?;
                (self.sequence(depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(span, tag.as_deref())?;
                (self.mapping(depth)?, anchor)
            }
            Event::Alias(anchor) => {
                let node = self.alias(anchor, span, depth)?;
                return Ok(Node { line, column, ..node });
            }
            _ => return Err(error(span, "this is not YAML: a value is expected")),
        };
        let inner = match &value {
            Value::Null | Value::Text(_) => 0,
            Value::Sequence(nodes) => nodes.iter().map(|node| node.height).max().unwrap_or(0),
            Value::Mapping(entries) => entries.iter().map(|(_, node)| node.height).max().unwrap_or(0),
        };
        let node = Node { line, column, height: inner + 1, value };
        // 0 means that there is no anchor.
        if anchor > 0 {
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes: self.nodes - before });
        }
        Ok(node)
    }

    /// What an alias stands for.
    fn alias(&mut self, anchor: usize, span: Span, depth: usize) -> Result<Node, ListError> {
        let Some(Anchored { node, nodes }) = self.anchors.get(&anchor) else {
            return Err(error(span, "this alias is inside of what it stands for"));
        };
        self.nodes += nodes;
        // The alias itself counts as well, so that aliases of nothing are not free.
        self.aliased += nodes + 1;
        if self.aliased > MAX_ALIASED {
            let text =
                format!("the aliases stand for more than {MAX_ALIASED} values: write out what is meant");
            return Err(error(span, &text));
        }
        if node.height > depth {
            return Err(error(span, "nested too deep: nothing in a list is"));
        }
        Ok(node.clone())
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, ListError> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Sequence(nodes.into())),
                (event, span) => nodes.push(self.node(event, span, depth - 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, ListError> {
        let mut entries = Vec::new();
        let mut lines: HashMap<Rc<str>, usize> = HashMap::new();
        let mut merged = None;
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let merges = is_merge(&event);
            let key = self.node(event, span, depth - 1)?.into_key()?;
            if let Some(line) = lines.insert(key.text.clone(), key.line) {
                let text = without_login(&key.text);
                return Err(key.error(format!("{text} is there twice: first in line {line}")));
            }
            let (event, span) = self.next()?;
            let node = self.node(event, span, depth - 1)?;
            match merges {
                true => merged = Some(node),
                false => entries.push((key, node)),
            }
        }
        if let Some(merged) = merged {
            for (key, node) in merged.to_merge()? {
                // What the mapping itself says wins, then what comes first.
                if !lines.contains_key(&key.text) {
                    lines.insert(key.text.clone(), key.line);
                    entries.push((key.clone(), node.clone()));
                }
            }
        }
        Ok(Value::Mapping(entries.into()))
    }
}

/// Whether a key merges other mappings into its own.
///
/// Source: YAML 1.1, "Merge Key Language-Independent Type"; `isMerge` of Go's yaml.v3, which
/// skopeo reads lists with.
fn is_merge(key: &Event<'_>) -> bool {
    matches!(key, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<")
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
        let text = without_login(&self.text);
        self.error(format!("{text:?} is not known here (known are {known})"))
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
            Value::Sequence(_) => {
                Err(self.error("a key must be a text: put it in quotes, as in \"[::1]:5000\""))
            }
            _ => Err(self.error("a key must be a text")),
        }
    }

    /// The entries that the value of a merge key has: a mapping, or a list of mappings.
    fn to_merge(&self) -> Result<Vec<&(Key, Node)>, ListError> {
        let mappings = match &self.value {
            Value::Sequence(nodes) => &nodes[..],
            _ => std::slice::from_ref(self),
        };
        let mut entries = Vec::new();
        for node in mappings {
            match &node.value {
                Value::Mapping(inner) => entries.extend(inner.iter()),
                _ => return Err(node.error("what << merges must be a mapping, or a list of mappings")),
            }
        }
        Ok(entries)
    }
}

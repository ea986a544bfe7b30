//! YAML (and JSON, which is YAML) as a tree whose every value knows its line and column.
//!
//! Scalars mean what they mean to Envoy, which reads YAML 1.1 by yaml-cpp: `yes` is a boolean, `010` is eight, and a
//! quoted scalar is always a string.

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use serde_saphyr::granit_parser::{Event, Marker, Options, Parser, ScalarStyle, StrInput, Tag, options};

/// What all aliases of a text together may expand to, in values: against the "billion laughs".
const MAX_ALIASED_VALUES: usize = 1_000_000;

/// Line and column, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl From<&Marker> for Position {
    fn from(mark: &Marker) -> Self {
        let clamp = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Position { line: clamp(mark.line()), column: clamp(mark.col().saturating_add(1)) }
    }
}

/// The text is not YAML.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) position: Position,
    pub(crate) reason: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Node<'t> {
    pub(crate) position: Position,
    value: Value<'t>,
}

#[derive(Clone, Debug)]
pub(crate) enum Value<'t> {
    Scalar(Scalar<'t>),
    List(Vec<Node<'t>>),
    Map(Map<'t>),
    /// A value with an anchor, here or where it is referred to.
    Shared(Rc<Node<'t>>),
}

/// Entries in the order of the text, with duplicates.
pub(crate) type Map<'t> = Vec<(Key<'t>, Node<'t>)>;

#[derive(Clone, Debug)]
pub(crate) struct Key<'t> {
    pub(crate) position: Position,
    pub(crate) text: Cow<'t, str>,
}

#[derive(Clone, Debug)]
pub(crate) struct Scalar<'t> {
    pub(crate) text: Cow<'t, str>,
    /// Neither quoted, nor a block, nor tagged as a string.
    plain: bool,
}

/// What a scalar is before a field's type is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Meaning {
    Null,
    Bool(bool),
    Int(i64),
    /// Everything else, decimal fractions too.
    Text,
}

impl<'t> Node<'t> {
    pub(crate) fn new(position: Position, value: Value<'t>) -> Self {
        Node { position, value }
    }

    /// The value, whether it has an anchor or not.
    pub(crate) fn value(&self) -> &Value<'t> {
        let mut value = &self.value;
        while let Value::Shared(shared) = value {
            value = &shared.value;
        }
        value
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value(), Value::Scalar(scalar) if scalar.meaning() == Meaning::Null)
    }

    /// For messages: a scalar as it was written.
    pub(crate) fn display(&self) -> &str {
        match self.value() {
            Value::Scalar(scalar) => &scalar.text,
            Value::List(_) => "a list",
            Value::Map(_) | Value::Shared(_) => "a mapping",
        }
    }
}

impl Scalar<'_> {
    pub(crate) fn meaning(&self) -> Meaning {
        if !self.plain {
            return Meaning::Text;
        }
        let text = self.text.as_ref();
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                return Meaning::Bool(true);
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
                return Meaning::Bool(false);
            }
            _ => {}
        }
        match integer(text) {
            Some(value) => Meaning::Int(value),
            None => Meaning::Text,
        }
    }

    /// Not quoted: in JSON, a number.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }
}

/// As C reads an integer without being told the base: `0x` is hexadecimal, a leading zero octal.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (digits.get(2..)?, 16),
        [b'0', _, ..] => (digits, 8),
        _ => (digits, 10),
    };
    // A second sign is no digit.
    if !digits.as_bytes().first()?.is_ascii_hexdigit() {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { value.saturating_neg() } else { value }).ok()
}

/// Takes values off the parser's events.
pub(crate) struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, (Rc<Node<'t>>, usize)>,
    /// Values so far, with what aliases stand for.
    values: usize,
    aliased: usize,
}

/// The next step of a container that is read piecemeal.
pub(crate) enum Step<'t> {
    /// A list starts: its elements follow until [`Reader::element`] says `None`.
    ListStart(Position),
    /// A mapping starts: its keys follow until [`Reader::key`] says `None`.
    MapStart(Position),
    /// A whole value: a scalar, an alias, or a container with an anchor.
    Node(Node<'t>),
}

impl<'t> Reader<'t> {
    /// Goes to the only document of `text`.
    pub(crate) fn new(text: &'t str) -> Result<Self, SyntaxError> {
        let mut reader = Self::before_documents(text);
        loop {
            match reader.next()? {
                (Event::StreamStart, _) => {}
                (Event::DocumentStart(..), _) => return Ok(reader),
                (_, position) => return Err(SyntaxError { position, reason: "the document is empty".to_owned() }),
            }
        }
    }

    fn before_documents(text: &'t str) -> Self {
        let options: Options = options! { emit_comments: false };
        let parser = Parser::new_from_str_with_options(text, options);
        Reader { parser, anchors: HashMap::new(), values: 0, aliased: 0 }
    }

    /// Reads every document, each as one tree.
    pub(crate) fn trees(text: &'t str) -> Result<Vec<Node<'t>>, SyntaxError> {
        let mut reader = Self::before_documents(text);
        let mut trees = Vec::new();
        loop {
            match reader.next()? {
                (Event::StreamStart | Event::DocumentEnd, _) => {}
                (Event::DocumentStart(..), _) => {
                    reader.anchors.clear();
                    trees.push(reader.node()?);
                }
                (Event::StreamEnd, _) => return Ok(trees),
                (_, position) => return Err(SyntaxError { position, reason: "a document ends too early".to_owned() }),
            }
        }
    }

    /// Reads the document as one tree.
    pub(crate) fn tree(text: &'t str) -> Result<Node<'t>, SyntaxError> {
        let mut reader = Reader::new(text)?;
        let root = reader.node()?;
        reader.end()?;
        Ok(root)
    }

    /// The document ends here, and no other follows.
    pub(crate) fn end(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.next()? {
                (Event::DocumentEnd, _) => {}
                (Event::StreamEnd, _) => return Ok(()),
                (_, position) => {
                    return Err(SyntaxError { position, reason: "there is a second document".to_owned() });
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Position), SyntaxError> {
        match self.parser.next() {
            Some(Ok((event, span))) => Ok((event, Position::from(&span.start))),
            Some(Err(error)) => Err(SyntaxError { position: Position::from(error.marker()), reason: error.info() }),
            None => Err(SyntaxError { position: Position { line: 1, column: 1 }, reason: "the text ends".to_owned() }),
        }
    }

    /// The next value, whole.
    pub(crate) fn node(&mut self) -> Result<Node<'t>, SyntaxError> {
        let (event, position) = self.next()?;
        self.node_of(event, position)
    }

    /// The next value; a list or mapping without an anchor is only entered.
    pub(crate) fn step(&mut self) -> Result<Step<'t>, SyntaxError> {
        match self.next()? {
            (Event::SequenceStart(_, 0, _), position) => Ok(Step::ListStart(position)),
            (Event::MappingStart(_, 0, _), position) => Ok(Step::MapStart(position)),
            (event, position) => Ok(Step::Node(self.node_of(event, position)?)),
        }
    }

    /// The next element of the list that was entered.
    pub(crate) fn element(&mut self) -> Result<Option<Node<'t>>, SyntaxError> {
        match self.next()? {
            (Event::SequenceEnd, _) => Ok(None),
            (event, position) => Ok(Some(self.node_of(event, position)?)),
        }
    }

    /// The next key of the mapping that was entered.
    pub(crate) fn key(&mut self) -> Result<Option<Key<'t>>, SyntaxError> {
        match self.next()? {
            (Event::MappingEnd, _) => Ok(None),
            (Event::Scalar(text, ..), position) => Ok(Some(Key { position, text })),
            (_, position) => Err(SyntaxError { position, reason: "a key must be a string".to_owned() }),
        }
    }

    fn node_of(&mut self, event: Event<'t>, position: Position) -> Result<Node<'t>, SyntaxError> {
        let before = self.values;
        self.values = self.values.saturating_add(1);
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = matches!(style, ScalarStyle::Plain) && !tag.as_deref().is_some_and(is_string_tag);
                (Value::Scalar(Scalar { text, plain }), anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut list = Vec::new();
                while let Some(element) = self.element()? {
                    list.push(element);
                }
                list.shrink_to_fit();
                (Value::List(list), anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                let mut map = Vec::new();
                while let Some(key) = self.key()? {
                    map.push((key, self.node()?));
                }
                merge(&mut map);
                map.shrink_to_fit();
                (Value::Map(map), anchor)
            }
            Event::Alias(id) => {
                let Some((target, size)) = self.anchors.get(&id) else {
                    return Err(SyntaxError { position, reason: "the alias stands inside its own value".to_owned() });
                };
                self.values = self.values.saturating_add(*size);
                self.aliased = self.aliased.saturating_add(*size);
                if self.aliased > MAX_ALIASED_VALUES {
                    let reason = format!("aliases stand for more than {MAX_ALIASED_VALUES} values");
                    return Err(SyntaxError { position, reason });
                }
                return Ok(Node { position, value: Value::Shared(Rc::clone(target)) });
            }
            _ => return Err(SyntaxError { position, reason: "a value is missing".to_owned() }),
        };
        let node = Node { position, value };
        if anchor == 0 {
            return Ok(node);
        }
        let shared = Rc::new(node);
        self.anchors.insert(anchor, (Rc::clone(&shared), self.values.saturating_sub(before)));
        Ok(Node { position, value: Value::Shared(shared) })
    }
}

fn is_string_tag(tag: &Tag) -> bool {
    tag.is_yaml_core_schema_tag("str") || (tag.handle() == "!" && tag.suffix().is_empty())
}

/// `<<: *defaults`: entries of other mappings for the keys that this one does not have.
pub(crate) fn merge(map: &mut Map<'_>) {
    let mut index = 0;
    while let Some((key, node)) = map.get(index) {
        let donors: Vec<Map<'_>> = match node.value() {
            Value::Map(donor) if key.text == "<<" => vec![donor.clone()],
            Value::List(list) if key.text == "<<" => {
                let maps = list.iter().map(|node| match node.value() {
                    Value::Map(donor) => Some(donor.clone()),
                    _ => None,
                });
                // Something else than mappings: left as it is, an unknown field.
                maps.collect::<Option<_>>().unwrap_or_default()
            }
            _ => Vec::new(),
        };
        if donors.is_empty() {
            index = index.saturating_add(1);
            continue;
        }
        map.remove(index);
        for (key, node) in donors.into_iter().flatten() {
            if !map.iter().any(|(present, _)| present.text == key.text) {
                map.push((key, node));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(text: &str) -> Meaning {
        match Reader::tree(text).unwrap().value() {
            Value::Scalar(scalar) => scalar.meaning(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_mean_what_they_mean_to_yaml_cpp() {
        assert_eq!(meaning("yes"), Meaning::Bool(true));
        assert_eq!(meaning("'yes'"), Meaning::Text);
        assert_eq!(meaning("!!str yes"), Meaning::Text);
        assert_eq!(meaning("010"), Meaning::Int(8));
        assert_eq!(meaning("0x1F"), Meaning::Int(31));
        assert_eq!(meaning("-7"), Meaning::Int(-7));
        assert_eq!(meaning("08"), Meaning::Text);
        assert_eq!(meaning("--7"), Meaning::Text);
        assert_eq!(meaning("1.5"), Meaning::Text);
        assert_eq!(meaning("0x"), Meaning::Text);
        assert_eq!(meaning("~"), Meaning::Null);
        assert_eq!(meaning("18446744073709551615"), Meaning::Text);
    }

    #[test]
    fn values_know_their_place() {
        let tree = Reader::tree("a:\n  - b: 1\n    c: x\n").unwrap();
        let Value::Map(map) = tree.value() else { panic!() };
        let Value::List(list) = map[0].1.value() else { panic!() };
        let Value::Map(inner) = list[0].value() else { panic!() };
        assert_eq!(inner[1].0.position, Position { line: 3, column: 5 });
        assert_eq!(inner[1].1.position, Position { line: 3, column: 8 });
    }

    #[test]
    fn aliases_and_merges_are_expanded_within_bounds() {
        let tree = Reader::tree("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: *x\n").unwrap();
        let Value::Map(map) = tree.value() else { panic!() };
        let Value::Map(b) = map[1].1.value() else { panic!() };
        assert_eq!(b.iter().map(|(k, v)| (k.text.as_ref(), v.display())).collect::<Vec<_>>(), [("q", "3"), ("p", "1")]);
        assert!(matches!(map[2].1.value(), Value::Map(c) if c.len() == 2));
        let mut laughs = "l0: &l0 [a, a, a, a, a, a, a, a, a, a]\n".to_owned();
        for n in 1..12 {
            let refs = vec![format!("*l{}", n - 1); 10].join(", ");
            laughs += &format!("l{n}: &l{n} [{refs}]\n");
        }
        assert!(Reader::tree(&laughs).unwrap_err().reason.contains("aliases"));
        assert!(Reader::tree("a: &x [*x]").is_err());
    }
}

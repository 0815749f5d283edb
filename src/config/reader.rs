//! Reads one TOML table key by key and remembers everything that is wrong with it.
//!
//! A derived deserializer stops at the first problem. A configuration is mended faster when it is
//! read as a whole, so each question a [`Section`] is asked ("the text `name`", "the number
//! `group_max`") either answers or leaves a [`Problem`] with the line it is about, and
//! [`Section::finish`] reports every key that nobody asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line it is about, counted from one.
    pub line: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Collects problems while a document is read.
#[derive(Debug)]
pub(super) struct Report<'d> {
    text: &'d str,
    problems: RefCell<BTreeSet<Problem>>,
}

impl<'d> Report<'d> {
    pub(super) fn new(text: &'d str) -> Self {
        Self { text, problems: RefCell::default() }
    }

    /// Notes a problem with the text that begins at byte `offset`.
    pub(super) fn problem(&self, offset: usize, message: impl Into<String>) {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.split(|byte| *byte == b'\n').skip(1).count();
        self.problems.borrow_mut().insert(Problem { line, message: message.into() });
    }

    /// All problems, in the order of the file.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner().into_iter().collect()
    }
}

/// One table of the document, or the absence of one (then every key has its default).
#[derive(Debug)]
pub(super) struct Section<'d> {
    /// The table's name, for messages: `[orders]`.
    name: String,
    /// Where the table begins; problems with missing keys are reported there.
    offset: usize,
    present: bool,
    entries: Vec<Entry<'d>>,
    known: BTreeSet<&'static str>,
    report: &'d Report<'d>,
}

#[derive(Debug)]
struct Entry<'d> {
    key: &'d str,
    key_offset: usize,
    value: &'d Spanned<DeValue<'d>>,
}

impl<'d> Section<'d> {
    pub(super) fn root(table: &'d Spanned<DeTable<'d>>, report: &'d Report<'d>) -> Self {
        Self::new("the file".to_owned(), table.span(), table.get_ref(), report)
    }

    fn new(
        name: String,
        span: Range<usize>,
        table: &'d DeTable<'d>,
        report: &'d Report<'d>,
    ) -> Self {
        let entries = table
            .iter()
            .map(|(key, value)| Entry { key: key.get_ref(), key_offset: key.span().start, value })
            .collect();
        Self { name, offset: span.start, present: true, entries, known: BTreeSet::new(), report }
    }

    /// Whether the file has this table at all.
    pub(super) fn is_present(&self) -> bool {
        self.present
    }

    /// Where this table begins.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// Whether `key` is given; does not count as asking for it.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Reports a problem with this table as a whole.
    pub(super) fn problem(&self, message: impl Display) {
        self.report.problem(self.offset, format!("{}: {message}", self.name));
    }

    fn entry(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.known.insert(key);
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value)
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = value.get_ref().type_str();
        let message = format!("{}: `{key}` must be {wanted}, not {found}", self.name);
        self.report.problem(value.span().start, message);
    }

    /// The table `key`; an empty one when the file has none.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'d> {
        let name = format!("[{key}]");
        if let Some(value) = self.entry(key) {
            if let Some(table) = value.get_ref().as_table() {
                return Self::new(name, value.span(), table, self.report);
            }
            self.wrong_type(key, value, "a table");
        }
        Section {
            name,
            offset: self.offset,
            present: false,
            entries: Vec::new(),
            known: BTreeSet::new(),
            report: self.report,
        }
    }

    /// Counts `key` as known, for the message about unknown ones.
    pub(super) fn know(&mut self, key: &'static str) {
        self.known.insert(key);
    }

    /// The tables `[[key]]`.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'d>> {
        let Some(value) = self.entry(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, &format!("a list of tables ([[{key}]])"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in array {
            if let Some(table) = item.get_ref().as_table() {
                let name = format!("[[{key}]]");
                sections.push(Self::new(name, item.span(), table, self.report));
            } else {
                self.wrong_type(key, item, "a table");
            }
        }
        sections
    }

    /// The text `key`, if it is given.
    pub(super) fn text_if_any(&mut self, key: &'static str) -> Option<Spanned<String>> {
        let value = self.entry(key)?;
        match value.get_ref().as_str() {
            Some("") => {
                self.report.problem(value.span().start, format!("{}: `{key}` is empty", self.name));
                None
            }
            Some(text) => Some(Spanned::new(value.span(), text.to_owned())),
            None => {
                self.wrong_type(key, value, "a text in quotes");
                None
            }
        }
    }

    /// The text `key`; a problem when it is missing.
    pub(super) fn text(&mut self, key: &'static str) -> Option<Spanned<String>> {
        if !self.has(key) {
            self.known.insert(key);
            self.problem(format_args!("`{key}` is missing"));
            return None;
        }
        self.text_if_any(key)
    }

    /// The text `key` as a `T`, if it is given.
    pub(super) fn parsed_if_any<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
    ) -> Option<Spanned<T>> {
        let text = self.text_if_any(key)?;
        match text.get_ref().parse() {
            Ok(value) => Some(Spanned::new(text.span(), value)),
            Err(error) => {
                let message = format!("{}: `{key}`: {error}", self.name);
                self.report.problem(text.span().start, message);
                None
            }
        }
    }

    /// The text `key` as a `T`; a problem when it is missing.
    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
    ) -> Option<Spanned<T>> {
        if !self.has(key) {
            self.known.insert(key);
            self.problem(format_args!("`{key}` is missing"));
            return None;
        }
        self.parsed_if_any(key)
    }

    /// The whole number `key` within `range`, if it is given.
    pub(super) fn number_if_any(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<Spanned<u64>> {
        let value = self.entry(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "a whole number");
            return None;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => Some(Spanned::new(value.span(), number)),
            Ok(_) | Err(_) => {
                let (low, high) = range.into_inner();
                let message = format!("{}: `{key}` must be {low} to {high}", self.name);
                self.report.problem(value.span().start, message);
                None
            }
        }
    }

    /// The whole number `key` within `range`; a problem when it is missing.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<Spanned<u64>> {
        if !self.has(key) {
            self.known.insert(key);
            self.problem(format_args!("`{key}` is missing"));
            return None;
        }
        self.number_if_any(key, range)
    }

    /// The number `key` within `range`, or `default`.
    pub(super) fn count(
        &mut self,
        key: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> u32 {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        match self.number_if_any(key, range) {
            Some(number) => u32::try_from(number.into_inner()).expect("within the range"),
            None => default,
        }
    }

    /// `true` or `false`; `false` if absent.
    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        let Some(value) = self.entry(key) else { return false };
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type(key, value, "true or false");
        }
        flag.unwrap_or(false)
    }

    /// Like [`Section::count`], for what indexes memory.
    pub(super) fn size(
        &mut self,
        key: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> usize {
        usize::try_from(self.count(key, default, range)).expect("at least 32 bits")
    }

    /// The number of milliseconds `key` within `range`, or `default`.
    pub(super) fn millis(
        &mut self,
        key: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Duration {
        Duration::from_millis(u64::from(self.count(key, default, range)))
    }

    /// Every entry as key and text, for tables whose keys are data.
    pub(super) fn texts(&self) -> Vec<(Spanned<String>, Spanned<String>)> {
        let mut texts = Vec::new();
        for Entry { key, key_offset, value } in &self.entries {
            match value.get_ref().as_str() {
                Some(text) => {
                    let key_span = *key_offset..*key_offset + key.len();
                    texts.push((
                        Spanned::new(key_span, (*key).to_owned()),
                        Spanned::new(value.span(), text.to_owned()),
                    ));
                }
                None => self.wrong_type(key, value, "a text in quotes"),
            }
        }
        texts
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self) {
        for entry in &self.entries {
            if self.known.contains(entry.key) {
                continue;
            }
            let known: Vec<_> = self.known.iter().copied().collect();
            let message = format!(
                "{}: unknown key `{}`; known here: {}",
                self.name,
                entry.key,
                known.join(", ")
            );
            self.report.problem(entry.key_offset, message);
        }
    }
}

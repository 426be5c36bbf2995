//! Walking the parsed text: typed reads that note a mistake with its line instead of failing.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::mistake::Mistake;
use crate::suggest::nearest;

/// A report longer than this helps nobody.
const MOST_MISTAKES: usize = 500;

pub(crate) type Value<'i> = Spanned<DeValue<'i>>;
pub(crate) type Name<'i> = Spanned<DeString<'i>>;

/// Collects mistakes, and knows the lines.
pub(crate) struct Walk {
    /// Where each line begins.
    starts: Vec<usize>,
    found: Vec<Mistake>,
    /// Lines that are no TOML: what else is wrong there follows from that.
    unreadable: BTreeSet<usize>,
    left_out: usize,
}

/// A text as it is shown to people: control characters escaped, at most 80 characters.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

impl Walk {
    pub(crate) fn new(text: &str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { starts, found: Vec::new(), unreadable: BTreeSet::new(), left_out: 0 }
    }

    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    pub(crate) fn mistake(
        &mut self,
        place: Option<Range<usize>>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let line = place.map(|span| self.line(span.start));
        if line.is_some_and(|line| self.unreadable.contains(&line)) {
            return;
        }
        if self.found.len() == MOST_MISTAKES {
            self.left_out += 1;
            return;
        }
        self.found.push(Mistake { line, what: what.into(), hint: hint.into() });
    }

    pub(crate) fn syntax(&mut self, error: &toml::de::Error, text: &str) {
        let what = error.message().lines().collect::<Vec<_>>().join(", ");
        let place = error.span().unwrap_or_else(|| longest_key(text));
        self.mistake(Some(place.clone()), format!("not TOML: {what}"), "see https://toml.io for the syntax");
        self.unreadable.insert(self.line(place.start));
    }

    /// The mistakes in the order of their lines; those without a place last.
    pub(crate) fn finish(mut self) -> Vec<Mistake> {
        self.found.sort_by_key(|mistake| mistake.line.unwrap_or(usize::MAX));
        if self.left_out > 0 {
            self.found.push(Mistake {
                line: None,
                what: format!("{} more mistakes are not shown", self.left_out),
                hint: "mend these first".into(),
            });
        }
        self.found
    }

    /// Notes every key of a table that is not known there.
    pub(crate) fn unknown_keys(&mut self, table: &DeTable<'_>, place: &str, known: &[&str]) {
        for name in table.keys().filter(|name| !known.contains(&name.get_ref().as_ref())) {
            self.unknown_key(name, place, known);
        }
    }

    pub(crate) fn unknown_key(&mut self, name: &Name<'_>, place: &str, known: &[&str]) {
        let hint = match nearest(name.get_ref(), known.iter().copied()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("known keys here: {}", known.join(", ")),
        };
        self.mistake(Some(name.span()), format!("unknown key `{}` in {place}", shown(name.get_ref())), hint);
    }

    fn wrong_type(&mut self, value: &Value<'_>, what: &str, wanted: &str, example: &str) {
        let found = match value.get_ref().type_str() {
            found @ ("integer" | "array") => format!("an {found}"),
            found => format!("a {found}"),
        };
        self.mistake(
            Some(value.span()),
            format!("{what} must be {wanted}, not {found}"),
            format!("write it as {example}"),
        );
    }

    pub(crate) fn table<'v, 'i>(
        &mut self,
        value: &'v Value<'i>,
        what: &str,
        example: &str,
    ) -> Option<&'v DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong_type(value, what, "a table", example);
        }
        table
    }

    pub(crate) fn boolean(&mut self, value: &Value<'_>, what: &str) -> Option<bool> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.wrong_type(value, what, "true or false", "true, without quotes");
        }
        found
    }

    pub(crate) fn string<'v>(&mut self, value: &'v Value<'_>, what: &str, example: &str) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(value, what, "a text in quotes", example);
        }
        text
    }

    /// The texts of a list, each with its place; what is no text is noted and left out.
    pub(crate) fn strings<'v>(
        &mut self,
        value: &'v Value<'_>,
        what: &str,
        example: &str,
        most: usize,
    ) -> Option<Vec<(&'v str, Range<usize>)>> {
        let Some(list) = value.get_ref().as_array() else {
            self.wrong_type(value, what, "a list of texts", example);
            return None;
        };
        if list.len() > most {
            self.mistake(
                Some(value.span()),
                format!("{what} has {} entries, more than {most}", list.len()),
                "shorten the list",
            );
            return None;
        }
        let mut texts = Vec::with_capacity(list.len());
        for entry in list.iter() {
            match entry.get_ref().as_str() {
                Some(text) => texts.push((text, entry.span())),
                None => self.wrong_type(entry, &format!("each entry of {what}"), "a text in quotes", example),
            }
        }
        Some(texts)
    }

    /// Reads a text as a value of its own kind.
    pub(crate) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        text: &str,
        place: Range<usize>,
        what: &str,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(text) {
            Ok(value) => Some(value),
            Err(why) => {
                self.mistake(Some(place), format!("{what}: {}", shown_all(&why.to_string())), hint);
                None
            }
        }
    }
}

/// The line with the most dots between two things that end a key, comments left out. For the one mistake of which the parser does not say
/// where it is: a key of more parts than it follows.
fn longest_key(text: &str) -> Range<usize> {
    let dots = |line: &str| {
        let code = line.split('#').next()?;
        code.split(['=', ']', '{', ',']).map(|key| key.matches('.').count()).max()
    };
    let (mut longest, mut most, mut start) = (0..0, None, 0);
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        if dots(line) > most {
            (longest, most) = (start..end, dots(line));
        }
        start = end;
    }
    longest
}

/// As [`shown`], for sentences of ours that hold a text of the user's.
fn shown_all(text: &str) -> String {
    text.chars()
        .take(400)
        .flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] })
        .collect()
}

/// A value of a table, with its key.
pub(crate) fn get<'v, 'i>(table: &'v DeTable<'i>, key: &str) -> Option<(&'v Name<'i>, &'v Value<'i>)> {
    table.get_key_value(key)
}

/// Where the deepest part of a path that exists stands. A head of `cells|tenants` is tried both ways.
pub(crate) fn locate(root: &DeTable<'_>, path: &[String]) -> Option<Range<usize>> {
    let (head, rest) = path.split_first()?;
    head.split('|')
        .filter_map(|head| {
            let (name, value) = get(root, head)?;
            let mut best = (1, name.span());
            let mut table = value.get_ref().as_table();
            for (depth, key) in rest.iter().enumerate() {
                let Some((name, value)) = table.and_then(|table| get(table, key)) else { break };
                best = (depth + 2, name.span());
                table = value.get_ref().as_table();
            }
            Some(best)
        })
        .max_by_key(|(depth, _)| *depth)
        .map(|(_, span)| span)
}

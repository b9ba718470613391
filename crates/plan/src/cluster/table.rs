//! Reads the tables of a configuration key by key and knows where each stands.
//!
//! Used by the cluster file. Every error names line, column, key and what is allowed; a key that nobody
//! may read is an error.

use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ClusterError;

/// A table of the file.
pub(super) struct Table<'t> {
    text: &'t str,
    /// As written in the file: `[[device]]`; empty for the top of the file.
    header: &'static str,
    at: usize,
    entries: &'t DeTable<'t>,
}

/// The value of a key.
pub(super) struct Field<'t> {
    text: &'t str,
    key: String,
    at: usize,
    value: &'t DeValue<'t>,
}

impl<'t> Table<'t> {
    /// A table that may have the keys `allowed` and no others.
    pub(super) fn new(
        text: &'t str,
        header: &'static str,
        allowed: &[&str],
        table: &'t Spanned<DeTable<'t>>,
    ) -> Result<Table<'t>, ClusterError> {
        Table::open(text, header, allowed, table.span().start, table.get_ref())
    }

    fn open(
        text: &'t str,
        header: &'static str,
        allowed: &[&str],
        at: usize,
        entries: &'t DeTable<'t>,
    ) -> Result<Table<'t>, ClusterError> {
        let table = Table { text, header, at, entries };
        let unknown = entries.keys().filter(|key| !allowed.contains(&key.get_ref().as_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(table) };
        let place = if header.is_empty() { "a cluster file" } else { header };
        let path = table.path(key.get_ref());
        let message = format!("`{path}` is no known key; {place} may have {}", allowed.join(", "));
        Err(error(text, key.span().start, path, message))
    }

    pub(super) fn get(&self, key: &str) -> Option<Field<'t>> {
        let value = self.entries.get(key)?;
        let (text, at) = (self.text, value.span().start);
        Some(Field { text, key: self.path(key), at, value: value.get_ref() })
    }

    pub(super) fn require(&self, key: &str) -> Result<Field<'t>, ClusterError> {
        self.get(key).ok_or_else(|| {
            let path = self.path(key);
            let message = format!("`{path}` is missing");
            error(self.text, self.at, path, message)
        })
    }

    /// The table under `key`.
    pub(super) fn table(
        &self,
        key: &str,
        header: &'static str,
        allowed: &[&str],
    ) -> Result<Option<Table<'t>>, ClusterError> {
        self.get(key).map(|field| field.table(header, allowed)).transpose()
    }

    /// The tables of the array under `key`.
    pub(super) fn tables(
        &self,
        key: &str,
        header: &'static str,
        allowed: &[&str],
    ) -> Result<Vec<Table<'t>>, ClusterError> {
        let Some(field) = self.get(key) else { return Ok(Vec::new()) };
        if !matches!(field.value, DeValue::Array(_)) {
            return Err(field.wrong_type(&format!("written {header}")));
        }
        field.items()?.into_iter().map(|item| item.table(header, allowed)).collect()
    }

    fn path(&self, key: &str) -> String {
        match self.header.trim_matches(['[', ']']) {
            "" => key.to_owned(),
            table => format!("{table}.{key}"),
        }
    }
}

impl<'t> Field<'t> {
    pub(super) fn string(&self) -> Result<&'t str, ClusterError> {
        self.value.as_str().ok_or_else(|| self.wrong_type("a text in quotes"))
    }

    /// A whole number.
    pub(super) fn integer(&self) -> Result<i64, ClusterError> {
        let DeValue::Integer(digits) = self.value else { return Err(self.wrong_type("a whole number")) };
        i64::from_str_radix(digits.as_str(), digits.radix()).map_err(|_| self.fault("is too large a number"))
    }

    /// A number, whole or not.
    pub(super) fn number(&self) -> Result<f64, ClusterError> {
        match self.value {
            DeValue::Integer(_) => Ok(self.integer()? as f64),
            DeValue::Float(digits) => digits.as_str().parse().map_err(|_| self.fault("is no number")),
            _ => Err(self.wrong_type("a number")),
        }
    }

    pub(super) fn boolean(&self) -> Result<bool, ClusterError> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// The values of a list.
    pub(super) fn items(&self) -> Result<Vec<Field<'t>>, ClusterError> {
        let DeValue::Array(array) = self.value else { return Err(self.wrong_type("a list in brackets")) };
        let item = |value: &'t Spanned<DeValue<'t>>| Field {
            text: self.text,
            key: self.key.clone(),
            at: value.span().start,
            value: value.get_ref(),
        };
        Ok(array.iter().map(item).collect())
    }

    /// A text that `T` understands.
    pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(&self, example: &str) -> Result<T, ClusterError> {
        let text = self
            .value
            .as_str()
            .ok_or_else(|| self.wrong_type(&format!("a text with a unit, such as \"{example}\"")))?;
        text.parse().map_err(|e| self.fault(&format!("cannot be read: {e}")))
    }

    /// An error about this value: the message continues the key.
    pub(super) fn fault(&self, message: &str) -> ClusterError {
        error(self.text, self.at, self.key.clone(), format!("`{}` {message}", self.key))
    }

    fn table(self, header: &'static str, allowed: &[&str]) -> Result<Table<'t>, ClusterError> {
        let DeValue::Table(entries) = self.value else {
            return Err(self.wrong_type(&format!("a table, written {header}")));
        };
        Table::open(self.text, header, allowed, self.at, entries)
    }

    fn wrong_type(&self, wanted: &str) -> ClusterError {
        let found = match self.value {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.fault(&format!("must be {wanted}, not {found}"))
    }
}

/// An error at byte `at` of the text.
pub(super) fn error(text: &str, at: usize, key: String, message: String) -> ClusterError {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    ClusterError {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        key,
        message,
    }
}

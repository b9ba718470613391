//! Reads the tables of a TOML file key by key and knows where each stands.
//!
//! Used for the cluster file, and by the command line for plan files. Every error names line, column, key and what
//! is allowed; a key that nobody may read is an error.

use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A text that is no valid file of its kind. The caller adds the file's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct DocumentError {
    /// Line of the fault, from 1.
    pub line: usize,
    /// Column of the fault in characters, from 1.
    pub column: usize,
    /// The key concerned, with its table (`device.speed`); empty where the text is no TOML.
    pub key: String,
    /// What is wrong with it and what is allowed; names the key.
    pub message: String,
}

/// The top of a file, as TOML understands it.
pub struct Document<'t> {
    text: &'t str,
    top: Spanned<DeTable<'t>>,
}

impl<'t> Document<'t> {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// When it is no TOML.
    pub fn parse(text: &'t str) -> Result<Document<'t>, DocumentError> {
        let top = DeTable::parse(text).map_err(|e| {
            let at = e.span().map_or(0, |span| span.start);
            error(text, at, String::new(), format!("this is no TOML: {}", e.message()))
        })?;
        Ok(Document { text, top })
    }

    /// Its top, which may have the keys `allowed` and no others. `kind` is the kind of file, with its article.
    ///
    /// # Errors
    /// Names a key that is not among them.
    pub fn top(&self, kind: &str, allowed: &[&str]) -> Result<Table<'_>, DocumentError> {
        Table::open(self.text, "", kind, allowed, self.top.span().start, self.top.get_ref())
    }
}

/// A table of the file.
pub struct Table<'t> {
    text: &'t str,
    /// As written in the file: `[[device]]`; empty for the top of the file.
    header: &'static str,
    at: usize,
    entries: &'t DeTable<'t>,
}

/// The value of a key.
pub struct Field<'t> {
    text: &'t str,
    key: String,
    at: usize,
    value: &'t DeValue<'t>,
}

impl<'t> Table<'t> {
    fn open(
        text: &'t str,
        header: &'static str,
        place: &str,
        allowed: &[&str],
        at: usize,
        entries: &'t DeTable<'t>,
    ) -> Result<Table<'t>, DocumentError> {
        let table = Table { text, header, at, entries };
        let unknown = entries.keys().filter(|key| !allowed.contains(&key.get_ref().as_ref()));
        let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(table) };
        let path = table.path(key.get_ref());
        let message = format!("`{path}` is no known key; {place} may have {}", allowed.join(", "));
        Err(error(text, key.span().start, path, message))
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &str) -> Option<Field<'t>> {
        let value = self.entries.get(key)?;
        let (text, at) = (self.text, value.span().start);
        Some(Field { text, key: self.path(key), at, value: value.get_ref() })
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn require(&self, key: &str) -> Result<Field<'t>, DocumentError> {
        self.get(key).ok_or_else(|| {
            let path = self.path(key);
            let message = format!("`{path}` is missing");
            error(self.text, self.at, path, message)
        })
    }

    /// The table under `key`, if it is there; it may have the keys `allowed` and no others. `header` is how it is
    /// written: `[links]`.
    ///
    /// # Errors
    /// When it is no table, or has other keys.
    pub fn table(
        &self,
        key: &str,
        header: &'static str,
        allowed: &[&str],
    ) -> Result<Option<Table<'t>>, DocumentError> {
        self.get(key).map(|field| field.table(header, allowed)).transpose()
    }

    /// The tables of the array under `key`; none where it is not there. `header` is how each is written:
    /// `[[device]]`.
    ///
    /// # Errors
    /// When it is no array of tables, or one has other keys.
    pub fn tables(
        &self,
        key: &str,
        header: &'static str,
        allowed: &[&str],
    ) -> Result<Vec<Table<'t>>, DocumentError> {
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
    /// A text.
    ///
    /// # Errors
    /// When it is none.
    pub fn string(&self) -> Result<&'t str, DocumentError> {
        self.value.as_str().ok_or_else(|| self.wrong_type("a text in quotes"))
    }

    /// A whole number.
    ///
    /// # Errors
    /// When it is none.
    pub fn integer(&self) -> Result<i64, DocumentError> {
        let DeValue::Integer(digits) = self.value else { return Err(self.wrong_type("a whole number")) };
        i64::from_str_radix(digits.as_str(), digits.radix()).map_err(|_| self.fault("is too large a number"))
    }

    /// A number, whole or not.
    ///
    /// # Errors
    /// When it is none.
    pub fn number(&self) -> Result<f64, DocumentError> {
        match self.value {
            DeValue::Integer(_) => Ok(self.integer()? as f64),
            DeValue::Float(digits) => digits.as_str().parse().map_err(|_| self.fault("is no number")),
            _ => Err(self.wrong_type("a number")),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// When it is neither.
    pub fn boolean(&self) -> Result<bool, DocumentError> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// The values of a list.
    ///
    /// # Errors
    /// When it is none.
    pub fn items(&self) -> Result<Vec<Field<'t>>, DocumentError> {
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
    ///
    /// # Errors
    /// When it is none, or `T` does not understand it.
    pub fn parse<T: FromStr<Err: std::fmt::Display>>(&self, example: &str) -> Result<T, DocumentError> {
        let text = self
            .value
            .as_str()
            .ok_or_else(|| self.wrong_type(&format!("a text with a unit, such as \"{example}\"")))?;
        text.parse().map_err(|e| self.fault(&format!("cannot be read: {e}")))
    }

    /// An error about this value: the message continues the key.
    pub fn fault(&self, message: &str) -> DocumentError {
        error(self.text, self.at, self.key.clone(), format!("`{}` {message}", self.key))
    }

    fn table(self, header: &'static str, allowed: &[&str]) -> Result<Table<'t>, DocumentError> {
        let DeValue::Table(entries) = self.value else {
            return Err(self.wrong_type(&format!("a table, written {header}")));
        };
        Table::open(self.text, header, header, allowed, self.at, entries)
    }

    fn wrong_type(&self, wanted: &str) -> DocumentError {
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
fn error(text: &str, at: usize, key: String, message: String) -> DocumentError {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    DocumentError {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        key,
        message,
    }
}

//! What becomes of each result of a run: a row of the answers' table or a line of NDJSON, and a file if asked for.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tensor::{TensorSpec, TensorView};

use super::answer::{Best, Classes};
use super::files::Target;
use super::json::{ItemLine, Outputs};
use super::report::RunReport;
use super::table::Column::{Number, Text};
use super::table::table;
use super::{json_line, line, printable};

/// Rows of the answers' table: what a person reads. `--json` and `--output` give all.
const MAX_ROWS: usize = 50;

/// Takes the results of a run in the order of the items; keeps none of them.
pub(crate) struct Results {
    names: Vec<String>,
    classes: Option<Classes>,
    target: Option<Target>,
    json: bool,
    /// Items of one round; the rounds after it give the same answers.
    distinct: usize,
    rows: Vec<Vec<String>>,
    /// Items of the first round that were answered.
    answered: usize,
    /// Items that were to have a class and whose output holds NaN, and the first of them.
    nan: usize,
    first_nan: Option<String>,
}

#[derive(Serialize)]
struct ReportLine<'a> {
    report: &'a RunReport,
}

impl Results {
    /// For a model that gives `outputs`; `json` chooses NDJSON over tables.
    pub(crate) fn new(
        outputs: &[TensorSpec],
        classes: Option<Classes>,
        target: Option<Target>,
        distinct: usize,
        json: bool,
    ) -> Results {
        let names = outputs.iter().map(|o| o.name.clone()).collect();
        Results {
            names,
            classes,
            target,
            json,
            distinct,
            rows: Vec::new(),
            answered: 0,
            nan: 0,
            first_nan: None,
        }
    }

    /// Takes the outputs of item `index`, which came from `input`, in the model's order.
    pub(crate) fn take(
        &mut self,
        index: usize,
        input: &str,
        outputs: &[TensorView<'_>],
        latency: Duration,
    ) -> Result<()> {
        let named: Vec<(&str, TensorView<'_>)> =
            self.names.iter().map(String::as_str).zip(outputs.iter().copied()).collect();
        if let Some(target) = &self.target {
            target.write(index, named.iter().copied())?;
        }
        self.answered += usize::from(index < self.distinct);
        let best = match (&self.classes, outputs) {
            (Some(classes), [first, ..]) => classes.best(first)?,
            _ => Best::NoClasses,
        };
        if best == Best::NotANumber {
            self.nan += 1;
            self.first_nan.get_or_insert_with(|| format!("item {index} (`{input}`)"));
        }
        let shown = index < self.distinct.min(MAX_ROWS);
        if !self.json && !shown {
            return Ok(());
        }
        let nan = best == Best::NotANumber;
        let answer = best.answer();
        if self.json {
            let latency_ms = latency.as_secs_f64() * 1e3;
            let outputs = Outputs(&named);
            return json_line(&ItemLine { item: index, input, answer: answer.as_ref(), latency_ms, outputs });
        }
        let (what, confidence) = match answer {
            Some(answer) if self.classes.as_ref().is_some_and(|c| c.softmax) => {
                (answer.name(), format!("{:.1}", 100.0 * answer.confidence))
            }
            Some(answer) => (answer.name(), format!("{:.3}", answer.confidence)),
            None if nan => ("none: the output is no number".to_owned(), String::new()),
            None => (describe(&named), String::new()),
        };
        let file = Path::new(input).file_name().map_or(input.into(), |name| name.to_string_lossy());
        self.rows.push(vec![file.into_owned(), what, confidence]);
        Ok(())
    }

    /// Prints the answers, unless each was printed when it came, and the report.
    pub(crate) fn finish(self, report: &RunReport) -> Result<()> {
        let json = self.json;
        self.answers()?;
        if json { json_line(&ReportLine { report }) } else { line(format_args!("\n{}", report.text())) }
    }

    /// Prints the answers that came, unless each was printed when it did.
    pub(crate) fn answers(self) -> Result<()> {
        if let Some(first) = &self.first_nan {
            let more = match self.nan {
                1 => String::new(),
                nan => format!(", and for {} after it", nan - 1),
            };
            tracing::warn!("no class for {}{more}: the model's output is no finite number", printable(first));
        }
        if self.json || self.rows.is_empty() {
            return Ok(());
        }
        let percent = self.classes.as_ref().is_some_and(|c| c.softmax);
        let confidence = Number(if percent { "confidence (%)" } else { "score" });
        let more = self.answered.saturating_sub(self.rows.len());
        line(table(&[Text("input"), Text("answer"), confidence], self.rows))?;
        if more > 0 {
            line(format_args!("... and {more} more: --json prints all, --output writes all"))?;
        }
        Ok(())
    }
}

/// The outputs of an item that is no classification, in short.
fn describe(outputs: &[(&str, TensorView<'_>)]) -> String {
    let describe =
        |(name, view): &(&str, TensorView<'_>)| format!("{name} ({} {})", view.dtype(), view.shape());
    outputs.iter().map(describe).collect::<Vec<_>>().join(", ")
}

//! `defer zoo`: exact architectures with seeded weights.

use std::path::PathBuf;

use anyhow::Result;
use graph::zoo;
use serde::Serialize;

use crate::failure::Hint;
use crate::flags::Common;
use crate::output::progress;
use crate::output::table::{Column::Number, Column::Text, table};
use crate::output::{json_line, line};

/// Write a well-known architecture with random weights, to measure with
///
/// The weights are made from the seed: the same name and seed give the same file everywhere. Nothing is trained, so
/// the answers mean nothing; sizes and costs are the real ones.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  defer zoo --list
  defer zoo resnet50 -o resnet50.onnx")]
pub(crate) struct Args {
    /// The model
    #[arg(required_unless_present = "list", requires = "output")]
    name: Option<String>,
    /// The file to write
    #[arg(long, short, value_name = "FILE", requires = "name")]
    output: Option<PathBuf>,
    /// What the weights are made from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// List the models, with their parameters and multiply-accumulate operations
    #[arg(long, conflicts_with = "name")]
    list: bool,
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    description: &'static str,
    parameters: u64,
    macs: u64,
}

#[derive(Serialize)]
struct Written {
    name: String,
    seed: u64,
    path: PathBuf,
    bytes: u64,
}

pub(super) fn execute(args: Args, common: &Common) -> Result<()> {
    match (args.name, args.output) {
        (Some(name), Some(path)) => write(name, args.seed, path, common),
        _ => list(common),
    }
}

fn list(common: &Common) -> Result<()> {
    let models = zoo::list();
    if common.json {
        for model in &models {
            let (name, description) = (model.name, model.description);
            json_line(&Listed { name, description, parameters: model.parameters, macs: model.macs })?;
        }
        return Ok(());
    }
    let columns = [Text("name"), Number("parameters (M)"), Number("MACs (G)"), Text("what it is")];
    line(table(
        &columns,
        models.iter().map(|m| {
            vec![
                m.name.to_owned(),
                format!("{:.2}", m.parameters as f64 / 1e6),
                format!("{:.2}", m.macs as f64 / 1e9),
                m.description.to_owned(),
            ]
        }),
    ))
}

fn write(name: String, seed: u64, path: PathBuf, common: &Common) -> Result<()> {
    let bar = progress::waiting(format!("making {name}"), common.progress());
    let model = zoo::build(&name, seed).hint("`defer zoo --list` lists the models")?;
    bar.set_message(format!("writing {}", path.display()));
    model.save(&path)?;
    bar.finish_and_clear();
    let written = std::fs::metadata(&path)?;
    if !written.is_file() {
        return Ok(()); // words would be a part of the model, where it is the standard output
    }
    let bytes = written.len();
    if common.json {
        return json_line(&Written { name, seed, path, bytes });
    }
    line(format_args!("{}: {name}, {:.1} MB, seed {seed}", path.display(), bytes as f64 / 1e6))
}

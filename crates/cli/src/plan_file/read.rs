//! From the text of a plan file to a checked [`PlanFile`]. Whether its names are there is seen when it is used.

use std::fmt::Display;
use std::str::FromStr;

use pipeline::{Layout, LayoutStage};
use plan::DocumentError;
use plan::document::{Document, Field, Table};
use wire::Codec;

use super::{PlanFile, VERSION};

const TOP_KEYS: [&str; 5] = ["version", "model", "model_hash", "result_codec", "stage"];
const STAGE_KEYS: [&str; 3] = ["devices", "codec", "cut"];

pub(super) fn plan(text: &str) -> Result<PlanFile, DocumentError> {
    let document = Document::parse(text)?;
    let top = document.top("a plan file", &TOP_KEYS)?;
    let version = top.require("version")?;
    match version.integer()? {
        VERSION => {}
        other => return Err(version.fault(&format!("must be {VERSION}, not {other}"))),
    }
    let model = top.get("model").map_or(Ok(""), |field| field.string())?.to_owned();
    let model_hash = parsed(&top.require("model_hash")?)?;
    let stages = top.tables("stage", "[[stage]]", &STAGE_KEYS)?;
    let stages: Vec<LayoutStage> = stages.iter().map(stage).collect::<Result<_, _>>()?;
    if stages.is_empty() {
        return Err(top.require("stage")?.fault("must hold at least one [[stage]]"));
    }
    let result_codec = codec(&top, "result_codec")?;
    Ok(PlanFile { model, model_hash, layout: Layout { stages, result_codec } })
}

fn stage(table: &Table<'_>) -> Result<LayoutStage, DocumentError> {
    let field = table.require("devices")?;
    let devices: Vec<String> = field.items()?.iter().map(name).collect::<Result<_, _>>()?;
    if devices.is_empty() {
        return Err(field.fault("must name at least one device"));
    }
    let cut = table.get("cut").map(|field| match field.string()? {
        "" => Err(field.fault("must not be empty; leave it out in the last stage")),
        cut => Ok(cut.to_owned()),
    });
    Ok(LayoutStage { devices, codec: codec(table, "codec")?, cut: cut.transpose()? })
}

fn name(field: &Field<'_>) -> Result<String, DocumentError> {
    match field.string()? {
        "" => Err(field.fault("must not name a device of no name")),
        name => Ok(name.to_owned()),
    }
}

fn codec(table: &Table<'_>, key: &str) -> Result<Codec, DocumentError> {
    table.get(key).map_or(Ok(Codec::default()), |field| parsed(&field))
}

fn parsed<T: FromStr<Err: Display>>(field: &Field<'_>) -> Result<T, DocumentError> {
    field.string()?.parse().map_err(|error| field.fault(&format!("cannot be read: {error}")))
}

//! `defer engine`: the runtimes that execute models, and how to get the fast one.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Subcommand;
use engine::install::{self, ONNXRUNTIME_VERSION, Stage};
use engine::{Engine as _, Rten, find_onnxruntime};
use serde::Serialize;

use crate::failure::Hint;
use crate::flags::Common;
use crate::output::table::{Column::Path as PathText, Column::Text, table};
use crate::output::{json_line, line, progress};
use crate::places;

/// List the engines that run models, or fetch ONNX Runtime
///
/// `rten` is built in. ONNX Runtime is a library, 1.5 times (ResNet-50) to 5 times (mobile networks) faster, and is
/// taken from the first of: --onnxruntime, $DEFER_ONNXRUNTIME, the cache, Python's site-packages, the system.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  defer engine list
  defer engine install
  DEFER_ONNXRUNTIME=/opt/onnxruntime/lib defer engine list")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// The folder for libraries [default: $DEFER_CACHE, else `defer` in the user's cache]
    #[arg(long, value_name = "FOLDER", global = true)]
    cache: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the engines on this machine in the order of their precedence
    List {
        /// The ONNX Runtime library, or a folder that holds it
        #[arg(long, value_name = "PATH")]
        onnxruntime: Option<PathBuf>,
    },
    /// Fetch the ONNX Runtime library into the cache with Python's pip, and print its path
    Install {
        /// The Python interpreter whose pip fetches
        #[arg(long, value_name = "PATH", default_value = "python3")]
        python: PathBuf,
    },
}

/// One engine. An ONNX Runtime library that cannot be used says why.
#[derive(Serialize)]
struct Listed {
    engine: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    found_in: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Serialize)]
struct InstalledLine {
    path: PathBuf,
    version: String,
    fetched: bool,
}

pub(super) fn execute(args: Args, common: &Common) -> Result<()> {
    match args.action {
        Action::List { onnxruntime } => {
            let places = places::libraries(onnxruntime.as_deref(), args.cache.as_deref());
            list(&find_onnxruntime(&places), common)
        }
        Action::Install { python } => install(&python, args.cache.as_deref(), common),
    }
}

fn list(libraries: &[engine::Candidate], common: &Common) -> Result<()> {
    let mut engines: Vec<Listed> = libraries
        .iter()
        .map(|library| Listed {
            engine: "onnxruntime",
            version: library.state.as_ref().ok().map(ToString::to_string),
            found_in: library.origin.to_string(),
            path: Some(library.path.clone()),
            refused: library.state.as_ref().err().map(ToString::to_string),
        })
        .collect();
    engines.push(Listed {
        engine: Rten.name(),
        version: Some(Rten.version().to_owned()),
        found_in: "built in".to_owned(),
        path: None,
        refused: None,
    });
    if common.json {
        return engines.iter().try_for_each(json_line);
    }
    let row = |engine: &Listed| {
        let state = match (&engine.refused, &engine.path) {
            (Some(reason), Some(path)) => format!("{} {reason}", path.display()),
            (None, Some(path)) => path.display().to_string(),
            (_, None) => String::new(),
        };
        let version = engine.version.clone().unwrap_or_else(|| "-".to_owned());
        vec![engine.engine.to_owned(), version, engine.found_in.clone(), state]
    };
    line(table(
        &[Text("engine"), Text("version"), Text("found in"), PathText("path")],
        engines.iter().map(row),
    ))
}

fn install(python: &Path, cache: Option<&Path>, common: &Common) -> Result<()> {
    let cache = places::cache(cache)?;
    let bar = progress::waiting(format!("ONNX Runtime {ONNXRUNTIME_VERSION}"), common.progress());
    let installed = install::install(python, &cache, &mut |stage| {
        bar.set_message(match stage {
            Stage::Downloading => format!("downloading ONNX Runtime {ONNXRUNTIME_VERSION}, some 25 MB"),
            Stage::Unpacking => "unpacking".to_owned(),
        });
    });
    bar.finish_and_clear();
    let installed = installed.hint(
        "without ONNX Runtime the built-in engine rten is used, 1.5 to 5 times slower; a library that is elsewhere \
         is named with --onnxruntime or $DEFER_ONNXRUNTIME",
    )?;
    if common.json {
        let (path, version) = (installed.path, installed.version.to_string());
        return json_line(&InstalledLine { path, version, fetched: installed.fetched });
    }
    line(installed.path.display())
}

//! What an order asks of a node, made: its folder in the cache, its session in the engine, what its threads need. The
//! node's thread has the long parts done by others. Never changes what the node knows of a deployment.

use std::io;
use std::net::TcpStream;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::{Engine, ModelSource, Session, SessionOptions};
use tensor::TensorSpec;
use wire::control::{Route, StageOrder, StageTime, WeightEntry, WeightHash};

use super::Cache;
use super::cache::at;
use super::stage::StageSetup;
use crate::profile::arbitrary_item;
use crate::recorder::Recorder;
use crate::timing::{self, Caches, Timing};
use crate::transport::Checksums;

/// Repeats of a stage that is timed go on for so long: over several periods of a CPU quota, and to an end.
const TIME_PER_STAGE: RangeInclusive<Duration> = Duration::from_millis(300)..=Duration::from_millis(500);

/// The stage's ONNX file, beside its weights.
const SKELETON_FILE: &str = "stage.onnx";

/// Begins a stage's folder with its ONNX file and the weights that the cache has; gives the weights that it lacks.
pub(super) fn prepare_folder(
    cache: &Cache,
    name: &str,
    skeleton: &[u8],
    weights: &[WeightEntry],
) -> io::Result<(PathBuf, Vec<WeightHash>)> {
    let folder = cache.stage_folder(name)?;
    let fill = || {
        let model = folder.join(SKELETON_FILE);
        std::fs::write(&model, skeleton).map_err(at(&model))?;
        let mut missing = Vec::new();
        for weight in weights {
            if !cache.take(weight, &folder)? {
                missing.push(weight.hash);
            }
        }
        Ok(missing)
    };
    match fill() {
        Ok(missing) => Ok((folder, missing)),
        Err(e) => {
            cache.discard(&folder);
            Err(e)
        }
    }
}

fn specs(specs: &[wire::control::Spec]) -> Result<Vec<TensorSpec>, String> {
    specs.iter().map(|s| TensorSpec::try_from(s).map_err(|e| e.to_string())).collect()
}

/// Loads a stage whose folder is complete.
pub(super) fn build_session(
    engine: &dyn Engine,
    order: &StageOrder,
    folder: &Path,
    threads: usize,
) -> Result<Box<dyn Session>, String> {
    let inputs = specs(&order.inputs)?;
    let outputs = specs(&order.outputs)?;
    let fed: Vec<TensorSpec> = order.feeds.iter().map(|&i| inputs[i as usize].clone()).collect();
    let mut computed: Vec<(u32, TensorSpec)> = order
        .routes
        .iter()
        .zip(outputs)
        .filter_map(|(r, spec)| match r {
            Route::Computed(i) => Some((*i, spec)),
            Route::Passed(_) => None,
        })
        .collect();
    computed.sort_by_key(|(i, _)| *i);
    computed.dedup_by_key(|(i, _)| *i);
    let computed: Vec<TensorSpec> = computed.into_iter().map(|(_, spec)| spec).collect();
    let path = folder.join(SKELETON_FILE);
    let session = engine
        .load(ModelSource::File(&path), &fed, &computed, &SessionOptions::threads(threads))
        .map_err(|e| e.to_string())?;
    if session.inputs().len() != fed.len() || session.outputs().len() != computed.len() {
        return Err("the stage's ONNX file has other inputs or outputs than the plan".to_owned());
    }
    Ok(session)
}

/// Runs a session on arbitrary values; an error is the engine's about these values.
pub(super) fn time_session(
    session: &mut dyn Session,
    inputs: &[TensorSpec],
    feeds: &[u32],
    routes: &[Route],
) -> Result<StageTime, String> {
    let item = arbitrary_item(inputs);
    if item.len() != inputs.len() {
        return Err("the stage's inputs cannot be made up".to_owned());
    }
    let views: Vec<_> = feeds.iter().map(|&i| item[i as usize].view()).collect();
    let received = item.iter().map(|tensor| tensor.bytes().len());
    let passed = routes.iter().filter_map(|route| match route {
        Route::Passed(input) => Some(item[*input as usize].bytes().len()),
        Route::Computed(_) => None,
    });
    let caches = Caches::AsInChain { len: received.chain(passed).fold(0, usize::saturating_add) };
    let measured = timing::measure(session, &views, TIME_PER_STAGE, caches).map_err(|e| e.to_string())?;
    let Timing { seconds, half_width_seconds, mean_seconds, cpu_seconds, runs } = measured.timing;
    let (runs, peak_bytes) = (runs as u32, measured.growth);
    Ok(StageTime { seconds, half_width_seconds, mean_seconds, cpu_seconds, runs, peak_bytes })
}

/// What the threads of a stage need.
pub(super) fn setup(
    order: &StageOrder,
    session: Box<dyn Session>,
    sources: Vec<TcpStream>,
    sinks: Vec<TcpStream>,
    recorder: &Recorder,
) -> io::Result<StageSetup> {
    let codecs = order.codecs().expect("checked when the order was accepted");
    // Between two machines and within one: where any link leaves the machine, all bear checksums.
    let checked = sinks.iter().map(Checksums::for_link).collect::<io::Result<Vec<_>>>()?;
    let checksums = if checked.contains(&Checksums::On) { Checksums::On } else { Checksums::Off };
    Ok(StageSetup {
        session,
        sources,
        sinks,
        crossing: order.crossing,
        epoch: order.epoch,
        inputs: specs(&order.inputs).map_err(io::Error::other)?,
        outputs: specs(&order.outputs).map_err(io::Error::other)?,
        feeds: order.feeds.iter().map(|&i| i as usize).collect(),
        routes: order.routes.clone(),
        codecs_in: codecs.arriving,
        codec_out: codecs.begin,
        codecs_out: codecs.leaving,
        checksums,
        max_tensor_len: usize::try_from(order.max_tensor_len).unwrap_or(usize::MAX),
        recorder: recorder.clone(),
    })
}

//! Profiles that were measured before, by model, machine and engine. Called while a model is made ready.

use engine::Engine;
use graph::{Cut, Model};
use serde::{Deserialize, Serialize};
use tensor::{Tensor, TensorSpec};
use wire::Codec;
use wire::control::{CodecTime, Machine, Spec};

use super::{Profile, UnitCost, title};
use crate::coding::CodecFigures;
use crate::machine;
use crate::store::Store;

/// A profile as it is kept. Cuts are not: they follow from the model.
#[derive(Serialize, Deserialize)]
struct Kept {
    units: Vec<Unit>,
    frames: Vec<Vec<Spec>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Unit {
    seconds: f64,
    half_width_seconds: f64,
    operators: u64,
    weight_bytes: u64,
    activation_bytes: u64,
}

/// All that a profile depends on.
pub(crate) fn key(
    model: &Model,
    cuts: &[Cut],
    engine: &dyn Engine,
    threads: usize,
    item: &[Tensor],
) -> String {
    let Machine { processor, memory, system, .. } = machine::describe();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let positions: Vec<usize> = cuts.iter().map(|cut| cut.position).collect();
    let sizes: Vec<_> = item.iter().map(|tensor| tensor.shape()).collect();
    format!(
        "version {}, profile of {:?} cut at {positions:?} on {sizes:?} with {}, {threads} threads, on {processor}, {cores} cores, \
         {memory} bytes, {system}",
        env!("CARGO_PKG_VERSION"),
        model.hash(),
        title(engine)
    )
}

/// The profile that was kept, if it is one of this model.
pub(crate) fn known(store: &Store, key: &str, cuts: &[Cut], engine: &dyn Engine) -> Option<Profile> {
    let Kept { units, frames } = store.get(key)?;
    let frame = |specs: &Vec<Spec>| -> Option<Vec<TensorSpec>> {
        let specs = specs.iter().map(|spec| TensorSpec::try_from(spec).ok());
        specs.map(|spec| spec.filter(|spec| spec.fixed_shape().is_some())).collect()
    };
    let unit = |unit: &Unit| {
        let good = unit.seconds > 0.0 && unit.seconds.is_finite() && unit.half_width_seconds >= 0.0;
        good.then_some(UnitCost {
            seconds: unit.seconds,
            half_width_seconds: unit.half_width_seconds,
            operators: usize::try_from(unit.operators).ok()?,
            weight_bytes: unit.weight_bytes,
            activation_bytes: unit.activation_bytes,
        })
    };
    let units: Vec<UnitCost> = units.iter().map(unit).collect::<Option<_>>()?;
    let frames: Vec<Vec<TensorSpec>> = frames.iter().map(frame).collect::<Option<_>>()?;
    let crossing = |(frame, cut): (&Vec<TensorSpec>, &Cut)| frame.len() == cut.live.len();
    let fits = units.len() == cuts.len() + 1
        && frames.len() == cuts.len() + 2
        && frames[1..].iter().zip(cuts).all(crossing);
    fits.then(|| Profile { cuts: cuts.to_vec(), units, frames, engine: title(engine), codecs: Vec::new() })
}

/// Keeps a profile. A store that cannot be written costs time the next time, nothing else.
pub(crate) fn keep(store: &Store, key: &str, profile: &Profile) {
    let unit = |unit: &UnitCost| Unit {
        seconds: unit.seconds,
        half_width_seconds: unit.half_width_seconds,
        operators: unit.operators as u64,
        weight_bytes: unit.weight_bytes,
        activation_bytes: unit.activation_bytes,
    };
    let frames = profile.frames.iter().map(|frame| frame.iter().map(Spec::from).collect()).collect();
    let kept = Kept { units: profile.units.iter().map(unit).collect(), frames };
    if let Err(e) = store.put(key, &kept) {
        tracing::warn!("a profile could not be kept: {e}");
    }
}

/// What a codec makes of the tensors of a profile, and what of: a user's own inputs, or any.
fn codec_key(profile: &str, codec: Codec, own: bool) -> String {
    let of = if own { "inputs of the user's" } else { "any inputs" };
    format!("codec {codec} on {of}, {profile}")
}

/// What was kept of a codec for a profile with so many boundaries. Figures of an input of the user's own are as good for
/// any input, but not the other way round.
pub(crate) fn known_codec(
    store: &Store,
    profile: &str,
    codec: Codec,
    own: bool,
    boundaries: usize,
) -> Option<CodecFigures> {
    let get = |own| {
        let (bytes, time) = store.get::<(Vec<u64>, CodecTime)>(&codec_key(profile, codec, own))?;
        Some(CodecFigures { codec, bytes, own, time })
    };
    let known = get(true).or_else(|| if own { None } else { get(false) })?;
    (known.bytes.len() == boundaries && known.time.check().is_ok()).then_some(known)
}

/// Forgets what was kept of a codec for a profile.
pub(crate) fn forget_codec(store: &Store, profile: &str, codec: Codec) {
    for own in [true, false] {
        if let Err(e) = store.remove(&codec_key(profile, codec, own)) {
            tracing::warn!("figures of a codec could not be forgotten: {e}");
        }
    }
}

/// Keeps what a codec makes of the tensors of a profile.
pub(crate) fn keep_codec(store: &Store, profile: &str, figures: &CodecFigures) {
    let CodecFigures { codec, bytes, own, time } = figures;
    if let Err(e) = store.put(&codec_key(profile, *codec, *own), &(bytes, time)) {
        tracing::warn!("figures of a codec could not be kept: {e}");
    }
}

//! Whether the figures of a problem can be used at all.

use std::collections::HashSet;

use crate::error::PlanError;
use crate::{CodecCost, End, Host, Link, Options, Problem};

/// As many as the search has bits for.
const MAX_CODECS: usize = 64;

/// Figures beyond these mean nothing, and their sums and products might not be numbers.
const LARGEST: f64 = 1e18;
const LEAST: f64 = 1e-18;

/// Whether the parts of a problem belong together and every figure is in its range.
pub(crate) fn problem(problem: &Problem) -> Result<(), PlanError> {
    counts(problem)?;
    for (index, unit) in problem.units.iter().enumerate() {
        not_negative(unit.seconds, || format!("the time of unit {index}"))?;
    }
    host(&problem.dispatcher, "the dispatcher")?;
    for device in &problem.devices {
        let name = format!("device `{}`", device.name);
        let speed = device.speed;
        require((LEAST..=LARGEST).contains(&speed), speed, "between 1e-18 and 1e18", || {
            format!("the speed of {name}")
        })?;
        for (index, &seconds) in device.unit_seconds.iter().flatten().enumerate() {
            not_negative(seconds, || format!("the time of unit {index} on {name}"))?;
        }
        host(&device.host, &name)?;
    }
    for codec in &problem.codecs {
        for CodecCost { encode_seconds, decode_seconds } in
            std::iter::once(&codec.dispatcher).chain(&codec.devices)
        {
            not_negative(*encode_seconds, || format!("the encoding time of codec `{}`", codec.name))?;
            not_negative(*decode_seconds, || format!("the decoding time of codec `{}`", codec.name))?;
        }
    }
    for from in problem.ends() {
        for to in problem.ends() {
            link(problem, from, to)?;
        }
    }
    Ok(())
}

fn link(problem: &Problem, from: End, to: End) -> Result<(), PlanError> {
    let name = |end| match end {
        End::Dispatcher => "the dispatcher".to_owned(),
        End::Device(device) => format!("`{}`", problem.devices[device].name),
    };
    let of = |what: &str| format!("the {what} of the link from {} to {}", name(from), name(to));
    let Link { bandwidth, delay, frame_seconds, joules_per_byte } = problem.links.get(from, to);
    require(bandwidth >= LEAST, bandwidth, "at least 1e-18", || of("bandwidth"))?;
    not_negative(delay, || of("delay"))?;
    not_negative(frame_seconds, || of("time per frame"))?;
    not_negative(joules_per_byte, || of("energy per byte"))
}

/// Whether the figures of a user's demands can be used.
pub(crate) fn options(options: &Options) -> Result<(), PlanError> {
    if let Some(period) = options.max_period {
        not_negative(period, || "the longest period".to_owned())?;
    }
    not_negative(options.slack, || "the slack".to_owned())?;
    not_negative(options.budget, || "the budget".to_owned())
}

fn counts(problem: &Problem) -> Result<(), PlanError> {
    let Problem { units, boundaries, codecs, devices, links, media, .. } = problem;
    if units.is_empty() {
        return Err(PlanError::NoUnit);
    }
    if devices.is_empty() {
        return Err(PlanError::NoDevice);
    }
    if codecs.is_empty() {
        return Err(PlanError::NoCodec);
    }
    if codecs.len() > MAX_CODECS {
        return Err(PlanError::TooManyCodecs { found: codecs.len(), most: MAX_CODECS });
    }
    let belongs = |what: String, found: usize, wanted: usize| match found == wanted {
        true => Ok(()),
        false => Err(PlanError::Count { what, found, wanted }),
    };
    belongs("boundaries of a model".to_owned(), boundaries.len(), units.len() + 1)?;
    belongs("devices that the links join".to_owned(), links.devices(), devices.len())?;
    for codec in codecs {
        belongs(format!("boundaries of codec `{}`", codec.name), codec.bytes.len(), boundaries.len())?;
        belongs(format!("devices of codec `{}`", codec.name), codec.devices.len(), devices.len())?;
    }
    for device in devices {
        let own = device.unit_seconds.as_ref().map_or(units.len(), Vec::len);
        belongs(format!("units timed on device `{}`", device.name), own, units.len())?;
    }
    for medium in media {
        let exists = |end| match end {
            End::Dispatcher => true,
            End::Device(device) => device < devices.len(),
        };
        let mut seen = HashSet::new();
        if medium.links.iter().any(|&(from, to)| !exists(from) || !exists(to) || !seen.insert((from, to))) {
            return Err(PlanError::BadMedium { name: medium.name.clone() });
        }
    }
    Ok(())
}

fn host(host: &Host, name: &str) -> Result<(), PlanError> {
    let Host {
        bandwidth,
        seconds_per_byte,
        seconds_per_frame,
        seconds_per_tensor_byte,
        idle_watts,
        busy_watts,
    } = *host;
    require(bandwidth >= LEAST, bandwidth, "at least 1e-18", || format!("the bandwidth of {name}"))?;
    not_negative(seconds_per_byte, || format!("the time per byte of {name}"))?;
    not_negative(seconds_per_frame, || format!("the time per frame of {name}"))?;
    not_negative(seconds_per_tensor_byte, || format!("the time per byte of tensors of {name}"))?;
    not_negative(idle_watts, || format!("the idle power of {name}"))?;
    not_negative(busy_watts, || format!("the busy power of {name}"))
}

fn not_negative(value: f64, what: impl Fn() -> String) -> Result<(), PlanError> {
    let holds = value == 0.0 || (LEAST..=LARGEST).contains(&value);
    require(holds, value, "0 or between 1e-18 and 1e18", what)
}

fn require(
    holds: bool,
    value: f64,
    allowed: &'static str,
    what: impl Fn() -> String,
) -> Result<(), PlanError> {
    if holds { Ok(()) } else { Err(PlanError::BadFigure { what: what(), allowed, value }) }
}

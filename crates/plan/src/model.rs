//! What a model costs, as text: so that plans can be made, and experiments repeated, without the model and the machine
//! that timed it.
//!
//! Written by whoever measured, read by benches and experiments. It never opens a file: the caller reads the text
//! and adds the file's name to an error.

use serde::{Deserialize, Serialize};

use crate::{Boundary, Problem, Queues, Resources, Unit};

/// The units of a model and the boundaries between them.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCosts {
    /// The model's name.
    pub name: String,
    /// What timed it: engine, version, machine.
    pub timed_with: String,
    /// The units in execution order.
    pub units: Vec<Unit>,
    /// The boundaries: one more than units.
    pub boundaries: Vec<Boundary>,
    /// What a stage holds besides.
    pub queues: Queues,
}

/// A list for each figure, which keeps such files short.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    name: String,
    timed_with: String,
    queue_inputs: u64,
    queue_outputs: u64,
    unit_us: Vec<f64>,
    weight_bytes: Vec<u64>,
    activation_bytes: Vec<u64>,
    boundary_bytes: Vec<u64>,
    boundary_tensors: Vec<usize>,
}

const VERSION: u32 = 1;

/// A text that holds no costs of a model. The caller adds the file's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelCostsError {
    /// It is no TOML, or has other keys.
    #[error("{0}")]
    Text(String),
    /// It is of another time.
    #[error("its version is {0}, this reads {VERSION}")]
    Version(u32),
    /// Its lists do not belong together.
    #[error("`{list}` has {found} numbers for {units} units, not {wanted}")]
    Length {
        /// The list.
        list: &'static str,
        /// How many numbers it has.
        found: usize,
        /// How many it must have.
        wanted: usize,
        /// The units of the file.
        units: usize,
    },
}

impl ModelCosts {
    /// Reads what [`ModelCosts::to_toml`] wrote.
    ///
    /// # Errors
    /// When the text is no TOML, has other keys or lists of other lengths.
    pub fn from_toml(text: &str) -> Result<ModelCosts, ModelCostsError> {
        let file: File = toml::from_str(text).map_err(|e| ModelCostsError::Text(e.to_string()))?;
        if file.version != VERSION {
            return Err(ModelCostsError::Version(file.version));
        }
        let units = file.unit_us.len();
        for (list, found, wanted) in [
            ("weight_bytes", file.weight_bytes.len(), units),
            ("activation_bytes", file.activation_bytes.len(), units),
            ("boundary_bytes", file.boundary_bytes.len(), units + 1),
            ("boundary_tensors", file.boundary_tensors.len(), units + 1),
        ] {
            if found != wanted {
                return Err(ModelCostsError::Length { list, found, wanted, units });
            }
        }
        let unit = |i| Unit {
            seconds: file.unit_us[i] * 1e-6,
            weight_bytes: file.weight_bytes[i],
            activation_bytes: file.activation_bytes[i],
        };
        let boundary = |i| Boundary { bytes: file.boundary_bytes[i], tensors: file.boundary_tensors[i] };
        Ok(ModelCosts {
            units: (0..units).map(unit).collect(),
            boundaries: (0..=units).map(boundary).collect(),
            queues: Queues { inputs: file.queue_inputs, outputs: file.queue_outputs },
            name: file.name,
            timed_with: file.timed_with,
        })
    }

    /// The text of it; times to the nanosecond.
    pub fn to_toml(&self) -> String {
        let file = File {
            version: VERSION,
            name: self.name.clone(),
            timed_with: self.timed_with.clone(),
            queue_inputs: self.queues.inputs,
            queue_outputs: self.queues.outputs,
            unit_us: self.units.iter().map(|unit| (unit.seconds * 1e9).round() / 1e3).collect(),
            weight_bytes: self.units.iter().map(|unit| unit.weight_bytes).collect(),
            activation_bytes: self.units.iter().map(|unit| unit.activation_bytes).collect(),
            boundary_bytes: self.boundaries.iter().map(|boundary| boundary.bytes).collect(),
            boundary_tensors: self.boundaries.iter().map(|boundary| boundary.tensors).collect(),
        };
        toml::to_string(&file).expect("texts and numbers are always TOML")
    }

    /// The model on these resources, its tensors travelling as they are.
    pub fn on(&self, resources: Resources) -> Problem {
        Problem::new(self.units.clone(), self.boundaries.clone(), self.queues, resources)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelCosts {
        ModelCosts {
            name: "a \"model\"".into(),
            timed_with: "an engine".into(),
            units: vec![Unit { seconds: 1.5e-6, weight_bytes: 7, activation_bytes: 9 }; 2],
            boundaries: [4, 2, 1].map(|bytes| Boundary { bytes, tensors: 1 }).to_vec(),
            queues: Queues { inputs: 3, outputs: 2 },
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(ModelCosts::from_toml(&model().to_toml()), Ok(model()));
    }

    #[test]
    fn anything_else_is_refused() {
        let text = model().to_toml();
        let refused = |from: &str, to: &str| {
            let other = text.replace(from, to);
            assert_ne!(other, text);
            ModelCosts::from_toml(&other).unwrap_err().to_string()
        };
        assert_eq!(refused("version = 1", "version = 2"), "its version is 2, this reads 1");
        assert_eq!(refused("[4, 2, 1]", "[4, 2]"), "`boundary_bytes` has 2 numbers for 2 units, not 3");
        assert!(refused("queue_inputs", "queue_input").contains("unknown field"));
        assert!(refused("[7, 7]", "[7, -7]").contains("weight_bytes"));
    }
}

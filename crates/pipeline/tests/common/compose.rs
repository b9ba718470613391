//! Models and their stages, run one after the other in this process, and the comparison of what they give.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use engine::{Engine, ModelSource, Optimisation, Session, SessionOptions};
use graph::{Cut, Hash, Model, Route, Stage};
use tempfile::TempDir;
use tensor::{Shape, Tensor, TensorSpec};

/// How a model is run: by whom, and how freely.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub engine: &'a dyn Engine,
    pub optimisation: Optimisation,
}

impl<'a> Run<'a> {
    pub fn full(engine: &'a dyn Engine) -> Run<'a> {
        Run { engine, optimisation: Optimisation::Full }
    }

    fn load(
        self,
        source: ModelSource<'_>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Box<dyn Session> {
        let options = SessionOptions { optimisation: self.optimisation, ..SessionOptions::threads(1) };
        self.engine.load(source, inputs, outputs, &options).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A session of the whole model.
    pub fn session(self, model: &Model) -> Box<dyn Session> {
        self.load(ModelSource::Bytes(&model.to_bytes().unwrap()), model.inputs(), model.outputs())
    }

    /// What the whole model gives.
    pub fn whole(self, model: &Model, item: &[Tensor]) -> Vec<Tensor> {
        infer(&mut *self.session(model), item)
    }

    /// What one stage gives: the leaving frame for the arriving one. It is loaded from `store`, as by a node.
    pub fn stage(self, store: &Store, stage: &Stage, frame: &[Tensor]) -> Vec<Tensor> {
        let session = self.load(ModelSource::File(&store.put(stage)), &stage.fed(), &stage.computed());
        route(stage, session, frame)
    }

    /// What the model cut at these positions gives.
    pub fn stages(self, store: &Store, model: &Model, positions: &[usize], item: &[Tensor]) -> Vec<Tensor> {
        let step = |frame: Vec<Tensor>, stage: &Stage| self.stage(store, stage, &frame);
        stages(model, positions).iter().fold(item.to_vec(), step)
    }

    /// As [`Run::stages`], each stage as one message that holds its weights.
    pub fn stages_in_memory(self, model: &Model, positions: &[usize], item: &[Tensor]) -> Vec<Tensor> {
        let step = |frame: Vec<Tensor>, stage: &Stage| {
            let bytes = stage.to_bytes().unwrap();
            route(stage, self.load(ModelSource::Bytes(&bytes), &stage.fed(), &stage.computed()), &frame)
        };
        stages(model, positions).iter().fold(item.to_vec(), step)
    }

    /// What the model gives when it is cut at all of `cuts` at once. The sizes that cross are recorded in the
    /// model on the way, as a deployment does.
    pub fn measure(self, store: &Store, model: &mut Model, cuts: &[Cut], item: &[Tensor]) -> Vec<Tensor> {
        let mut shapes: HashMap<String, Shape> = HashMap::new();
        let mut frame = item.to_vec();
        for stage in stages(model, &positions(cuts)) {
            frame = self.stage(store, &stage, &frame);
            shapes.extend(stage.outputs.iter().zip(&frame).map(|(spec, t)| (spec.name.clone(), t.shape())));
        }
        model.set_shapes(&shapes);
        frame
    }
}

/// A folder like that of a node: skeletons, and each weight in a file named by its hash.
pub struct Store(TempDir);

impl Store {
    pub fn new() -> Store {
        Store(tempfile::tempdir().unwrap())
    }

    /// Writes a stage's skeleton and those of its weights that are not there. Gives the path of the skeleton.
    pub fn put(&self, stage: &Stage) -> PathBuf {
        for weight in &stage.weights {
            let path = self.0.path().join(weight.hash.file_name());
            if !path.exists() {
                fs::write(path, &weight.bytes).unwrap();
            }
        }
        let path = self.0.path().join(format!("{}.onnx", Hash::of(&stage.skeleton)));
        fs::write(&path, &stage.skeleton).unwrap();
        path
    }

    /// Flips bit 22 of the first element of a stage's first weight: the highest bit of the mantissa if it is
    /// f32, bit 6 of the third element if elements are bytes.
    pub fn corrupt(&self, stage: &Stage) {
        let weight = stage.weights.first().expect("the stage has weights of its own");
        let path = self.0.path().join(weight.hash.file_name());
        let mut bytes = fs::read(&path).unwrap();
        bytes[2] ^= 0x40;
        // Replaced, not changed: the old file may still be mapped.
        fs::remove_file(&path).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Runs a session on one item.
pub fn infer(session: &mut dyn Session, item: &[Tensor]) -> Vec<Tensor> {
    let views: Vec<_> = item.iter().map(Tensor::view).collect();
    let outputs = session.run(&views).unwrap_or_else(|e| panic!("{e}"));
    (0..session.outputs().len()).map(|i| outputs.view(i).to_tensor()).collect()
}

fn route(stage: &Stage, mut session: Box<dyn Session>, frame: &[Tensor]) -> Vec<Tensor> {
    let fed: Vec<Tensor> = stage.feeds.iter().map(|&i| frame[i].clone()).collect();
    let computed = infer(&mut *session, &fed);
    let leaving = stage.routes.iter().map(|route| match *route {
        Route::Computed(i) => computed[i].clone(),
        Route::Passed(i) => frame[i].clone(),
    });
    leaving.collect()
}

/// Simplifies a model as a deployment does, with `engine` computing its constants.
pub fn simplify(model: &mut Model, engine: &dyn Engine) {
    let mut fold = |bytes: &[u8]| {
        let constant = Model::from_bytes(bytes.to_vec()).map_err(|e| e.to_string())?;
        Ok(Run::full(engine).whole(&constant, &[]))
    };
    let report = model.simplify(&mut fold).unwrap();
    assert_eq!(report.fold_error, None);
}

/// The stages of a model that is cut at these positions.
pub fn stages(model: &Model, positions: &[usize]) -> Vec<Stage> {
    let mut ends = vec![0];
    ends.extend(positions);
    ends.push(model.operators().len());
    ends.windows(2).map(|ends| model.stage(ends[0]..ends[1]).unwrap()).collect()
}

/// The positions of all cuts.
pub fn positions(cuts: &[Cut]) -> Vec<usize> {
    cuts.iter().map(|cut| cut.position).collect()
}

/// Cuts into `count` stages of about as many operators each; into fewer where there are not enough cuts.
pub fn balanced(model: &Model, cuts: &[Cut], count: usize) -> Vec<usize> {
    let operators = model.operators().len();
    let ideal = |i: usize| operators * i / count;
    let nearest = |i| cuts.iter().map(|cut| cut.position).min_by_key(|p| p.abs_diff(ideal(i)));
    let mut positions: Vec<usize> = (1..count).filter_map(nearest).collect();
    positions.dedup();
    positions
}

/// How far two lists of outputs are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Largest difference of two elements over the largest magnitude in that output; infinite when the
    /// outputs cannot be compared: another number, type or shape, a NaN, or integers that differ.
    pub relative: f64,
    /// Whether they are the same, bit by bit.
    pub bitwise: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bitwise { f.write_str("bitwise") } else { write!(f, "{:.1e}", self.relative) }
    }
}

/// Compares outputs with those expected.
pub fn compare(expected: &[Tensor], found: &[Tensor]) -> Difference {
    let same_form = |(a, b): (&Tensor, &Tensor)| a.dtype() == b.dtype() && a.shape() == b.shape();
    if expected.len() != found.len() || !expected.iter().zip(found).all(same_form) {
        return Difference { relative: f64::INFINITY, bitwise: false };
    }
    let relative = expected.iter().zip(found).map(|(a, b)| relative(a, b)).fold(0.0, f64::max);
    let bitwise = expected.iter().zip(found).all(|(a, b)| a.bytes() == b.bytes());
    Difference { relative, bitwise }
}

fn relative(expected: &Tensor, found: &Tensor) -> f64 {
    if expected.bytes() == found.bytes() {
        return 0.0;
    }
    let (Ok(expected), Ok(found)) = (expected.as_slice::<f32>(), found.as_slice::<f32>()) else {
        return f64::INFINITY;
    };
    let largest = expected.iter().map(|&v| f64::from(v).abs()).fold(0.0, f64::max);
    let mut difference: f64 = 0.0;
    for (&a, &b) in expected.iter().zip(found) {
        let apart = (f64::from(a) - f64::from(b)).abs() / largest;
        if apart.is_nan() {
            return f64::INFINITY; // `max` would lose it
        }
        difference = difference.max(apart);
    }
    difference
}

//! A chain of stages in this process, so that what crosses each link can be looked at and changed.

use std::path::Path;

use engine::{Engine, ModelSource, OnnxRuntime, Optimisation, Rten, Session, SessionOptions};
use graph::{Model, Route, Stage};
use tensor::Tensor;

/// The engine of the library that DEFER_ONNXRUNTIME names, or else the built-in one.
#[expect(clippy::disallowed_methods, reason = "a bench is configured by its environment")]
pub(crate) fn engine() -> Box<dyn Engine> {
    match std::env::var_os("DEFER_ONNXRUNTIME") {
        Some(path) => Box::new(OnnxRuntime::load(Path::new(&path)).unwrap()),
        None => Box::new(Rten),
    }
}

/// Stages with their sessions.
pub(crate) struct Stages {
    pub(crate) stages: Vec<Stage>,
    sessions: Vec<Box<dyn Session>>,
}

impl Stages {
    /// Cuts `model` in `count` stages of about as many cuts each, where one tensor crosses, and loads all of them.
    pub(crate) fn new(model: &Model, count: usize, engine: &dyn Engine) -> Stages {
        let stages = equal_cuts(model, count);
        let load = |stage: &Stage| {
            let bytes = stage.to_bytes().unwrap();
            let options =
                SessionOptions { optimisation: Optimisation::Reproducible, ..SessionOptions::threads(1) };
            engine.load(ModelSource::Bytes(&bytes), &stage.fed(), &stage.computed(), &options).unwrap()
        };
        let sessions = stages.iter().map(load).collect();
        Stages { stages, sessions }
    }

    /// Sends an item through. `cross` has the tensors of each link between two stages in hand, by the number of the
    /// stage before it, and gives what arrives.
    pub(crate) fn run(
        &mut self,
        item: Vec<Tensor>,
        cross: &mut dyn FnMut(usize, Vec<Tensor>) -> Vec<Tensor>,
    ) -> Vec<Tensor> {
        let last = self.stages.len() - 1;
        let mut frame = item;
        for (i, (stage, session)) in self.stages.iter().zip(&mut self.sessions).enumerate() {
            let views: Vec<_> = stage.feeds.iter().map(|&feed| frame[feed].view()).collect();
            let outputs = session.run(&views).unwrap();
            let leaving = stage.routes.iter().map(|route| match *route {
                Route::Computed(output) => outputs.view(output).to_tensor(),
                Route::Passed(input) => frame[input].clone(),
            });
            let leaving = leaving.collect();
            drop(outputs);
            frame = if i == last { leaving } else { cross(i, leaving) };
        }
        frame
    }
}

/// Stages with equally many of the cuts where one tensor crosses: what a list of layers written by hand comes to.
pub(crate) fn equal_cuts(model: &Model, count: usize) -> Vec<Stage> {
    let cuts: Vec<usize> = model.cuts(1).iter().map(|cut| cut.position).collect();
    let mut positions = vec![0];
    positions.extend((1..count).map(|i| cuts[(cuts.len() + 1) * i / count - 1]));
    positions.push(model.operators().len());
    positions.windows(2).map(|range| model.stage(range[0]..range[1]).unwrap()).collect()
}

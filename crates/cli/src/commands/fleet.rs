//! The nodes of a run: started here, found, or named by a file; and deploying to them with progress shown.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use graph::Model;
use indicatif::ProgressBar;
use pipeline::{
    Accuracy, CalibrateOptions, Cluster, Layout, Measured, NodeInfo, Options, Pipeline, PrepareOptions,
    Prepared, Progress, Wanted,
};
use plan::names::listed;
use wire::control::StageFigures;

use wire::Codec;

use super::advice::{FIND_NODES, join};
use crate::failure::Hint;
use crate::flags::{Common, Engine, EngineName, Network, Nodes, Profile, host_and_port};
use crate::input::read_text;
use crate::output::progress;
use crate::places;
use crate::spawn::Spawned;

/// Nodes that are ready for a deployment.
pub(super) struct Fleet {
    cluster: Cluster,
    /// Devices and links as the user described them.
    pub(super) description: Option<plan::Cluster>,
    /// Dropped last: nodes started here end after everything that speaks to them.
    spawned: Option<Spawned>,
}

impl Fleet {
    /// Starts, finds or waits for the nodes that the flags name, else for those `wanted`.
    pub(super) fn gather(
        nodes: &Nodes,
        network: &Network,
        engine: &Engine,
        mut wanted: Wanted,
        common: &Common,
    ) -> Result<Fleet> {
        if let Some(count) = nodes.spawn {
            return Fleet::spawn(count, engine, nodes.timeout, common);
        }
        let description = nodes.cluster.as_deref().map(read_cluster).transpose()?;
        let mut config = network.config();
        if let Some(description) = &description {
            wanted = Wanted::Named(description.devices.iter().map(|d| d.name.clone()).collect());
            let addresses = description.devices.iter().filter_map(|d| d.address.as_deref());
            config.connect.extend(addresses.map(|address| host_and_port(address).to_owned()));
        }
        let bar = progress::waiting(String::new(), common.progress());
        let mut cluster = join(&config)?;
        let found = cluster.discover(&wanted, nodes.timeout, &|found| waiting(&bar, found, &wanted));
        found.map(drop).hint(FIND_NODES)?;
        cluster.check_names()?;
        bar.finish_and_clear();
        Ok(Fleet { cluster, description, spawned: None })
    }

    fn spawn(count: usize, engine: &Engine, timeout: Duration, common: &Common) -> Result<Fleet> {
        let bar = progress::waiting(String::new(), common.progress());
        let mut spawned = Spawned::start(count, engine)?;
        let mut cluster = join(spawned.network())?;
        spawned.discover(&mut cluster, timeout, &|found| waiting(&bar, found, &Wanted::Exactly(count)))?;
        bar.finish_and_clear();
        Ok(Fleet { cluster, description: None, spawned: Some(spawned) })
    }

    /// The nodes, in the order of the chain.
    pub(super) fn nodes(&self) -> &[NodeInfo] {
        self.cluster.nodes()
    }

    /// The codecs to try on a model that is planned for these nodes, or runs as a plan says.
    pub(super) fn codecs(&self, accuracy: Accuracy, layout: Option<&Layout>, profile: Profile) -> Vec<Codec> {
        let probed = self.spawned.is_none() && profile != Profile::None;
        let mut codecs = tried(accuracy, layout, layout.is_none() && (probed || self.description.is_some()));
        // Those of a layout may not stay.
        let fallbacks = layout.map(Layout::fallbacks).unwrap_or_default();
        codecs.extend(fallbacks);
        codecs
    }

    /// Refuses nodes that run another engine than the one asked for.
    pub(super) fn require_engine(&self, engine: Option<EngineName>) -> Result<()> {
        let Some(engine) = engine else { return Ok(()) };
        for node in self.nodes() {
            let runs = &node.description.engine;
            // Followed by the version.
            if runs.split(' ').next() != Some(engine.name()) {
                let (node, engine) = (&node.description.name, engine.name());
                return Err(anyhow!("the node `{node}` runs {runs}, not {engine}"))
                    .hint(format!("start that node with --engine {engine}, or leave --engine out here"));
            }
        }
        Ok(())
    }

    /// Measures the nodes and their links, where there is a choice between nodes. Those that go meanwhile are left out.
    pub(super) fn calibrate(
        &mut self,
        prepared: &Prepared,
        profile: Profile,
        cache: Option<&Path>,
        common: &Common,
    ) -> Result<Option<Measured>> {
        if profile == Profile::None || self.nodes().len() < 2 {
            return Ok(None);
        }
        let options = self.calibrating(profile, cache)?;
        let bar = progress::items(0, common.progress());
        bar.set_message("calibrating");
        let measured = pipeline::calibrate(prepared, &mut self.cluster, &options, &|done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        let measured = measured.hint_with(|| self.look())?;
        if !measured.gone.is_empty() {
            let gone = listed(measured.gone.iter().map(|name| format!("`{name}`")));
            tracing::warn!("{gone} went, or froze, while being measured: left out of the plan");
            self.description
                .iter_mut()
                .for_each(|cluster| cluster.retain(|d| !measured.gone.contains(&d.name)));
        }
        measured.unknown.iter().for_each(|unknown| tracing::warn!("{unknown}"));
        Ok(Some(measured))
    }

    /// What to do when nodes fail.
    pub(super) fn look(&self) -> String {
        self.look_or(self.messages())
    }

    /// Where more may be said of a failure.
    pub(super) fn messages(&self) -> &'static str {
        match self.spawned {
            Some(_) => "the nodes' own messages may say more",
            None => {
                "the nodes' own messages may say more; `defer nodes` shows which are there: start one that is gone \
                 again, and repeat the run"
            }
        }
    }

    /// What to do when something fails that nodes take part in: `otherwise`, unless a node that was started here is
    /// stopped.
    pub(super) fn look_or(&self, otherwise: &str) -> String {
        let stopped = self.spawned.as_ref().and_then(Spawned::advice_on_stopped);
        stopped.unwrap_or_else(|| otherwise.to_owned())
    }

    /// Whether a chain may be rehearsed: nodes that are started here are there for a look, which is not to take longer.
    pub(super) fn rehearses(&self) -> bool {
        self.spawned.is_none()
    }

    /// Keeps what the rehearsal of a chain found of its nodes for the next time that they are measured.
    pub(super) fn learn_rehearsal(
        &self,
        prepared: &Prepared,
        profile: Profile,
        cache: Option<&Path>,
        chain: &Pipeline,
    ) -> Result<()> {
        if !chain.rehearsed().is_empty() {
            pipeline::keep_rehearsal(prepared, chain, &self.calibrating(profile, cache)?);
        }
        Ok(())
    }

    /// Keeps what a run found of its nodes for the next time that they are measured.
    pub(super) fn learn(
        &self,
        prepared: &Prepared,
        profile: Profile,
        cache: Option<&Path>,
        chain: &Pipeline,
        figures: &[StageFigures],
    ) -> Result<()> {
        if profile != Profile::None {
            pipeline::keep_operation(prepared, chain, figures, &self.calibrating(profile, cache)?);
        }
        Ok(())
    }

    /// How the nodes are measured, and what was found before.
    fn calibrating(&self, profile: Profile, cache: Option<&Path>) -> Result<CalibrateOptions> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (alike, fresh) = (self.spawned.is_some(), profile == Profile::Fresh);
        Ok(CalibrateOptions { alike, store: Some(figures(cache)?), fresh, now })
    }

    /// Deploys a model over the nodes.
    pub(super) fn deploy(&self, prepared: &Prepared, options: &Options, common: &Common) -> Result<Pipeline> {
        let bar = progress::bytes(0, common.progress());
        bar.set_message("shipping");
        let shown = bar.clone();
        let hear = move |p| match p {
            Progress::Shipping { sent, total } => {
                shown.set_length(total);
                shown.set_position(sent);
            }
            Progress::Loading { loaded, total } => shown.set_message(format!("loading {loaded}/{total}")),
            Progress::Timing { round } => shown.set_message(format!("timing plan {round}")),
            Progress::Rehearsing => shown.set_message("rehearsing"),
            Progress::Measuring { .. } => {}
        };
        let options = Options { progress: Some(Arc::new(hear)), ..options.clone() };
        let deployed = Pipeline::deploy_prepared(prepared, &self.cluster, &options);
        bar.finish_and_clear();
        deployed.with_context(|| format!("cannot deploy `{}`", prepared.name))
    }
}

/// The nodes to wait for: those that a layout names, else as many as there are to be stages.
pub(super) fn wanted(layout: Option<&Layout>, stages: Option<usize>) -> Wanted {
    match layout {
        Some(layout) => Wanted::Named(layout.devices().map(str::to_owned).collect()),
        None => Wanted::AtLeast(stages.unwrap_or(1)),
    }
}

/// The codecs to try on a model: those that a plan on links that are a limit may choose from, and those that are
/// decided. Where links are no limit none is worth the time it takes to try it.
pub(super) fn tried(accuracy: Accuracy, layout: Option<&Layout>, limited: bool) -> Vec<Codec> {
    let chosen = matches!(accuracy, Accuracy::Only(_)) || limited;
    let mut codecs = if chosen { accuracy.candidates() } else { Vec::new() };
    codecs.extend(layout.into_iter().flat_map(Layout::codecs));
    codecs
}

/// Loads a model; an error says what to do.
pub(super) fn load_model(path: &Path) -> Result<Model> {
    Model::load(path)
        .with_context(|| format!("cannot load the model `{}`", path.display()))
        .hint("check the path and the file; `defer zoo resnet50 -o resnet50.onnx` makes a model to try")
}

/// The folder where figures of models, nodes and links are kept.
fn figures(cache: Option<&Path>) -> Result<PathBuf> {
    Ok(places::cache(cache)?.join("figures"))
}

/// How a model is measured on this machine: what is known is taken from before, unless it shall be known anew.
pub(super) fn measuring(profile: Profile, cache: Option<&Path>) -> Result<PrepareOptions> {
    let store = (profile != Profile::None).then(|| figures(cache)).transpose()?;
    Ok(PrepareOptions { store, fresh: profile == Profile::Fresh, ..PrepareOptions::default() })
}

/// Simplifies and measures a model on this machine, with a bar.
pub(super) fn prepare(
    model: Model,
    name: &str,
    engine: &dyn engine::Engine,
    options: &PrepareOptions,
    common: &Common,
) -> Result<Prepared> {
    let bar = progress::items(0, common.progress());
    bar.set_message("measuring");
    let prepared = Prepared::new(model, name, engine, options, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    prepared
        .with_context(|| format!("cannot make `{name}` ready"))
        .hint("the other engine may take it: --engine onnxruntime or --engine rten; `defer engine list` shows which are there")
}

/// Reads a `cluster.toml`.
pub(super) fn read_cluster(path: &Path) -> Result<plan::Cluster> {
    let shown = path.display();
    let text = read_text(path)
        .with_context(|| format!("cannot read the cluster file `{shown}`"))
        .hint("check the path; docs/cluster.md says what such a file holds")?;
    plan::Cluster::from_toml(&text)
        .with_context(|| format!("the cluster file `{shown}` is not right"))
        .hint("docs/cluster.md describes every key")
}

fn waiting(bar: &ProgressBar, found: usize, wanted: &Wanted) {
    let message = match wanted {
        Wanted::AtLeast(1) if found == 0 => "waiting for nodes: none found yet".to_owned(),
        Wanted::AtLeast(expected) if found >= *expected => format!("nodes found: {found}"),
        Wanted::AtLeast(expected) | Wanted::Exactly(expected) => {
            format!("waiting for nodes: {found} of {expected} found")
        }
        Wanted::Named(names) => {
            format!("waiting for {}: {found} of {} found", listed(names), names.len())
        }
    };
    // Where no bar is shown, as under a service manager, the log tells.
    tracing::info!("{message}");
    bar.set_message(message);
}

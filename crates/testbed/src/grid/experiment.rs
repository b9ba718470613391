//! The file of an experiment, and the runs that it asks for. Pure, but for reading the file.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::row::Key;
use crate::common;
use crate::devices::{Cluster, cluster_file};
use crate::stream::{Objective, Rule};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Experiment {
    /// Of the page.
    pub(super) title: String,
    /// What stands below it.
    #[serde(default)]
    pub(super) text: String,
    /// The engine that runs models.
    pub(super) engine: String,
    /// Runs of each kind.
    pub(super) repeats: usize,
    /// A disturbed run is repeated, up to so many attempts.
    pub(super) attempts: usize,
    /// Items before those that are measured.
    pub(super) warm_up: usize,
    /// Items that are measured.
    pub(super) items: usize,
    cluster: Vec<Cluster>,
    configuration: Vec<Configuration>,
    run: Vec<Runs>,
    #[serde(default)]
    pub(super) figure: Vec<Figure>,
}

/// How a model is run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Configuration {
    name: String,
    /// A level of accuracy or the codec of all links, instead of what is usual.
    #[serde(default)]
    pub(super) codec: Option<String>,
    #[serde(default)]
    pub(super) objective: Objective,
    /// Stages, instead of as many as are best.
    #[serde(default)]
    pub(super) stages: Option<usize>,
    /// Items in the chain at most, instead of as many as it takes; of several, each is run, and has its own name.
    #[serde(default)]
    window: Windows,
    /// The rule by which another system would place the model, instead of as it is best.
    #[serde(default)]
    pub(super) rule: Option<Rule>,
    /// Whether several devices may run the same stage, items dealt out among them.
    #[serde(default)]
    pub(super) replicas: bool,
    /// Whether each device runs the whole model by itself, all at once, instead of a chain: what they could do at most.
    #[serde(default)]
    pub(super) side_by_side: bool,
    /// Whether a run that ends with an error is a result: devices may be too small for what they are asked.
    #[serde(default)]
    pub(super) may_fail: bool,
    /// Where models are cut, with the devices in their order, instead of where it is best.
    #[serde(default)]
    pub(super) cut: Option<String>,
    /// Memory of each device, MB, instead of what the cluster says.
    #[serde(default)]
    memory_mb: Option<u64>,
    /// Items before those that are measured, and those that are, instead of as many as the experiment says.
    #[serde(default)]
    pub(super) warm_up: Option<usize>,
    #[serde(default)]
    pub(super) items: Option<usize>,
}

/// Windows of a configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged)]
enum Windows {
    #[default]
    Usual,
    One(usize),
    Several(Vec<usize>),
}

impl Windows {
    /// Each, with what it adds to the configuration's name.
    fn each(&self) -> Vec<(Option<usize>, String)> {
        match self {
            Windows::Usual => vec![(None, String::new())],
            Windows::One(window) => vec![(Some(*window), String::new())],
            Windows::Several(windows) => {
                windows.iter().map(|&window| (Some(window), format!(", window {window}"))).collect()
            }
        }
    }
}

/// All of some configurations with all of some models on all of some clusters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Runs {
    clusters: Vec<String>,
    models: Vec<String>,
    configurations: Vec<String>,
    /// Sizes of dimensions that the models leave open, as `name=size`.
    #[serde(default)]
    dims: Vec<String>,
}

/// A picture of a model's results.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub(super) enum Figure {
    /// A bar for each configuration on a cluster.
    Bars { title: String, model: String, cluster: String, value: Value },
    /// How many times as fast as another configuration one is on clusters of more and more devices.
    SpeedUp { title: String, model: String, clusters: Vec<String>, configuration: String, over: String },
    /// Latency over throughput, a point for each window of a configuration.
    Curve { title: String, model: String, cluster: String, configuration: String },
    /// A few items on their way through the chain, from a run of its own, which is traced.
    Gantt { title: String, model: String, cluster: String, configuration: String },
}

impl Figure {
    pub(super) fn title(&self) -> &str {
        match self {
            Figure::Bars { title, .. }
            | Figure::SpeedUp { title, .. }
            | Figure::Curve { title, .. }
            | Figure::Gantt { title, .. } => title,
        }
    }

    /// Whether all that it shows is run.
    fn is_of(&self, cells: &[Cell<'_>]) -> bool {
        let run = |cluster: &str, model: &str, name: Option<&str>| {
            let mut here = cells.iter().filter(|cell| cell.cluster.name == cluster && cell.model == model);
            here.any(|cell| name.is_none_or(|name| cell.configuration.name == name))
        };
        match self {
            Figure::Bars { model, cluster, .. } => run(cluster, model, None),
            Figure::Curve { model, cluster, configuration, .. }
            | Figure::Gantt { model, cluster, configuration, .. } => run(cluster, model, Some(configuration)),
            Figure::SpeedUp { model, clusters, configuration, over, .. } => {
                let both = |cluster: &String| {
                    [configuration, over].into_iter().all(|name| run(cluster, model, Some(name)))
                };
                clusters.iter().all(both)
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Value {
    Rate,
    /// Modelled, of an item and all nodes in use.
    Joules,
    /// The same, of a node.
    JoulesPerNode,
}

/// One run.
pub(super) struct Cell<'a> {
    /// With the memory that the configuration leaves its devices.
    pub(super) cluster: Cluster,
    pub(super) model: &'a str,
    pub(super) dims: &'a [String],
    pub(super) configuration: &'a Configuration,
    /// Of the configuration, the one that this is.
    pub(super) window: Option<usize>,
    /// What tells it from the configuration's other windows.
    suffix: String,
    pub(super) repeat: usize,
}

impl Cell<'_> {
    pub(super) fn key(&self) -> Key {
        Key {
            cluster: self.cluster.name.clone(),
            model: self.model.to_owned(),
            configuration: format!("{}{}", self.configuration.name, self.suffix),
            repeat: self.repeat,
        }
    }
}

/// What is there more than once.
fn twice<T: Eq + Hash + Clone>(mut all: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = HashSet::new();
    all.find(|one| !seen.insert(one.clone()))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key { cluster, model, configuration, repeat } = self;
        write!(f, "{cluster}: {model}, {configuration}, {repeat}")
    }
}

impl Experiment {
    /// # Errors
    /// When it is none, or asks for what is not there.
    pub(crate) fn read(path: &Path) -> Result<Experiment> {
        let experiment: Experiment = common::read(path)?;
        common::check_items(path, experiment.warm_up, experiment.items)?;
        let shown = path.display();
        ensure!(experiment.repeats >= 1 && experiment.attempts >= 1, "`{shown}` asks for no runs");
        ensure!(
            experiment.repeats <= common::MOST_REPEATS,
            "`{shown}` asks for {} repeats, {} are the most",
            experiment.repeats,
            common::MOST_REPEATS
        );
        let clusters = experiment.cluster.iter().map(|cluster| &*cluster.name);
        let configurations = experiment.configuration.iter().map(|configuration| &*configuration.name);
        for (kind, twice) in [("cluster", twice(clusters)), ("configuration", twice(configurations))] {
            if let Some(name) = twice {
                bail!("`{shown}` has two descriptions of the {kind} `{name}`");
            }
        }
        for configuration in &experiment.configuration {
            let (warm_up, items) = experiment.items(configuration);
            common::check_items(path, warm_up, items)?;
            let Configuration { name, rule, cut, stages, objective, replicas, .. } = configuration;
            ensure!(
                rule.is_none() || (cut.is_none() && stages.is_none() && *objective == Objective::Throughput),
                "`{shown}`: a rule decides it all in `{name}`: no cuts, stages or objective beside it"
            );
            ensure!(
                !replicas || (rule.is_none() && cut.is_none() && !configuration.side_by_side),
                "`{shown}`: `{name}` has replicas: no rule, cuts or devices side by side beside them"
            );
            ensure!(
                !configuration.side_by_side || (rule.is_none() && cut.is_none() && stages.is_none()),
                "`{shown}`: devices side by side have no chain in `{name}`: no rule, cuts or stages beside it"
            );
            let windows = configuration.window.each();
            ensure!(
                !windows.is_empty() && windows.iter().all(|(window, _)| *window != Some(0)),
                "`{shown}`: a window of `{name}` holds no item"
            );
        }
        for cluster in &experiment.cluster {
            cluster_file(cluster).with_context(|| format!("`{shown}`"))?;
        }
        let cells = experiment.cells().with_context(|| format!("`{shown}`"))?;
        ensure!(!cells.is_empty(), "`{shown}` asks for no runs");
        if let Some(key) = twice(cells.iter().map(Cell::key)) {
            bail!("`{shown}` asks for the run {key} twice: give one of the two another name");
        }
        for Cell { cluster, configuration, .. } in &cells {
            // With the memory that the configuration leaves its devices.
            cluster_file(cluster).with_context(|| format!("`{shown}`: `{}`", configuration.name))?;
            ensure!(
                !configuration.side_by_side || cluster.schedule.is_empty(),
                "`{shown}`: devices side by side are in runs of their own, of which none has the schedule of `{}`",
                cluster.name
            );
        }
        for figure in &experiment.figure {
            ensure!(figure.is_of(&cells), "`{shown}`: the figure `{}` shows what is not run", figure.title());
        }
        drop(cells);
        Ok(experiment)
    }

    /// Whether it asks for a configuration of a model on a cluster.
    pub(crate) fn runs(&self, cluster: &str, model: &str, configuration: &str) -> bool {
        let of = |cell: &Cell<'_>| {
            (&*cell.cluster.name, cell.model, &*cell.configuration.name) == (cluster, model, configuration)
        };
        self.cells().is_ok_and(|cells| cells.iter().any(of))
    }

    /// Items before those that are measured in runs of a configuration, and those that are.
    pub(super) fn items(&self, configuration: &Configuration) -> (usize, usize) {
        (configuration.warm_up.unwrap_or(self.warm_up), configuration.items.unwrap_or(self.items))
    }

    /// So many devices are in a cluster.
    pub(super) fn devices(&self, cluster: &str) -> Option<usize> {
        self.cluster.iter().find(|known| known.name == cluster).map(|known| known.devices.len())
    }

    /// All runs in their order: cluster after cluster, in rounds over models and configurations.
    ///
    /// # Errors
    /// For names of what is not described.
    pub(super) fn cells(&self) -> Result<Vec<Cell<'_>>> {
        let mut cells = Vec::new();
        for run in &self.run {
            for cluster in &run.clusters {
                let cluster = self.cluster.iter().find(|known| known.name == *cluster);
                let cluster =
                    cluster.with_context(|| format!("there is no cluster among {:?}", run.clusters))?;
                for repeat in 0..self.repeats {
                    for model in &run.models {
                        let dims = &*run.dims;
                        for name in &run.configurations {
                            let configuration = self.configuration(name)?;
                            for (window, suffix) in configuration.window.each() {
                                let cluster = configuration.limited(cluster);
                                cells.push(Cell {
                                    cluster,
                                    model,
                                    dims,
                                    configuration,
                                    window,
                                    suffix,
                                    repeat,
                                });
                            }
                        }
                    }
                }
            }
        }
        Ok(cells)
    }

    /// The run that a figure takes besides those that are measured, if it takes one.
    ///
    /// # Errors
    /// For names of what is not described.
    pub(super) fn traced(&self, figure: &Figure) -> Result<Option<Cell<'_>>> {
        let Figure::Gantt { model, cluster, configuration, .. } = figure else { return Ok(None) };
        let is = |cell: &Cell<'_>| {
            (&*cell.cluster.name, cell.model, &*cell.configuration.name) == (cluster, model, configuration)
        };
        Ok(self.cells()?.into_iter().find(is))
    }

    /// What runs of a configuration are called, in the order of its windows.
    pub(super) fn names(&self, configuration: &str) -> Vec<String> {
        let windows = self.configuration(configuration).map(|known| known.window.each()).unwrap_or_default();
        windows.into_iter().map(|(_, suffix)| format!("{configuration}{suffix}")).collect()
    }

    fn configuration(&self, name: &str) -> Result<&Configuration> {
        let found = self.configuration.iter().find(|configuration| configuration.name == name);
        found.with_context(|| format!("there is no configuration `{name}`"))
    }
}

impl Configuration {
    /// A cluster whose devices have no more memory than this leaves them.
    fn limited(&self, cluster: &Cluster) -> Cluster {
        let mut cluster = cluster.clone();
        if self.memory_mb.is_some() {
            cluster.devices.iter_mut().for_each(|device| device.memory_mb = self.memory_mb);
        }
        cluster
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        title = "Two"
        engine = "rten"
        repeats = 2
        attempts = 1
        warm_up = 4
        items = 8
        cluster = [{ name = "one", devices = [{ quota = 0.5, idle_watts = 1, busy_watts = 2 }] }]
        configuration = [{ name = "plain" }, { name = "small", codec = "near", memory_mb = 64, window = 1 }]
        run = [{ clusters = ["one"], models = ["a", "b"], configurations = ["plain", "small"] }]
        figure = [{ kind = "speed-up", title = "F", model = "a", clusters = ["one"], configuration = "small", over = "plain" }]
    "#;

    fn read(text: &str) -> Result<Experiment> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("version = 1\n{text}")).unwrap();
        Experiment::read(file.path())
    }

    #[test]
    fn runs_come_in_rounds() {
        let experiment = read(TEXT).unwrap();
        let cells = experiment.cells().unwrap();
        let keys: Vec<String> = cells.iter().map(|cell| cell.key().to_string()).collect();
        assert_eq!(keys.len(), 8);
        assert_eq!(keys[..3], ["one: a, plain, 0", "one: a, small, 0", "one: b, plain, 0"]);
        assert_eq!(keys[4], "one: a, plain, 1");
        let memory = |cell: &Cell<'_>| cell.cluster.devices[0].memory_mb;
        assert_eq!((memory(&cells[0]), memory(&cells[1])), (None, Some(64)));
        assert!(cells.iter().all(|cell| cell.dims.is_empty()));
        let open = read(&TEXT.replace("models = [", "dims = [\"sequence=128\"], models = [")).unwrap();
        assert!(open.cells().unwrap().iter().all(|cell| cell.dims == ["sequence=128"]));
    }

    #[test]
    fn each_window_is_run() {
        let text = TEXT.replace("window = 1", "window = [2, 8]");
        let experiment = read(&text).unwrap();
        let cells = experiment.cells().unwrap();
        let keys: Vec<String> = cells.iter().map(|cell| cell.key().to_string()).collect();
        assert_eq!(
            keys[..3],
            ["one: a, plain, 0", "one: a, small, window 2, 0", "one: a, small, window 8, 0"]
        );
        assert_eq!((cells[0].window, cells[1].window, cells[2].window), (None, Some(2), Some(8)));
        assert_eq!(experiment.names("small"), ["small, window 2", "small, window 8"]);
    }

    const GANTT: &str =
        r#"{ kind = "gantt", title = "G", model = "b", cluster = "one", configuration = "small" }"#;

    /// The figure of the text.
    fn figure(text: &str) -> String {
        let begin = text.find("{ kind").unwrap();
        text[begin..=begin + text[begin..].find('}').unwrap()].to_owned()
    }

    #[test]
    fn a_gantt_picture_takes_a_run() {
        let text = TEXT.replace(&figure(TEXT), GANTT);
        let experiment = read(&text).unwrap();
        let cell = experiment.traced(&experiment.figure[0]).unwrap().unwrap();
        assert_eq!(cell.key().to_string(), "one: b, small, 0");
        let experiment = read(TEXT).unwrap();
        assert!(experiment.traced(&experiment.figure[0]).unwrap().is_none());
    }

    const KILLS: &str = "schedule = [{ at_s = 3, device = 2, fault = 'kill' }]";

    #[test]
    fn what_happens_meanwhile_is_of_one_run() {
        let with = |text: &str| {
            let (from, kills) = ("busy_watts = 2 }]", KILLS.replace("device = 2", "device = 1"));
            read(&text.replace(from, &format!("{from}, {kills}")))
        };
        assert_eq!(with(TEXT).unwrap().cells().unwrap()[0].cluster.schedule.len(), 1);
        let error = with(&TEXT.replace("window = 1", "side_by_side = true")).unwrap_err().to_string();
        assert!(error.contains("none has the schedule of `one`"), "{error}");
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for (from, to, message) in [
            ("\"plain\", \"small\"]", "\"large\"]", "no configuration `large`"),
            ("clusters = [\"one\"]", "clusters = [\"two\"]", "no cluster among [\"two\"]"),
            ("items = 8", "items = 1", "two to measure"),
            ("repeats = 2", "repeats = 0", "no runs"),
            ("repeats = 2", "repeats = 100000000000", "1000 are the most"),
            ("items = 8", "items = 100000000000", "1000000 are the most"),
            ("models = [\"a\", \"b\"]", "models = []", "no runs"),
            ("models = [\"a\", \"b\"]", "models = [\"a\", \"a\"]", "asks for the run one: a, plain, 0 twice"),
            ("name = \"small\"", "name = \"plain\"", "two descriptions of the configuration `plain`"),
            ("name = \"one\"", "name = \"../one\"", "`../one` is no name for a cluster"),
            ("memory_mb = 64", "memory_mb = 0", "0 MB of memory"),
            ("window = 1", "windows = 1", "unknown field"),
            ("window = 1", "window = [1, 0]", "holds no item"),
            ("window = 1", "window = []", "holds no item"),
            ("window = 1", "rule = \"equals\"", "unknown variant"),
            ("window = 1", "rule = \"equal\", stages = 2", "a rule decides it all in `small`"),
            ("window = 1", "side_by_side = true, stages = 2", "no chain in `small`"),
            ("window = 1", "replicas = true, rule = \"equal\"", "`small` has replicas: no rule"),
            ("over = \"plain\"", "over = \"plane\"", "the figure `F` shows what is not run"),
            ("title = \"F\", model = \"a\"", "title = \"F\", model = \"c\"", "shows what is not run"),
            (&figure(TEXT), &GANTT.replace("small", "large"), "the figure `G` shows what is not run"),
            ("quota = 0.5", "quota = 5.0", "no share of a core"),
            (
                "busy_watts = 2 }]",
                &format!("busy_watts = 2 }}], {KILLS}"),
                "entry 1 of the schedule (at 3 s): there is no",
            ),
        ] {
            let error = format!("{:#}", read(&TEXT.replace(from, to)).unwrap_err());
            assert!(error.contains(message), "{to}: {error}");
        }
    }
}

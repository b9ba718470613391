//! Flags that several commands share, and how their values are read.

mod agreement;
mod goal;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use pipeline::{Accuracy, NetworkConfig, SplitOptions};
use plan::Rule;
use tensor::{Dim, TensorSpec};

use crate::failure::Hint;
use crate::output::answer::Classes;
use crate::output::progress::Visibility;
use crate::places;
use crate::preprocess::{self, Channels, Filter, Labels, Layout, PixelType, Resize, Settings};

pub(crate) use agreement::Agreement;
pub(crate) use goal::Goal;

/// Flags of every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Print results as JSON, one document a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress bars
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Log what happens to stderr; twice for more
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl Common {
    /// Whether progress bars are shown.
    pub(crate) fn progress(&self) -> Visibility {
        if self.json || self.quiet { Visibility::Hidden } else { Visibility::Terminal }
    }
}

/// Which engine runs models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    /// Built in
    Rten,
    /// ONNX Runtime, loaded from its library: 1.5 to 5 times faster
    Onnxruntime,
}

impl EngineName {
    /// What the engine calls itself.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EngineName::Rten => "rten",
            EngineName::Onnxruntime => "onnxruntime",
        }
    }
}

/// Whether nodes and links are measured before a plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// What is not known from before
    Cached,
    /// Everything, again
    Fresh,
    /// The model on this machine only: nodes count as equally fast, links as no limit
    None,
}

/// The group of those that name none.
const DEFAULT_GROUP: &str = "default";

/// How this process meets the others.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Network")]
pub(crate) struct Network {
    /// Find the others through this address as well; several times for several
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) connect: Vec<String>,
    /// Only members of the same group see each other
    #[arg(long, value_name = "NAME", default_value = DEFAULT_GROUP)]
    pub(crate) group: String,
    /// Speak to other machines although nothing is encrypted and nobody has to show who they are
    #[arg(long)]
    pub(crate) insecure: bool,
}

impl Network {
    /// Whether a flag says anything of it.
    pub(crate) fn is_given(&self) -> bool {
        self.insecure || !self.connect.is_empty() || self.group != DEFAULT_GROUP
    }

    /// How a command that starts nothing others connect to takes part.
    pub(crate) fn config(&self) -> NetworkConfig {
        self.listening((self.any_address(), 0).into())
    }

    /// How a node on `listen` takes part.
    pub(crate) fn listening(&self, listen: SocketAddr) -> NetworkConfig {
        NetworkConfig {
            group: self.group.clone(),
            listen,
            connect: self.connect.iter().map(|address| host_and_port(address).to_owned()).collect(),
            scout: true,
            insecure: self.insecure,
        }
    }

    /// Where to listen when nothing is said: on this machine only, unless others are trusted.
    pub(crate) fn any_address(&self) -> IpAddr {
        if self.insecure { Ipv4Addr::UNSPECIFIED.into() } else { Ipv4Addr::LOCALHOST.into() }
    }
}

/// Control addresses may be written as the control plane's endpoints: `tcp/10.0.0.7:7447`.
pub(crate) fn host_and_port(address: &str) -> &str {
    address.strip_prefix("tcp/").unwrap_or(address)
}

impl Engine {
    /// The engine that the flags choose.
    pub(crate) fn choose(&self) -> Result<Arc<dyn engine::Engine>> {
        let search = places::libraries(self.onnxruntime.as_deref(), self.cache.as_deref());
        let advice = "`defer engine list` shows what is there, `defer engine install` fetches ONNX Runtime";
        Ok(match self.engine {
            Some(EngineName::Rten) => Arc::new(engine::Rten),
            Some(EngineName::Onnxruntime) => Arc::new(engine::OnnxRuntime::find(&search).hint(advice)?),
            None => engine::preferred(&search).hint(advice)?.into(),
        })
    }

    /// The flags again, for another process.
    pub(crate) fn as_arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        if let Some(engine) = self.engine {
            arguments.extend(["--engine".into(), engine.name().into()]);
        }
        for (flag, path) in [("--onnxruntime", &self.onnxruntime), ("--cache", &self.cache)] {
            if let Some(path) = path {
                arguments.extend([flag.into(), path.into()]);
            }
        }
        arguments
    }
}

impl Cuts {
    /// The number of stages asked for, if any.
    pub(crate) fn stages(&self) -> Option<usize> {
        self.stages.or((!self.cut.is_empty()).then_some(self.cut.len() + 1))
    }

    /// What the planner is asked for.
    pub(crate) fn split(&self) -> SplitOptions {
        SplitOptions {
            stages: self.stages,
            cuts: self.cut.clone(),
            keep_order: self.keep_order,
            rule: self.rule.map(Rule::from),
            ..SplitOptions::default()
        }
    }
}

/// Where models run.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Nodes")]
pub(crate) struct Nodes {
    /// Start N compute nodes on this machine, and end them afterwards
    #[arg(long, value_name = "N", value_parser = spawned, conflicts_with = "cluster")]
    pub(crate) spawn: Option<usize>,
    /// The nodes and links in this file, instead of the nodes that are found
    #[arg(long, value_name = "FILE")]
    pub(crate) cluster: Option<PathBuf>,
    /// Give up when the nodes are not there after this time
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub(crate) timeout: Duration,
    /// Whether to time parts of the model on the nodes, probe the links between them and rehearse a chain that moves
    /// much before its first item, or take what is known; what the cluster file says is taken as it is
    #[arg(long, value_name = "WHEN", default_value = "cached")]
    pub(crate) profile: Profile,
}

/// Which engine runs, and where it is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Engine")]
pub(crate) struct Engine {
    /// The engine [default: ONNX Runtime where its library is found, else rten]
    #[arg(long, value_name = "NAME")]
    pub(crate) engine: Option<EngineName>,
    /// The ONNX Runtime library, or a folder that holds it
    #[arg(long, value_name = "PATH")]
    pub(crate) onnxruntime: Option<PathBuf>,
    /// The folder for libraries and weights [default: $DEFER_CACHE, else `defer` in the user's cache]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) cache: Option<PathBuf>,
}

/// How tensors travel.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Links")]
pub(crate) struct Links {
    /// What links may lose of the values they carry: exact (no bit), near (16 bits are kept of each), relaxed (256
    /// steps from the least to the largest) let the plan choose a codec for each link; or one codec for all of them:
    /// raw, or f16, bf16, u8 or u8-axisN, then delta, bitmap or shuffle, then lz4, zstd-5 or zstd1, as in
    /// bf16+shuffle+zstd1; or what the DEFER paper has: json, json-lz4, zfp-tol, defer-zfp-lz4. A codec by name is used
    /// as it is; what relaxed chooses is tried on your inputs first
    #[arg(long, value_name = "LEVEL|NAME", default_value = "near")]
    pub(crate) codec: Accuracy,
}

/// Where a model is cut.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cuts")]
pub(crate) struct Cuts {
    /// Cut into N stages [default: one for each node]
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "cut")]
    pub(crate) stages: Option<usize>,
    /// Cut after these tensors; `defer plan MODEL --cuts` lists them
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) cut: Vec<String>,
    /// Chain the devices as the cluster file lists them [default: in the best order]
    #[arg(long, requires = "cluster")]
    pub(crate) keep_order: bool,
    /// Place the model by the rule of another system, on all devices and with the first codec of a level, to see what
    /// the best plan is worth
    #[arg(long, value_name = "NAME", conflicts_with_all = ["stages", "cut", "keep_order"])]
    #[arg(conflicts_with_all = ["objective", "min_throughput", "max_devices"])]
    pub(crate) rule: Option<RuleName>,
}

/// The rules by which other systems place a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuleName {
    /// As many units on each device, in their order (DEFER)
    Equal,
    /// Computing time in proportion to speed, the fastest first (cake)
    Speed,
    /// Units in proportion to memory, the most first (exo)
    Memory,
    /// The same computing time for each, as if devices were equal (Coral)
    Balanced,
}

impl From<RuleName> for Rule {
    fn from(name: RuleName) -> Rule {
        match name {
            RuleName::Equal => Rule::EqualUnits,
            RuleName::Speed => Rule::SpeedProportional,
            RuleName::Memory => Rule::MemoryProportional,
            RuleName::Balanced => Rule::ComputeBalanced,
        }
    }
}

/// How a photo becomes a tensor, and outputs become labels; these win over the file beside the model.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Photos and labels")]
pub(crate) struct Photos {
    /// The file with these settings [default: MODEL with the ending .toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) photo_settings: Option<PathBuf>,
    /// Height and width of the model's input
    #[arg(long, value_name = "HxW", value_parser = size)]
    size: Option<[u32; 2]>,
    /// How a photo gets that size
    #[arg(long)]
    resize: Option<Resize>,
    /// Pixels of the shorter side before the centre is cut out
    #[arg(long, value_name = "PIXELS")]
    shorter_side: Option<u32>,
    /// The filter that resizes
    #[arg(long)]
    filter: Option<Filter>,
    /// The order of the dimensions
    #[arg(long, ignore_case = true)]
    layout: Option<Layout>,
    /// The channels and their order
    #[arg(long, ignore_case = true)]
    channels: Option<Channels>,
    /// Subtracted from pixels of 0 to 255: one number, or one for each channel
    #[arg(long, value_name = "M,...", value_delimiter = ',', allow_hyphen_values = true)]
    mean: Vec<f32>,
    /// What the difference is divided by: one number, or one for each channel
    #[arg(long, value_name = "S,...", value_delimiter = ',')]
    std: Vec<f32>,
    /// The element type, such as f32 [default: the model's]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<PixelType>,
    /// Class names: a JSON list, or one name a line
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Whether the outputs are logits, of which the softmax is taken
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    softmax: Option<bool>,
}

impl Photos {
    /// The flags over the settings file of `model`, if there is one.
    pub(crate) fn settings(&self, model: &Path) -> Result<Settings> {
        let file = match &self.photo_settings {
            Some(path) => Settings::read(path)?,
            None => match preprocess::beside(model) {
                path if path.exists() => Settings::read(&path)
                    .hint("correct the file, or give --photo-settings another one; models/ has examples")?,
                _ => Settings::default(),
            },
        };
        let some = |values: &[f32]| (!values.is_empty()).then(|| values.to_vec());
        let flags = Settings {
            size: self.size,
            resize: self.resize,
            shorter_side: self.shorter_side,
            filter: self.filter,
            layout: self.layout,
            channels: self.channels,
            mean: some(&self.mean),
            std: some(&self.std),
            dtype: self.dtype,
            labels: self.labels.clone(),
            softmax: self.softmax,
            ..Settings::default()
        };
        Ok(flags.or(file))
    }
}

/// How outputs are read as classes; `None` when nothing says that they are classes.
pub(crate) fn classes(settings: &Settings, outputs: &[TensorSpec]) -> Result<Option<Classes>> {
    if settings.labels.is_none() && settings.softmax.is_none() {
        return Ok(None);
    }
    let labels = settings.labels.as_deref().map(Labels::read).transpose()?;
    if let (Some(labels), Some(path), Some(output)) = (&labels, &settings.labels, outputs.first())
        && let Some(classes) = classes_of(output)
    {
        let (names, path) = (labels.0.len(), path.display());
        ensure!(
            names == classes,
            "the labels `{path}` are {names} names, but the model's output `{}` has {classes} classes",
            output.name
        );
    }
    Ok(Some(Classes { labels, softmax: settings.softmax.unwrap_or(false) }))
}

/// A number above zero.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("not a number".to_owned()),
    }
}

/// Items that are listed before the first is made.
pub(crate) fn items(text: &str) -> Result<usize, String> {
    match positive(text)? {
        count if count <= 10_000_000 => Ok(count),
        _ => Err("10 million at most; --repeat takes them several times".to_owned()),
    }
}

/// How many classes an output has a score for, where its sizes say that it has one for each: those before the last are 1,
/// but for the first of them, which may be a batch of any size.
fn classes_of(output: &TensorSpec) -> Option<usize> {
    let (last, outer) = output.dims.as_ref()?.split_last()?;
    let single = |(i, dim): (usize, &Dim)| match dim {
        Dim::Fixed(size) => *size == 1,
        Dim::Symbol(_) | Dim::Unknown => i == 0,
    };
    match last {
        Dim::Fixed(classes) if *classes > 1 && outer.iter().enumerate().all(single) => Some(*classes),
        _ => None,
    }
}

/// Items in flight: a number above zero, within reason, because the inputs of all of them are kept in memory.
pub(crate) fn window(text: &str) -> Result<usize, String> {
    at_most(65_536, text)
}

/// Threads of an engine, which starts them all at once: as many as the largest machines have cores.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    at_most(1024, text)
}

/// Nodes started on one machine: each is a process with an engine of its own.
fn spawned(text: &str) -> Result<usize, String> {
    at_most(64, text)
}

fn at_most(max: usize, text: &str) -> Result<usize, String> {
    positive(text).and_then(|n| if n <= max { Ok(n) } else { Err(format!("at most {max}")) })
}

/// Bytes: `512MB`, `1.5GiB`, `4096`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("`{unit}` is no unit of memory; 512MB and 2GiB are sizes")),
    };
    let value = number.parse::<f64>().map_err(|_| "a size is a number and a unit: 512MB, 2GiB".to_owned())?;
    let bytes = value * factor;
    match bytes >= 1.0 && bytes < u64::MAX as f64 {
        true => Ok(bytes as u64),
        false => Err("a size is at least one byte".to_owned()),
    }
}

/// A time: `10s`, `500ms`, `2m`; seconds without a unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" | "min" => 60.0,
        _ => return Err(format!("`{unit}` is no unit of time; 10s, 500ms and 2m are times")),
    };
    let value = number.parse::<f64>().map_err(|_| "a time is a number and a unit: 10s".to_owned())?;
    Duration::try_from_secs_f64(value * factor).map_err(|error| error.to_string())
}

/// `NAME=SIZE` of a symbolic dimension.
pub(crate) fn dimension(text: &str) -> Result<(String, usize), String> {
    let (name, size) = text.rsplit_once('=').ok_or("a size is given as NAME=SIZE: batch=1")?;
    Ok((name.to_owned(), positive(size)?))
}

fn size(text: &str) -> Result<[u32; 2], String> {
    let wrong = || "a size is HEIGHTxWIDTH: 224x224".to_owned();
    let (height, width) = text.split_once('x').ok_or_else(wrong)?;
    Ok([height.parse().map_err(|_| wrong())?, width.parse().map_err(|_| wrong())?])
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_of_classes_are_told_by_their_sizes() {
        use tensor::DType;
        let symbol = |name: &str| Dim::Symbol(name.into());
        for (dims, expected) in [
            (vec![Dim::Fixed(1), Dim::Fixed(10)], Some(10)),
            (vec![Dim::Fixed(10)], Some(10)),
            (vec![symbol("batch"), Dim::Fixed(10)], Some(10)),
            (vec![Dim::Unknown, Dim::Fixed(1), Dim::Fixed(10)], Some(10)),
            // What has its classes elsewhere, and boxes.
            (vec![Dim::Fixed(1), Dim::Fixed(1000), Dim::Fixed(1), Dim::Fixed(1)], None),
            (vec![Dim::Fixed(1), symbol("boxes"), Dim::Fixed(4)], None),
            (vec![Dim::Fixed(1), Dim::Fixed(1)], None),
            (vec![Dim::Fixed(1), symbol("classes")], None),
            (vec![], None),
        ] {
            let output = TensorSpec { name: "y".into(), dtype: DType::F32, dims: Some(dims) };
            assert_eq!(classes_of(&output), expected, "{output:?}");
        }
        assert_eq!(classes_of(&TensorSpec { name: "y".into(), dtype: DType::F32, dims: None }), None);
    }

    #[test]
    fn sizes_and_times() {
        for (text, expected) in [
            ("4096", Some(4096)),
            ("512MB", Some(512_000_000)),
            ("1.5 GiB", Some(1_610_612_736)),
            ("0", None),
            ("2TX", None),
            ("-1", None),
            ("1e30", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
        for (text, expected) in
            [("10s", Some(10_000)), ("1.5", Some(1500)), ("20ms", Some(20)), ("2m", Some(120_000))]
        {
            assert_eq!(duration(text).ok().map(|d| d.as_millis()), expected, "{text}");
        }
        assert!(duration("1h").is_err());
        assert_eq!(dimension("a=b=3"), Ok(("a=b".into(), 3)));
        assert!(dimension("a").is_err() && dimension("a=0").is_err());
        assert_eq!(
            (window("65536"), window("0").is_err(), window("65537").is_err()),
            (Ok(65_536), true, true)
        );
        assert_eq!((threads("1024"), threads("1025")), (Ok(1024), Err("at most 1024".to_owned())));
        assert_eq!((spawned("64"), spawned("65")), (Ok(64), Err("at most 64".to_owned())));
        assert_eq!(size("3x5"), Ok([3, 5]));
        assert!(size("3").is_err());
    }
}

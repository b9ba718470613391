//! The TOML file beside a model, and the same settings from flags.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use image::imageops::FilterType;
use serde::Deserialize;
use tensor::DType;

use crate::input::read_text;

/// The version of the file format.
const VERSION: u32 = 1;

/// What is said about photos and results; whatever is `None` is left open.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) version: Option<u32>,
    /// Height and width of the model's input.
    pub(crate) size: Option<[u32; 2]>,
    pub(crate) resize: Option<Resize>,
    pub(crate) shorter_side: Option<u32>,
    pub(crate) filter: Option<Filter>,
    pub(crate) layout: Option<Layout>,
    pub(crate) channels: Option<Channels>,
    pub(crate) mean: Option<Vec<f32>>,
    pub(crate) std: Option<Vec<f32>>,
    pub(crate) dtype: Option<PixelType>,
    /// A file with class names: a JSON list, or one name a line. Relative to the settings' own file.
    pub(crate) labels: Option<PathBuf>,
    /// Whether outputs are logits, whose softmax is the confidence.
    pub(crate) softmax: Option<bool>,
}

/// How a photo gets the model's size.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Resize {
    /// Resize by the shorter side, then cut out the centre
    Crop,
    /// Squeeze the whole photo
    Plain,
}

/// The filter that resizes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Filter {
    /// Linear, widened when shrinking (what PIL and torchvision call bilinear with antialiasing)
    Triangle,
    /// Lanczos with three lobes
    Lanczos3,
}

/// The order of a tensor's dimensions.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Layout {
    /// Batch, channel, height, width
    #[value(name = "NCHW")]
    Nchw,
    /// Batch, height, width, channel
    #[value(name = "NHWC")]
    Nhwc,
}

/// Which channels, in which order.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
pub(crate) enum Channels {
    /// Red, green, blue
    #[serde(rename = "RGB")]
    #[value(name = "RGB")]
    Rgb,
    /// Blue, green, red
    #[serde(rename = "BGR")]
    #[value(name = "BGR")]
    Bgr,
    /// One channel of brightness
    #[serde(rename = "gray")]
    Gray,
}

/// An element type, by its name in files and flags.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(crate) struct PixelType(pub(crate) DType);

/// Class names, in the order of the model's outputs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Labels(pub(crate) Vec<String>);

/// The settings file that belongs to a model: the same name with the ending `.toml`.
pub(crate) fn beside(model: &Path) -> PathBuf {
    model.with_extension("toml")
}

impl Settings {
    /// Reads a settings file.
    pub(crate) fn read(path: &Path) -> Result<Settings> {
        let text = read_text(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let mut settings: Settings =
            toml::from_str(&text).with_context(|| format!("`{}` is not right", path.display()))?;
        match settings.version {
            Some(VERSION) => {}
            Some(other) => bail!("`{}` has version {other}; this `defer` reads {VERSION}", path.display()),
            None => bail!("`{}` lacks the line `version = {VERSION}`", path.display()),
        }
        if let (Some(labels), Some(folder)) = (&mut settings.labels, path.parent()) {
            *labels = folder.join(&labels);
        }
        Ok(settings)
    }

    /// These settings, with the gaps filled from `other`.
    pub(crate) fn or(self, other: Settings) -> Settings {
        Settings {
            version: self.version.or(other.version),
            size: self.size.or(other.size),
            // A rule for resizing belongs to its own shorter side, not to that of the other settings.
            shorter_side: match self.resize {
                Some(_) => self.shorter_side,
                None => self.shorter_side.or(other.shorter_side),
            },
            resize: self.resize.or(other.resize),
            filter: self.filter.or(other.filter),
            layout: self.layout.or(other.layout),
            channels: self.channels.or(other.channels),
            mean: self.mean.or(other.mean),
            std: self.std.or(other.std),
            dtype: self.dtype.or(other.dtype),
            labels: self.labels.or(other.labels),
            softmax: self.softmax.or(other.softmax),
        }
    }
}

impl Labels {
    /// Reads a JSON list of strings, or one name a line.
    pub(crate) fn read(path: &Path) -> Result<Labels> {
        let text = read_text(path).with_context(|| format!("cannot read the labels `{}`", path.display()))?;
        let names: Vec<String> = match path.extension().is_some_and(|e| e == "json") {
            true => serde_json::from_str(&text)
                .with_context(|| format!("the labels `{}` are no JSON list of strings", path.display()))?,
            false => text.lines().map(|l| l.trim().to_owned()).collect(),
        };
        ensure!(!names.is_empty(), "the labels `{}` are empty", path.display());
        Ok(Labels(names))
    }
}

impl Channels {
    /// How many channels these are.
    pub(crate) fn count(self) -> usize {
        match self {
            Channels::Rgb | Channels::Bgr => 3,
            Channels::Gray => 1,
        }
    }
}

impl From<Filter> for FilterType {
    fn from(filter: Filter) -> FilterType {
        match filter {
            Filter::Triangle => FilterType::Triangle,
            Filter::Lanczos3 => FilterType::Lanczos3,
        }
    }
}

impl TryFrom<String> for PixelType {
    type Error = String;

    fn try_from(name: String) -> Result<PixelType, String> {
        name.parse()
    }
}

impl std::str::FromStr for PixelType {
    type Err = String;

    fn from_str(name: &str) -> Result<PixelType, String> {
        let dtype = DType::ALL.iter().find(|d| d.name() == name);
        dtype.map(|&d| PixelType(d)).ok_or_else(|| format!("`{name}` is no element type; one is `f32`"))
    }
}

//! From a photo to the tensor a model takes.
//!
//! [`Settings`] come from a TOML file beside the model and from flags; [`Preprocess`] is what they mean for one
//! model input, checked before the first photo is opened. Nothing is guessed: what neither the file, nor a flag,
//! nor the model's own input says is asked for.

mod settings;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use graph::Model;
use half::{bf16, f16};
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageReader};
use tensor::{DType, Dim, Element, Shape, Tensor, TensorSpec};

pub(crate) use settings::{Channels, Filter, Labels, Layout, PixelType, Resize, Settings, beside};

/// The largest photo that is read, or made by resizing, pixels: far above what models take, far below what memory holds.
const MAX_PIXELS: u64 = 1 << 27;

/// How photos become one model input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Preprocess {
    height: u32,
    width: u32,
    fit: Fit,
    filter: FilterType,
    layout: Layout,
    channels: Channels,
    /// `value = (pixel - mean) / std`, one entry a channel, pixels from 0 to 255.
    mean: Vec<f32>,
    std: Vec<f32>,
    dtype: DType,
}

/// How a photo of other proportions fits the input.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fit {
    /// The whole photo, squeezed.
    Plain,
    /// The shorter side becomes so many pixels, then the centre is cut out. `None`: as much of the photo as fits.
    Crop(Option<u32>),
}

impl Preprocess {
    /// What `settings` mean for the input `spec`. Size, layout and element type may come from the model.
    pub(crate) fn new(settings: &Settings, spec: &TensorSpec) -> Result<Preprocess> {
        let asked = |what: &str| {
            format!(
                "how a photo becomes {spec} is not known: `{what}` is neither in a file beside the model nor given \
                 as a flag"
            )
        };
        let channels = settings.channels.with_context(|| asked("channels"))?;
        let layout =
            settings.layout.or_else(|| layout_of(spec, channels)).with_context(|| asked("layout"))?;
        let [height, width] =
            settings.size.or_else(|| size_of(spec, layout)).with_context(|| asked("size"))?;
        let dtype = settings.dtype.map_or(spec.dtype, |d| d.0);
        let preprocess = Preprocess {
            height,
            width,
            fit: fit(settings, [height, width])?,
            filter: settings.filter.unwrap_or(Filter::Triangle).into(),
            layout,
            channels,
            mean: per_channel(settings.mean.as_deref().with_context(|| asked("mean"))?, channels, "mean")?,
            std: per_channel(settings.std.as_deref().with_context(|| asked("std"))?, channels, "std")?,
            dtype,
        };
        preprocess.check_values()?;
        spec.check(dtype, preprocess.shape()).context("the settings for photos do not fit the model")?;
        Ok(preprocess)
    }

    /// The same photos as the pixels they are, in a model's own layout, for `model` with what makes numbers of them in
    /// front of it: a quarter of the bytes. `None` if the model has no such form.
    pub(crate) fn as_pixels(&self, model: &Model) -> Option<(Preprocess, Model)> {
        let axis = match self.layout {
            Layout::Nchw => 1,
            Layout::Nhwc => 3,
        };
        let model =
            model.with_pixel_input(&self.mean, &self.std, axis).filter(|_| self.dtype == DType::F32)?;
        let channels = self.channels.count();
        let (mean, std) = (vec![0.0; channels], vec![1.0; channels]);
        Some((Preprocess { mean, std, dtype: DType::U8, ..self.clone() }, model))
    }

    /// The tensor of the photo at `path`.
    pub(crate) fn photo(&self, path: &Path) -> Result<Tensor> {
        let mut decoder = ImageReader::open(path)?
            .with_guessed_format()?
            .into_decoder()
            .context("it is not a JPEG or PNG photo that can be read")?;
        let (width, height) = decoder.dimensions();
        ensure!(
            u64::from(width) * u64::from(height) <= MAX_PIXELS,
            "the photo has {width}x{height} pixels, more than the {} million that are read: make it smaller",
            MAX_PIXELS / 1_000_000
        );
        let orientation = decoder.orientation()?;
        let mut photo =
            DynamicImage::from_decoder(decoder).context("it is not a JPEG or PNG photo that can be read")?;
        photo.apply_orientation(orientation);
        self.tensor(photo)
    }

    fn tensor(&self, photo: DynamicImage) -> Result<Tensor> {
        // Colours first: transparent or grey photos then take the same road as all others.
        let photo = match self.channels {
            Channels::Gray => DynamicImage::ImageLuma8(photo.into_luma8()),
            Channels::Rgb | Channels::Bgr => DynamicImage::ImageRgb8(photo.into_rgb8()),
        };
        let pixels = self.fit(photo)?.into_bytes();
        match self.dtype {
            DType::F32 => self.arrange(&pixels, |v| v),
            DType::F16 => self.arrange(&pixels, f16::from_f32),
            DType::Bf16 => self.arrange(&pixels, bf16::from_f32),
            // Rounded, and inside the type's range by `check_values`.
            DType::U8 => self.arrange(&pixels, |v| v.round() as u8),
            DType::I8 => self.arrange(&pixels, |v| v.round() as i8),
            dtype => unsupported(dtype),
        }
    }

    /// The photo at exactly `height` x `width`.
    fn fit(&self, photo: DynamicImage) -> Result<DynamicImage> {
        let (width, height) = (photo.width(), photo.height());
        ensure!(width > 0 && height > 0, "the photo is empty");
        let [to_height, to_width] = match self.fit {
            Fit::Plain => [self.height, self.width],
            Fit::Crop(shorter) => {
                let scale = match shorter {
                    Some(side) => f64::from(side) / f64::from(width.min(height)),
                    None => (f64::from(self.width) / f64::from(width))
                        .max(f64::from(self.height) / f64::from(height)),
                };
                // Rounding must not make the photo a pixel smaller than what is cut out of it.
                let scaled = |side: u32, least: u32| ((f64::from(side) * scale).round() as u32).max(least);
                [scaled(height, self.height), scaled(width, self.width)]
            }
        };
        ensure!(
            u64::from(to_height) * u64::from(to_width) <= MAX_PIXELS,
            "the photo of {width}x{height} pixels would grow to {to_width}x{to_height}"
        );
        let resized = match (width, height) == (to_width, to_height) {
            true => photo,
            false => photo.resize_exact(to_width, to_height, self.filter),
        };
        let (left, top) = ((to_width - self.width) / 2, (to_height - self.height) / 2);
        Ok(resized.crop_imm(left, top, self.width, self.height))
    }

    /// The values in the model's layout.
    fn arrange<T: Element>(&self, pixels: &[u8], convert: impl Fn(f32) -> T) -> Result<Tensor> {
        let count = self.channels.count();
        let source = |channel: usize| match self.channels {
            Channels::Bgr => count - 1 - channel,
            Channels::Rgb | Channels::Gray => channel,
        };
        let value = |pixel: &[u8], channel: usize| {
            convert((f32::from(pixel[source(channel)]) - self.mean[channel]) / self.std[channel])
        };
        let values: Vec<T> = match self.layout {
            Layout::Nhwc => {
                pixels.chunks_exact(count).flat_map(|p| (0..count).map(|c| value(p, c))).collect()
            }
            Layout::Nchw => (0..count)
                .flat_map(|c| pixels.chunks_exact(count).map(move |p| (p, c)))
                .map(|(p, c)| value(p, c))
                .collect(),
        };
        Ok(Tensor::from_slice(self.shape(), &values)?)
    }

    fn shape(&self) -> Shape {
        let (h, w, c) = (self.height as usize, self.width as usize, self.channels.count());
        match self.layout {
            Layout::Nchw => Shape::from([1, c, h, w]),
            Layout::Nhwc => Shape::from([1, h, w, c]),
        }
    }

    /// Every value a pixel can take must be a value of the element type.
    fn check_values(&self) -> Result<()> {
        let range = match self.dtype {
            DType::F32 | DType::Bf16 => f32::MIN..=f32::MAX,
            DType::F16 => f16::MIN.to_f32()..=f16::MAX.to_f32(),
            DType::U8 => 0.0..=255.0,
            DType::I8 => -128.0..=127.0,
            dtype => return unsupported(dtype),
        };
        for (mean, std) in self.mean.iter().zip(&self.std) {
            for pixel in [0.0, 255.0] {
                let value = (pixel - mean) / std;
                ensure!(
                    range.contains(&value),
                    "with mean {mean} and std {std} a pixel of {pixel} becomes {value}, which is no {}",
                    self.dtype
                );
            }
        }
        Ok(())
    }
}

fn unsupported<T>(dtype: DType) -> Result<T> {
    anyhow::bail!("photos become f32, f16, bf16, u8 or i8, not {dtype}: give the input as .npz")
}

fn fit(settings: &Settings, [height, width]: [u32; 2]) -> Result<Fit> {
    ensure!(
        height > 0 && width > 0 && u64::from(height) * u64::from(width) <= MAX_PIXELS,
        "{height}x{width} is no size for a photo"
    );
    match (settings.resize.unwrap_or(Resize::Crop), settings.shorter_side) {
        (Resize::Plain, None) => Ok(Fit::Plain),
        (Resize::Plain, Some(_)) => anyhow::bail!("`shorter_side` goes with resize \"crop\", not \"plain\""),
        (Resize::Crop, Some(side)) if side < height.max(width) => {
            anyhow::bail!("a shorter side of {side} pixels is less than the input's {height}x{width}")
        }
        (Resize::Crop, side) => Ok(Fit::Crop(side)),
    }
}

/// One value for every channel, from one or from as many as there are.
fn per_channel(values: &[f32], channels: Channels, name: &str) -> Result<Vec<f32>> {
    let count = channels.count();
    match values {
        [one] => Ok(vec![*one; count]),
        all if all.len() == count => Ok(all.to_vec()),
        all => anyhow::bail!("`{name}` has {} values for {count} channels", all.len()),
    }
}

/// The layout in which the model's own sizes allow this number of channels, if just one does.
fn layout_of(spec: &TensorSpec, channels: Channels) -> Option<Layout> {
    let [_, first, _, last] = spec.dims.as_deref()? else { return None };
    let count = Dim::Fixed(channels.count());
    match (*first == count, *last == count) {
        (true, false) => Some(Layout::Nchw),
        (false, true) => Some(Layout::Nhwc),
        _ => None,
    }
}

fn size_of(spec: &TensorSpec, layout: Layout) -> Option<[u32; 2]> {
    let [_, a, b, c] = spec.dims.as_deref()? else { return None };
    let (height, width) = match layout {
        Layout::Nchw => (b, c),
        Layout::Nhwc => (a, b),
    };
    match (height, width) {
        (Dim::Fixed(h), Dim::Fixed(w)) => Some([u32::try_from(*h).ok()?, u32::try_from(*w).ok()?]),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

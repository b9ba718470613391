//! What `defer run MODEL INPUT...` takes: photos, folders of photos, `.npy`, `.npz`, random values.
//!
//! Files are listed and their kinds checked at once; each is read only when its turn comes, so that thousands of
//! items never lie in memory together.

mod jpeg;
mod npy;
pub(crate) mod npz;
pub(crate) mod packed;
mod random;

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use graph::Model;
use tensor::{Dim, Tensor, TensorSpec};

use crate::failure::Hint;
use crate::preprocess::{Preprocess, Settings};
pub(crate) use random::{Dims, Random};

/// Items that are streamed more than once are kept, up to so many bytes in all, so that the second round costs
/// neither reading nor decoding.
const KEEP_BYTES: usize = 256 << 20;

/// What to do when it is not known how a photo becomes a tensor.
const PHOTOS: &str = "give flags such as --channels RGB --mean 127 --std 128, or write a file with the model's name \
                      and the ending .toml; models/efficientnet_lite0.toml is an example";

/// Reads a file of text that a flag names. What is no file is refused: to open a pipe would take for ever.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let kind = std::fs::metadata(path)?.file_type();
    match kind.is_file() || kind.is_dir() {
        // That a folder is one is said by the system.
        true => std::fs::read_to_string(path),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")),
    }
}

/// One item: a value for each of the model's inputs, in the model's order.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Where it came from: a path, or `random 3`.
    pub(crate) name: String,
    pub(crate) tensors: Vec<Tensor>,
}

/// Where one item comes from.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    Photo(PathBuf),
    Npy(PathBuf),
    Npz(PathBuf),
    Random(u64),
}

/// The items of a run, made one by one.
pub(crate) struct Items {
    sources: Vec<Source>,
    specs: Vec<TensorSpec>,
    preprocess: Option<Preprocess>,
    random: Option<Random>,
    kept: Vec<Option<Item>>,
    kept_bytes: usize,
    next: usize,
    total: usize,
}

impl Items {
    /// Items from files and folders, `repeat` times over.
    pub(crate) fn from_paths(
        paths: &[PathBuf],
        specs: &[TensorSpec],
        settings: &Settings,
        repeat: usize,
    ) -> Result<Items> {
        let mut sources = Vec::new();
        for path in paths {
            add_sources(path, &mut sources)?;
        }
        let photo = sources.iter().find(|s| matches!(s, Source::Photo(_)));
        let preprocess = match (photo, specs) {
            (None, _) => None,
            (Some(_), [spec]) => Some(Preprocess::new(settings, spec).hint(PHOTOS)?),
            (Some(source), _) => {
                bail!("{}: a photo is one tensor, but the model takes {}", source.name(), list(specs))
            }
        };
        Ok(Items::new(sources, specs, preprocess, None, repeat))
    }

    /// `count` items of random values, `repeat` times over.
    pub(crate) fn random(random: Random, specs: &[TensorSpec], count: usize, repeat: usize) -> Items {
        let sources = (0..count as u64).map(Source::Random).collect();
        Items::new(sources, specs, None, Some(random), repeat)
    }

    fn new(
        sources: Vec<Source>,
        specs: &[TensorSpec],
        preprocess: Option<Preprocess>,
        random: Option<Random>,
        repeat: usize,
    ) -> Items {
        let kept = if repeat > 1 { vec![None; sources.len()] } else { Vec::new() };
        let total = sources.len().saturating_mul(repeat);
        Items { sources, specs: specs.to_vec(), preprocess, random, kept, kept_bytes: 0, next: 0, total }
    }

    /// The same items as pixels, with the model that takes such; as they are, unless all are photos.
    pub(crate) fn into_pixels(self, model: Model) -> (Items, Model) {
        let all = self.sources.iter().all(|source| matches!(source, Source::Photo(_)));
        match self.preprocess.as_ref().filter(|_| all).and_then(|preprocess| preprocess.as_pixels(&model)) {
            Some((preprocess, model)) => {
                let specs = model.inputs().to_vec();
                (Items { preprocess: Some(preprocess), specs, ..self }, model)
            }
            None => (self, model),
        }
    }

    /// Makes the first item, so that a mistake shows before anything else is started. The item stays the first.
    pub(crate) fn check_first(&mut self) -> Result<()> {
        let Some(source) = self.sources.first() else { return Ok(()) };
        let item = self.load(source)?;
        self.keep(0, &item);
        Ok(())
    }

    /// The tensors of the first items that differ, at most so many, without moving on. Those behind the first one that
    /// cannot be read are left out: whoever comes to them says so.
    pub(crate) fn samples(&self, count: usize) -> Result<Vec<Vec<Tensor>>> {
        let first = self.few(1)?;
        let others = self.sources.iter().enumerate().take(count).skip(1);
        let others = others.filter_map(|(i, source)| self.known(i, source).ok());
        Ok(first.into_iter().chain(others).map(|item| item.tensors).collect())
    }

    /// The first items that differ, at most so many, without moving on.
    pub(crate) fn few(&self, count: usize) -> Result<Vec<Item>> {
        self.sources.iter().take(count).enumerate().map(|(i, source)| self.known(i, source)).collect()
    }

    /// Starts over.
    pub(crate) fn rewind(&mut self) {
        self.next = 0;
    }

    /// Number of items that differ; item `i` of the run is item `i % distinct` of these.
    pub(crate) fn distinct(&self) -> usize {
        self.sources.len()
    }

    /// An item as it is kept, or as it is read now.
    fn known(&self, index: usize, source: &Source) -> Result<Item> {
        match self.kept.get(index) {
            Some(Some(item)) => Ok(item.clone()),
            _ => self.load(source),
        }
    }

    fn load(&self, source: &Source) -> Result<Item> {
        let tensors = match source {
            Source::Photo(path) => {
                let preprocess = self.preprocess.as_ref().context("photos need settings")?;
                jpeg::check_whole(path).and_then(|()| preprocess.photo(path)).map(|tensor| vec![tensor])
            }
            Source::Npy(path) => read_npy(path, &self.specs),
            Source::Npz(path) => npz::read(path, &self.specs),
            Source::Random(index) => {
                let random = self.random.as_ref().context("random items need a seed")?;
                random.item(*index, &self.specs)
            }
        };
        let tensors = tensors.and_then(|t| same_symbols(&self.specs, &t).map(|()| t));
        let tensors = tensors.with_context(|| format!("input {}", source.name()))?;
        Ok(Item { name: source.name(), tensors })
    }

    fn keep(&mut self, index: usize, item: &Item) {
        let bytes: usize = item.tensors.iter().map(|t| t.bytes().len()).sum();
        if let Some(place) = self.kept.get_mut(index)
            && self.kept_bytes + bytes <= KEEP_BYTES
        {
            self.kept_bytes += bytes;
            *place = Some(item.clone());
        }
    }
}

impl Iterator for Items {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Result<Item>> {
        if self.next == self.total {
            return None;
        }
        let index = self.next % self.sources.len();
        self.next += 1;
        if let Some(Some(item)) = self.kept.get(index) {
            return Some(Ok(item.clone()));
        }
        let item = self.load(&self.sources[index]);
        if let Ok(item) = &item {
            self.keep(index, item);
        }
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.total - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Items {}

impl Source {
    fn name(&self) -> String {
        match self {
            Source::Photo(path) | Source::Npy(path) | Source::Npz(path) => path.display().to_string(),
            Source::Random(index) => format!("random {index}"),
        }
    }

    /// The source that a file's ending names.
    fn of_file(path: &Path) -> Option<Source> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "jpg" | "jpeg" | "png" => Some(Source::Photo(path.to_owned())),
            "npy" => Some(Source::Npy(path.to_owned())),
            "npz" => Some(Source::Npz(path.to_owned())),
            _ => None,
        }
    }
}

fn add_sources(path: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read the input `{shown}`"))?;
    if !metadata.is_dir() {
        // To open a pipe would take for ever.
        ensure!(metadata.is_file(), "input `{shown}` is not a file");
        let source = Source::of_file(path);
        sources.push(source.with_context(|| {
            format!("input `{shown}` is neither a photo (.jpg, .jpeg, .png) nor an array (.npy, .npz)")
        })?);
        return Ok(());
    }
    let entries = std::fs::read_dir(path).and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>());
    let mut files: Vec<PathBuf> = entries
        .with_context(|| format!("cannot read the folder `{shown}`"))?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let before = sources.len();
    sources.extend(files.iter().filter_map(|file| Source::of_file(file)));
    ensure!(
        sources.len() > before,
        "the folder `{shown}` holds no photo (.jpg, .jpeg, .png) and no array (.npy, .npz)"
    );
    Ok(())
}

fn read_npy(path: &Path, specs: &[TensorSpec]) -> Result<Vec<Tensor>> {
    let [spec] = specs else {
        bail!("an .npy file is one array, but the model takes {}: give an .npz file", list(specs));
    };
    let file = File::open(path)?;
    let limit = file.metadata()?.len();
    Ok(vec![npy::read(BufReader::new(file), limit, spec)?])
}

/// Within one item, a symbolic dimension has one size.
fn same_symbols(specs: &[TensorSpec], tensors: &[Tensor]) -> Result<()> {
    let mut sizes: Vec<(&str, usize, &str)> = Vec::new();
    for (spec, tensor) in specs.iter().zip(tensors) {
        for (dim, &size) in spec.dims.iter().flatten().zip(tensor.shape().dims()) {
            let Dim::Symbol(symbol) = dim else { continue };
            match sizes.iter().find(|(name, ..)| name == symbol) {
                Some((_, other, input)) if *other != size => {
                    bail!("`{symbol}` is {other} in `{input}` and {size} in `{}`", spec.name)
                }
                Some(_) => {}
                None => sizes.push((symbol, size, &spec.name)),
            }
        }
    }
    Ok(())
}

fn list(specs: &[TensorSpec]) -> String {
    specs.iter().map(TensorSpec::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use tensor::{DType, Shape};

    use super::*;

    fn models() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
    }

    fn spec(name: &str, dims: Vec<Dim>) -> TensorSpec {
        TensorSpec { name: name.into(), dtype: DType::F32, dims: Some(dims) }
    }

    fn digit() -> TensorSpec {
        spec("input", vec![Dim::Symbol("n".into()), Dim::Fixed(1), Dim::Fixed(28), Dim::Fixed(28)])
    }

    fn settings() -> Settings {
        Settings::read(&models().join("resnet20_mnist.toml")).unwrap()
    }

    #[test]
    fn a_folder_is_streamed_in_order_and_again() {
        let items = Items::from_paths(&[models().join("digits")], &[digit()], &settings(), 3).unwrap();
        assert_eq!((items.len(), items.distinct()), (30, 10));
        let items: Vec<Item> = items.map(Result::unwrap).collect();
        for (i, item) in items.iter().enumerate() {
            assert!(item.name.ends_with(&format!("digits/{}.png", i % 10)), "{}", item.name);
            assert_eq!(item.tensors, items[i % 10].tensors);
            assert_eq!(item.tensors[0].shape(), Shape::from([1, 1, 28, 28]));
        }
        assert_ne!(items[0].tensors, items[1].tensors);
    }

    /// The pictures under `digits/` are the items of `mnist_test2000.npz` that the notice names.
    #[test]
    fn the_digits_are_those_of_the_test_set() {
        let fixed =
            |name: &str, dims: &[usize]| TensorSpec::fixed(name, DType::U8, Shape::new(dims).unwrap());
        let specs = [fixed("x", &[2000, 28, 28, 1]), fixed("y", &[2000])];
        let all = npz::read(&models().join("mnist_test2000.npz"), &specs).unwrap();
        let pixels = all[0].as_slice::<u8>().unwrap();
        let items = Items::from_paths(&[models().join("digits")], &[digit()], &settings(), 1).unwrap();
        for ((digit, item), place) in
            items.enumerate().zip([3, 204, 429, 627, 834, 1030, 1202, 1405, 1619, 1808])
        {
            assert_eq!(usize::from(all[1].as_slice::<u8>().unwrap()[place]), digit);
            let expected: Vec<f32> =
                pixels[place * 784..][..784].iter().map(|&p| f32::from(p) / 255.0).collect();
            assert_eq!(item.unwrap().tensors[0].as_slice::<f32>().unwrap(), expected, "digit {digit}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path
        };
        let check = |path: &Path, specs: &[TensorSpec], message: &str| {
            let first = Items::from_paths(&[path.to_owned()], specs, &settings(), 1)
                .and_then(|mut items| items.next().unwrap());
            let error = format!("{:#}", first.unwrap_err());
            assert!(error.contains(message), "`{error}` lacks `{message}`");
            assert!(error.contains(path.to_str().unwrap()), "`{error}` does not name the file");
        };
        let two = [spec("a", vec![Dim::Fixed(1)]), spec("b", vec![Dim::Unknown])];
        check(&folder.path().join("none.jpg"), &[digit()], "cannot read the input");
        check(folder.path(), &[digit()], "holds no photo");
        check(&file("x.txt", b""), &[digit()], "neither a photo");
        check(&file("x.jpg", b"no photo"), &[digit()], "not a JPEG or PNG photo");
        check(&file("x.png", b"\x89PNG\r\n\x1a\nxx"), &[digit()], "not a JPEG or PNG photo");
        check(&file("x.npy", b"no array"), &[digit()], "not a NumPy array");
        check(&file("x.npz", b"no archive"), &[digit()], "not an .npz archive");
        check(&models().join("digits/3.png"), &two, "the model takes `a` (f32 1), `b` (f32 ?)");
        check(&file("y.npy", b""), &two, "give an .npz file");
    }

    #[test]
    fn one_symbol_has_one_size() {
        let symbol = |name: &str| spec(name, vec![Dim::Symbol("sequence".into())]);
        let tensor = |n: usize| Tensor::zeros(DType::F32, Shape::from([n])).unwrap();
        let specs = [symbol("ids"), symbol("mask")];
        assert!(same_symbols(&specs, &[tensor(4), tensor(4)]).is_ok());
        let error = same_symbols(&specs, &[tensor(4), tensor(5)]).unwrap_err();
        assert_eq!(error.to_string(), "`sequence` is 4 in `ids` and 5 in `mask`");
    }
}

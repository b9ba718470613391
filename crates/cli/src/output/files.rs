//! `--output`: results as `.npz` files, arrays named as the model's outputs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tensor::TensorView;

use super::printable;
use crate::input::npz;

/// Where results are written: one file for one item, a folder with `00000.npz`, `00001.npz`, ... for several.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    /// Digits of an item's number, `None` when the path is the file itself.
    digits: Option<usize>,
}

impl Target {
    /// Prepares `path` for the results of `items` items.
    pub(crate) fn new(path: &Path, items: usize) -> Result<Target> {
        let shown = path.display();
        let is_archive = path.extension().is_some_and(|e| e == "npz");
        let is_array = path.extension().is_some_and(|e| e == "npy");
        ensure!(
            !is_array || path.is_dir(),
            "the output `{shown}` is no .npy file: name a .npz file for one item, or a folder"
        );
        if items == 1 && is_archive {
            ensure!(!path.is_dir(), "the output `{shown}` is a folder, and one item makes a file");
            npz::place(path)?;
            return Ok(Target { path: path.to_owned(), digits: None });
        }
        ensure!(!is_archive, "the output `{shown}` is one file, but there are {items} items: name a folder");
        std::fs::create_dir_all(path).with_context(|| format!("cannot make the folder `{shown}`"))?;
        let digits = items.saturating_sub(1).to_string().len().max(5);
        let others = others(path, items, digits);
        if let Some(first) = others.first() {
            let (count, first) = (others.len(), printable(first));
            tracing::warn!(
                "`{shown}` holds {count} results of another run, such as `{first}`: this one leaves them there"
            );
        }
        Ok(Target { path: path.to_owned(), digits: Some(digits) })
    }

    /// Writes the outputs of item `index`.
    pub(crate) fn write<'a>(
        &self,
        index: usize,
        outputs: impl Iterator<Item = (&'a str, TensorView<'a>)>,
    ) -> Result<()> {
        match self.digits {
            None => npz::write(&self.path, outputs),
            Some(digits) => npz::write(&self.path.join(format!("{index:0digits$}.npz")), outputs),
        }
    }
}

/// Results in a folder that those of this many items, with numbers of so many digits, do not write over; none where it
/// cannot be read.
fn others(folder: &Path, items: usize, digits: usize) -> Vec<String> {
    let is_other = |name: &String| {
        let number = name.strip_suffix(".npz").and_then(|number| number.parse::<usize>().ok());
        number.is_some_and(|number| number >= items || *name != format!("{number:0digits$}.npz"))
    };
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut others: Vec<String> = names.filter(is_other).collect();
    others.sort();
    others
}

#[cfg(test)]
mod tests {
    use tensor::{Shape, Tensor, TensorSpec};

    use super::*;

    #[test]
    fn one_item_is_a_file_and_several_are_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let tensor = Tensor::from_slice(Shape::from([2]), &[1i64, -1]).unwrap();
        let spec = [TensorSpec::fixed("y", tensor.dtype(), tensor.shape())];
        let check = |name: &str, items: usize, index: usize, file: &str| {
            let target = Target::new(&folder.path().join(name), items).unwrap();
            target.write(index, [("y", tensor.view())].into_iter()).unwrap();
            assert_eq!(npz::read(&folder.path().join(file), &spec).unwrap(), std::slice::from_ref(&tensor));
        };
        check("a.npz", 1, 0, "a.npz");
        check("b", 1, 0, "b/00000.npz");
        check("c", 100_001, 100_000, "c/100000.npz");
        assert_eq!(others(&folder.path().join("c"), 100_000, 5), ["100000.npz"]);
        assert!(others(&folder.path().join("c"), 100_001, 6).is_empty());
        check("c", 2, 1, "c/00001.npz");
        assert_eq!(others(&folder.path().join("c"), 2, 5), ["100000.npz"]);
        assert_eq!(
            others(&folder.path().join("c"), 200_000, 6),
            ["00001.npz"],
            "by another number of digits"
        );
        let error = Target::new(&folder.path().join("d.npy"), 1).unwrap_err().to_string();
        assert!(error.contains("name a .npz file for one item, or a folder"), "{error}");
        let error = Target::new(&folder.path().join("d.npz"), 2).unwrap_err().to_string();
        assert!(error.contains("there are 2 items: name a folder"), "{error}");
    }
}

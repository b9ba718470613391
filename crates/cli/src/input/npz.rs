//! NumPy's `.npz` format: a zip archive of `.npy` files, here one item with one array for each tensor.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tensor::{Tensor, TensorSpec, TensorView};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::npy;

/// Deflate never expands more than 1032 times.
const MAX_EXPANSION: u64 = 1032;

/// Reads the arrays that stand for `specs`, in their order. The archive holds these arrays and no others;
/// for a model with one input, it may hold one array of any name.
pub(crate) fn read(path: &Path, specs: &[TensorSpec]) -> Result<Vec<Tensor>> {
    let file = File::open(path)?;
    let file_len = file.metadata()?.len();
    let mut archive = ZipArchive::new(BufReader::new(file)).context("it is not an .npz archive")?;
    let names = array_names(&archive)?;
    let entries = match_names(&names, specs)?;
    let mut tensors = Vec::with_capacity(specs.len());
    for (spec, name) in specs.iter().zip(entries) {
        let entry = archive.by_name(&format!("{name}.npy"))?;
        let limit = match entry.compression() {
            CompressionMethod::Stored => file_len,
            // Both sizes are the archive's word; the length of the file is not.
            _ => entry.compressed_size().min(file_len).saturating_mul(MAX_EXPANSION),
        };
        let limit = limit.min(entry.size());
        let tensor = npy::read(entry, limit, spec).with_context(|| format!("array `{name}`"))?;
        tensors.push(tensor);
    }
    Ok(tensors)
}

/// The file that an archive goes to: a link to one stays a link.
///
/// # Errors
/// When there is something else.
pub(crate) fn place(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let is_file = std::fs::metadata(path).map_or(true, |found| found.is_file());
    ensure!(is_file, "`{shown}` is no file, and archives are written to nothing else");
    match std::fs::canonicalize(path) {
        Err(_) if path.is_symlink() => bail!("`{shown}` is a link to what is not there"),
        found => Ok(found.unwrap_or_else(|_| path.to_owned())),
    }
}

/// Writes `tensors` under their names. The file appears whole or not at all.
pub(crate) fn write<'a>(path: &Path, tensors: impl Iterator<Item = (&'a str, TensorView<'a>)>) -> Result<()> {
    let whole = place(path)?;
    let mut partial = whole.as_os_str().to_owned();
    partial.push(".partial");
    let written = write_archive(Path::new(&partial), tensors)
        .and_then(|()| std::fs::rename(&partial, &whole).map_err(anyhow::Error::from));
    if written.is_err() {
        // The error at hand says more than a failure to clean up would.
        let _ = std::fs::remove_file(&partial);
    }
    written.with_context(|| format!("cannot write `{}`", path.display()))
}

fn write_archive<'a>(path: &Path, tensors: impl Iterator<Item = (&'a str, TensorView<'a>)>) -> Result<()> {
    let mut archive = ZipWriter::new(BufWriter::new(File::create(path)?));
    for (name, tensor) in tensors {
        // Activations hardly compress, and stored entries are fast. Strings grow up to four times on the way
        // to NumPy, so an entry that might pass 4 GiB is declared large early.
        let large = tensor.bytes().len() as u64 >= u64::from(u32::MAX) / 4;
        let options =
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(large);
        archive.start_file(format!("{name}.npy"), options)?;
        npy::write(&mut archive, &tensor).with_context(|| format!("array `{name}`"))?;
    }
    archive.finish()?.flush()?;
    Ok(())
}

fn array_names<R: std::io::Read + std::io::Seek>(archive: &ZipArchive<R>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in archive.file_names() {
        let file = file?;
        match file.strip_suffix(".npy") {
            Some(name) => names.push(name.to_owned()),
            None => bail!("it holds `{file}`, which is no array: an .npz archive holds .npy files only"),
        }
    }
    names.sort();
    Ok(names)
}

/// The name of the array for each spec.
fn match_names<'a>(names: &'a [String], specs: &'a [TensorSpec]) -> Result<Vec<&'a str>> {
    if let ([_], [only]) = (specs, names) {
        return Ok(vec![only]);
    }
    let expected = || specs.iter().map(TensorSpec::to_string).collect::<Vec<_>>().join(", ");
    let found = || match names {
        [] => "no arrays".to_owned(),
        _ => plan::names::listed(names.iter().map(|n| format!("`{n}`"))),
    };
    ensure!(
        names.len() == specs.len() && specs.iter().all(|s| names.contains(&s.name)),
        "it holds {}; the model takes {}",
        found(),
        expected()
    );
    Ok(specs.iter().map(|s| s.name.as_str()).collect())
}

#[cfg(test)]
mod tests {
    use tensor::{DType, Dim, Shape};

    use super::*;

    fn spec(name: &str, dtype: DType, dims: &[usize]) -> TensorSpec {
        TensorSpec { name: name.into(), dtype, dims: Some(dims.iter().map(|&d| Dim::Fixed(d)).collect()) }
    }

    fn digits() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/mnist_test2000.npz")
    }

    #[test]
    fn the_digits_read_as_numpy_wrote_them() {
        let specs = [spec("y", DType::U8, &[2000]), spec("x", DType::U8, &[2000, 28, 28, 1])];
        let tensors = read(&digits(), &specs).unwrap();
        let labels = tensors[0].as_slice::<u8>().unwrap();
        let digits_of_each: Vec<usize> =
            (0..10).map(|d| labels.iter().filter(|&&y| y == d).count()).collect();
        assert_eq!(digits_of_each, [201, 225, 198, 207, 196, 172, 203, 214, 189, 195]);
        let pixels: u64 = tensors[1].as_slice::<u8>().unwrap().iter().map(|&p| u64::from(p)).sum();
        assert_eq!(pixels, 52_252_590);
    }

    #[test]
    fn names_are_matched_or_the_difference_is_said() {
        let error = read(&digits(), &[spec("input", DType::F32, &[1])]).unwrap_err().to_string();
        assert_eq!(error, "it holds `x`, `y`; the model takes `input` (f32 1)");

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.npz");
        let tensor = Tensor::from_slice(Shape::from([2]), &[1f32, 2.0]).unwrap();
        write(&path, [("any name/of:it", tensor.view())].into_iter()).unwrap();
        assert_eq!(read(&path, &[spec("input", DType::F32, &[2])]).unwrap(), [tensor]);
        let error = read(&path, &[spec("input", DType::F32, &[3])]).unwrap_err();
        assert_eq!(format!("{error:#}"), "array `any name/of:it`: tensor `input` must have shape 3, not 2");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays");
    }

    #[test]
    fn a_link_stays_one_and_a_device_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("one.npz"), folder.path().join("link.npz"));
        std::fs::write(&path, "before").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let tensor = Tensor::from_slice(Shape::from([2]), &[1f32, 2.0]).unwrap();
        write(&link, [("x", tensor.view())].into_iter()).unwrap();
        assert!(link.is_symlink());
        assert_eq!(read(&path, &[spec("x", DType::F32, &[2])]).unwrap(), std::slice::from_ref(&tensor));
        let error = write(Path::new("/dev/null"), [("x", tensor.view())].into_iter()).unwrap_err();
        assert!(error.to_string().starts_with("`/dev/null` is no file"), "{error:#}");
        std::fs::remove_file(&path).unwrap();
        let error = write(&link, [("x", tensor.view())].into_iter()).unwrap_err();
        assert!(error.to_string().ends_with("is a link to what is not there"), "{error:#}");
    }

    #[test]
    fn damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one.npz");
        let tensor = Tensor::from_slice(Shape::from([64]), &[3u8; 64]).unwrap();
        write(&path, [("x", tensor.view())].into_iter()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let data = bytes.windows(64).position(|w| w == [3; 64]).unwrap();
        bytes[data + 5] = 4;
        std::fs::write(&path, &bytes).unwrap();
        let error = read(&path, &[spec("x", DType::U8, &[64])]).unwrap_err();
        assert!(format!("{error:#}").to_lowercase().contains("checksum"), "{error:#}");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(read(&path, &[spec("x", DType::U8, &[64])]).is_err());
    }
}

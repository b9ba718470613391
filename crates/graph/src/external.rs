//! Weights that lie in files beside the model, mapped when the model is loaded.
//!
//! A model is hostile input: it may name only files inside its own folder. The check is by name, so a
//! symbolic link that somebody placed there is followed (the model caches of Python are made of them).

use std::collections::HashMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::ModelError;
use crate::proto::TensorProto;
use crate::proto::tensor_proto::DataLocation;
use crate::weights;

/// The bytes of a file, mapped.
///
/// Who changes the file while the model is in use gets other weights; who truncates it, a crash. Programs
/// that replace a model write a new file and rename it, as [`crate::Model::save`] does.
pub(crate) fn map(path: &Path) -> Result<Bytes, std::io::Error> {
    // Asked first: to open a pipe would take for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new()); // an empty file can not be mapped
    }
    // SAFETY: the mapping is read-only and private to us; that nobody shortens the file under us is the
    // documented condition of use above.
    let map = unsafe { Mmap::map(&file)? };
    Ok(Bytes::from_owner(map))
}

/// The folder of a model, and what of it is mapped already.
pub(crate) struct Folder {
    path: Option<PathBuf>,
    maps: HashMap<String, Bytes>,
}

impl Folder {
    /// The folder of a model file.
    pub(crate) fn of(model: &Path) -> Folder {
        Folder { path: Some(model.parent().unwrap_or(Path::new("")).to_owned()), maps: HashMap::new() }
    }

    /// For models in memory: no file can be named.
    pub(crate) fn none() -> Folder {
        Folder { path: None, maps: HashMap::new() }
    }

    /// Moves the tensor's data into the message, without a copy, when it lies in a file.
    pub(crate) fn resolve(&mut self, tensor: &mut TensorProto) -> Result<(), ModelError> {
        if tensor.data_location != Some(DataLocation::External.into()) {
            return Ok(());
        }
        let data = self.data(tensor).map_err(|problem| tensor_error(tensor, problem))?;
        tensor.raw_data = Some(data);
        tensor.external_data.clear();
        tensor.data_location = None;
        Ok(())
    }

    fn data(&mut self, tensor: &TensorProto) -> Result<Bytes, String> {
        let location =
            entry(tensor, "location").ok_or("its data lies outside the file, nobody says where")?;
        let offset = number(tensor, "offset")?.unwrap_or(0);
        let file = self.file(location)?;
        let rest = file.len().checked_sub(offset).ok_or_else(|| beyond(location, offset))?;
        let len = match number(tensor, "length")? {
            Some(len) => len,
            None => weights::byte_len(tensor)?,
        };
        if len > rest {
            return Err(beyond(location, offset.saturating_add(len)));
        }
        Ok(file.slice(offset..offset + len))
    }

    fn file(&mut self, location: &str) -> Result<Bytes, String> {
        let Some(folder) = &self.path else {
            return Err(format!(
                "its data lies in `{location}`: load the model from its file, not from memory"
            ));
        };
        if !stays_inside(location) {
            return Err(format!("its data is said to lie in `{location}`, outside the model's folder"));
        }
        if let Some(map) = self.maps.get(location) {
            return Ok(map.clone());
        }
        let path = folder.join(location);
        let map = map(&path).map_err(|error| format!("its data file {}: {error}", path.display()))?;
        self.maps.insert(location.to_owned(), map.clone());
        Ok(map)
    }
}

fn stays_inside(location: &str) -> bool {
    let mut components = Path::new(location).components().peekable();
    components.peek().is_some() && components.all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

fn beyond(location: &str, end: usize) -> String {
    format!("its data reaches to byte {end}, beyond the end of `{location}`; is the file complete?")
}

fn entry<'a>(tensor: &'a TensorProto, key: &str) -> Option<&'a str> {
    tensor.external_data.iter().find(|entry| entry.key() == key).map(|entry| entry.value())
}

fn number(tensor: &TensorProto, key: &str) -> Result<Option<usize>, String> {
    let Some(text) = entry(tensor, key) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| format!("the {key} of its data is `{text}`"))
}

fn tensor_error(tensor: &TensorProto, problem: String) -> ModelError {
    ModelError::Tensor { name: tensor.name().to_owned(), problem }
}

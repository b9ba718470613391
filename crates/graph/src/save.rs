//! Writes a model: as one message, or with its weights in a file beside it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use crate::error::ModelError;
use crate::proto::tensor_proto::DataLocation;
use crate::proto::{ModelProto, StringStringEntryProto, TensorProto};
use crate::visit;

/// The largest message that readers of protobuf accept, bytes.
pub(crate) const MESSAGE_LIMIT: usize = i32::MAX as usize;

/// Weights of a page and more go into the data file, at the start of a page, so that readers can map them.
const PAGE: usize = 4096;

/// The model as one message.
pub(crate) fn encode(proto: &ModelProto) -> Result<Vec<u8>, ModelError> {
    let bytes = proto.encoded_len();
    if bytes > MESSAGE_LIMIT {
        return Err(ModelError::TooLarge { bytes });
    }
    Ok(proto.encode_to_vec())
}

/// Writes the model to `path`; the weights of a model above `limit` bytes to `path` + `.data`. A link stays one, and what it
/// leads to is written; into what is no file, a pipe or a device, all is written as one message.
pub(crate) fn save(proto: &ModelProto, path: &Path, limit: usize) -> Result<(), ModelError> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let written = write_to(path, |file| Ok(file.write_all(&encode(proto)?)?));
        return written.map_err(|error| error.in_file(path));
    }
    let path = &end_of_links(path).map_err(|error| ModelError::from(error).in_file(path))?;
    if proto.encoded_len() <= limit {
        return replace(path, |file| Ok(file.write_all(&encode(proto)?)?));
    }
    let mut data_path = path.as_os_str().to_owned();
    data_path.push(".data");
    let data_path = PathBuf::from(data_path);
    let location = data_path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut skeleton = proto.clone(); // the weights are slices of what is mapped: no copy
    replace(&data_path, |file| move_weights(&mut skeleton, &location, file))?;
    replace(path, |file| Ok(file.write_all(&encode(&skeleton)?)?))
}

fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(_) if path.is_symlink() => Err(io::Error::other("it is a link to what is not there")),
        found => Ok(found.unwrap_or_else(|_| path.to_owned())),
    }
}

/// Writes beside the file and renames: the model being saved may be mapped from the very file it replaces.
fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let result = write_to(&partial, write).and_then(|()| Ok(fs::rename(&partial, path)?));
    if result.is_err() {
        let _ = fs::remove_file(&partial); // the first error is the one to tell
    }
    result.map_err(|error| error.in_file(path))
}

fn write_to(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut file = BufWriter::new(File::create(path)?);
    write(&mut file)?;
    file.flush()?;
    Ok(())
}

fn move_weights(proto: &mut ModelProto, location: &str, file: &mut impl Write) -> Result<(), ModelError> {
    let mut offset = 0usize;
    visit::tensors_mut(proto, &mut |tensor: &mut TensorProto| {
        if tensor.raw_data().len() < PAGE {
            return Ok(());
        }
        let data = tensor.raw_data.take().unwrap_or_default();
        let padding = offset.next_multiple_of(PAGE) - offset;
        file.write_all(&[0; PAGE][..padding])?;
        file.write_all(&data)?;
        refer(tensor, location, offset + padding, data.len());
        offset += padding + data.len();
        Ok(())
    })
}

/// Makes the tensor one whose data lies in a file.
pub(crate) fn refer(tensor: &mut TensorProto, location: &str, offset: usize, length: usize) {
    let entry =
        |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    tensor.raw_data = None;
    tensor.data_location = Some(DataLocation::External.into());
    tensor.external_data = vec![
        entry("location", location.to_owned()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
}

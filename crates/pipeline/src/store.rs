//! Figures that were measured before: one small file each, in a folder that the caller names.
//!
//! A file that is damaged, of another version or of another key is as good as none, and is written anew. Files
//! appear whole or not at all, so that several dispatchers may share the folder.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::control;

/// What every file begins with: changed when the meaning of the figures does.
const MAGIC: &[u8; 8] = b"defer-f2";

/// Larger files are none of ours.
const MAX_LEN: u64 = 1 << 20;

pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(crate) fn new(folder: PathBuf) -> Store {
        Store { folder }
    }

    /// What was kept under the key.
    pub(crate) fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let (path, mut bytes) = (self.path(key), Vec::new());
        // To open a pipe would take for ever.
        fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        fs::File::open(path).ok()?.take(MAX_LEN).read_to_end(&mut bytes).ok()?;
        let (hash, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<{ blake3::OUT_LEN }>()?;
        if blake3::hash(body) != *hash {
            return None;
        }
        let (kept, value): (String, T) = control::decode(body).ok()?;
        (kept == key).then_some(value)
    }

    /// Keeps a value in place of what was kept under the key.
    pub(crate) fn put<T: Serialize>(&self, key: &str, value: &T) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let body = control::encode(&(key, value));
        let hash = blake3::hash(&body);
        fs::create_dir_all(&self.folder)?;
        let unique = format!("{}-{}.new", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let new = self.folder.join(unique);
        let written = fs::write(&new, [MAGIC, &hash.as_bytes()[..], &body].concat());
        written.and_then(|()| fs::rename(&new, self.path(key))).inspect_err(|_| {
            // Whatever went wrong, no half of a file stays behind.
            let _ = fs::remove_file(&new);
        })
    }

    /// Forgets what was kept under the key, if anything was.
    pub(crate) fn remove(&self, key: &str) -> io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{}.figures", blake3::hash(key.as_bytes()).to_hex()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("not/yet"));
        assert_eq!(store.get::<f64>("a"), None);
        store.put("a", &1.5).unwrap();
        store.put("b", &2.5).unwrap();
        store.put("a", &3.5).unwrap();
        assert_eq!((store.get("a"), store.get("b")), (Some(3.5), Some(2.5)));
        assert_eq!(fs::read_dir(folder.path().join("not/yet")).unwrap().count(), 2, "nothing else is left");
        store.remove("a").unwrap();
        store.remove("a").unwrap();
        assert_eq!((store.get::<f64>("a"), store.get("b")), (None, Some(2.5)));
    }

    #[test]
    fn damaged_files_are_ignored_and_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned());
        store.put("a", &1.5).unwrap();
        let good = fs::read(store.path("a")).unwrap();
        let flipped = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        };
        let mut damaged: Vec<Vec<u8>> = (0..good.len()).map(flipped).collect();
        damaged.extend((0..good.len()).map(|len| good[..len].to_vec()));
        damaged.push(vec![7; 2 << 20]);
        for bytes in damaged {
            fs::write(store.path("a"), bytes).unwrap();
            assert_eq!(store.get::<f64>("a"), None);
        }
        fs::remove_file(store.path("a")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(store.path("a")).status().unwrap().success());
        assert_eq!(store.get::<f64>("a"), None);
        // The file of one key under the name of another.
        fs::write(store.path("b"), &good).unwrap();
        assert_eq!(store.get::<f64>("b"), None);
        store.put("a", &1.5).unwrap();
        assert_eq!(store.get("a"), Some(1.5));
    }
}

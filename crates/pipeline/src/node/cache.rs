//! Weights on disk, named by their hash, shared by everything on this machine.
//!
//! `objects/` holds one file per weight, least recently used goes first when the limit is reached. Each
//! process has a folder under `work/`, locked while it lives; a deployment's folder inside it holds hard
//! links to its weights, beside the stage's ONNX file. So eviction never takes a file from a running stage,
//! two nodes may share a cache, and folders of processes that died are swept by the next one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use wire::control::{WeightEntry, WeightHash};

/// Read and hashed at a time, bytes.
const PIECE_LEN: usize = 1 << 20;

/// A cache folder, opened by one process.
pub struct Cache {
    objects: PathBuf,
    work: PathBuf,
    limit: u64,
    /// Held as long as `work` is in use.
    _lock: File,
}

impl Cache {
    /// Opens or creates the cache in `root`; it will keep at most `limit` bytes of weights that no
    /// deployment uses.
    pub fn open(root: &Path, limit: u64) -> io::Result<Cache> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("cache folder {}: {e}", root.display()));
        let objects = root.join("objects");
        let all_work = root.join("work");
        fs::create_dir_all(&objects).map_err(named)?;
        fs::create_dir_all(&all_work).map_err(named)?;
        sweep(&all_work);
        let (work, lock) = create_work_folder(&all_work).map_err(named)?;
        Ok(Cache { objects, work, limit, _lock: lock })
    }

    /// The folder of one deployment's stage, made empty.
    pub fn stage_folder(&self, name: &str) -> io::Result<PathBuf> {
        let folder = self.work.join(name);
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// Links the weight into `folder` if it is here and sound. A damaged entry is removed, so that it is
    /// fetched again.
    pub fn take(&self, weight: &WeightEntry, folder: &Path) -> io::Result<bool> {
        let object = self.objects.join(file_name(&weight.hash));
        let target = folder.join(file_name(&weight.hash));
        match link(&object, &target) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        }
        let file = File::open(&target)?;
        if file.metadata()?.len() != weight.len || hash_of(file)? != weight.hash {
            tracing::warn!("cache entry {} is damaged; it will be fetched again", object.display());
            fs::remove_file(&target)?;
            ignore_missing(fs::remove_file(&object))?;
            return Ok(false);
        }
        // Freshly used: last to be evicted. The object may have been evicted meanwhile; the link stays.
        ignore_missing(
            File::options().append(true).open(&object).and_then(|f| f.set_modified(SystemTime::now())),
        )?;
        Ok(true)
    }

    /// Stores a weight that arrives from `bytes` in `folder` and in the cache. The content must have the
    /// hash it claims.
    pub fn store(&self, weight: &WeightEntry, bytes: &mut dyn Read, folder: &Path) -> io::Result<()> {
        let name = file_name(&weight.hash);
        let target = folder.join(&name);
        let (len, hash) = write_and_hash(bytes, &target)?;
        if len != weight.len || hash != weight.hash {
            fs::remove_file(&target)?;
            let reason = format!("weight {name} arrived damaged ({len} of {} bytes)", weight.len);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        // Appears under its name whole or not at all; another node may have been faster.
        match link(&target, &self.objects.join(&name)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        Ok(())
    }

    /// Removes the least recently used weights until the limit is kept.
    pub fn evict(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        let mut total = 0;
        for entry in fs::read_dir(&self.objects)? {
            let entry = entry?;
            // Another process may evict at the same time.
            let Ok(metadata) = entry.metadata() else { continue };
            total += metadata.len();
            entries.push((metadata.modified()?, metadata.len(), entry.path()));
        }
        entries.sort();
        for (_, len, path) in entries {
            if total <= self.limit {
                break;
            }
            ignore_missing(fs::remove_file(path))?;
            total -= len;
        }
        Ok(())
    }

    /// Removes a deployment's folder.
    pub fn discard(&self, folder: &Path) {
        if let Err(e) = fs::remove_dir_all(folder) {
            tracing::warn!("cannot remove {}: {e}", folder.display());
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.discard(&self.work);
    }
}

/// The name under which a weight lies on disk and in a stage's ONNX file: as `graph` names it.
fn file_name(hash: &WeightHash) -> String {
    graph::Hash(*hash).file_name()
}

fn create_work_folder(all_work: &Path) -> io::Result<(PathBuf, File)> {
    let pid = std::process::id();
    for n in 0.. {
        let work = all_work.join(format!("{pid}-{n}"));
        match fs::create_dir(&work) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other?,
        }
        let lock = File::create(work.join("lock"))?;
        // A sweeper that came between the two lines above may have removed the folder: then try again.
        if lock.try_lock().is_ok() && work.join("lock").exists() {
            return Ok((work, lock));
        }
    }
    unreachable!("some number is free")
}

/// Removes the folders of processes that are gone.
fn sweep(all_work: &Path) {
    for entry in fs::read_dir(all_work).into_iter().flatten().flatten() {
        let abandoned = match File::open(entry.path().join("lock")) {
            Ok(lock) => lock.try_lock().is_ok(),
            Err(_) => false,
        };
        if abandoned {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A hard link, or a copy where the file system has none.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(e) if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) => {
            let partial = to.with_extension("partial");
            fs::copy(from, &partial)?;
            fs::rename(partial, to)
        }
        other => other,
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn hash_of(file: File) -> io::Result<WeightHash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(*hasher.finalize().as_bytes())
}

fn write_and_hash(bytes: &mut dyn Read, target: &Path) -> io::Result<(u64, WeightHash)> {
    // What may lie there already is perhaps linked elsewhere and mapped: it is replaced, never written to.
    ignore_missing(fs::remove_file(target))?;
    let mut file = File::options().write(true).create_new(true).open(target)?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_LEN];
    let mut len = 0;
    loop {
        let n = match bytes.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hasher.update(&piece[..n]);
        file.write_all(&piece[..n])?;
        len += n as u64;
    }
    Ok((len, *hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn weight(content: &[u8]) -> WeightEntry {
        WeightEntry { hash: *blake3::hash(content).as_bytes(), len: content.len() as u64 }
    }

    fn object(root: &Path, content: &[u8]) -> PathBuf {
        root.join("objects").join(file_name(&weight(content).hash))
    }

    #[test]
    fn what_one_node_stored_another_takes() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (Cache::open(root.path(), 1000).unwrap(), Cache::open(root.path(), 1000).unwrap());
        let (in_a, in_b) = (a.stage_folder("1").unwrap(), b.stage_folder("1").unwrap());
        assert_ne!(in_a, in_b);
        assert!(!b.take(&weight(b"hello"), &in_b).unwrap());
        a.store(&weight(b"hello"), &mut &b"hello"[..], &in_a).unwrap();
        assert!(b.take(&weight(b"hello"), &in_b).unwrap());
        assert_eq!(fs::read(in_b.join(file_name(&weight(b"hello").hash))).unwrap(), b"hello");
        // Storing the same weight again, as two nodes that fetch at once do.
        b.store(&weight(b"hello"), &mut &b"hello"[..], &b.stage_folder("2").unwrap()).unwrap();
    }

    #[test]
    fn damage_is_noticed_and_mended() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path(), 1000).unwrap();
        let folder = cache.stage_folder("1").unwrap();
        for damaged in [&b"hellO"[..], b"hell", b""] {
            fs::write(object(root.path(), b"hello"), damaged).unwrap();
            assert!(!cache.take(&weight(b"hello"), &folder).unwrap());
            assert!(!object(root.path(), b"hello").exists());
        }
        for arriving in [&b"hellO"[..], b"hell", b"hello!"] {
            assert!(cache.store(&weight(b"hello"), &mut &arriving[..], &folder).is_err());
        }
        assert!(!object(root.path(), b"hello").exists());
    }

    #[test]
    fn the_least_recently_used_goes_first_and_running_stages_keep_theirs() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path(), 10).unwrap();
        let folder = cache.stage_folder("1").unwrap();
        let contents = [&b"aaaa"[..], b"bbbb", b"cccc"];
        for (age, content) in contents.into_iter().enumerate() {
            cache.store(&weight(content), &mut &content[..], &folder).unwrap();
            let old = SystemTime::now() - Duration::from_secs(100 - age as u64);
            File::options()
                .append(true)
                .open(object(root.path(), content))
                .unwrap()
                .set_modified(old)
                .unwrap();
        }
        assert!(cache.take(&weight(b"aaaa"), &cache.stage_folder("2").unwrap()).unwrap());
        cache.evict().unwrap();
        let left: Vec<bool> = contents.iter().map(|c| object(root.path(), c).exists()).collect();
        assert_eq!(left, [true, false, true]);
        assert_eq!(fs::read(folder.join(file_name(&weight(b"bbbb").hash))).unwrap(), b"bbbb");
    }

    #[test]
    fn folders_of_the_dead_are_swept_and_those_of_the_living_are_not() {
        let root = tempfile::tempdir().unwrap();
        let living = Cache::open(root.path(), 10).unwrap();
        let dead = root.path().join("work/dead");
        fs::create_dir_all(dead.join("1")).unwrap();
        fs::write(dead.join("lock"), b"").unwrap();
        let other = Cache::open(root.path(), 10).unwrap();
        assert!(!dead.exists());
        assert!(living.work.exists());
        let work = other.work.clone();
        drop(other);
        assert!(!work.exists());
    }
}

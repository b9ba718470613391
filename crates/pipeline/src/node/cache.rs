//! Weights on disk, named by their hash, shared by everything on this machine.
//!
//! `objects/` holds one file per weight, least recently used goes first when the limit is reached. Each
//! process has a folder under `work/`, locked while it lives; a deployment's folder inside it holds hard
//! links to its weights, beside the stage's ONNX file. So eviction never takes a file from a running stage,
//! two nodes may share a cache, and folders of processes that died are swept by the next one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use wire::control::{WeightEntry, WeightHash};

/// Read and hashed at a time, bytes.
const PIECE_LEN: usize = 1 << 20;

/// Locked in a process's folder while the process lives.
const LOCK_FILE: &str = "lock";

/// A cache folder, opened by one process. Errors name the path.
pub struct Cache {
    objects: PathBuf,
    all_work: PathBuf,
    work: Mutex<Work>,
    limit: u64,
}

/// This process's folder under `work/`.
struct Work {
    folder: PathBuf,
    /// Held as long as the folder is in use.
    _lock: File,
}

impl Cache {
    /// Opens or creates the cache in `root`; it will keep at most `limit` bytes of weights that no
    /// deployment uses.
    pub fn open(root: &Path, limit: u64) -> io::Result<Cache> {
        let objects = root.join("objects");
        let all_work = root.join("work");
        let create = || {
            fs::create_dir_all(&objects).map_err(at(&objects))?;
            fs::create_dir_all(&all_work).map_err(at(&all_work))?;
            sweep(&all_work);
            create_work_folder(&all_work)
        };
        let work = create().map_err(|e| io::Error::new(e.kind(), format!("cache folder {e}")))?;
        Ok(Cache { objects, all_work, work: Mutex::new(work), limit })
    }

    /// The folder of one deployment's stage, made empty. Folders that somebody removed under the running
    /// process are made again.
    pub fn stage_folder(&self, name: &str) -> io::Result<PathBuf> {
        let mut work = self.work();
        if !work.folder.join(LOCK_FILE).exists() {
            fs::create_dir_all(&self.all_work).map_err(at(&self.all_work))?;
            *work = create_work_folder(&self.all_work)?;
        }
        fs::create_dir_all(&self.objects).map_err(at(&self.objects))?;
        let folder = work.folder.join(name);
        ignore_missing(fs::remove_dir_all(&folder)).map_err(at(&folder))?;
        fs::create_dir(&folder).map_err(at(&folder))?;
        Ok(folder)
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        // Whoever panicked while it had it left a folder and its lock behind: both are whole.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Links the weight into `folder` if it is here and sound. A damaged entry is removed, so that it is
    /// fetched again.
    pub fn take(&self, weight: &WeightEntry, folder: &Path) -> io::Result<bool> {
        let object = self.objects.join(file_name(&weight.hash));
        let target = folder.join(file_name(&weight.hash));
        match fs::symlink_metadata(&object) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            // A folder cannot be linked, and to open a pipe would take for ever.
            Ok(metadata) if !metadata.is_file() => {
                tracing::warn!("cache entry {} is not a file; it will be fetched again", object.display());
                remove(&object)?;
                return Ok(false);
            }
            other => other.map_err(at(&object))?,
        };
        match link(&object, &target) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !object.exists() => return Ok(false),
            other => other.map_err(at(&target))?,
        }
        let file = File::open(&target).map_err(at(&target))?;
        let len = file.metadata().map_err(at(&target))?.len();
        if len != weight.len || hash_of(file).map_err(at(&target))? != weight.hash {
            tracing::warn!("cache entry {} is damaged; it will be fetched again", object.display());
            remove(&target)?;
            remove(&object)?;
            return Ok(false);
        }
        // Freshly used: last to be evicted. The object may have been evicted meanwhile; the link stays.
        let touched = File::options().append(true).open(&object);
        ignore_missing(touched.and_then(|f| f.set_modified(SystemTime::now()))).map_err(at(&object))?;
        Ok(true)
    }

    /// Stores a weight that arrives from `bytes` in `folder` and in the cache. The content must have the
    /// hash it claims.
    pub fn store(&self, weight: &WeightEntry, bytes: &mut dyn Read, folder: &Path) -> io::Result<()> {
        let name = file_name(&weight.hash);
        let target = folder.join(&name);
        let (len, hash) = write_and_hash(bytes, &target)?;
        if len != weight.len || hash != weight.hash {
            remove(&target)?;
            let reason = format!("weight {name} arrived damaged ({len} of {} bytes)", weight.len);
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        // Appears under its name whole or not at all; another node may have been faster.
        let object = self.objects.join(&name);
        match link(&target, &object) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(at(&object)),
        }
    }

    /// Removes the least recently used weights until the limit is kept.
    pub fn evict(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        let mut total = 0;
        let here = at(&self.objects);
        for entry in fs::read_dir(&self.objects).map_err(&here)? {
            let entry = entry.map_err(&here)?;
            // Another process may evict at the same time.
            let Ok(metadata) = entry.metadata() else { continue };
            total += metadata.len();
            entries.push((metadata.modified().map_err(&here)?, metadata.len(), entry.path()));
        }
        entries.sort();
        for (_, len, path) in entries {
            if total <= self.limit {
                break;
            }
            remove(&path)?;
            total -= len;
        }
        Ok(())
    }

    /// Removes a deployment's folder.
    pub fn discard(&self, folder: &Path) {
        if let Err(e) = ignore_missing(fs::remove_dir_all(folder)) {
            tracing::warn!("cannot remove {}: {e}", folder.display());
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.discard(&self.work().folder);
    }
}

/// The name under which a weight lies on disk and in a stage's ONNX file: as `graph` names it.
fn file_name(hash: &WeightHash) -> String {
    graph::Hash(*hash).file_name()
}

fn create_work_folder(all_work: &Path) -> io::Result<Work> {
    let pid = std::process::id();
    for n in 0.. {
        let folder = all_work.join(format!("{pid}-{n}"));
        match fs::create_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other.map_err(at(&folder))?,
        }
        let path = folder.join(LOCK_FILE);
        let lock = File::create(&path).map_err(at(&path))?;
        // A sweeper that came between the two lines above may have removed the folder: then try again.
        if lock.try_lock().is_ok() && path.exists() {
            return Ok(Work { folder, _lock: lock });
        }
    }
    unreachable!("some number is free")
}

/// Removes the folders of processes that are gone.
fn sweep(all_work: &Path) {
    for entry in fs::read_dir(all_work).into_iter().flatten().flatten() {
        let abandoned = match File::open(entry.path().join(LOCK_FILE)) {
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

/// Removes whatever lies there, or nothing.
fn remove(path: &Path) -> io::Result<()> {
    let folder = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let removed = if folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    ignore_missing(removed).map_err(at(path))
}

/// Names the path in an error.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
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
    remove(target)?;
    let mut file = File::options().write(true).create_new(true).open(target).map_err(at(target))?;
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
        file.write_all(&piece[..n]).map_err(at(target))?;
        len += n as u64;
    }
    Ok((len, *hasher.finalize().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::process::Command;
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

    /// As when somebody frees the disk while a node runs.
    #[test]
    fn folders_that_were_removed_are_made_again() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path(), 1000).unwrap();
        let before = cache.stage_folder("1").unwrap();
        fs::remove_dir_all(root.path()).unwrap();
        let lost = cache.store(&weight(b"hello"), &mut &b"hello"[..], &before).unwrap_err();
        assert!(lost.to_string().contains(before.to_str().unwrap()), "{lost}");
        let folder = cache.stage_folder("2").unwrap();
        assert!(!cache.take(&weight(b"hello"), &folder).unwrap());
        cache.store(&weight(b"hello"), &mut &b"hello"[..], &folder).unwrap();
        assert!(cache.take(&weight(b"hello"), &cache.stage_folder("3").unwrap()).unwrap());
        // The lock is there again: the next process leaves the folder alone.
        let _other = Cache::open(root.path(), 1000).unwrap();
        assert!(folder.exists());
        // Where nothing can be made, the path is named.
        fs::remove_dir_all(root.path()).unwrap();
        fs::write(root.path(), b"").unwrap();
        let error = cache.stage_folder("4").unwrap_err().to_string();
        assert!(error.contains(root.path().to_str().unwrap()), "{error}");
        fs::remove_file(root.path()).unwrap();
    }

    #[test]
    fn entries_that_are_no_files_are_replaced() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path(), 1000).unwrap();
        let entry = object(root.path(), b"hello");
        let check = |make: &dyn Fn()| {
            make();
            let folder = cache.stage_folder("1").unwrap();
            assert!(!cache.take(&weight(b"hello"), &folder).unwrap());
            cache.store(&weight(b"hello"), &mut &b"hello"[..], &folder).unwrap();
            assert!(cache.take(&weight(b"hello"), &cache.stage_folder("2").unwrap()).unwrap());
            remove(&entry).unwrap();
        };
        check(&|| fs::create_dir_all(entry.join("inside")).unwrap());
        check(&|| drop(UnixListener::bind(&entry).unwrap()));
        check(&|| std::os::unix::fs::symlink("/dev/zero", &entry).unwrap());
        check(&|| assert!(Command::new("mkfifo").arg(&entry).status().unwrap().success()));
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
        assert!(living.work().folder.exists());
        let work = other.work().folder.clone();
        drop(other);
        assert!(!work.exists());
    }
}

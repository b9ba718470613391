//! A shell script plays the Python interpreter: these tests use no network.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::thread;

use super::*;

/// Plays pip: notes that it was called, and puts a "wheel" where `--dest` says.
const PIP: &str = r#"
echo pip >> "$0.calls"
while [ "$1" != --dest ]; do shift; done
echo wheel > "$2/onnxruntime-9.9.9.whl"
"#;

/// Plays the unpacking: `-c SCRIPT WHEEL FOLDER`.
const UNPACKS: &str = r#"cp "$0.library" "$4/libonnxruntime.so.1.32.0"; echo text > "$4/LICENSE""#;

struct Fake {
    folder: tempfile::TempDir,
}

impl Fake {
    fn new(pip: &str, unpack: &str) -> Fake {
        let folder = tempfile::tempdir().unwrap();
        let fake = Fake { folder };
        let script = format!("#!/bin/sh\nif [ \"$1\" = -m ]; then\n{pip}\nelse\n{unpack}\nfi\n");
        let text = fake.folder.path().join("python3.text");
        fs::write(&text, script).unwrap();
        fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
        // By another process: what starts beside this test inherits files that are open here, and what is open to be
        // written cannot be executed.
        let copied = Command::new("cp").arg("-p").args([&text, &fake.python()]).status().unwrap();
        assert!(copied.success());
        let mut library = vec![0; 64];
        library[..4].copy_from_slice(b"\x7fELF");
        library[16] = 3;
        library[18] = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
        library.extend_from_slice(b"\0VERS_1.32.0\0");
        fs::write(fake.folder.path().join("python3.library"), library).unwrap();
        fake
    }

    fn python(&self) -> PathBuf {
        self.folder.path().join("python3")
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn install(&self) -> Result<Installed, InstallError> {
        install(&self.python(), &self.cache(), &mut |_| {})
    }

    fn calls(&self) -> usize {
        fs::read_to_string(self.folder.path().join("python3.calls")).map_or(0, |text| text.lines().count())
    }

    fn leftovers(&self) -> usize {
        fs::read_dir(self.cache().join("engines")).map_or(0, |entries| {
            entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with('.')).count()
        })
    }
}

#[test]
fn installs_once() {
    let fake = Fake::new(PIP, UNPACKS);
    let mut stages = Vec::new();
    let first = install(&fake.python(), &fake.cache(), &mut |stage| stages.push(stage)).unwrap();
    assert_eq!(stages, [Stage::Downloading, Stage::Unpacking]);
    assert!(first.fetched && first.path.is_file());
    assert!(first.path.with_file_name("LICENSE").is_file());
    assert_eq!(fake.install().unwrap(), Installed { fetched: false, ..first.clone() });
    assert_eq!(fake.calls(), 1);
    assert_eq!(library_folders(&fake.cache()), [first.path.parent().unwrap()]);

    // A broken library is replaced.
    fs::write(&first.path, "broken").unwrap();
    assert!(fake.install().unwrap().fetched);
    assert_eq!(inspect(&first.path), Ok(ONNXRUNTIME_VERSION));
    assert_eq!(fake.leftovers(), 0);
}

#[test]
fn two_at_once_do_no_harm() {
    let fake = Fake::new(PIP, UNPACKS);
    thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| fake.install().unwrap().path)).collect();
        for run in runs {
            assert_eq!(inspect(&run.join().unwrap()), Ok(ONNXRUNTIME_VERSION));
        }
    });
    assert_eq!(fake.leftovers(), 0);
}

#[test]
fn failures_say_what_to_do() {
    let offline = "echo 'Looking in indexes'; echo 'ERROR: No matching distribution found' >&2; exit 1";
    let no_pip = "echo \"$0: No module named pip\" >&2; exit 1";
    let cases = [
        (
            offline,
            UNPACKS,
            "check the network and pip's index; pip says:\nLooking in indexes\nERROR: No matching",
        ),
        (no_pip, UNPACKS, "has no pip: install it"),
        ("exit 0", UNPACKS, "pip could not fetch"),
        (PIP, "echo 'BadZipFile' >&2; exit 1", "could not be unpacked: BadZipFile"),
        (PIP, "exit 0", "libonnxruntime.so.1.32.0` cannot be read"),
    ];
    for (pip, unpack, message) in cases {
        let fake = Fake::new(pip, unpack);
        let error = fake.install().unwrap_err().to_string();
        assert!(error.contains(message), "`{message}` is not in: {error}");
        assert_eq!(fake.leftovers(), 0);
    }
    let fake = Fake::new(PIP, UNPACKS);
    let error = install(Path::new("/no/such/python3"), &fake.cache(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("install Python 3 with pip"), "{error}");
    fs::write(fake.cache().with_file_name("file"), "").unwrap();
    let error = install(&fake.python(), &fake.cache().with_file_name("file"), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("cannot write to"), "{error}");
}

#[test]
fn the_library_and_the_licences_come_out_of_a_wheel() {
    let folder = tempfile::tempdir().unwrap();
    let wheel = folder.path().join("a.whl");
    let members = [
        "onnxruntime/capi/libonnxruntime.so.1.32.0",
        "onnxruntime/capi/libonnxruntime_providers_shared.so",
        "onnxruntime/capi/onnxruntime_pybind11_state.so",
        "onnxruntime/LICENSE",
        "onnxruntime/ThirdPartyNotices.txt",
        "onnxruntime/__init__.py",
    ];
    let make = "import sys, zipfile\n\
                with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as z:\n\
                \x20   for m in sys.argv[2:]: z.writestr(m, m)\n";
    let made = Command::new("python3").args(["-c", make]).arg(&wheel).args(members).status();
    assert!(made.expect("`make test` needs python3").success());

    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    unpack(Path::new("python3"), &wheel, &out).unwrap();
    let mut names: Vec<String> =
        fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["LICENSE", "ThirdPartyNotices.txt", "libonnxruntime.so.1.32.0"]);
    assert_eq!(fs::read_to_string(out.join("libonnxruntime.so.1.32.0")).unwrap(), members[0]);

    fs::write(&wheel, "no zip").unwrap();
    let error = unpack(Path::new("python3"), &wheel, &out).unwrap_err();
    assert!(error.to_string().contains("not a zip file"), "{error}");
}

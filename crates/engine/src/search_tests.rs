//! Libraries here are made of a header and a version mark: searching never runs one.

use std::os::unix::fs::symlink;

use super::*;

/// The machine number of an ELF file for this processor, and for another one.
fn machines() -> (u16, u16) {
    if cfg!(target_arch = "aarch64") { (183, 62) } else { (62, 183) }
}

fn library(machine: u16, mark: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..4].copy_from_slice(b"\x7fELF");
    bytes[16] = 3;
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes.extend_from_slice(b"OrtGetApiBase");
    bytes.extend_from_slice(mark);
    bytes
}

fn version(major: u32, minor: u32, patch: u32) -> Version {
    Version { major, minor, patch }
}

#[test]
fn files_are_told_apart_without_running_them() {
    let folder = tempfile::tempdir().unwrap();
    let (here, elsewhere) = machines();
    let mut executable = library(here, b"\0VERS_1.32.0\0");
    executable[16] = 2;
    let mut far = library(here, b"");
    far.resize(1 << 20, 0);
    far.extend_from_slice(b"\0VERS_1.30.2\0");
    type Case<'a> = (&'a str, Option<Vec<u8>>, Result<Version, &'a str>);
    let cases: [Case<'_>; 10] = [
        ("good", Some(library(here, b"\0VERS_1.32.0\0")), Ok(version(1, 32, 0))),
        ("oldest", Some(library(here, b"\0VERS_1.24.0\0")), Ok(version(1, 24, 0))),
        ("mark far behind", Some(far), Ok(version(1, 30, 2))),
        (
            "old",
            Some(library(here, b"\0VERS_1.23.2\0")),
            Err("is ONNX Runtime 1.23.2, too old: 1.24.0 or later is needed"),
        ),
        ("other machine", Some(library(elsewhere, b"\0VERS_1.32.0\0")), Err("this machine is")),
        ("other library", Some(library(here, b"\0GLIBC_2.28\0")), Err("is not ONNX Runtime")),
        ("cut off", Some(b"\x7fELF\x02\x01".to_vec()), Err("is no shared library")),
        ("executable", Some(executable), Err("is no shared library")),
        ("text", Some(b"INPUT(libonnxruntime.so.1)".to_vec()), Err("is no shared library")),
        ("absent", None, Err("cannot be read")),
    ];
    for (name, bytes, expected) in cases {
        let path = folder.path().join(name);
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).unwrap();
        }
        match (inspect(&path), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{name}"),
            (Err(refusal), Err(part)) => assert!(refusal.to_string().contains(part), "{name}: {refusal}"),
            (found, expected) => panic!("{name}: {found:?}, not {expected:?}"),
        }
    }
}

#[test]
fn places_come_in_order_newest_first_and_each_file_once() {
    let root = tempfile::tempdir().unwrap();
    let (here, _) = machines();
    let put = |path: &str, mark: &[u8]| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, library(here, mark)).unwrap();
    };
    put("cache/engines/onnxruntime-1.30.0/libonnxruntime.so.1.30.0", b"\0VERS_1.30.0\0");
    put("cache/engines/onnxruntime-1.32.0/libonnxruntime.so.1.32.0", b"\0VERS_1.32.0\0");
    put("cache/engines/.installing-x/libonnxruntime.so.1.33.0", b"\0VERS_1.33.0\0");
    put("site/onnxruntime/capi/libonnxruntime.so.1.20.0", b"\0VERS_1.20.0\0");
    put("site/onnxruntime/capi/libonnxruntime_providers_shared.so", b"");
    put("lib/libonnxruntime.so.1.31.0", b"\0VERS_1.31.0\0");
    symlink("libonnxruntime.so.1.31.0", root.path().join("lib/libonnxruntime.so")).unwrap();

    let search = LibrarySearch {
        cache: Some(root.path().join("cache")),
        site_packages: vec![root.path().join("no such folder"), root.path().join("site")],
        system: vec![root.path().join("lib"), root.path().join("lib")],
        ..LibrarySearch::default()
    };
    let summary = |search: &LibrarySearch| -> Vec<(String, Origin, bool)> {
        find_onnxruntime(search)
            .into_iter()
            .map(|c| (c.path.file_name().unwrap().to_str().unwrap().to_owned(), c.origin, c.state.is_ok()))
            .collect()
    };
    let unnamed = [
        ("libonnxruntime.so.1.32.0".to_owned(), Origin::Cache, true),
        ("libonnxruntime.so.1.30.0".to_owned(), Origin::Cache, true),
        ("libonnxruntime.so.1.20.0".to_owned(), Origin::Python, false),
        ("libonnxruntime.so.1.31.0".to_owned(), Origin::System, true),
    ];
    assert_eq!(summary(&search), unnamed);
    assert!(choose(&search).unwrap().ends_with("onnxruntime-1.32.0/libonnxruntime.so.1.32.0"));

    // A named folder goes first, and a file that is named is not listed again.
    let named = LibrarySearch {
        flag: Some(root.path().join("lib")),
        environment: Some(root.path().join("cache/engines/onnxruntime-1.30.0/libonnxruntime.so.1.30.0")),
        ..search.clone()
    };
    let origins: Vec<Origin> = summary(&named).into_iter().map(|(_, origin, _)| origin).collect();
    assert_eq!(origins, [Origin::Flag, Origin::Environment, Origin::Cache, Origin::Python]);
    assert!(choose(&named).unwrap().ends_with("libonnxruntime.so.1.31.0"));
}

#[test]
fn a_named_library_that_cannot_be_used_is_an_error_others_are_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let (here, _) = machines();
    fs::write(root.path().join("libonnxruntime.so"), library(here, b"\0VERS_1.2.0\0")).unwrap();
    let place = root.path().to_owned();
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();

    let named = |flag: &Path| LibrarySearch { flag: Some(flag.to_owned()), ..LibrarySearch::default() };
    for (search, part) in [
        (named(&place), "too old"),
        (named(&empty), "without a libonnxruntime.so"),
        (named(&root.path().join("absent.so")), "cannot be read"),
        (LibrarySearch { environment: Some(place.clone()), ..LibrarySearch::default() }, "too old"),
    ] {
        let error = preferred(&search).err().expect("it was taken");
        assert!(matches!(error, LibraryError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    let search = LibrarySearch { system: vec![place], ..LibrarySearch::default() };
    let error = OnnxRuntime::find(&search).expect_err("it was taken");
    assert!(error.to_string().contains("is ONNX Runtime 1.2.0, too old"), "{error}");
    assert_eq!(preferred(&search).unwrap().name(), "rten");
}

#[test]
fn a_file_that_only_looks_like_the_library_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libonnxruntime.so");
    fs::write(&path, library(machines().0, b"\0VERS_1.32.0\0")).unwrap();
    // Twice: a failure must not be taken for a library in use.
    for _ in 0..2 {
        let error = OnnxRuntime::load(&path).expect_err("it was loaded");
        assert!(matches!(error, LibraryError::Load { .. }), "{error}");
        assert!(
            error.to_string().contains("libonnxruntime.so` (ONNX Runtime 1.32.0) cannot be loaded"),
            "{error}"
        );
    }
}

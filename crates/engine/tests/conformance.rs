//! One suite for every engine: what the `Engine` and `Session` traits promise.
//!
//! ONNX Runtime is tested when `DEFER_ONNXRUNTIME` names its library, as `make test` does. The models are
//! written by `models/make_models.py`.

#![allow(clippy::disallowed_methods, reason = "`make test` says by environment where the library lies")]

use std::path::{Path, PathBuf};
use std::{env, fs, thread};

use engine::{
    Engine, LoadError, ModelSource, OnnxRuntime, Optimisation, Outputs, Rten, Session, SessionOptions,
};
use half::f16;
use tensor::{DType, Dim, Shape, Tensor, TensorSpec, TensorView};

macro_rules! on_every_engine {
    ($($test:ident,)*) => {
        mod rten {
            $(#[test] fn $test() { super::$test(&engine::Rten); })*
        }
        mod onnxruntime {
            $(#[test] fn $test() { if let Some(engine) = super::onnxruntime() { super::$test(&engine); } })*
        }
    };
}

on_every_engine! {
    every_type_goes_in_and_out,
    types_that_an_engine_lacks_are_refused_on_loading,
    scalars,
    empty_tensors,
    sizes_may_change_from_item_to_item,
    several_inputs_and_outputs_in_the_order_asked_for,
    integers_and_bools_keep_their_declared_types,
    outputs_that_are_inputs_or_weights,
    inputs_at_odd_addresses,
    inputs_are_not_written_to,
    transposed_results_are_row_major,
    wrong_inputs_are_refused,
    wrong_expectations_are_refused,
    nothing_is_expected_twice,
    unknown_operators_are_named,
    failures_while_running_name_the_node,
    broken_models_are_refused,
    weights_beside_the_model,
    threads_are_checked,
    cut_models_give_what_the_whole_gives,
    sessions_run_side_by_side,
    outputs_outlive_the_session_on_another_thread,
}

#[test]
fn onnxruntime_is_present() {
    let without = env::var_os("DEFER_TEST_WITHOUT_ONNXRUNTIME").is_some_and(|v| v == "1");
    assert!(
        without || onnxruntime().is_some(),
        "the ONNX Runtime half of this suite did not run: run `make test`, which installs the library; or set \
         DEFER_ONNXRUNTIME to the path of one; or set DEFER_TEST_WITHOUT_ONNXRUNTIME=1 to test without it"
    );
}

fn onnxruntime() -> Option<OnnxRuntime> {
    let path = env::var_os("DEFER_ONNXRUNTIME")?;
    Some(OnnxRuntime::load(Path::new(&path)).expect("DEFER_ONNXRUNTIME names a usable library"))
}

/// Types of which an engine can take and give tensors.
fn types_of(engine: &dyn Engine) -> &'static [DType] {
    use DType::*;
    match engine.name() {
        "rten" => &[F32, F64, F16, U8, I8, I32, I64, Bool],
        // Complex numbers it does not know; of f4e2m1 it has tensors, but no operator that takes them.
        _ => &[
            F32, F64, F16, Bf16, U8, U16, U32, U64, I8, I16, I32, I64, Bool, String, F8E4M3Fn, F8E4M3Fnuz,
            F8E5M2, F8E5M2Fnuz, F8E8M0, U4, I4, U2, I2,
        ],
    }
}

fn every_type_goes_in_and_out(engine: &dyn Engine) {
    for &dtype in types_of(engine) {
        let mut session = load_column(engine, dtype).unwrap_or_else(|error| panic!("{dtype}: {error}"));
        for n in [1, 5, 2] {
            let x = sample(dtype, n);
            let y = run(&mut *session, std::slice::from_ref(&x)).remove(0);
            assert_eq!((y.dtype(), y.shape()), (dtype, Shape::from([n, 1])), "{dtype}");
            assert_eq!(y.bytes(), x.bytes(), "{dtype}");
        }
    }
}

/// `n` values that differ, of any type: small whole numbers where bytes alone would not round-trip.
fn sample(dtype: DType, n: usize) -> Tensor {
    let shape = Shape::from([n]);
    let numbers = (0..n).map(|i| i as f64 - 2.0);
    match dtype {
        DType::F32 => Tensor::from_slice(shape, &numbers.map(|v| v as f32).collect::<Vec<_>>()),
        DType::F64 => Tensor::from_slice(shape, &numbers.collect::<Vec<_>>()),
        DType::F16 => Tensor::from_slice(shape, &numbers.map(f16::from_f64).collect::<Vec<_>>()),
        DType::I64 => Tensor::from_slice(shape, &numbers.map(|v| v as i64).collect::<Vec<_>>()),
        DType::Bool => Tensor::from_bytes(dtype, shape, &(0..n).map(|i| (i % 2) as u8).collect::<Vec<_>>()),
        DType::String => Tensor::from_strings(shape, &(0..n).map(|i| "größe ".repeat(i)).collect::<Vec<_>>()),
        // Powers of two; those of the smallest bytes would be subnormal in f32.
        DType::F8E8M0 => Tensor::from_bytes(dtype, shape, &(0..n).map(|i| 126 + i as u8).collect::<Vec<_>>()),
        _ => {
            let len = dtype.byte_len(n).expect("a sized type");
            // Below 0x10: the unused upper half of a last byte of packed elements stays zero.
            Tensor::from_bytes(dtype, shape, &(0..len).map(|i| (i % 3) as u8).collect::<Vec<_>>())
        }
    }
    .expect("the sample is well formed")
}

fn types_that_an_engine_lacks_are_refused_on_loading(engine: &dyn Engine) {
    for &dtype in DType::ALL.iter().filter(|dtype| !types_of(engine).contains(dtype)) {
        let error = load_column(engine, dtype).err().unwrap_or_else(|| panic!("{dtype} was taken"));
        let reason = match dtype {
            DType::F4E2M1 if engine.name() == "onnxruntime" => "implementation for Cast".to_owned(),
            _ => format!("{dtype}, the type of input `x`"),
        };
        assert!(error.to_string().contains(&reason), "{error}");
    }
}

fn scalars(engine: &dyn Engine) {
    let f32_scalar = |name| spec(name, DType::F32, &[]);
    let mut session = load(engine, "scalar", &[f32_scalar("a"), f32_scalar("b")], &[f32_scalar("sum")]);
    let scalar = |v: f32| Tensor::from_slice(Shape::SCALAR, &[v]).unwrap();
    assert_eq!(run(&mut *session, &[scalar(2.0), scalar(0.5)]), [scalar(2.5)]);
}

fn empty_tensors(engine: &dyn Engine) {
    for dtype in [DType::F32, DType::I64, DType::Bool, DType::I8] {
        let mut session = load_column(engine, dtype).unwrap();
        let empty = Tensor::zeros(dtype, Shape::from([0])).unwrap();
        assert_eq!(run(&mut *session, &[empty]), [Tensor::zeros(dtype, Shape::from([0, 1])).unwrap()]);
    }
}

fn many(engine: &dyn Engine, outputs: &[&str]) -> Box<dyn Session> {
    let rows = |name| spec(name, DType::F32, &["batch", "3"]);
    let outputs: Vec<TensorSpec> = outputs
        .iter()
        .map(|&name| if name == "total" { spec(name, DType::F32, &[]) } else { rows(name) })
        .collect();
    load(engine, "many", &[rows("a"), rows("b")], &outputs)
}

fn sizes_may_change_from_item_to_item(engine: &dyn Engine) {
    let mut session = many(engine, &["total", "positive", "difference"]);
    for batch in [2, 1, 4, 2] {
        let a = rows(batch, |i| i as f32);
        let b = rows(batch, |_| 1.0);
        let total = (0..3 * batch).map(|i| i as f32 - 1.0).sum::<f32>();
        let outputs = run(&mut *session, &[a, b]);
        assert_eq!(outputs[0].as_slice::<f32>().unwrap(), [total]);
        assert_eq!(outputs[2], rows(batch, |i| i as f32 - 1.0));
    }
}

fn several_inputs_and_outputs_in_the_order_asked_for(engine: &dyn Engine) {
    let a = rows(1, |i| i as f32);
    let b = rows(1, |_| 1.0);
    let expected = |name: &str| match name {
        "total" => Tensor::from_slice(Shape::SCALAR, &[0f32]).unwrap(),
        "positive" => rows(1, |i| (i as f32 - 1.0).max(0.0)),
        _ => rows(1, |i| i as f32 - 1.0),
    };
    for order in [["total", "positive", "difference"], ["difference", "total", "positive"]] {
        let mut session = many(engine, &order);
        let names: Vec<&str> = session.outputs().iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, order);
        assert_eq!(run(&mut *session, &[a.clone(), b.clone()]), order.map(expected));
    }
    let rows = |name| spec(name, DType::F32, &["batch", "3"]);
    let outputs = ["difference", "positive"].map(rows).into_iter().chain([spec("total", DType::F32, &[])]);
    let mut swapped = load(engine, "many", &[rows("b"), rows("a")], &outputs.collect::<Vec<_>>());
    assert_eq!(run(&mut *swapped, &[b, a])[0], expected("difference"));
}

fn integers(engine: &dyn Engine) -> Box<dyn Session> {
    let outputs = [spec("tripled", DType::I64, &["n"]), spec("large", DType::Bool, &["n"])];
    load(engine, "integers", &[spec("x", DType::I64, &["n"])], &outputs)
}

fn integers_and_bools_keep_their_declared_types(engine: &dyn Engine) {
    let mut session = integers(engine);
    let x = Tensor::from_slice(Shape::from([4]), &[-7i64, 3, 4, 700_000_000]).unwrap();
    let outputs = run(&mut *session, &[x]);
    assert_eq!(outputs[0].as_slice::<i64>().unwrap(), [-21, 9, 12, 2_100_000_000]);
    assert_eq!((outputs[1].dtype(), outputs[1].bytes()), (DType::Bool, &[0, 0, 1, 1][..]));
}

#[test]
fn rten_refuses_values_beyond_its_own_types() {
    let check = |dtype, x: Tensor, message: &str| {
        let mut session = load_column(&Rten, dtype).unwrap();
        let error = session.run(&[x.view()]).err().expect("the value was taken");
        assert_eq!(error.to_string(), message);
    };
    for (value, beyond) in [(i64::from(i32::MAX), i64::from(i32::MAX) + 1), (i64::from(i32::MIN), i64::MIN)] {
        let fits = Tensor::from_slice(Shape::from([1]), &[value]).unwrap();
        let mut session = load_column(&Rten, DType::I64).unwrap();
        assert_eq!(run(&mut *session, &[fits])[0].as_slice::<i64>().unwrap(), [value]);
        check(
            DType::I64,
            Tensor::from_slice(Shape::from([2]), &[0, beyond]).unwrap(),
            &format!("tensor `x` holds {beyond}, which rten cannot hold: it computes i64 as i32"),
        );
    }
    check(
        DType::F64,
        Tensor::from_slice(Shape::from([2]), &[f64::INFINITY, 1e39]).unwrap(),
        &format!("tensor `x` holds {}, which rten cannot hold: it computes f64 as f32", 1e39),
    );
}

#[test]
fn a_process_holds_one_onnxruntime() {
    let Some(engine) = onnxruntime() else { return };
    assert_eq!(
        OnnxRuntime::load(engine.path()).map(|again| again.library_version()),
        Ok(engine.library_version())
    );
    let error = OnnxRuntime::load(Path::new("/another/libonnxruntime.so")).expect_err("it was loaded");
    assert!(error.to_string().ends_with(&format!("already uses `{}`", engine.path().display())), "{error}");
}

#[test]
fn onnxruntime_takes_every_int64() {
    let Some(engine) = onnxruntime() else { return };
    let mut session = load_column(&engine, DType::I64).unwrap();
    let x = Tensor::from_slice(Shape::from([2]), &[i64::MIN, i64::MAX]).unwrap();
    assert_eq!(run(&mut *session, std::slice::from_ref(&x))[0].bytes(), x.bytes());
}

fn through(engine: &dyn Engine) -> Box<dyn Session> {
    let table = |name| spec(name, DType::F32, &["2", "3"]);
    let outputs = [
        table("x"),
        table("same"),
        table("relu"),
        spec("flat", DType::F32, &["6"]),
        spec("weight", DType::F32, &["2"]),
    ];
    load(engine, "through", &[table("x")], &outputs)
}

fn outputs_that_are_inputs_or_weights(engine: &dyn Engine) {
    let mut session = through(engine);
    let mut memory = vec![-1f32, 2.0, -3.0, 4.0, -5.0, 6.0];
    let expected = memory.clone();
    let outputs = session.run(&[TensorView::of_slice(Shape::from([2, 3]), &memory).unwrap()]).unwrap();
    drop(session);
    // The outputs must not share the caller's memory, which is the caller's again.
    memory.fill(f32::NAN);
    for index in [0, 1, 3] {
        assert_eq!(outputs.view(index).as_slice::<f32>().unwrap(), expected, "output {index}");
    }
    assert_eq!(outputs.view(2).as_slice::<f32>().unwrap(), [0.0, 2.0, 0.0, 4.0, 0.0, 6.0]);
    assert_eq!(outputs.view(4).as_slice::<f32>().unwrap(), [0.5, -2.0]);
}

fn inputs_at_odd_addresses(engine: &dyn Engine) {
    for dtype in [DType::F32, DType::I64, DType::I32, DType::F64, DType::U8] {
        let mut session = load_column(engine, dtype).unwrap();
        let x = sample(dtype, 5);
        let mut shifted = tensor::Buffer::zeroed(x.bytes().len() + 1);
        shifted.as_mut_bytes()[1..].copy_from_slice(x.bytes());
        let view = TensorView::new(dtype, x.shape(), &shifted.as_bytes()[1..]).unwrap();
        let outputs = session.run(&[view]).unwrap();
        assert_eq!(outputs.view(0).bytes(), x.bytes(), "{dtype}");
    }
}

fn inputs_are_not_written_to(engine: &dyn Engine) {
    let mut session = many(engine, &["total", "positive", "difference"]);
    let inputs = [rows(3, |i| i as f32), rows(3, |_| 4.0)];
    let before = inputs.clone();
    run(&mut *session, &inputs);
    assert_eq!(inputs, before);
}

fn transposed_results_are_row_major(engine: &dyn Engine) {
    let mut session = load(
        engine,
        "transpose",
        &[spec("x", DType::F32, &["2", "3"])],
        &[spec("y", DType::F32, &["3", "2"])],
    );
    let x = Tensor::from_slice(Shape::from([2, 3]), &[0f32, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    let y = Tensor::from_slice(Shape::from([3, 2]), &[0f32, 3.0, 1.0, 4.0, 2.0, 5.0]).unwrap();
    assert_eq!(run(&mut *session, &[x]), [y]);
}

fn wrong_inputs_are_refused(engine: &dyn Engine) {
    let mut session = many(engine, &["total", "positive", "difference"]);
    let good = rows(1, |i| i as f32);
    let integers = Tensor::zeros(DType::I32, Shape::from([1, 3])).unwrap();
    let wide = Tensor::zeros(DType::F32, Shape::from([1, 4])).unwrap();
    let flat = Tensor::zeros(DType::F32, Shape::from([3])).unwrap();
    for (inputs, message) in [
        (vec![&good], "the model takes 2 inputs, not 1"),
        (vec![&good, &good, &good], "the model takes 2 inputs, not 3"),
        (vec![&good, &integers], "tensor `b` must be f32, not i32"),
        (vec![&wide, &good], "tensor `a` must have shape <batch>x3, not 1x4"),
        (vec![&flat, &good], "tensor `a` must have shape <batch>x3, not 3"),
    ] {
        let views: Vec<TensorView<'_>> = inputs.iter().map(|tensor| tensor.view()).collect();
        assert_eq!(session.run(&views).err().expect(message).to_string(), message);
    }
    // And it still works.
    run(&mut *session, &[good.clone(), good]);
}

fn wrong_expectations_are_refused(engine: &dyn Engine) {
    let x = || spec("x", DType::F32, &["2", "3"]);
    let y = || spec("y", DType::F32, &["3", "2"]);
    for (input, outputs, message) in [
        (spec("z", DType::F32, &["2", "3"]), vec![y()], "inputs expected: `z` is missing"),
        (x(), vec![], "outputs expected: it has 1 (`y`), not 0"),
        (x(), vec![spec("y", DType::I32, &["3", "2"])], "outputs expected: `y` is f32, not i32"),
        (spec("x", DType::F32, &["2", "4"]), vec![y()], "inputs expected: `x` has shape 2x3, not 2x4"),
        (spec("x", DType::F32, &["2"]), vec![y()], "inputs expected: `x` has shape 2x3, not 2"),
    ] {
        let error = try_load(engine, "transpose", &[input], &outputs).err().expect(message);
        assert!(matches!(error, LoadError::Signature { .. }), "{error}");
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.to_string().contains("transpose.onnx"), "{error}");
    }
}

fn nothing_is_expected_twice(engine: &dyn Engine) {
    let rows = |name: &&str| spec(name, DType::F32, &["batch", "3"]);
    for (inputs, outputs, message) in [
        (
            ["a", "b"],
            ["positive", "difference", "positive"],
            "outputs expected: `positive` is expected twice",
        ),
        (["b", "b"], ["positive", "difference", "total"], "inputs expected: `b` is expected twice"),
    ] {
        let (inputs, outputs) = (inputs.each_ref().map(rows), outputs.each_ref().map(rows));
        let error = try_load(engine, "many", &inputs, &outputs).err().expect(message);
        assert!(error.to_string().contains(message), "{error}");
    }
}

fn unknown_operators_are_named(engine: &dyn Engine) {
    let pair = |name| spec(name, DType::F32, &["2"]);
    let error = try_load(engine, "unknown_operator", &[pair("x")], &[pair("y")]).err().expect("it was taken");
    let message = error.to_string();
    // ONNX Runtime says which operator, not which node.
    let node = if engine.name() == "rten" { "strange_node" } else { "" };
    for part in ["Frobnicate", node, "unknown_operator.onnx", engine.name()] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn failures_while_running_name_the_node(engine: &dyn Engine) {
    let mut session = load(
        engine,
        "matmul",
        &[spec("a", DType::F32, &["m", "k"]), spec("b", DType::F32, &["l", "n"])],
        &[spec("y", DType::F32, &["m", "n"])],
    );
    let table = |rows, columns| Tensor::zeros(DType::F32, Shape::from([rows, columns])).unwrap();
    let (a, b) = (table(2, 3), table(4, 5));
    let message = session.run(&[a.view(), b.view()]).err().expect("it ran").to_string();
    assert!(message.contains("the_product") && message.contains(engine.name()), "{message}");
    run(&mut *session, &[table(2, 3), table(3, 5)]);
}

fn broken_models_are_refused(engine: &dyn Engine) {
    let rows = |name| spec(name, DType::F32, &["2", "3"]);
    let whole = fs::read(model_path("transpose")).unwrap();
    let text = b"This is a text, and no model at all. It goes on for a while.".to_vec();
    let half = whole[..whole.len() / 2].to_vec();
    for bytes in [Vec::new(), half.clone(), text.clone()] {
        let source = ModelSource::Bytes(&bytes);
        let error =
            engine.load(source, &[rows("x")], &[rows("y")], &one_thread()).err().expect("it was taken");
        assert!(error.to_string().contains(&format!("{} bytes", bytes.len())), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("half.onnx", Some(half)), ("text.onnx", Some(text)), ("absent.onnx", None)] {
        let path = folder.path().join(name);
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).unwrap();
        }
        let source = ModelSource::File(&path);
        let error =
            engine.load(source, &[rows("x")], &[rows("y")], &one_thread()).err().expect("it was taken");
        assert!(error.to_string().contains(name), "{error}");
    }
}

fn weights_beside_the_model(engine: &dyn Engine) {
    let row = |name| spec(name, DType::F32, &["1", "8"]);
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("external.onnx");
    let weights = folder.path().join("external.data");
    let source = ModelSource::File(&model);
    fs::copy(model_path("external"), &model).unwrap();

    let error = engine.load(source, &[row("x")], &[row("y")], &one_thread()).err().expect("no weights");
    assert!(error.to_string().contains("external.data"), "{error}");

    let bytes = fs::read(model_path("external").with_file_name("external.data")).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 8]).unwrap();
    assert!(engine.load(source, &[row("x")], &[row("y")], &one_thread()).is_err(), "weights cut short");

    fs::remove_file(&weights).unwrap();
    fs::write(&weights, &bytes).unwrap();
    let mut session = engine.load(source, &[row("x")], &[row("y")], &one_thread()).unwrap();
    // A node's cache may throw a file out while a session uses it.
    fs::remove_file(&weights).unwrap();
    let x = Tensor::from_slice(Shape::from([1, 8]), &[1f32, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]).unwrap();
    let y = run(&mut *session, &[x]).remove(0);
    let expected: Vec<f32> =
        (0..8).map(|i| i as f32 / 8.0 + 2.0 * (56 + i) as f32 / 8.0 + i as f32).collect();
    assert_eq!(y.as_slice::<f32>().unwrap(), expected);
}

fn threads_are_checked(engine: &dyn Engine) {
    let f32_scalar = |name| spec(name, DType::F32, &[]);
    let inputs = [f32_scalar("a"), f32_scalar("b")];
    let path = model_path("scalar");
    for (threads, ok) in [(0, false), (1, true), (3, true)] {
        let options = SessionOptions::threads(threads);
        let loaded = engine.load(ModelSource::File(&path), &inputs, &[f32_scalar("sum")], &options);
        assert_eq!(loaded.is_ok(), ok, "{threads} threads");
    }
}

fn cut_models_give_what_the_whole_gives(engine: &dyn Engine) {
    let map = |name: &str| spec(name, DType::F32, &["1", "16", "8", "8"]);
    let values: Vec<f32> = (0..16 * 64).map(|i| (i as f32).sin()).collect();
    let x = Tensor::from_slice(Shape::from([1, 16, 8, 8]), &values).unwrap();
    for optimisation in [Optimisation::Full, Optimisation::Reproducible] {
        let options = SessionOptions { optimisation, ..one_thread() };
        let step = |model: &str, from: &str, to: &str, input: &Tensor| {
            let path = model_path(model);
            let source = ModelSource::File(&path);
            let mut session = engine.load(source, &[map(from)], &[map(to)], &options).unwrap();
            run(&mut *session, std::slice::from_ref(input)).remove(0)
        };
        let whole = step("blocks", "x", "y", &x);
        let parts = step("blocks_tail", "cut", "y", &step("blocks_head", "x", "cut", &x));
        if optimisation == Optimisation::Reproducible {
            assert_eq!(parts, whole);
        }
        let pairs = whole.as_slice::<f32>().unwrap().iter().zip(parts.as_slice::<f32>().unwrap());
        let largest = pairs.clone().map(|(a, _)| a.abs()).fold(0.0, f32::max);
        let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest > 0.1 && difference <= 1e-6 * largest, "{difference} of {largest}");
    }
}

fn sessions_run_side_by_side(engine: &dyn Engine) {
    thread::scope(|scope| {
        for offset in [0.0, 100.0] {
            scope.spawn(move || {
                let mut session = many(engine, &["difference", "total", "positive"]);
                for i in 0..200 {
                    let a = rows(1 + i % 3, |j| offset + (i + j) as f32);
                    let b = rows(1 + i % 3, |_| 1.0);
                    let expected = rows(1 + i % 3, |j| offset + (i + j) as f32 - 1.0);
                    assert_eq!(run(&mut *session, &[a, b])[0], expected);
                }
            });
        }
    });
}

fn outputs_outlive_the_session_on_another_thread(engine: &dyn Engine) {
    let mut session = many(engine, &["difference", "total", "positive"]);
    let held: Vec<Box<dyn Outputs>> = (0..20)
        .map(|i| {
            let (a, b) = (rows(50, |j| (i + j) as f32), rows(50, |_| 1.0));
            session.run(&[a.view(), b.view()]).unwrap()
        })
        .collect();
    drop(session);
    let check = move || {
        for (i, outputs) in held.iter().enumerate() {
            assert_eq!(outputs.view(0).to_tensor(), rows(50, |j| (i + j) as f32 - 1.0));
        }
    };
    thread::spawn(check).join().unwrap();
}

/// A tensor of `rows` by 3 floats.
fn rows(rows: usize, value: impl Fn(usize) -> f32) -> Tensor {
    let values: Vec<f32> = (0..3 * rows).map(value).collect();
    Tensor::from_slice(Shape::from([rows, 3]), &values).unwrap()
}

/// A spec whose dimensions are numbers or names.
fn spec(name: &str, dtype: DType, dims: &[&str]) -> TensorSpec {
    let dim = |text: &&str| text.parse().map_or_else(|_| Dim::Symbol((*text).to_owned()), Dim::Fixed);
    TensorSpec { name: name.to_owned(), dtype, dims: Some(dims.iter().map(dim).collect()) }
}

fn model_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(format!("{name}.onnx"))
}

fn one_thread() -> SessionOptions {
    SessionOptions::threads(1)
}

fn try_load(
    engine: &dyn Engine,
    name: &str,
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
) -> Result<Box<dyn Session>, LoadError> {
    engine.load(ModelSource::File(&model_path(name)), inputs, outputs, &one_thread())
}

fn load(engine: &dyn Engine, name: &str, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Box<dyn Session> {
    try_load(engine, name, inputs, outputs).unwrap_or_else(|error| panic!("{error}"))
}

/// The model that makes a column of `n` elements of any type, from bytes in memory.
fn load_column(engine: &dyn Engine, dtype: DType) -> Result<Box<dyn Session>, LoadError> {
    let bytes = fs::read(model_path(&format!("column_{dtype}"))).unwrap();
    let (x, y) = (spec("x", dtype, &["n"]), spec("y", dtype, &["n", "1"]));
    engine.load(ModelSource::Bytes(&bytes), &[x], &[y], &one_thread())
}

fn run(session: &mut dyn Session, inputs: &[Tensor]) -> Vec<Tensor> {
    let views: Vec<TensorView<'_>> = inputs.iter().map(Tensor::view).collect();
    let outputs = session.run(&views).unwrap_or_else(|error| panic!("{error}"));
    (0..session.outputs().len()).map(|i| outputs.view(i).to_tensor()).collect()
}

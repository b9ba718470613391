use image::{GrayImage, Luma, Rgb, RgbImage};

use super::*;

fn spec(dtype: DType, dims: &[usize]) -> TensorSpec {
    let dims = dims.iter().map(|&d| Dim::Fixed(d)).collect();
    TensorSpec { name: "input".into(), dtype, dims: Some(dims) }
}

fn settings(toml: &str) -> Settings {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.toml");
    std::fs::write(&path, format!("version = 1\n{toml}")).unwrap();
    Settings::read(&path).unwrap()
}

/// Pixel (x, y) is (10x + y, 100 + 10x + y, 200 + y).
fn gradient(width: u32, height: u32) -> DynamicImage {
    let pixel = |x, y| Rgb([(10 * x + y) as u8, (100 + 10 * x + y) as u8, (200 + y) as u8]);
    DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, pixel))
}

#[test]
fn layout_channel_order_and_scale() {
    let check = |toml: &str, dims: &[usize], expected: &[f32]| {
        let preprocess = Preprocess::new(&settings(toml), &spec(DType::F32, dims)).unwrap();
        let tensor = preprocess.tensor(gradient(2, 2)).unwrap();
        assert_eq!(tensor.shape().dims(), dims, "{toml}");
        assert_eq!(tensor.as_slice::<f32>().unwrap(), expected, "{toml}");
    };
    // Row-major pixels of the picture: (0,100,200) (10,110,200) / (1,101,201) (11,111,201).
    check(
        "channels = 'RGB'\nmean = [0]\nstd = [1]",
        &[1, 3, 2, 2],
        &[0., 10., 1., 11., 100., 110., 101., 111., 200., 200., 201., 201.],
    );
    check(
        "channels = 'BGR'\nmean = [104, 117, 123]\nstd = [1]",
        &[1, 2, 2, 3],
        &[96., -17., -123., 96., -7., -113., 97., -16., -122., 97., -6., -112.],
    );
    check(
        "channels = 'RGB'\nmean = [127]\nstd = [128]\nlayout = 'NCHW'",
        &[1, 3, 2, 2],
        &[-127., -117., -126., -116., -27., -17., -26., -16., 73., 73., 74., 74.].map(|v: f32| v / 128.),
    );
}

#[test]
fn element_types() {
    let check = |dtype, mean: f32, expected: &[u8]| {
        let mut s = settings("channels = 'gray'\nstd = [1]");
        s.mean = Some(vec![mean]);
        let preprocess = Preprocess::new(&s, &spec(dtype, &[1, 1, 1, 2])).unwrap();
        let photo = GrayImage::from_fn(2, 1, |x, _| Luma([x as u8 * 255]));
        let tensor = preprocess.tensor(DynamicImage::ImageLuma8(photo)).unwrap();
        assert_eq!((tensor.dtype(), tensor.bytes()), (dtype, expected));
    };
    check(DType::U8, 0.0, &[0, 255]);
    check(DType::I8, 128.0, &[0x80, 127]);
    check(DType::F16, 127.0, &[0xf0, 0xd7, 0x00, 0x58]); // -127 and 128
    check(DType::Bf16, 127.0, &[0xfe, 0xc2, 0x00, 0x43]);
}

#[test]
fn the_centre_is_cut_out_and_plain_squeezes() {
    let red = |toml: &str, photo: DynamicImage, size: usize| {
        let s = settings(&format!("channels = 'RGB'\nmean = [0]\nstd = [1]\n{toml}"));
        let preprocess = Preprocess::new(&s, &spec(DType::F32, &[1, 3, size, size])).unwrap();
        let tensor = preprocess.tensor(photo).unwrap();
        tensor.as_slice::<f32>().unwrap()[..size * size].to_vec()
    };
    // 6 x 4, shorter side as it is: columns 2 and 3, rows 1 and 2.
    assert_eq!(red("shorter_side = 4", gradient(6, 4), 2), [21., 31., 22., 32.]);
    // Without a shorter side, all rows: columns 1 to 4.
    assert_eq!(red("", gradient(6, 4), 4)[..4], [10., 20., 30., 40.]);
    // Halving with a triangle of radius 2: the weights are 1, 3, 3, 1, those outside the picture left out.
    let row = [0u8, 70, 140, 210];
    let photo = RgbImage::from_fn(4, 2, |x, _| Rgb([row[x as usize], 0, 0]));
    let expected = [(3. * 0. + 3. * 70. + 140.) / 7., (70. + 3. * 140. + 3. * 210.) / 7.];
    let squeezed = red("resize = 'plain'", DynamicImage::ImageRgb8(photo), 2);
    for (found, expected) in squeezed.iter().zip(expected.iter().cycle()) {
        assert!((found - f32::round(*expected)).abs() < 0.5, "{squeezed:?}, not {expected:?}");
    }
}

#[test]
fn what_is_missing_or_wrong_is_said() {
    let check = |toml: &str, dtype, message: &str| {
        let error = Preprocess::new(&settings(toml), &spec(dtype, &[1, 3, 2, 2])).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(message), "`{error}` lacks `{message}`");
    };
    check(
        "channels = 'RGB'\nmean = [0]",
        DType::F32,
        "`std` is neither in a file beside the model nor given",
    );
    check("mean = [0]\nstd = [1]", DType::F32, "`channels` is neither");
    let complete = "channels = 'RGB'\nmean = [0]\nstd = [1]\n";
    check(&format!("{complete}shorter_side = 1"), DType::F32, "less than the input's 2x2");
    check(&format!("{complete}size = [3, 3]"), DType::F32, "must have shape 1x3x2x2, not 1x3x3x3");
    check(&complete.replace("[0]", "[0, 1]"), DType::F32, "`mean` has 2 values for 3 channels");
    check(&complete.replace("[0]", "[127]"), DType::U8, "a pixel of 0 becomes -127, which is no u8");
    check(&complete.replace("[1]", "[0]"), DType::F32, "which is no f32");
    check(complete, DType::I64, "not i64");
}

#[test]
fn unknown_keys_are_refused_with_their_line() {
    let check = |toml: &str, message: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.toml");
        std::fs::write(&path, toml).unwrap();
        let error = format!("{:#}", Settings::read(&path).unwrap_err());
        assert!(error.contains("model.toml"), "{error}");
        assert!(error.contains(message), "`{error}` lacks `{message}`");
    };
    check("version = 1\nmaen = [0]\n", "line 2");
    check("version = 1\nmaen = [0]\n", "unknown field `maen`");
    check("version = 1\nlayout = 'NCWH'\n", "unknown variant `NCWH`");
    check("version = 1\ndtype = 'float'\n", "`float` is no element type");
    check("version = 2\n", "has version 2");
    check("mean = [0]\n", "lacks the line `version = 1`");
}

#[test]
fn the_vendored_settings_fit_their_models() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    for (name, dims) in [
        ("efficientnet_lite0", [1, 3, 224, 224]),
        ("efficientnet_lite0_int8_qdq", [1, 3, 224, 224]),
        ("resnet20_mnist", [1, 1, 28, 28]),
        ("resnet20_mnist_int8_qdq", [1, 1, 28, 28]),
    ] {
        let settings = Settings::read(&beside(&models.join(name).with_extension("onnx"))).unwrap();
        Preprocess::new(&settings, &spec(DType::F32, &dims)).unwrap();
        if let Some(labels) = &settings.labels {
            assert_eq!(Labels::read(labels).unwrap().0.len(), 1000);
        }
    }
}

#[test]
fn a_photo_that_says_it_is_huge_is_refused_before_there_is_memory_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.jpg");
    gradient(8, 8).save(&path).unwrap();
    let preprocess = Preprocess::new(
        &settings("channels = 'RGB'\nmean = [0]\nstd = [1]"),
        &spec(DType::F32, &[1, 3, 8, 8]),
    )
    .unwrap();
    assert!(preprocess.photo(&path).is_ok());
    let mut bytes = std::fs::read(&path).unwrap();
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0x40, 0, 0x40, 0]);
    std::fs::write(&path, &bytes).unwrap();
    let error = format!("{:#}", preprocess.photo(&path).unwrap_err());
    assert!(error.contains("the photo has 16384x16384 pixels, more than the 134 million"), "{error}");
}

//! Links that switch codecs while items flow.

mod common;

use common::{Nodes, at_cuts, deploy, join, start, vendored_model};
use graph::Model;
use pipeline::{Options, Pipeline, RecodeError, arbitrary_item};
use tensor::Tensor;
use wire::control::StageFigures;
use wire::{Codec, CodecList};

const CUTS: [&str; 2] = ["functional_1/re_lu_2_1/Relu:0", "functional_1/re_lu_8_1/Relu:0"];

fn codec(name: &str) -> Codec {
    name.parse().unwrap()
}

/// A chain of three stages whose links begin raw and may use these codecs.
fn chain(test: &str, codecs: &[&str]) -> (Nodes, Model, Pipeline) {
    let nodes = start(test, 3);
    let model = vendored_model("resnet20_mnist.onnx");
    let alternatives = CodecList::new(codecs.iter().map(|name| codec(name))).unwrap();
    let options = Options { alternatives, ..at_cuts(&CUTS) };
    let pipeline = deploy(&model, &join(&nodes), &options).unwrap();
    (nodes, model, pipeline)
}

/// Item number `n`.
fn item(model: &Model, n: usize) -> Vec<Tensor> {
    let base = arbitrary_item(model.inputs());
    let values = base[0].as_slice::<f32>().unwrap().iter().map(|v| v * (n as f32 + 1.0) / 7.0);
    vec![Tensor::from_slice(base[0].shape(), &values.collect::<Vec<f32>>()).unwrap()]
}

#[test]
fn codecs_change_while_items_flow_and_no_result_is_lost_or_changed() {
    let lossless = ["lz4", "shuffle+lz4", "raw", "shuffle"];
    let (_nodes, model, pipeline) = chain("recode", &lossless);
    let expected: Vec<_> = (0..8).map(|n| pipeline.infer(item(&model, n)).unwrap()).collect();
    let links = pipeline.codec_lists().len();
    assert_eq!(pipeline.codecs(), vec![Codec::RAW; links]);
    // The window is full all the time: a new item is sent, a link switched, the oldest result taken.
    let mut flying = std::collections::VecDeque::new();
    for n in 0..96 {
        flying.push_back((n, pipeline.submit(item(&model, n % 8)).unwrap()));
        let (link, new) = (n % links, codec(lossless[n / links % lossless.len()]));
        pipeline.recode(link, new).unwrap();
        assert_eq!(pipeline.codecs()[link], new);
        if flying.len() == 8 {
            let (n, pending) = flying.pop_front().unwrap();
            assert_eq!(pending.wait().unwrap(), expected[n % 8], "item {n}");
        }
    }
    for (n, pending) in flying {
        assert_eq!(pending.wait().unwrap(), expected[n % 8], "item {n}");
    }
    pipeline.close();
}

#[test]
fn a_switch_takes_effect_on_its_own_link_and_can_be_taken_back() {
    let (_nodes, model, pipeline) = chain("recode-one", &["bf16", "u8"]);
    // Bytes that enter the first stage, then those that leave each, for one item.
    let bytes = || {
        let before = pipeline.measure().unwrap();
        let result = pipeline.infer(item(&model, 1)).unwrap();
        // A stage counts an item once it is sent, which may be a moment after its result is here.
        let counted =
            |after: &Vec<StageFigures>| std::iter::zip(after, &before).all(|(a, b)| a.items > b.items);
        let after =
            (0..1000).map(|_| pipeline.measure().unwrap()).find(counted).expect("the item is counted");
        let out = std::iter::zip(&after, &before).map(|(after, before)| after.bytes_out - before.bytes_out);
        (result, std::iter::once(after[0].bytes_in - before[0].bytes_in).chain(out).collect::<Vec<u64>>())
    };
    let (raw, raw_bytes) = bytes();
    for link in 0..raw_bytes.len() {
        for (name, least, most) in [("bf16", 1.6, 2.1), ("u8", 2.0, 4.1)] {
            pipeline.recode(link, codec(name)).unwrap();
            let (_, found) = bytes();
            for (other, (&raw, &found)) in std::iter::zip(&raw_bytes, &found).enumerate() {
                let ratio = raw as f64 / found as f64;
                // Frames of a few numbers are mostly header.
                let (least, most) = if raw < 1000 { (1.0, most) } else { (least, most) };
                let right = if other == link { (least..=most).contains(&ratio) } else { raw == found };
                assert!(right, "{name} on link {link}: {found} bytes of {raw} on link {other}");
            }
        }
        pipeline.recode(link, Codec::RAW).unwrap();
        assert_eq!(bytes(), (raw.clone(), raw_bytes.clone()), "link {link} is raw again");
    }
}

#[test]
fn a_codec_for_which_a_link_was_not_deployed_is_refused() {
    let (_nodes, model, pipeline) = chain("recode-refused", &["lz4"]);
    let list = CodecList::from(Codec::LZ4);
    for link in 0..4 {
        let refused = RecodeError::NotListed { link, codec: codec("bf16"), list: list.clone() };
        assert_eq!(pipeline.recode(link, codec("bf16")), Err(refused));
    }
    assert_eq!(pipeline.recode(4, Codec::RAW), Err(RecodeError::NoLink { link: 4, last: 3 }));
    assert_eq!(pipeline.codecs(), [Codec::RAW; 4]);
    pipeline.infer(item(&model, 0)).unwrap();
}

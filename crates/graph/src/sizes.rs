//! Which values may have another size with every item, although all model inputs have fixed sizes: what a
//! detector finds, and everything computed from it.
//!
//! Called when measured sizes are recorded. Where a size might depend on data it is taken to: a size that is
//! wrongly left open costs a check, one that is wrongly fixed refuses good items.

use crate::flow::{Flow, Functions, Origin, domain, is_op};
use crate::proto::{GraphProto, ModelProto, NodeProto};

/// What the sizes of an operator's outputs follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    /// The sizes of its inputs and its attributes.
    Sizes,
    /// Also the contents of these inputs.
    Contents(&'static [usize]),
    /// The contents of any of its inputs.
    Data,
}

use Follows::*;

/// For each value whether its size may differ between two items of the same sizes.
pub(crate) fn depend_on_data(model: &ModelProto, graph: &GraphProto, flow: &Flow) -> Vec<bool> {
    let functions = Functions::of(model);
    // A function's body is not followed: its sizes hold when nothing in it can change them.
    let varying = functions.that_use(&|node| functions.get(node).is_none() && follows(node) != Sizes);
    let mut values = Values {
        same_size: flow.origins.iter().map(|origin| !matches!(origin, Origin::Node(_))).collect(),
        same_contents: flow.constant.clone(),
    };
    for &index in &flow.sorted {
        let (node, links) = (&graph.node[index], &flow.links[index]);
        let follows = match functions.get(node) {
            Some(function) if varying.contains(&std::ptr::from_ref(function)) => Data,
            Some(_) => Sizes,
            None => follows(node),
        };
        let contents = |&i: &usize| {
            let id = node.input.get(i).and_then(|name| flow.id(name));
            id.is_none_or(|id| values.same_contents[id])
        };
        let sizes = links.reads.iter().all(|&id| values.same_size[id]);
        let all_contents = links.reads.iter().all(|&id| values.same_contents[id]);
        let asks_size = is_op(node, "Shape") || is_op(node, "Size");
        let same_contents = functions.is_pure(node) && (all_contents || (asks_size && sizes));
        let same_size = same_contents
            || asks_size // there are as many sizes as dimensions
            || match follows {
                Sizes => sizes,
                Contents(inputs) => sizes && inputs.iter().all(contents),
                Data => false,
            };
        for &id in &links.writes {
            values.same_size[id] = same_size;
            values.same_contents[id] = same_contents;
        }
    }
    values.same_size.iter().map(|same| !same).collect()
}

/// What is the same for every item, by the value's id.
struct Values {
    same_size: Vec<bool>,
    same_contents: Vec<bool>,
}

fn follows(node: &NodeProto) -> Follows {
    match domain(node) {
        "" => standard(node.op_type()),
        "ai.onnx.ml" => Sizes,
        "com.microsoft" => contributed(node.op_type()),
        _ => Data, // nobody knows
    }
}

#[rustfmt::skip] // a table
fn standard(op_type: &str) -> Follows {
    match op_type {
        "Compress" | "If" | "ImageDecoder" | "Loop" | "NonMaxSuppression" | "NonZero" | "OptionalGetElement"
        | "Scan" | "SequenceMap" | "StringNormalizer" | "StringSplit" | "Unique"
            => Data,
        "BlackmanWindow" | "ConstantOfShape" | "HammingWindow" | "HannWindow" => Contents(&[0]),
        "CenterCropPad" | "DFT" | "Expand" | "OneHot" | "ReduceL1" | "ReduceL2" | "ReduceLogSum"
        | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceSum"
        | "ReduceSumSquare" | "Reshape" | "SequenceAt" | "SequenceErase" | "Split" | "SplitToSequence"
        | "Squeeze" | "TopK" | "Unsqueeze" | "Upsample" | "AffineGrid"
            => Contents(&[1]),
        "MaxUnpool" | "SequenceInsert" => Contents(&[2]),
        "MelWeightMatrix" => Contents(&[0, 1]),
        "Range" => Contents(&[0, 1, 2]),
        "Col2Im" | "Tile" => Contents(&[1, 2]),
        "Pad" | "STFT" => Contents(&[1, 3]),
        "Resize" => Contents(&[1, 2, 3]),
        "Slice" => Contents(&[1, 2, 3, 4]),
        _ => Sizes,
    }
}

#[rustfmt::skip] // a table
fn contributed(op_type: &str) -> Follows {
    match op_type {
        "BeamSearch" | "DynamicTimeWarping" | "GreedySearch" | "RemovePadding" | "Sampling" | "Tokenizer"
        | "Unique" | "WhisperBeamSearch"
            => Data,
        "ExpandDims" => Contents(&[1]),
        "ConvTransposeWithDynamicPads" => Contents(&[2]),
        "CropAndResize" => Contents(&[3]),
        "GroupQueryAttention" => Contents(&[6]), // the length of the cache
        "Pad" => Contents(&[1, 3]),
        "Range" => Contents(&[0, 1, 2]),
        _ => Sizes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::FunctionProto;
    use crate::testing::*;
    use prost::Message;
    use tensor::DType;

    fn varying(model: &crate::Model) -> Vec<&str> {
        let vary = depend_on_data(&model.proto, model.graph(), &model.flow);
        model.flow.names.iter().zip(vary).filter(|(_, vary)| *vary).map(|(name, _)| name.as_str()).collect()
    }

    /// The values of a graph of `x` (32x32), `i` (a tensor of one integer) and two constants that may vary.
    #[track_caller]
    fn check(nodes: &[NodeProto], expected: &[&str]) {
        let last = nodes.last().unwrap().output[0].clone();
        let mut inputs = squares(&["x"]);
        inputs.push(value("i", DType::I64, &[1]));
        let weights = vec![large("w", 1), i64s("k", &[1])];
        let model = read(graph(inputs, squares(&[&last]), weights, nodes.to_vec()));
        assert_eq!(varying(&model), expected);
    }

    #[test]
    fn what_is_found_in_data_varies_and_so_does_what_follows_from_it() {
        check(&[node("MatMul", &["x", "w"], &["a"]), node("Relu", &["a"], &["b"])], &[]);
        for op in ["NonZero", "Unique", "Compress", "NonMaxSuppression"] {
            check(&[node(op, &["x"], &["a"]), node("Neg", &["a"], &["b"])], &["a", "b"]);
            check(&[node(op, &["w"], &["a"]), node("Add", &["x", "a"], &["b"])], &[]);
        }
        // Its size is data from there on.
        let nodes = [
            node("NonZero", &["x"], &["a"]),
            node("Shape", &["a"], &["s"]),
            node("ConstantOfShape", &["s"], &["b"]),
        ];
        check(&nodes, &["a", "b"]);
        // What was found says where to look, not how large the result is.
        check(&[node("Gather", &["x", "i"], &["a"])], &[]);
        let body = graph(vec![], squares(&["t"]), vec![], vec![node("Neg", &["x"], &["t"])]);
        check(&[with(node("If", &["i"], &["a"]), "then_branch", crate::testing::body(body))], &["a"]);
    }

    #[test]
    fn sizes_that_are_computed_vary_with_what_they_are_computed_from() {
        for (op, place) in [
            ("Reshape", 1),
            ("Expand", 1),
            ("Tile", 1),
            ("TopK", 1),
            ("OneHot", 1),
            ("SequenceAt", 1),
            ("Split", 1),
            ("Pad", 1),
            ("Resize", 3),
            ("Slice", 2),
            ("Range", 1),
            ("ConstantOfShape", 0),
        ] {
            let with_size = |size: &str| {
                let mut inputs = vec!["x"; usize::from(place > 0)];
                inputs.resize(place, "k");
                inputs.push(size);
                // A range starts at a constant.
                if op == "Range" {
                    inputs[0] = "k";
                }
                node(op, &inputs, &["a"])
            };
            check(&[with_size("k")], &[]);
            check(&[with_size("i")], &["a"]);
            check(&[node("Neg", &["i"], &["j"]), with_size("j")], &["a"]);
            let from_shape =
                [node("Shape", &["x"], &["s"]), node("Mul", &["s", "k"], &["j"]), with_size("j")];
            check(&from_shape, &[]);
        }
    }

    #[test]
    fn other_operators_are_trusted_only_as_far_as_they_are_known() {
        let custom = |op| NodeProto { domain: Some("com.example".to_owned()), ..node(op, &["x"], &["a"]) };
        check(&[custom("Mystery")], &["a"]);
        for (op, expected) in [("Relu", &[][..]), ("NonZero", &["a"][..])] {
            let function = |name: &str, call: NodeProto| FunctionProto {
                name: Some(name.to_owned()),
                domain: Some("com.example".to_owned()),
                input: vec!["x".to_owned()],
                output: vec!["a".to_owned()],
                node: vec![call],
                ..FunctionProto::default()
            };
            let mut model = proto(graph(squares(&["x"]), squares(&["a"]), vec![], vec![custom("Outer")]));
            model.functions =
                vec![function("Outer", custom("Inner")), function("Inner", node(op, &["x"], &["a"]))];
            let model = crate::Model::from_bytes(model.encode_to_vec()).unwrap();
            assert_eq!(varying(&model), expected, "{op}");
        }
    }
}

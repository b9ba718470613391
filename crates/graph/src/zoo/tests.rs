use std::collections::HashSet;

use prost::Message;

use super::*;

/// Published figures: parameters, and billions of multiply-accumulates to two decimals.
#[test]
fn sizes_are_the_published_ones() {
    let expected = [
        ("resnet50", 25_557_032, 4.09),
        ("vgg16", 138_357_544, 15.47),
        ("vgg19", 143_667_240, 19.63),
        ("mobilenetv2", 3_504_872, 0.30),
        ("vit-s16", 22_050_664, 4.60),
        ("vit-b16", 86_567_656, 17.56),
        ("bert-base", 109_482_240, 11.17),
    ];
    let entries = list();
    assert_eq!(entries.len(), expected.len());
    for (entry, (name, parameters, giga_macs)) in entries.iter().zip(expected) {
        assert_eq!(entry.name, name);
        assert_eq!(entry.parameters, parameters, "{name}");
        assert_eq!((entry.macs as f64 / 1e7).round() / 100.0, giga_macs, "{name}");
    }
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let error = proto("resnet-50", 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the zoo has no model `resnet-50`; it has resnet50, vgg16, vgg19, mobilenetv2, vit-s16, vit-b16, bert-base"
    );
}

#[test]
fn bytes_depend_on_the_seed_and_on_nothing_else() {
    let hash = |seed| blake3::hash(&proto("mobilenetv2", seed).unwrap().encode_to_vec()).to_hex().to_string();
    // Pinned: the same on every machine and in every release.
    assert_eq!(hash(1), "885cf7259b25d1fbc98916cf70e1af72d05fd28bbb0506e6844a2fbbd1b37197");
    assert_ne!(hash(2), hash(1));
}

#[test]
fn models_are_built() {
    for entry in list() {
        build(entry.name, 0).unwrap();
    }
}

/// Node and tensor names are unique, and no operator reads what is not there yet.
#[test]
fn graphs_are_well_formed() {
    for name in ["resnet50", "mobilenetv2", "vit-s16", "vit-b16", "bert-base"] {
        let graph = proto(name, 0).unwrap().graph.unwrap();
        let inputs = graph.input.iter().map(|v| v.name());
        let mut known: HashSet<&str> = inputs.chain(graph.initializer.iter().map(|t| t.name())).collect();
        let mut nodes = HashSet::new();
        for node in &graph.node {
            assert!(nodes.insert(node.name()), "{name}: two nodes are called {}", node.name());
            for input in &node.input {
                assert!(known.contains(input.as_str()), "{name}: {} reads {input}", node.name());
            }
            for output in &node.output {
                assert!(known.insert(output), "{name}: {output} is made twice");
            }
        }
        assert!(graph.output.iter().all(|v| known.contains(v.name())), "{name}: outputs");
    }
}

#[test]
fn names_for_manual_cuts_exist() {
    for (model, tensors) in [
        ("resnet50", ["conv1", "layer1.0.conv1", "layer3.5.relu3", "logits"]),
        ("mobilenetv2", ["features.0.2", "features.3.add", "features.18.2", "logits"]),
        ("vit-b16", ["pos_embed.add", "blocks.0.add2", "blocks.11.attn.proj", "logits"]),
        (
            "bert-base",
            [
                "embeddings.LayerNorm",
                "encoder.layer.0.output.LayerNorm",
                "last_hidden_state",
                "pooler_output",
            ],
        ),
    ] {
        let graph = proto(model, 0).unwrap().graph.unwrap();
        for tensor in tensors {
            assert!(graph.node.iter().any(|n| n.output == [tensor]), "{model}: no tensor {tensor}");
        }
    }
}

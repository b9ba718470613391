//! ViT-S/16, ViT-B/16 and BERT-base, layer for layer as their PyTorch exports.
//!
//! Called by the zoo's table. A node and its output bear the module's path (`blocks.0.attn.qkv`); sizes
//! that the caller chooses stay open through the whole graph.

use tensor::Dim;

use super::net::{Net, Value, int};
use super::weights::Init;
use crate::proto::tensor_proto::DataType;

const LAYERS: usize = 12;
/// Of the base size.
const HEADS: usize = 12;
const HEAD_WIDTH: usize = 64;
const WIDTH: usize = HEADS * HEAD_WIDTH;
/// The layer of a block that is between two is so many times as wide as they are.
const MLP_RATIO: usize = 4;

/// Scale of queries and keys: with 1 the attention of random weights is nearly flat, and averages away what
/// tells one input from another.
const QUERY_GAIN: f64 = 1.5;
/// Scale of what a residual branch adds, so that 24 branches do not drown the input.
const BRANCH_GAIN: f64 = 0.5;

/// Touvron et al. 2020 (DeiT-S without its distillation), patches of 16, names as in timm.
pub(super) fn vit_s16(net: &mut Net) -> Vec<Value> {
    vit(net, 6)
}

/// Dosovitskiy et al. 2020, base size, patches of 16, names as in timm.
pub(super) fn vit_b16(net: &mut Net) -> Vec<Value> {
    vit(net, HEADS)
}

fn vit(net: &mut Net, heads: usize) -> Vec<Value> {
    const PATCHES: usize = 14 * 14;
    let width = heads * HEAD_WIDTH;
    let image = net.input("input", DataType::Float, [1, 3, 224, 224].map(Dim::Fixed).to_vec());
    let patch = super::net::Conv {
        stride: 16,
        pad: 0,
        bias: true,
        after_relu: false,
        ..super::net::Conv::new(width, 16)
    };
    let x = net.conv("patch_embed.proj", &image, patch);
    let flat = [1, width, PATCHES].map(Dim::Fixed).to_vec();
    let x = net.reshape("patch_embed.flatten", &x, &[1, width as i64, -1], flat);
    let x = net.transpose("patch_embed.transpose", &x, &[0, 2, 1]);
    let class = net.parameter("cls_token", &[1, 1, width], Init::around(0.0, 0.1));
    let tokens = [1, PATCHES + 1, width].map(Dim::Fixed).to_vec();
    let x = net.op("cat", "Concat", &[&class, &x], vec![int("axis", 1)], tokens);
    let positions = net.parameter("pos_embed", &[1, PATCHES + 1, width], Init::around(0.0, 0.1));
    let mut x = net.binary("pos_embed.add", "Add", &x, &positions);
    for layer in 0..LAYERS {
        x = vit_block(net, &format!("blocks.{layer}"), heads, &x);
    }
    let x = net.layer_norm("norm", &x, 1e-6);
    let first = net.constant_i64("class_index", &[], &[0]);
    let x = net.gather("class", &x, &first, 1);
    let init = Init::lecun(width);
    net.gemm("head", &x, 1000, init);
    vec![net.rename_last("logits")]
}

fn vit_block(net: &mut Net, path: &str, heads: usize, x: &Value) -> Value {
    let width = heads * HEAD_WIDTH;
    let name = |part: &str| format!("{path}.{part}");
    let y = net.layer_norm(&name("norm1"), x, 1e-6);
    let y = vit_attention(net, &name("attn"), heads, &y);
    let x = net.binary(&name("add1"), "Add", x, &y);
    let y = net.layer_norm(&name("norm2"), &x, 1e-6);
    let y = net.linear(&name("mlp.fc1"), &y, MLP_RATIO * width, 1.0);
    let y = net.gelu(&name("mlp.act"), &y);
    let y = net.linear(&name("mlp.fc2"), &y, width, BRANCH_GAIN);
    net.binary(&name("add2"), "Add", &x, &y)
}

/// Queries, keys and values come from one product and are taken apart by `Gather`.
fn vit_attention(net: &mut Net, path: &str, heads: usize, x: &Value) -> Value {
    let width = heads * HEAD_WIDTH;
    let name = |part: &str| format!("{path}.{part}");
    let (batch, tokens) = (x.dims[0].clone(), x.dims[1].clone());
    let qkv = net.linear(&name("qkv"), x, 3 * width, QUERY_GAIN);
    let dims = vec![batch, tokens, Dim::Fixed(3), Dim::Fixed(heads), Dim::Fixed(HEAD_WIDTH)];
    let qkv = net.reshape(&name("reshape"), &qkv, &[0, 0, 3, heads as i64, HEAD_WIDTH as i64], dims);
    let qkv = net.transpose(&name("permute"), &qkv, &[2, 0, 3, 1, 4]);
    let [q, k, v] = [("q", 0), ("k", 1), ("v", 2)].map(|(part, index)| {
        let index = net.constant_i64(&name(&format!("{part}.index")), &[], &[index]);
        net.gather(&name(part), &qkv, &index, 0)
    });
    let k = net.transpose(&name("k.transpose"), &k, &[0, 1, 3, 2]);
    let y = attend(net, path, heads, [&q, &k, &v], None);
    net.linear(&name("proj"), &y, width, BRANCH_GAIN)
}

/// Devlin, Chang, Lee and Toutanova 2018, base size, uncased vocabulary, names as in Hugging Face.
pub(super) fn bert_base(net: &mut Net) -> Vec<Value> {
    let open = vec![Dim::Symbol("batch".to_owned()), Dim::Symbol("sequence".to_owned())];
    let ids = net.input("input_ids", DataType::Int64, open.clone());
    let mask = net.input("attention_mask", DataType::Int64, open.clone());
    let types = net.input("token_type_ids", DataType::Int64, open);

    let mask = bert_mask(net, &mask);
    let mut x = bert_embeddings(net, &ids, &types);
    for layer in 0..LAYERS {
        x = bert_layer(net, &format!("encoder.layer.{layer}"), &x, &mask);
    }
    let hidden = net.rename_last("last_hidden_state");
    let first = net.constant_i64("pooler.index", &[], &[0]);
    let token = net.gather("pooler.first_token", &hidden, &first, 1);
    let pooled = net.gemm("pooler.dense", &token, WIDTH, Init::lecun(WIDTH));
    net.op("pooler.activation", "Tanh", &[&pooled], vec![], pooled.dims.clone());
    vec![hidden, net.rename_last("pooler_output")]
}

/// 0 where a token counts, very negative where it does not; `[batch, 1, 1, sequence]`.
fn bert_mask(net: &mut Net, mask: &Value) -> Value {
    let (batch, sequence) = (mask.dims[0].clone(), mask.dims[1].clone());
    let mut x = mask.clone();
    let one = Dim::Fixed(1);
    for (axis, dims) in [
        (1, vec![batch.clone(), one.clone(), sequence.clone()]),
        (2, vec![batch, one.clone(), one, sequence]),
    ] {
        let axes = net.constant_i64(&format!("mask.axis{axis}"), &[1], &[axis]);
        x = net.op(&format!("mask.unsqueeze{axis}"), "Unsqueeze", &[&x, &axes], vec![], dims);
    }
    let to = vec![int("to", DataType::Float as i64)];
    let x = net.op_of("mask.cast", "Cast", &[&x], to, x.dims.clone(), DataType::Float);
    let one = net.constant_f32("mask.one", 1.0);
    let x = net.binary("mask.sub", "Sub", &one, &x);
    let lowest = net.constant_f32("mask.lowest", f32::MIN);
    net.binary("mask", "Mul", &x, &lowest)
}

fn bert_embeddings(net: &mut Net, ids: &Value, types: &Value) -> Value {
    const VOCABULARY: usize = 30_522;
    const POSITIONS: usize = 512;
    let table = |net: &mut Net, part: &str, rows: usize, std: f64| {
        net.parameter(&format!("embeddings.{part}_embeddings.weight"), &[rows, WIDTH], Init::around(0.0, std))
    };
    let words = table(net, "word", VOCABULARY, 1.0);
    let positions = table(net, "position", POSITIONS, 0.2);
    let kinds = table(net, "token_type", 2, 0.2);

    let words = net.gather("embeddings.word_embeddings", &words, ids, 0);
    let kinds = net.gather("embeddings.token_type_embeddings", &kinds, types, 0);
    let used = bert_positions(net, ids, POSITIONS);
    let positions = net.gather("embeddings.position_embeddings", &positions, &used, 0);
    let x = net.binary("embeddings.add1", "Add", &words, &kinds);
    let x = net.binary("embeddings.add2", "Add", &x, &positions);
    net.layer_norm("embeddings.LayerNorm", &x, 1e-12)
}

/// 0, 1, ... up to the length of the sequence; `[1, sequence]`.
fn bert_positions(net: &mut Net, ids: &Value, positions: usize) -> Value {
    let all: Vec<i64> = (0..positions as i64).collect();
    let all = net.constant_i64("embeddings.position_ids", &[1, positions], &all);
    let shape = net.op_of("embeddings.shape", "Shape", &[ids], vec![], vec![Dim::Fixed(2)], DataType::Int64);
    let one = net.constant_i64("embeddings.one", &[1], &[1]);
    let zero = net.constant_i64("embeddings.zero", &[1], &[0]);
    let length = net.gather("embeddings.length", &shape, &one, 0);
    let dims = vec![Dim::Fixed(1), ids.dims[1].clone()];
    net.op("embeddings.positions", "Slice", &[&all, &zero, &length, &one, &one], vec![], dims)
}

fn bert_layer(net: &mut Net, path: &str, x: &Value, mask: &Value) -> Value {
    let name = |part: &str| format!("{path}.{part}");
    let heads = |net: &mut Net, part: &str, gain: f64, order: &[usize]| {
        let part = name(&format!("attention.self.{part}"));
        let y = net.linear(&part, x, WIDTH, gain);
        let dims = vec![x.dims[0].clone(), x.dims[1].clone(), Dim::Fixed(HEADS), Dim::Fixed(HEAD_WIDTH)];
        let y = net.reshape(&format!("{part}.reshape"), &y, &[0, 0, HEADS as i64, HEAD_WIDTH as i64], dims);
        net.transpose(&format!("{part}.transpose"), &y, order)
    };
    let q = heads(net, "query", QUERY_GAIN, &[0, 2, 1, 3]);
    let k = heads(net, "key", QUERY_GAIN, &[0, 2, 3, 1]);
    let v = heads(net, "value", 1.0, &[0, 2, 1, 3]);
    let y = attend(net, &name("attention.self"), HEADS, [&q, &k, &v], Some(mask));
    let y = net.linear(&name("attention.output.dense"), &y, WIDTH, 1.0);
    let y = net.binary(&name("attention.output.add"), "Add", &y, x);
    let x = net.layer_norm(&name("attention.output.LayerNorm"), &y, 1e-12);
    let y = net.linear(&name("intermediate.dense"), &x, MLP_RATIO * WIDTH, 1.0);
    let y = net.gelu(&name("intermediate.act"), &y);
    let y = net.linear(&name("output.dense"), &y, WIDTH, 1.0);
    let y = net.binary(&name("output.add"), "Add", &y, &x);
    net.layer_norm(&name("output.LayerNorm"), &y, 1e-12)
}

/// Scaled dot-product attention over `[batch, heads, tokens, head width]`, the keys transposed; gives
/// `[batch, tokens, width]`.
fn attend(net: &mut Net, path: &str, heads: usize, [q, k, v]: [&Value; 3], mask: Option<&Value>) -> Value {
    let width = heads * HEAD_WIDTH;
    let name = |part: &str| format!("{path}.{part}");
    let scores = net.matmul(&name("scores"), q, k);
    let root = net.constant_f32(&name("root"), (HEAD_WIDTH as f32).sqrt());
    let mut scores = net.binary(&name("scale"), "Div", &scores, &root);
    if let Some(mask) = mask {
        scores = net.binary(&name("masked"), "Add", &scores, mask);
    }
    let weights = net.softmax(&name("softmax"), &scores);
    let y = net.matmul(&name("context"), &weights, v);
    let y = net.transpose(&name("context.transpose"), &y, &[0, 2, 1, 3]);
    let dims = vec![y.dims[0].clone(), y.dims[1].clone(), Dim::Fixed(width)];
    net.reshape(&name("context.reshape"), &y, &[0, 0, width as i64], dims)
}

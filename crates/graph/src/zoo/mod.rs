//! The model zoo: exact architectures with seeded, untrained weights.
//!
//! Called by `defer zoo`, tests and experiments, which need the real shapes and costs of well-known models
//! without downloading anything. It must never give different bytes for the same name and seed.
//!
//! The weights are chosen so that activations keep their scale at every depth and the outputs tell inputs
//! from one another; a label they name means nothing. Image models take `input`, f32 `[1, 3, 224, 224]`,
//! normalised to mean 0 and deviation 1, and give `logits`, f32 `[1, 1000]`. BERT takes `input_ids`,
//! `attention_mask` and `token_type_ids`, i64 `[batch, sequence]`, and gives `last_hidden_state`, f32
//! `[batch, sequence, 768]`, and `pooler_output`, f32 `[batch, 768]`.

mod cnn;
mod net;
mod transformer;
mod weights;

#[cfg(test)]
mod tests;

use crate::Model;
use crate::proto::ModelProto;
use net::{Net, Value};

/// One model of the zoo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name that [`build`] takes.
    pub name: &'static str,
    /// What it is, in one line.
    pub description: &'static str,
    /// Learned numbers; running statistics of normalisations and constants are not counted.
    pub parameters: u64,
    /// Multiply-accumulate operations for one item in convolutions and matrix products, at batch 1; for
    /// BERT at 128 tokens.
    pub macs: u64,
}

/// A model that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZooError {
    /// No model has this name.
    #[error("the zoo has no model `{name}`; it has {}", names())]
    UnknownName {
        /// What was asked for.
        name: String,
    },
}

/// Writes an architecture into an empty net and gives its outputs.
type Architecture = fn(&mut Net) -> Vec<Value>;

const TABLE: [(&str, &str, Architecture); 7] = [
    ("resnet50", "ResNet-50 v1.5, image classifier, 16 residual blocks", cnn::resnet50),
    ("vgg16", "VGG-16, image classifier, 13 convolutions in one line", cnn::vgg16),
    ("vgg19", "VGG-19, image classifier, 16 convolutions in one line", cnn::vgg19),
    ("mobilenetv2", "MobileNetV2 1.0, image classifier for small devices", cnn::mobilenetv2),
    ("vit-s16", "ViT-S/16, image classifier, 12 narrower transformer blocks", transformer::vit_s16),
    ("vit-b16", "ViT-B/16, image classifier, 12 transformer blocks", transformer::vit_b16),
    ("bert-base", "BERT-base uncased, text encoder, 12 transformer blocks", transformer::bert_base),
];

/// The models of the zoo, with sizes counted from their architectures. Cheap: no weight is made.
pub fn list() -> Vec<Entry> {
    let entry = |&(name, description, architecture): &(&'static str, &'static str, Architecture)| {
        let mut net = Net::new(name);
        architecture(&mut net);
        Entry { name, description, parameters: net.parameters, macs: net.macs }
    };
    TABLE.iter().map(entry).collect()
}

/// Builds the model called `name`, its weights made from `seed`.
///
/// # Errors
/// When no model of the zoo has this name.
pub fn build(name: &str, seed: u64) -> Result<Model, ZooError> {
    Ok(Model::from_proto(proto(name, seed)?).expect("the zoo builds valid models"))
}

fn proto(name: &str, seed: u64) -> Result<ModelProto, ZooError> {
    let &(name, _, architecture) = TABLE
        .iter()
        .find(|(known, ..)| *known == name)
        .ok_or_else(|| ZooError::UnknownName { name: name.to_owned() })?;
    let mut net = Net::new(name);
    let outputs = architecture(&mut net);
    Ok(net.finish(&outputs.iter().collect::<Vec<_>>(), seed))
}

fn names() -> String {
    TABLE.map(|(name, ..)| name).join(", ")
}

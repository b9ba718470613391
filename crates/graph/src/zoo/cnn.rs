//! ResNet50, VGG and MobileNetV2, layer for layer as torchvision builds and exports them.
//!
//! Called by the zoo's table. Layers that do nothing at inference (dropout, pooling 7x7 to 7x7) are left
//! out, as exporters do. A node and its output bear the module's path: `layer1.0.conv1`.

use tensor::Dim;

use super::net::{Conv, Net, Value};
use super::weights::Init;
use crate::proto::tensor_proto::DataType;

const CLASSES: usize = 1000;

/// He, Zhang, Ren and Sun 2015, in the variant "v1.5": the 3x3 convolution of a block carries its stride.
pub(super) fn resnet50(net: &mut Net) -> Vec<Value> {
    let x = image(net);
    let stem = Conv { stride: 2, after_relu: false, ..Conv::new(64, 7) };
    let x = conv_bn_relu(net, ["conv1", "bn1", "relu"], &x, stem);
    let mut x = net.max_pool("maxpool", &x, 3, 2, 1);
    for (layer, (width, blocks)) in [(64, 3), (128, 4), (256, 6), (512, 3)].into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if layer > 0 && block == 0 { 2 } else { 1 };
            x = bottleneck(net, &format!("layer{}.{block}", layer + 1), &x, width, stride, block == 0);
        }
    }
    let x = net.global_average("avgpool", &x);
    let x = net.flatten("flatten", &x);
    classifier(net, "fc", &x, RESNET_HEAD_GAIN)
}

fn bottleneck(net: &mut Net, path: &str, x: &Value, width: usize, stride: usize, project: bool) -> Value {
    let name = |part: &str| format!("{path}.{part}");
    let y = conv_bn_relu(net, ["conv1", "bn1", "relu1"].map(name).each_ref(), x, Conv::new(width, 1));
    let middle = Conv { stride, ..Conv::new(width, 3) };
    let y = conv_bn_relu(net, ["conv2", "bn2", "relu2"].map(name).each_ref(), &y, middle);
    let y = net.conv(&name("conv3"), &y, Conv::new(4 * width, 1));
    let y = net.batch_norm(&name("bn3"), &y, RESNET_BRANCH_GAIN);
    let shortcut = if project {
        let s = net.conv(&name("downsample.0"), x, Conv { stride, ..Conv::new(4 * width, 1) });
        net.batch_norm(&name("downsample.1"), &s, 1.0)
    } else {
        x.clone()
    };
    let sum = net.binary(&name("add"), "Add", &y, &shortcut);
    net.relu(&name("relu3"), &sum)
}

/// Simonyan and Zisserman 2014, configuration D.
pub(super) fn vgg16(net: &mut Net) -> Vec<Value> {
    vgg(net, [2, 2, 3, 3, 3])
}

/// Simonyan and Zisserman 2014, configuration E.
pub(super) fn vgg19(net: &mut Net) -> Vec<Value> {
    vgg(net, [2, 2, 4, 4, 4])
}

fn vgg(net: &mut Net, convs: [usize; 5]) -> Vec<Value> {
    let mut x = image(net);
    let mut index = 0;
    for (width, count) in [64, 128, 256, 512, 512].into_iter().zip(convs) {
        for _ in 0..count {
            let conv = Conv { bias: true, after_relu: index > 0, ..Conv::new(width, 3) };
            x = net.conv(&format!("features.{index}"), &x, conv);
            x = net.relu(&format!("features.{}", index + 1), &x);
            index += 2;
        }
        x = net.max_pool(&format!("features.{index}"), &x, 2, 2, 0);
        index += 1;
    }
    x = net.flatten("flatten", &x);
    for index in [0, 3] {
        let init = Init::after_relu(x.features());
        x = net.gemm(&format!("classifier.{index}"), &x, 4096, init);
        x = net.relu(&format!("classifier.{}", index + 1), &x);
    }
    classifier(net, "classifier.6", &x, VGG_HEAD_GAIN)
}

/// Sandler, Howard, Zhu, Zhmoginov and Chen 2018, width 1.0.
pub(super) fn mobilenetv2(net: &mut Net) -> Vec<Value> {
    // Expansion, channels, blocks, stride of the first.
    const LAYERS: [(usize, usize, usize, usize); 7] = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ];
    let relu6 = Relu6 { min: net.constant_f32("relu6.min", 0.0), max: net.constant_f32("relu6.max", 6.0) };
    let x = image(net);
    let stem = Conv { stride: 2, after_relu: false, ..Conv::new(32, 3) };
    let mut x = relu6.conv_bn(net, "features.0", &x, stem);
    let mut index = 1;
    for (expansion, channels, blocks, stride) in LAYERS {
        for block in 0..blocks {
            let stride = if block == 0 { stride } else { 1 };
            x = inverted_residual(
                net,
                &relu6,
                &format!("features.{index}"),
                &x,
                (expansion, channels, stride),
            );
            index += 1;
        }
    }
    let x = relu6.conv_bn(net, "features.18", &x, Conv { after_relu: false, ..Conv::new(1280, 1) });
    let x = net.global_average("avgpool", &x);
    let x = net.flatten("flatten", &x);
    classifier(net, "classifier.1", &x, MOBILENET_HEAD_GAIN)
}

fn inverted_residual(
    net: &mut Net,
    relu6: &Relu6,
    path: &str,
    x: &Value,
    (expansion, channels, stride): (usize, usize, usize),
) -> Value {
    let mut part = (0..).map(|i| format!("{path}.conv.{i}"));
    let mut next = || part.next().unwrap_or_default();
    let hidden = expansion * x.channels();
    let mut y = x.clone();
    if expansion > 1 {
        y = relu6.conv_bn(net, &next(), &y, Conv { after_relu: false, ..Conv::new(hidden, 1) });
    }
    y = relu6.conv_bn(net, &next(), &y, Conv { stride, groups: hidden, ..Conv::new(hidden, 3) });
    y = net.conv(&next(), &y, Conv::new(channels, 1));
    let residual = stride == 1 && x.channels() == channels;
    y = net.batch_norm(&next(), &y, if residual { BRANCH_GAIN } else { 1.0 });
    if residual { net.binary(&format!("{path}.add"), "Add", x, &y) } else { y }
}

/// `Clip` between 0 and 6, its bounds shared by the whole model.
struct Relu6 {
    min: Value,
    max: Value,
}

impl Relu6 {
    fn conv_bn(&self, net: &mut Net, path: &str, x: &Value, conv: Conv) -> Value {
        let y = net.conv(&format!("{path}.0"), x, conv);
        let y = net.batch_norm(&format!("{path}.1"), &y, 1.0);
        net.op(&format!("{path}.2"), "Clip", &[&y, &self.min, &self.max], vec![], y.dims.clone())
    }
}

/// Scale of the last normalisation of a residual branch: 16 branches added at full scale would grow the
/// activations beyond what a trained network shows.
const BRANCH_GAIN: f64 = 0.5;
/// The same in ResNet50. With 0.5 each block of random weights enlarges a disturbance 1.2 times: rounding in the
/// first one then moves the logits by 2e-5, ten times more than in a trained network.
const RESNET_BRANCH_GAIN: f64 = 0.25;

// What brings the logits of a normalised photo to a standard deviation near 1, measured.
const RESNET_HEAD_GAIN: f64 = 1.4;
const VGG_HEAD_GAIN: f64 = 0.4;
const MOBILENET_HEAD_GAIN: f64 = 2.2;

fn image(net: &mut Net) -> Value {
    net.input("input", DataType::Float, [1, 3, 224, 224].map(Dim::Fixed).to_vec())
}

fn classifier(net: &mut Net, name: &str, x: &Value, gain: f64) -> Vec<Value> {
    let init = Init::after_relu(x.features()).scaled(gain);
    net.gemm(name, x, CLASSES, init);
    vec![net.rename_last("logits")]
}

fn conv_bn_relu<S: AsRef<str>>(net: &mut Net, names: [S; 3], x: &Value, conv: Conv) -> Value {
    let [conv_name, bn, relu] = names;
    let y = net.conv(conv_name.as_ref(), x, conv);
    let y = net.batch_norm(bn.as_ref(), &y, 1.0);
    net.relu(relu.as_ref(), &y)
}

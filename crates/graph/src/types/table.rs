//! The element types that operators give, by the ONNX standard (opset 1 to 27) and ONNX Runtime's contributed
//! operators.

use tensor::DType::{self, *};

/// How the type of an output follows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// That of an input.
    Like(usize),
    /// That of the first of two inputs whose type is known.
    FirstOf(usize, usize),
    /// That of an input, or a fixed one where the input is left out.
    LikeOr(usize, DType),
    /// A tensor of this type.
    Is(DType),
    /// The type an attribute names, or the default.
    Attribute(&'static str, Option<DType>),
    /// The type an attribute names, or that of an input.
    AttributeOrLike(&'static str, usize),
    /// `QuantizeLinear`: that of the zero point, or of `output_dtype`, or u8.
    Quantized,
    /// That of the operator's `value` attribute.
    Value,
    /// That of the body's output, so many further on.
    Body(usize),
    /// That of the elements of a sequence.
    ElementOf(usize),
    /// A sequence of what an input is.
    SequenceOf(usize),
    /// A sequence of the type that `dtype` names.
    EmptySequence,
    /// That of the table the operator carries.
    Labels,
    /// Something that is no tensor.
    NotATensor,
}

use Rule::*;

/// The rules for the outputs of an operator; the last one holds for all that follow. Empty for an operator
/// that is not known.
pub(super) fn rules(domain: &str, op_type: &str) -> &'static [Rule] {
    match domain {
        "" => standard(op_type),
        "ai.onnx.ml" => classical(op_type),
        "com.microsoft" => contributed(op_type),
        _ => &[],
    }
}

#[rustfmt::skip] // a table
fn standard(op_type: &str) -> &'static [Rule] {
    match op_type {
        "Abs" | "Acos" | "Acosh" | "Add" | "Affine" | "AffineGrid" | "Asin" | "Asinh" | "Atan" | "Atanh"
        | "Attention" | "AveragePool" | "BitShift" | "BitwiseAnd" | "BitwiseNot" | "BitwiseOr" | "BitwiseXor"
        | "CausalConvWithState" | "Ceil" | "Celu" | "CenterCropPad" | "Clip" | "Col2Im" | "Compress"
        | "Concat" | "Conv" | "ConvTranspose" | "Cos" | "Cosh" | "Crop" | "CumProd" | "CumSum" | "DFT"
        | "DeformConv" | "DepthToSpace" | "Det" | "Div" | "Einsum" | "Elu" | "Erf" | "Exp" | "Expand"
        | "Flatten" | "Floor" | "GRU" | "Gather" | "GatherElements" | "GatherND" | "Gelu" | "Gemm"
        | "GlobalAveragePool" | "GlobalLpPool" | "GlobalMaxPool" | "GridSample" | "GroupNormalization"
        | "HardSigmoid" | "HardSwish" | "Hardmax" | "Identity" | "ImageScaler" | "InstanceNormalization"
        | "LRN" | "LSTM" | "LeakyRelu" | "Log" | "LogSoftmax" | "LpNormalization" | "LpPool" | "MatMul"
        | "Max" | "MaxRoiPool" | "MaxUnpool" | "Mean" | "MeanVarianceNormalization" | "Min" | "Mish" | "Mod"
        | "Mul" | "Neg" | "NegativeLogLikelihoodLoss" | "Not" | "PRelu" | "Pad" | "ParametricSoftplus" | "Pow"
        | "RNN" | "Range" | "Reciprocal" | "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp"
        | "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" | "Relu"
        | "Reshape" | "Resize" | "ReverseSequence" | "RoiAlign" | "RotaryEmbedding" | "Round" | "STFT"
        | "ScaledTanh" | "Scatter" | "ScatterElements" | "ScatterND" | "Selu" | "SequenceErase"
        | "SequenceInsert" | "Shrink" | "Sigmoid" | "Sign" | "Sin" | "Sinh" | "Slice" | "Softmax"
        | "SoftmaxCrossEntropyLoss" | "Softplus" | "Softsign" | "SpaceToDepth" | "Split" | "Sqrt" | "Squeeze"
        | "StringConcat" | "StringNormalizer" | "Sub" | "Sum" | "SwiGLU" | "Swish" | "Tan" | "Tanh"
        | "TensorScatter" | "ThresholdedRelu" | "Tile" | "Transpose" | "Trilu" | "Unsqueeze" | "Upsample"
            => &[Like(0)],
        "And" | "Equal" | "Greater" | "GreaterOrEqual" | "IsInf" | "IsNaN" | "Less" | "LessOrEqual"
        | "OptionalHasElement" | "Or" | "RegexFullMatch" | "Xor"
            => &[Is(Bool)],
        "ArgMax" | "ArgMin" | "NonMaxSuppression" | "NonZero" | "SequenceLength" | "Shape" | "Size"
            => &[Is(I64)],
        "MaxPool" | "TopK" | "Unique" => &[Like(0), Is(I64)],
        "BatchNormalization" => &[Like(0), Like(3)],
        "BitCast" | "Cast" => &[Attribute("to", None)],
        "CastLike" => &[Like(1)],
        "RMSNormalization" => &[Like(1)],
        "Where" => &[FirstOf(1, 2)],
        "OneHot" => &[Like(2)],
        "ConvInteger" | "MatMulInteger" => &[Is(I32)],
        "QLinearConv" | "QLinearMatMul" => &[Like(7)],
        "QuantizeLinear" => &[Quantized],
        "DequantizeLinear" => &[AttributeOrLike("output_dtype", 1)],
        "DynamicQuantizeLinear" => &[Is(U8), Is(F32), Is(U8)],
        "Dropout" => &[Like(0), Is(Bool)],
        "LayerNormalization" => &[Like(0), Attribute("stash_type", Some(F32))],
        "LinearAttention" => &[Like(0), Like(3)],
        "Bernoulli" | "EyeLike" | "RandomNormalLike" | "RandomUniformLike" => &[AttributeOrLike("dtype", 0)],
        "RandomNormal" | "RandomUniform" => &[Attribute("dtype", Some(F32))],
        "Multinomial" => &[Attribute("dtype", Some(I32))],
        "BlackmanWindow" | "HammingWindow" | "HannWindow" | "MelWeightMatrix"
            => &[Attribute("output_datatype", Some(F32))],
        "Constant" | "ConstantOfShape" => &[Value],
        "If" | "Scan" => &[Body(0)],
        "Loop" => &[Body(1)], // its first output is the condition
        "SequenceAt" | "ConcatFromSequence" => &[ElementOf(0)],
        "SequenceConstruct" | "SplitToSequence" => &[SequenceOf(0)],
        "SequenceEmpty" => &[EmptySequence],
        "Optional" | "SequenceMap" => &[NotATensor],
        "ImageDecoder" => &[Is(U8)],
        "StringSplit" => &[Is(String), Is(I64)],
        "TfIdfVectorizer" => &[Is(F32)],
        _ => &[],
    }
}

#[rustfmt::skip] // a table
fn classical(op_type: &str) -> &'static [Rule] {
    match op_type {
        "ArrayFeatureExtractor" | "Binarizer" | "Imputer" | "TreeEnsemble" => &[Like(0)],
        "FeatureVectorizer" | "LinearRegressor" | "Normalizer" | "OneHotEncoder" | "SVMRegressor" | "Scaler"
        | "TreeEnsembleRegressor"
            => &[Is(F32)],
        "LabelEncoder" => &[Labels],
        "LinearClassifier" | "SVMClassifier" | "TreeEnsembleClassifier" => &[Labels, Is(F32)],
        "ZipMap" => &[NotATensor],
        _ => &[],
    }
}

#[rustfmt::skip] // a table
fn contributed(op_type: &str) -> &'static [Rule] {
    match op_type {
        "Attention" | "BiasAdd" | "BiasGelu" | "BiasSoftmax" | "BiasSplitGelu" | "CDist" | "ComplexMul"
        | "ComplexMulConj" | "DecoderMaskedMultiHeadAttention" | "DynamicQuantizeLSTM"
        | "DynamicQuantizeMatMul" | "ExpandDims" | "FastGelu" | "FusedConv" | "FusedGemm" | "FusedMatMul"
        | "FusedMatMulActivation" | "GatherND" | "Gelu" | "GemmFastGelu" | "GroupNorm" | "Inverse" | "Irfft"
        | "MatMulBnb4" | "MatMulFpQ4" | "MatMulNBits" | "MoE" | "MultiHeadAttention" | "NhwcConv"
        | "NhwcFusedConv" | "NhwcMaxPool" | "Pad" | "QLinearAdd" | "QLinearAveragePool"
        | "QLinearGlobalAveragePool" | "QLinearLeakyRelu" | "QLinearMul" | "QLinearReduceMean"
        | "QLinearSigmoid" | "QLinearSoftmax" | "QuickGelu" | "Range" | "RelativePositionBias" | "Rfft"
        | "RotaryEmbedding" | "SkipGroupNorm" | "TransposeMatMul" | "Trilu"
            => &[Like(0)],
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization"
            => &[Like(0), Is(F32), Is(F32), Like(0)],
        "GroupQueryAttention" => &[Like(0), Like(3), Like(3), Like(0)],
        "EmbedLayerNormalization" => &[Like(2), Is(I32), Like(2)],
        "GatherBlockQuantized" | "MatMulIntegerToFloat" | "QAttention" => &[Like(2)],
        "QLinearConcat" | "QLinearWhere" => &[Like(1)],
        "QLinearConv" | "QLinearMatMul" => &[Like(7)],
        "QGemm" => &[LikeOr(8, F32)],
        "QuantizeLinear" => &[Quantized],
        "DequantizeLinear" => &[Like(1)],
        "MulInteger" | "MatMulInteger16" | "ReduceSumInteger" => &[Is(I32)],
        "IsAllFinite" => &[Is(Bool)],
        "Unique" => &[Like(0), Is(I64)],
        _ => &[],
    }
}

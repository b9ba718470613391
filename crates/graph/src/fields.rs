//! Finds fields that the schema does not have, before `prost` drops them in silence.
//!
//! Called once for every model that is read. It follows tags and lengths only and skips the weights.

use crate::error::ModelError;

/// Nested messages deeper than this are refused, as `prost` refuses them.
const MAX_DEPTH: usize = 100;

/// Refuses bytes that are malformed or hold a field that ONNX does not define.
pub(crate) fn check(bytes: &[u8]) -> Result<(), ModelError> {
    walk(Message::Model, bytes, 0)
}

macro_rules! schema {
    ($($message:ident [$($leaf:pat),*] $($tag:literal => $inner:ident),*;)*) => {
        /// The messages of `onnx-ml.proto`.
        #[derive(Clone, Copy)]
        enum Message { $($message,)* }

        impl Message {
            fn name(self) -> &'static str {
                match self { $(Message::$message => stringify!($message),)* }
            }

            fn field(self, tag: u32) -> Field {
                match self {
                    $(Message::$message => match tag {
                        $($leaf => Field::Leaf,)*
                        $($tag => Field::Message(Message::$inner),)*
                        _ => Field::Unknown,
                    },)*
                }
            }
        }
    };
}

enum Field {
    Leaf,
    Message(Message),
    Unknown,
}

// Left: numbers and strings. Right: nested messages.
schema! {
    Attribute [1..=4, 7..=9, 13, 20, 21]
        5 => Tensor, 6 => Graph, 10 => Tensor, 11 => Graph, 14 => Type, 15 => Type, 22 => SparseTensor,
        23 => SparseTensor;
    ValueInfo [1, 3] 2 => Type, 4 => Entry;
    Node [1..=4, 6..=8] 5 => Attribute, 9 => Entry, 10 => NodeDevice;
    IntIntListEntry [1, 2];
    NodeDevice [1, 3] 2 => ShardingSpec;
    ShardingSpec [1, 2] 3 => IntIntListEntry, 4 => ShardedDim;
    ShardedDim [1] 2 => SimpleShardedDim;
    SimpleShardedDim [1..=3];
    Training [] 1 => Graph, 2 => Graph, 3 => Entry, 4 => Entry;
    Model [1..=6]
        7 => Graph, 8 => OperatorSet, 14 => Entry, 20 => Training, 25 => Function, 26 => Device;
    Device [1..=3];
    Entry [1, 2];
    Annotation [1] 2 => Entry;
    Graph [2, 10]
        1 => Node, 5 => Tensor, 11 => ValueInfo, 12 => ValueInfo, 13 => ValueInfo, 14 => Annotation,
        15 => SparseTensor, 16 => Entry;
    Tensor [1, 2, 4..=12, 14] 3 => Segment, 13 => Entry, 16 => Entry;
    Segment [1, 2];
    SparseTensor [3] 1 => Tensor, 2 => Tensor;
    Shape [] 1 => Dimension;
    Dimension [1..=3];
    Type [6]
        1 => TensorType, 4 => SequenceType, 5 => MapType, 7 => OpaqueType, 8 => TensorType,
        9 => SequenceType;
    TensorType [1] 2 => Shape;
    SequenceType [] 1 => Type;
    MapType [1] 2 => Type;
    OpaqueType [1, 2];
    OperatorSet [1, 2];
    Function [1, 4..=6, 8, 10, 13]
        7 => Node, 9 => OperatorSet, 11 => Attribute, 12 => ValueInfo, 14 => Entry;
}

fn walk(message: Message, mut bytes: &[u8], depth: usize) -> Result<(), ModelError> {
    if depth > MAX_DEPTH {
        return Err(malformed("nested too deep"));
    }
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let tag = u32::try_from(key >> 3).map_err(|_| malformed("a field number is out of range"))?;
        let field = message.field(tag);
        let body = match key & 7 {
            0 => {
                varint(&mut bytes)?;
                None
            }
            1 => Some(take(&mut bytes, 8)?),
            2 => {
                let len = varint(&mut bytes)?;
                Some(take(&mut bytes, len)?)
            }
            5 => Some(take(&mut bytes, 4)?),
            _ => return Err(malformed("a field has an unknown wire type")),
        };
        match (field, body) {
            (Field::Unknown, _) => return Err(ModelError::UnknownField { message: message.name(), tag }),
            (Field::Message(inner), Some(body)) => walk(inner, body, depth + 1)?,
            (Field::Message(_) | Field::Leaf, _) => {}
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, ModelError> {
    let mut value = 0;
    for i in 0..10 {
        let (&byte, rest) = bytes.split_first().ok_or_else(|| malformed("it ends within a number"))?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(malformed("a number is too long"))
}

fn take<'a>(bytes: &mut &'a [u8], len: u64) -> Result<&'a [u8], ModelError> {
    let split = usize::try_from(len).ok().and_then(|len| bytes.split_at_checked(len));
    let (body, rest) = split.ok_or_else(|| malformed("it ends within a field"))?;
    *bytes = rest;
    Ok(body)
}

fn malformed(reason: &str) -> ModelError {
    ModelError::NotOnnx(reason.to_owned())
}

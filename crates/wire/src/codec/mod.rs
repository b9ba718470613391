//! How tensors travel on a link: stages that compose.
//!
//! Encoding goes through three stages, each of which may do nothing: the values become something smaller ([`Values`]),
//! their bytes are arranged so that they pack well ([`Filter`]), and are packed ([`Entropy`]). Decoding goes the other
//! way, into exactly as many bytes as the plan's type and shape take, or is an error: whatever a peer sends, nothing
//! panics, and no more memory is taken than the largest encoding of that tensor. Called by `pipeline`, item after item,
//! with a [`Room`] that is reused.

mod affine;
mod entropy;
mod filter;
mod halves;
mod json;
mod list;
mod name;
mod room;
mod zfp;

use tensor::{Buffer, DType, Shape, TensorView};

pub use entropy::Entropy;
pub use filter::Filter;
pub use list::{CodecList, CodecListError};
pub use name::UnknownCodec;
pub use room::Room;
pub use zfp::{Zfp, ZfpMode, ZfpView};

pub(crate) use entropy::Packers;
pub(crate) use filter::Layout;

/// What a tensor's values become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Values {
    /// Their memory form, unchanged.
    #[default]
    Plain,
    /// IEEE 754 halves, rounded to nearest.
    F16,
    /// bfloat16, rounded to nearest.
    Bf16,
    /// Bytes on a line from the tensor's least to its largest value.
    U8,
    /// The same, with a line for each index of one axis, counted from 0.
    U8Axis(u8),
    /// JSON text.
    Json,
    /// ZFP blocks.
    Zfp(Zfp),
}

/// How a link's tensors travel, as named on the command line and numbered on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Codec {
    /// The first stage.
    pub values: Values,
    /// The second.
    pub filter: Filter,
    /// The third.
    pub entropy: Entropy,
}

/// What decoding gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fidelity {
    /// Less than half precision: the effect on a model's outputs is to be measured first.
    Coarse,
    /// Each value to 8 significant bits at least, or to 2^-8 of the tensor's largest number: halves.
    Half,
    /// Bit for bit what was sent.
    Exact,
}

/// Values that a codec does not stand for: the tensor has to travel another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// There is no line from or to infinity, no number in JSON, no error to bound; or a value is so large that decoding
    /// might make it infinite, or all are so small that little would be left of them.
    #[error("a value is not finite, or might not be after decoding, or all are too small")]
    OutOfRange,
}

/// Bytes that are no encoding of the expected tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The data decodes to another length.
    #[error("{codec} data decodes to {found} bytes, the plan says {expected}")]
    Length {
        /// The codec.
        codec: Codec,
        /// Bytes that should come out.
        expected: usize,
        /// Bytes that came out.
        found: usize,
    },
    /// The data is malformed.
    #[error("{codec} data is malformed: {reason}")]
    Malformed {
        /// The codec.
        codec: Codec,
        /// What is wrong with it.
        reason: String,
    },
}

impl Codec {
    /// The memory form, unchanged. Every link accepts it, as there is nothing to decode.
    pub const RAW: Codec = Codec { values: Values::Plain, filter: Filter::None, entropy: Entropy::None };

    /// The memory form as LZ4 blocks.
    pub const LZ4: Codec = Codec { entropy: Entropy::Lz4, ..Codec::RAW };

    /// What comes of it for tensors of a type: only `f32` is ever changed, and strings have no elements of one size.
    pub fn for_dtype(self, dtype: DType) -> Codec {
        let values = if dtype == DType::F32 { self.values } else { Values::Plain };
        let whole = dtype.element_len().is_some() && values.has_elements();
        let filter = if whole { self.filter } else { Filter::None };
        Codec { values, filter, ..self }
    }

    /// What decoding gives back of `f32` values; others always come back as they were.
    pub fn fidelity(self) -> Fidelity {
        match self.values {
            Values::Plain | Values::Json => Fidelity::Exact,
            Values::Zfp(Zfp { mode: ZfpMode::Reversible, .. }) => Fidelity::Exact,
            Values::F16 | Values::Bf16 => Fidelity::Half,
            Values::U8 | Values::U8Axis(_) | Values::Zfp(_) => Fidelity::Coarse,
        }
    }

    /// The largest encoding of a tensor, bytes; `len` are those of its memory form. A frame that claims more is refused
    /// unread.
    pub fn max_encoded_len(self, dtype: DType, shape: Shape, len: usize) -> usize {
        let form = self.form(dtype, shape, len);
        self.entropy.max_len(form.head.saturating_add(self.filter.max_len(form.body(), form.layout)))
    }

    /// What tensors travel as for whose values this codec has no room: for `f16` it is `bf16`, nearly of the range of
    /// `f32`, with the same filter and packing; for all others, raw.
    pub fn wider(self) -> Codec {
        match self.values {
            Values::F16 => Codec { values: Values::Bf16, ..self },
            _ => Codec::RAW,
        }
    }

    /// Encodes a tensor. The result lies in `room`, or is the tensor's own bytes.
    ///
    /// # Errors
    /// When the codec does not stand for its values.
    pub fn encode<'a>(self, tensor: TensorView<'a>, room: &'a mut Room) -> Result<&'a [u8], EncodeError> {
        let len = self.to_values(tensor, &mut room.values)?;
        Ok(self.pack(tensor, len, room))
    }

    /// Encodes a tensor as a link does that uses this codec: as it is for the tensor's type, or as the first that is
    /// [wider](Codec::wider) and stands for the values. Gives the codec that it was.
    pub fn encode_or_wider<'a>(self, tensor: TensorView<'a>, room: &'a mut Room) -> (Codec, &'a [u8]) {
        let mut codec = self.for_dtype(tensor.dtype());
        loop {
            match codec.to_values(tensor, &mut room.values) {
                Ok(len) => return (codec, codec.pack(tensor, len, room)),
                Err(EncodeError::OutOfRange) => codec = codec.wider(),
            }
        }
    }

    /// The first stage. Gives the bytes that `values` then has; none of plain ones, which stay where they are.
    fn to_values(self, tensor: TensorView<'_>, values: &mut Buffer) -> Result<usize, EncodeError> {
        if self.values == Values::Plain {
            return Ok(0);
        }
        values.resize(self.form(tensor.dtype(), tensor.shape(), tensor.bytes().len()).len);
        self.values.encode(tensor, values.as_mut_bytes())
    }

    /// The other stages, of a tensor whose values became the first `len` bytes of the room's.
    fn pack<'a>(self, tensor: TensorView<'a>, len: usize, room: &'a mut Room) -> &'a [u8] {
        let form = self.form(tensor.dtype(), tensor.shape(), tensor.bytes().len());
        let Room { values, filtered, packed, packers } = room;
        let bytes = match self.values {
            Values::Plain => tensor.bytes(),
            _ => &values.as_bytes()[..len],
        };
        let bytes = match self.filter {
            _ if !self.values.has_elements() => bytes,
            Filter::None => bytes,
            filter => {
                filtered.resize(form.head + filter.max_len(form.body(), form.layout));
                let (head, body) = filtered.as_mut_bytes().split_at_mut(form.head);
                head.copy_from_slice(&bytes[..form.head]);
                let len = form.head + filter.apply(form.layout, &bytes[form.head..], body);
                &filtered.as_bytes()[..len]
            }
        };
        match self.entropy {
            Entropy::None => bytes,
            entropy => {
                packed.resize(entropy.max_len(bytes.len()));
                let len = entropy.pack(bytes, packed.as_mut_bytes(), packers);
                &packed.as_bytes()[..len]
            }
        }
    }

    /// Decodes into `out`, which has the length of the tensor's memory form: all of it is written and all input
    /// consumed, or an error comes back.
    pub fn decode(
        self,
        encoded: &[u8],
        dtype: DType,
        shape: Shape,
        out: &mut [u8],
        room: &mut Room,
    ) -> Result<(), CodecError> {
        let form = self.form(dtype, shape, out.len());
        let Room { values, filtered, packed, packers } = room;
        let (plain, malformed) = (self.values == Values::Plain, |reason| self.malformed(reason));
        // Each stage writes where the next one reads; the last one that does anything, into `out`.
        let bytes = match self.entropy {
            Entropy::None => encoded,
            entropy if plain && self.filter == Filter::None => {
                let found = entropy.unpack(encoded, out, packers).map_err(malformed)?;
                return self.expect(out.len(), found);
            }
            entropy => {
                let most = form.head + self.filter.max_len(form.body(), form.layout);
                packed.resize(most.min(entropy.max_unpacked_len(encoded.len())));
                let len = entropy.unpack(encoded, packed.as_mut_bytes(), packers).map_err(malformed)?;
                &packed.as_bytes()[..len]
            }
        };
        match self.values {
            Values::Json => return json::decode(bytes, out).map_err(malformed),
            Values::Zfp(zfp) => return zfp.decode(bytes, shape, out, [values, filtered]).map_err(malformed),
            _ => {}
        }
        let bytes = match self.filter {
            Filter::None => bytes,
            filter => {
                let (head, body) = bytes
                    .split_at_checked(form.head)
                    .ok_or_else(|| self.malformed("it is too short".to_owned()))?;
                if plain {
                    return filter.undo(form.layout, body, out).map_err(malformed);
                }
                filtered.resize(form.len);
                let (to_head, to_body) = filtered.as_mut_bytes().split_at_mut(form.head);
                to_head.copy_from_slice(head);
                filter.undo(form.layout, body, to_body).map_err(malformed)?;
                filtered.as_bytes()
            }
        };
        self.expect(form.len, bytes.len())?;
        match self.values {
            Values::Plain => out.copy_from_slice(bytes),
            lossy => lossy.decode(bytes, shape, out).map_err(malformed)?,
        }
        Ok(())
    }

    /// What lies between the first stage and the second.
    fn form(self, dtype: DType, shape: Shape, len: usize) -> Form {
        let element = dtype.element_len().unwrap_or(1);
        let elements = len / element;
        let (head, width) = match self.values {
            Values::Plain => (0, element),
            Values::F16 | Values::Bf16 => (0, 2),
            Values::U8 => (affine::line_len(1), 1),
            Values::U8Axis(axis) => (affine::line_len(affine::lines(shape, axis)), 1),
            Values::Json => (json::max_len(elements), 0),
            Values::Zfp(zfp) => (zfp.max_len(shape), 0),
        };
        let body = if self.values == Values::Plain { len } else { elements * width };
        let row = shape.dims().last().map_or(1, |&row| row.max(1));
        Form { head, len: head + body, layout: Layout { element: width, row } }
    }

    fn malformed(self, reason: String) -> CodecError {
        CodecError::Malformed { codec: self, reason }
    }

    fn expect(self, expected: usize, found: usize) -> Result<(), CodecError> {
        match expected == found {
            true => Ok(()),
            false => Err(CodecError::Length { codec: self, expected, found }),
        }
    }
}

/// A tensor after the first stage.
struct Form {
    /// Bytes that are no elements and stay as they are.
    head: usize,
    /// All bytes; of values that have become something without elements, the most.
    len: usize,
    layout: Layout,
}

impl Form {
    fn body(&self) -> usize {
        self.len - self.head
    }
}

impl Values {
    /// Whether what the values become has elements, which filters arrange, and so one length.
    fn has_elements(self) -> bool {
        !matches!(self, Values::Json | Values::Zfp(_))
    }

    /// Gives how many bytes of `out` it takes.
    fn encode(self, tensor: TensorView<'_>, out: &mut [u8]) -> Result<usize, EncodeError> {
        let values = tensor.bytes();
        match self {
            Values::Json => return json::encode(values, out),
            Values::Zfp(zfp) => return zfp.encode(tensor, out),
            Values::Plain => out.copy_from_slice(values),
            Values::F16 => halves::encode_f16(values, out)?,
            Values::Bf16 => halves::encode_bf16(values, out)?,
            Values::U8 => affine::encode(values, affine::Lines::one(), out)?,
            Values::U8Axis(axis) => affine::encode(values, affine::Lines::of(tensor.shape(), axis), out)?,
        }
        Ok(out.len())
    }

    fn decode(self, bytes: &[u8], shape: Shape, out: &mut [u8]) -> Result<(), String> {
        match self {
            Values::Plain | Values::Json | Values::Zfp(_) => unreachable!("decoded without elements"),
            Values::F16 => halves::decode_f16(bytes, out),
            Values::Bf16 => halves::decode_bf16(bytes, out),
            Values::U8 => affine::decode(bytes, affine::Lines::one(), out)?,
            Values::U8Axis(axis) => affine::decode(bytes, affine::Lines::of(shape, axis), out)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::Tensor;

    const VALUES: [Values; 5] = [Values::Plain, Values::F16, Values::Bf16, Values::U8, Values::U8Axis(1)];
    const FILTERS: [Filter; 4] = [Filter::None, Filter::Shuffle, Filter::RowDelta, Filter::ZeroBitmap];
    const ENTROPIES: [Entropy; 4] = [Entropy::None, Entropy::Lz4, Entropy::ZstdFast, Entropy::Zstd1];

    fn codecs() -> impl Iterator<Item = Codec> {
        let all = |values| {
            FILTERS.into_iter().flat_map(move |f| ENTROPIES.into_iter().map(move |e| (values, f, e)))
        };
        VALUES.into_iter().flat_map(all).map(|(values, filter, entropy)| Codec { values, filter, entropy })
    }

    fn wave(shape: Shape) -> Tensor {
        let values: Vec<f32> =
            (0..shape.elements().unwrap()).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        Tensor::from_slice(shape, &values).unwrap()
    }

    fn round_trip(codec: Codec, tensor: &Tensor, room: &mut Room) -> Result<Tensor, CodecError> {
        let encoded = codec.encode(tensor.view(), room).unwrap().to_vec();
        let (dtype, shape, len) = (tensor.dtype(), tensor.shape(), tensor.bytes().len());
        assert!(encoded.len() <= codec.max_encoded_len(dtype, shape, len), "{codec}");
        let mut out = Tensor::zeros(dtype, shape).unwrap().into_buffer();
        codec.decode(&encoded, dtype, shape, out.as_mut_bytes(), room)?;
        Ok(Tensor::from_buffer(dtype, shape, out).unwrap())
    }

    #[test]
    fn a_short_encoding_takes_no_memory_by_the_word_of_a_shape() {
        let shape = Shape::from([1 << 20, 1, 1, 1]);
        let mut out = vec![0; 4 << 20];
        for name in ["zfp+lz4", "zfp+zstd1", "json+lz4", "u8-axis0+lz4"] {
            let codec: Codec = name.parse().unwrap();
            let mut room = Room::default();
            let decoded = codec.decode(&[0x10; 1000], DType::F32, shape, &mut out, &mut room);
            assert!(decoded.is_err(), "{name}");
            let most = if codec.entropy == Entropy::Lz4 { 255_000 } else { 251 * (128 << 10) };
            assert!(room.packed.as_bytes().len() <= most, "{name}: {}", room.packed.as_bytes().len());
        }
    }

    #[test]
    fn every_codec_gives_back_what_its_fidelity_says() {
        let mut room = Room::default();
        for codec in codecs() {
            for shape in [[1, 3, 8, 5], [2, 1, 1, 1], [1, 4, 0, 7]].map(Shape::from) {
                let tensor = wave(shape);
                let back = round_trip(codec, &tensor, &mut room).unwrap();
                let most = match codec.fidelity() {
                    Fidelity::Exact => 0.0,
                    Fidelity::Half => 3.0 / 256.0,
                    Fidelity::Coarse => 6.1 / 255.0 / 2.0,
                };
                let (sent, got) = (tensor.as_slice::<f32>().unwrap(), back.as_slice::<f32>().unwrap());
                for (sent, got) in sent.iter().zip(got) {
                    assert!((sent - got).abs() <= most, "{codec} {shape}: {got} for {sent}");
                }
            }
        }
    }

    #[test]
    fn values_without_elements_are_packed_unfiltered() {
        let mut room = Room::default();
        for name in ["json", "zfp", "zfp-2d", "zfp-1d-tol-7", "zfp-2d-rate12"] {
            for entropy in ENTROPIES {
                let codec = Codec { entropy, ..name.parse().unwrap() };
                assert_eq!(Codec { filter: Filter::Shuffle, ..codec }.for_dtype(DType::F32), codec);
                for shape in [Shape::from([1, 3, 8, 5]), Shape::SCALAR, Shape::from([1, 4, 0, 7])] {
                    let tensor = wave(shape);
                    let back = round_trip(codec, &tensor, &mut room).unwrap();
                    let (sent, got) = (tensor.as_slice::<f32>().unwrap(), back.as_slice::<f32>().unwrap());
                    for (sent, got) in sent.iter().zip(got) {
                        let most = if codec.fidelity() == Fidelity::Exact { 0.0 } else { 0.02 };
                        assert!((sent - got).abs() <= most, "{codec} {shape}: {got} for {sent}");
                    }
                    let whole = codec.encode(tensor.view(), &mut room).unwrap().to_vec();
                    let mut out = tensor.bytes().to_vec();
                    for len in 0..whole.len() {
                        let short = codec.decode(&whole[..len], DType::F32, shape, &mut out, &mut room);
                        assert!(short.is_err(), "{codec} {shape} of {len} bytes");
                    }
                }
            }
        }
    }

    #[test]
    fn values_without_room_travel_as_a_wider_codec() {
        let mut room = Room::default();
        for (named, values, used) in [
            ("f16+shuffle+zstd1", [1.0, 2.0], "f16+shuffle+zstd1"),
            ("f16+shuffle+zstd1", [1.0, 1e5], "bf16+shuffle+zstd1"),
            ("f16", [1e-9, 1e-7], "bf16"),
            ("f16+lz4", [1e-40, 0.0], "raw"),
            ("f16+bitmap", [f32::MAX, 0.0], "raw"),
            ("bf16+lz4", [f32::MAX, 0.0], "raw"),
            ("u8+zstd1", [f32::NAN, 0.0], "raw"),
            ("lz4", [f32::NAN, 0.0], "lz4"),
        ] {
            let tensor = Tensor::from_slice(Shape::from([2]), &values).unwrap();
            let (codec, encoded) = named.parse::<Codec>().unwrap().encode_or_wider(tensor.view(), &mut room);
            let encoded = encoded.to_vec();
            assert_eq!(codec.to_string(), used, "{named} of {values:?}");
            assert_eq!(codec.encode(tensor.view(), &mut room).unwrap(), encoded, "{named} of {values:?}");
        }
        let integers = Tensor::from_slice(Shape::from([2]), &[1i64, 2]).unwrap();
        let codec: Codec = "f16+lz4".parse().unwrap();
        assert_eq!(codec.encode_or_wider(integers.view(), &mut room).0, Codec::LZ4);
    }

    #[test]
    fn names_and_codes_round_trip() {
        for codec in codecs() {
            assert_eq!(codec.to_string().parse(), Ok(codec));
            assert_eq!(Codec::from_code(codec.code()), Some(codec));
        }
        for name in
            ["", "zip", "raw+lz4", "lz4+shuffle", "u8-axis", "u8-axis256", "u8-axis07", "u8-axis+1", "bf16+"]
        {
            assert!(name.parse::<Codec>().is_err(), "{name}");
        }
    }
}

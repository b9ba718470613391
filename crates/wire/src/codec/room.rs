//! The memory that encoding and decoding take, and how much that is: planners count it, without knowing codecs.

use tensor::Buffer;

use super::entropy::Packers;
use super::{Codec, Values};

/// Memory to encode and decode in, reused from item to item: of one link, or one thread.
#[derive(Default)]
pub struct Room {
    pub(super) values: Buffer,
    pub(super) filtered: Buffer,
    pub(super) packed: Buffer,
    pub(super) packers: Packers,
}

/// Frames at an end besides: one being sent and one to be, or as many bytes as two hold that arrived meanwhile.
const WAITING: u64 = 2;

impl Codec {
    /// What an end of a link takes at most to encode a tensor, or to receive and decode one: so many times the tensor's
    /// memory form, besides it. It holds for tensors that are large enough to be worth counting, whatever their values,
    /// and for a link that is switched among codecs of which none says more. With ZFP it holds for arrays of which one
    /// dimension is thin, as that of a batch of one; each more takes up to four times as much.
    pub fn room_copies(self) -> u64 {
        match self.values {
            Values::Plain if self == Codec::RAW => 0,
            Values::Plain | Values::F16 | Values::Bf16 | Values::U8 => 4 + WAITING,
            // A line for each element makes nine bytes of four.
            Values::U8Axis(_) => 12 + WAITING,
            // 20 bytes for each number, whatever it takes in the end.
            Values::Json => 12 + WAITING,
            Values::Zfp(_) => 20 + WAITING,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entropy, Filter};
    use tensor::{DType, Shape, Tensor, TensorView};

    /// Tensors of 200 kB whose encodings are the largest: noise of all bits, with all signs and of all sizes, in the
    /// shapes of activations.
    fn tensors() -> Vec<Tensor> {
        let mut random = fastrand::Rng::with_seed(1);
        let mut noise = vec![0; 4 * 64 * 784];
        random.fill(&mut noise);
        let values: Vec<f32> =
            noise.as_chunks().0.iter().map(|&bits| i32::from_le_bytes(bits) as f32).collect();
        let shapes = [
            Shape::from([1, 64, 28, 28]),
            Shape::from([1, 28, 28, 64]),
            Shape::from([784, values.len() / 784]),
        ];
        let mut tensors = shapes.map(|shape| Tensor::from_slice(shape, &values).unwrap()).to_vec();
        // A line for each element, in no array of ZFP that is not thin; and numbers of the most digits.
        let tiny: Vec<f32> = values.iter().map(|value| value * 1e-40).collect();
        tensors.push(Tensor::from_slice(shapes[0], &tiny).unwrap());
        let flat = Shape::from([1, values.len()]);
        tensors.push(Tensor::from_slice(flat, &values).unwrap());
        tensors.push(Tensor::from_bytes(DType::U8, Shape::from([noise.len()]), &noise).unwrap());
        tensors
    }

    /// Bytes that the sender and the receiver of a link hold that was switched among codecs, with what waits to be sent and
    /// decoded there.
    fn held(codecs: &[Codec], tensor: TensorView<'_>) -> [usize; 2] {
        let mut rooms = [Room::default(), Room::default()];
        let (mut peaks, mut longest) = ([[0; 3]; 2], 0);
        let mut out = vec![0; tensor.bytes().len()];
        for codec in codecs {
            let (used, encoded) = codec.encode_or_wider(tensor, &mut rooms[0]);
            let encoded = encoded.to_vec();
            used.decode(&encoded, tensor.dtype(), tensor.shape(), &mut out, &mut rooms[1]).unwrap();
            // Raw tensors wait nowhere.
            longest = longest.max(if used == Codec::RAW { 0 } else { encoded.len() });
            for (peaks, Room { values, filtered, packed, .. }) in peaks.iter_mut().zip(&rooms) {
                let lens = [values, filtered, packed].map(Buffer::len);
                peaks.iter_mut().zip(lens).for_each(|(peak, len)| *peak = len.max(*peak));
            }
        }
        let [sender, receiver] = peaks.map(|peaks| peaks.iter().sum::<usize>());
        // What arrives is kept in a vector that grows with it, to twice of it at most, and what comes meanwhile in two of the
        // tensor's length. The sender's vectors do not grow beyond the longest frame.
        let frames = WAITING as usize;
        let waits = if longest == 0 { 0 } else { frames * tensor.bytes().len() };
        [sender + frames * longest, receiver + 2 * longest + waits]
    }

    /// Every filter and packing of values that have elements.
    fn chains(values: Values) -> Vec<Codec> {
        let filters = [Filter::None, Filter::Shuffle, Filter::RowDelta, Filter::ZeroBitmap];
        let entropies = [Entropy::None, Entropy::Lz4, Entropy::ZstdFast, Entropy::Zstd1];
        let chain = |filter| entropies.map(|entropy| Codec { values, filter, entropy });
        filters.into_iter().flat_map(chain).collect()
    }

    #[test]
    fn an_end_of_a_link_holds_no_more_than_is_counted() {
        let planned = [Values::Plain, Values::F16, Values::Bf16, Values::U8];
        let alone = ["json", "json+lz4", "zfp+lz4", "zfp-2d+zstd1", "zfp-tol-120+lz4", "zfp-rate32+lz4"];
        let mut lists = vec![planned.into_iter().flat_map(chains).collect(), chains(Values::U8Axis(1))];
        lists.extend([2, 3].map(|axis| chains(Values::U8Axis(axis))));
        lists.extend(alone.map(|name| vec![name.parse().unwrap()]));
        for tensor in tensors() {
            for codecs in &lists {
                let counted = codecs.iter().map(|codec| codec.room_copies()).max().expect("a codec");
                let copies =
                    held(codecs, tensor.view()).map(|held| held as f64 / tensor.bytes().len() as f64);
                let most = copies[0].max(copies[1]);
                assert!(
                    most <= counted as f64,
                    "{} of {}: {copies:?} of {counted}",
                    codecs[0],
                    tensor.shape()
                );
            }
        }
        assert_eq!(held(&[Codec::RAW], tensors()[0].view()), [0; 2]);
    }
}

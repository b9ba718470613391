#!/usr/bin/env python3
"""Decodes vectors.ndjson and weights.ndjson by what ../wire-format.md says, without DEFER's code, and compares.

Needs nothing but Python 3; for Zstandard that packs its library, or Python 3.14, and for ZFP the package zfpy. Vectors that need a
library which is not there are left out, and named.
"""

import ctypes
import ctypes.util
import json
import struct
import sys
from pathlib import Path

# What the format document says, in its order ----------------------------------------------------------------------

MASK = (1 << 64) - 1
PRIME64_1, PRIME64_2, PRIME64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def xxh3_64(data):
    """XXH3-64 with seed 0, of at most 240 bytes."""
    n = len(data)

    def word(bytes_, at):
        return int.from_bytes(bytes_[at : at + 8], "little")

    def half(bytes_, at):
        return int.from_bytes(bytes_[at : at + 4], "little")

    def fold(a, b):
        product = a * b
        return (product & MASK) ^ (product >> 64)

    def mix(at, secret):
        return fold(word(data, at) ^ word(SECRET, secret), word(data, at + 8) ^ word(SECRET, secret + 8))

    def avalanche(h):
        h ^= h >> 37
        h = h * 0x165667919E3779F9 & MASK
        return h ^ (h >> 32)

    def avalanche_64(h):
        h = (h ^ (h >> 33)) * PRIME64_2 & MASK
        h = (h ^ (h >> 29)) * PRIME64_3 & MASK
        return h ^ (h >> 32)

    def rotate(h, by):
        return (h << by | h >> (64 - by)) & MASK

    if n == 0:
        return avalanche_64(word(SECRET, 56) ^ word(SECRET, 64))
    if n <= 3:
        combined = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        return avalanche_64(combined ^ half(SECRET, 0) ^ half(SECRET, 4))
    if n <= 8:
        h = half(data, n - 4) + (half(data, 0) << 32)
        h ^= word(SECRET, 8) ^ word(SECRET, 16)
        h ^= rotate(h, 49) ^ rotate(h, 24)
        h = h * 0x9FB21C651E98DF25 & MASK
        h ^= (h >> 35) + n
        h = h * 0x9FB21C651E98DF25 & MASK
        return h ^ (h >> 28)
    if n <= 16:
        low = word(data, 0) ^ word(SECRET, 24) ^ word(SECRET, 32)
        high = word(data, n - 8) ^ word(SECRET, 40) ^ word(SECRET, 48)
        swapped = int.from_bytes(low.to_bytes(8, "little"), "big")
        return avalanche((n + swapped + high + fold(low, high)) & MASK)
    h = n * PRIME64_1
    if n <= 128:
        for i in range((n - 1) // 32 + 1):
            h += mix(16 * i, 32 * i) + mix(n - 16 * (i + 1), 32 * i + 16)
        return avalanche(h & MASK)
    if n > 240:
        raise Missing("XXH3 of more than 240 bytes")
    h = avalanche((h + sum(mix(16 * i, 16 * i) for i in range(8))) & MASK)
    h += sum(mix(16 * i, 16 * (i - 8) + 3) for i in range(8, n // 16))
    return avalanche((h + mix(n - 16, 136 - 17)) & MASK)


class Missing(Exception):
    """A library is not there."""


# Element types by their number: name and bits; strings have none.
DTYPES = {
    1: ("f32", 32), 2: ("u8", 8), 3: ("i8", 8), 4: ("u16", 16), 5: ("i16", 16), 6: ("i32", 32), 7: ("i64", 64),
    8: ("string", None), 9: ("bool", 8), 10: ("f16", 16), 11: ("f64", 64), 12: ("u32", 32), 13: ("u64", 64),
    14: ("complex64", 64), 15: ("complex128", 128), 16: ("bf16", 16), 17: ("f8e4m3fn", 8), 18: ("f8e4m3fnuz", 8),
    19: ("f8e5m2", 8), 20: ("f8e5m2fnuz", 8), 21: ("u4", 4), 22: ("i4", 4), 23: ("f4e2m1", 4), 24: ("f8e8m0", 8),
    25: ("u2", 2), 26: ("i2", 2),
}  # fmt: skip


def frame(data):
    """A frame with its tensors: (kind, epoch, path, sequence, [(codec, dtype, shape, bytes)])."""
    magic, kind, tensors, zero, epoch, path, sequence = struct.unpack_from("<4sBBHIIQ", data)
    assert (magic, zero) == (b"DFR2", 0) and kind <= 1 and tensors <= 64
    end = 24 + 96 * tensors
    (checksum,) = struct.unpack_from("<Q", data, end)
    if end <= 240:
        assert checksum == xxh3_64(data[:end]), "checksum of the header"
    payload, found = end + 8, []
    for i in range(tensors):
        fields = struct.unpack_from("<BBBB4sQQQ8Q", data, 24 + 96 * i)
        dtype, rank, checked, zero, codec, length, encoded_length, checksum, *dims = fields
        assert rank <= 8 and checked <= 1 and zero == 0 and not any(dims[rank:])
        encoded = data[payload : payload + encoded_length]
        assert len(encoded) == encoded_length
        assert checksum == (xxh3_64(encoded) if checked else 0), "checksum of a tensor"
        found.append((codec, dtype, dims[:rank], decode(codec, dtype, dims[:rank], length, encoded)))
        payload += encoded_length
    assert payload == len(data)
    return kind, epoch, path, sequence, found


def decode(codec, dtype, dims, length, data):
    values, filter_, entropy, parameter = codec
    bits = DTYPES[dtype][1]
    count = 1
    for dim in dims:
        count *= dim
    assert bits is None or length == (count * bits + 7) // 8
    head, width = form(values, parameter, dims, count, bits)
    data = ENTROPIES[entropy](data)
    if values >= 5:
        assert filter_ == 0
        out = from_json(data) if values == 5 else from_zfp(data, values, parameter, dims, count)
        assert len(out) == length
        return out
    data = data[:head] + FILTERS[filter_](data[head:], width, count, dims)
    out = VALUES[values](data, parameter, dims, count)
    assert len(out) == length
    return out


def from_json(text):
    numbers = json.loads(text, parse_int=float)  # -0 has a sign
    return struct.pack(f"<{len(numbers)}f", *numbers)


def from_zfp(data, number, parameter, dims, count):
    mode, view = number - number % 4, number % 4
    if count == 0:
        assert not data
        return b""
    if view == 1 or not dims:
        dims = [count]
    elif view == 2:
        dims = [count // dims[-1], dims[-1]]
    elif len(dims) > 4:
        outer = 1
        for dim in dims[:-3]:
            outer *= dim
        dims = [outer, *dims[-3:]]
    try:
        import zfpy
    except ImportError:
        raise Missing("zfpy is not there") from None
    tolerance, rate = -1.0, -1.0
    if mode == 20:
        tolerance = 2.0 ** (parameter if parameter < 128 else parameter - 256)
    elif mode == 24:
        rate = float(parameter)
    return zfpy._decompress(data, zfpy.type_float, tuple(dims), tolerance=tolerance, rate=rate).tobytes()


def form(values, parameter, dims, count, bits):
    """Bytes before the elements, and bytes of an element, between the first stage and the second."""
    if values == 0:
        return 0, 1 if bits is None else max(bits // 8, 1)
    if values in (1, 2):
        return 0, 2
    return 8 * lines(values, parameter, dims, count)[0], 1


def lines(values, axis, dims, count):
    """How many lines of bytes, and how many elements beside each other share one."""
    if values == 3 or axis >= len(dims):
        return 1, max(count, 1)
    if count == 0:
        return 0, 1
    inner = 1
    for dim in dims[axis + 1 :]:
        inner *= dim
    return dims[axis], inner


def from_f16(data, *_):
    return b"".join(struct.pack("<f", value) for (value,) in struct.iter_unpack("<e", data))


def from_bf16(data, *_):
    return b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2))


def f32(value):
    """A sum or product rounded to f32. (Of two f32, that of f64 is exact or rounds to the same.)"""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def from_u8(data, axis, dims, count, values=3):
    number, run = lines(values, axis, dims, count)
    least = struct.unpack_from(f"<{number}f", data)
    step = struct.unpack_from(f"<{number}f", data, 4 * number)
    out = b""
    for i, byte in enumerate(data[8 * number :]):
        line = i // run % number
        product = step[line] * byte if is_wide(step[line]) else f32(step[line] * byte)
        out += struct.pack("<f", least[line] + product)
    return out


def is_wide(step):
    """Whether 255 steps are more than an f32 holds."""
    return step * 255.0 >= 2.0**128 - 2.0**103


def from_u8_axis(data, axis, dims, count):
    return from_u8(data, axis, dims, count, values=4)


def unshuffle(data, width, *_):
    count = len(data) // width
    return bytes(data[j * count + i] for i in range(count) for j in range(width))


def undelta(data, width, count, dims):
    out = bytearray(unshuffle(data, width))
    row = width * (dims[-1] if dims else 1)
    for i in range(row, len(out)):
        out[i] = (out[i] + out[i - row]) & 255
    return bytes(out)


def unbitmap(data, width, count, _):
    bits, data = data[: (count + 7) // 8], data[(count + 7) // 8 :]
    there = [bits[i // 8] >> i % 8 & 1 for i in range(8 * len(bits))]
    assert not any(there[count:]) and len(data) == sum(there) * width
    elements = iter(unshuffle(data, width))
    return bytes(next(elements) if is_there else 0 for is_there in there[:count] for _ in range(width))


def from_lz4(data):
    """An LZ4 block."""
    out, at = bytearray(), 0

    def more(length):
        nonlocal at
        if length == 15:
            while True:
                length, at = length + data[at], at + 1
                if data[at - 1] != 255:
                    break
        return length

    while at < len(data):
        token, at = data[at], at + 1
        literals = more(token >> 4)
        out += data[at : at + literals]
        at += literals
        if at == len(data):
            break
        offset, at = int.from_bytes(data[at : at + 2], "little"), at + 2
        for _ in range(more(token & 15) + 4):
            out.append(out[-offset])
    return bytes(out)


def from_zstd(data):
    """A Zstandard frame: of blocks that are not packed, or by whatever library of it is there."""
    out = from_unpacked_zstd(data)
    if out is not None:
        return out
    try:
        from compression import zstd  # Python 3.14

        return zstd.decompress(data)
    except ImportError:
        pass
    name = ctypes.util.find_library("zstd")
    if name is None:
        raise Missing("the library of Zstandard is not there")
    library = ctypes.CDLL(name)
    library.ZSTD_decompress.restype = ctypes.c_size_t
    library.ZSTD_decompress.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    out = ctypes.create_string_buffer(1 << 16)
    length = library.ZSTD_decompress(out, len(out), data, len(data))
    assert length <= len(out), "no Zstandard frame"
    return out.raw[:length]


def from_unpacked_zstd(data):
    """A Zstandard frame (RFC 8878, section 3.1.1) whose blocks are raw or one byte repeated; None if one is not."""
    magic, descriptor = struct.unpack_from("<IB", data)
    assert magic == 0xFD2FB528 and not descriptor & 0b1000, "no Zstandard frame"
    if descriptor & 0b111:  # A checksum, or a dictionary.
        return None
    single = descriptor >> 5 & 1
    size_length = (single, 2, 4, 8)[descriptor >> 6]
    at, out = 5 + (1 - single), b""
    size = int.from_bytes(data[at : at + size_length], "little") + (256 if size_length == 2 else 0)
    at, last = at + size_length, 0
    while not last:
        assert at + 3 <= len(data), "cut off"
        block = int.from_bytes(data[at : at + 3], "little")
        last, kind, length, at = block & 1, block >> 1 & 3, block >> 3, at + 3
        if kind > 1:
            return None
        out += data[at : at + length] if kind == 0 else data[at : at + 1] * length
        at += length if kind == 0 else 1
    assert at == len(data) and (not size_length or size == len(out)), "another length"
    return out


def weight(wire, length):
    """A piece of a weight, of so many raw bytes."""
    form, packed_length = struct.unpack_from("<BI", wire)
    packed, way, width = wire[5:], form >> 4, 1 << (form & 15)
    assert packed_length == len(packed) <= length and width <= 8
    if way == 0:
        assert form == 0 and len(packed) == length
        return packed
    assert length % width == 0
    arranged = from_zstd(packed)
    return WAYS[way](arranged, width, length // width, None)


def from_palette(data, width, count, _):
    entries = data[0] + 1
    table, data = data[1 : 1 + entries * width], data[1 + entries * width :]
    in_byte, base = (5, 3) if entries <= 3 else (2, 16) if entries <= 16 else (1, 256)
    assert len(data) == (count + in_byte - 1) // in_byte
    places = []
    for byte in data:
        for _ in range(in_byte):
            places.append(byte % base)
            byte //= base
        assert byte == 0
    assert not any(places[count:]) and max(places, default=0) < entries
    return b"".join(table[width * place : width * (place + 1)] for place in places[:count])


WAYS = {1: unshuffle, 2: from_palette, 3: unbitmap}
VALUES = {0: lambda data, *_: data, 1: from_f16, 2: from_bf16, 3: from_u8, 4: from_u8_axis}
FILTERS = {0: lambda data, *_: data, 1: unshuffle, 2: undelta, 3: unbitmap}
ENTROPIES = {0: lambda data: data, 1: from_lz4, 2: from_zstd, 3: from_zstd}

# The vectors ------------------------------------------------------------------------------------------------------


def decoded_frame(vector):
    *_, [(_, dtype, dims, out)] = frame(bytes.fromhex(vector["frame"]))
    assert (DTYPES[dtype][0], dims) == (vector["dtype"], vector["shape"])
    return out, vector["output"]


def decoded_weight(vector):
    return weight(bytes.fromhex(vector["wire"]), len(vector["piece"]) // 2), vector["piece"]


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    checked, missing = 0, []
    for file, decoded in [("vectors.ndjson", decoded_frame), ("weights.ndjson", decoded_weight)]:
        for number, line in enumerate((folder / file).read_text().splitlines(), 1):
            vector = json.loads(line)
            of = f", {vector['codec']} of {vector['dtype']} {vector['shape']}" if "codec" in vector else ""
            name = f"{file} line {number}{of}"
            try:
                out, expected = decoded(vector)
            except Missing as library:
                missing.append(f"{name}: {library}")
                continue
            except Exception as error:
                raise SystemExit(f"{name}: {type(error).__name__} {error}") from error
            if out.hex() != expected:
                raise SystemExit(f"{name} decodes to {out.hex()}, not to {expected}")
            checked += 1
    print(f"{checked} vectors decode as they should")
    for line in missing:
        print(f"*** NOT CHECKED: {line}")


if __name__ == "__main__":
    main()

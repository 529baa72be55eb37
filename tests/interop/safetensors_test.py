#!/usr/bin/env python3
"""safetensors_test.py REWRITE: files written in Python are loaded and saved by the program REWRITE, and read back in Python.

The format is read and written here by a few lines of plain Python, and by the package `safetensors` where it is installed.
"""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "BOOL": 1}


def write_plain(path, tensors, metadata, shuffle):
    """Any layout that the format allows: header order and data order are independent, the header is padded by any number of spaces."""
    header, data = {}, b""
    order = list(tensors)
    shuffle.shuffle(order)
    for name in order:
        dtype, shape, content = tensors[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    names = list(header)
    shuffle.shuffle(names)
    header = {**({"__metadata__": metadata} if metadata else {}), **{name: header[name] for name in names}}
    text = json.dumps(header, ensure_ascii=shuffle.random() < 0.5).encode() + b" " * shuffle.randrange(20)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def read_plain(path):
    with open(path, "rb") as file:
        content = file.read()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    assert (8 + length) % 8 == 0, "the data is not aligned"
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        assert begin % SIZES[entry["dtype"]] == 0, f"{name} is not aligned"
        tensors[name] = (entry["dtype"], entry["shape"], data[begin:end])
    assert sum(len(t[2]) for t in tensors.values()) == len(data)
    return tensors, metadata


def random_tensors(shuffle):
    tensors = {}
    for i in range(shuffle.randrange(12)):
        dtype = shuffle.choice(list(SIZES))
        shape = [shuffle.choice([0, 1, 2, 3, 7]) for _ in range(shuffle.randrange(5))]
        count = SIZES[dtype]
        for size in shape:
            count *= size
        content = bytes(shuffle.randrange(2 if dtype == "BOOL" else 256) for _ in range(count))
        tensors[shuffle.choice(["layers.%d.weight", "ä %d", '"%d"\n', "😀%d", "%d"]) % i] = (dtype, shape, content)
    return tensors


def rewrite(program, source, target):
    subprocess.run([program, source, target], check=True)


def check_plain(program, folder):
    source, target = os.path.join(folder, "in"), os.path.join(folder, "out")
    for seed in range(40):
        shuffle = random.Random(seed)
        tensors = random_tensors(shuffle)
        metadata = {f"key {i}": shuffle.choice(["", "π", '{"a": [1, 2]}', "line\nline"]) for i in range(shuffle.randrange(3))}
        write_plain(source, tensors, metadata, shuffle)
        rewrite(program, source, target)
        assert read_plain(target) == (tensors, metadata), f"seed {seed} came back different"
    print("plain Python: 40 files came back as they were")


def check_package(program, folder):
    try:
        import numpy as np
        import safetensors
        from safetensors.numpy import save_file
    except ImportError as error:
        print(f"skipped, {error}: the package safetensors")
        return
    source, target = os.path.join(folder, "in"), os.path.join(folder, "out")
    random_numbers = np.random.default_rng(1)
    tensors = {
        "f64": random_numbers.normal(size=(3, 5)),
        "f32": random_numbers.normal(size=(7, 1, 2)).astype(np.float32),
        "f16": random_numbers.normal(size=33).astype(np.float16),
        "i64": random_numbers.integers(-(2**62), 2**62, size=(2, 2)),
        "bool": random_numbers.random((5, 7)) < 0.5,
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_file(tensors, source, metadata={"format": "np", "note": "ä\n"})
    rewrite(program, source, target)
    with safetensors.safe_open(target, framework="np") as file:
        assert file.metadata() == {"format": "np", "note": "ä\n"}
        assert set(file.keys()) == set(tensors)
        for name, value in tensors.items():
            back = file.get_tensor(name)
            assert back.dtype == value.dtype and back.shape == value.shape and (back == value).all(), name
    print(f"package safetensors {safetensors.__version__}: every dtype came back as it was")


def check_torch(program, folder):
    try:
        import torch
        from safetensors.torch import load_file, save_file
    except ImportError as error:
        print(f"skipped, {error}: bfloat16 through torch")
        return
    source, target = os.path.join(folder, "in"), os.path.join(folder, "out")
    tensors = {"bf16": torch.randn(5, 7).bfloat16(), "f16": torch.randn(3).half(), "mask": torch.rand(4) < 0.5}
    save_file(tensors, source)
    rewrite(program, source, target)
    back = load_file(target)
    assert set(back) == set(tensors)
    for name, value in tensors.items():
        assert back[name].dtype == value.dtype and torch.equal(back[name], value), name
    print(f"torch {torch.__version__}: bfloat16, float16 and bool came back as they were")


def main():
    program = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        check_plain(program, folder)
        check_package(program, folder)
        check_torch(program, folder)


if __name__ == "__main__":
    main()

"""Damage to a model folder: to the JSON of its configuration and of its weights' header."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzzing import blind

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

#: A folder in memory: name of a file -> its bytes.
Files = dict[str, bytes]

# What stands where something else was: of every type, and at the edges of each.
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 0.5, -0.5, 1.5, 255, 4096, 10**5, 2**31, 2**63, -(2**63),
    10**400, 1e-300, 1e300, float("nan"), float("inf"), "", "0.5", "text", "../../x", "/dev/zero",
    "\0", "\x1b[31m", "\u202e", "\ud800", "x" * 10_000, [], {}, [[]], [None], [1] * 10_000,
    {"": ""}, {"a": {"b": {}}}, "<script>alert(1)</script>", "hf-hub:a/b",
)  # fmt: skip
_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I8", "U8", "BOOL", "F8_E4M3", "C64", "X", "")


def mutate(files: Files, random: Random) -> tuple[str, Files]:
    """Kind of damage, and a folder with one to eight changes of that kind."""
    kind = random.choice(tuple(KINDS))
    while True:
        try:
            return kind, KINDS[kind](dict(files), random)
        except (LookupError, TypeError, ValueError, OverflowError):
            continue  # what the second change was to change is no longer there


# --- Configuration --------------------------------------------------------------------------------


def _config(files: Files, random: Random) -> Files:
    config = json.loads(files[CONFIG])
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        config = _change(config, random)
    return files | {CONFIG: _json(config)}


def _text(files: Files, random: Random) -> Files:
    """JSON that is none, or hardly any."""
    text = files[CONFIG]
    choice = random.randrange(6)
    if choice == 0:
        deep = random.choice((100, 10**5, 10**6))
        text = text.rstrip()[:-1] + b', "deep": ' + b"[" * deep + b"]" * deep + b"}"
    elif choice == 1:
        text = text.decode().encode(random.choice(("utf-16", "utf-32", "utf-8-sig")))
    elif choice == 2:  # the same keys twice; readers differ in which they take
        text = b'{"cft": 7, "architecture": "nonsense", ' + text.lstrip()[1:]
    elif choice == 3:
        text = b" " * random.choice((10**5, 5 * 2**20)) + text
    else:
        text = blind.mutate(text, {"": files[CARD]}, random)
    return files | {CONFIG: text}


def _change(value: Any, random: Random) -> Any:
    """The same JSON, with one entry somewhere inside that is changed; every depth is as likely."""
    places = [[] for _ in range(20)]  # depth -> container and key
    _gather(value, 0, places)
    inside, key = random.choice(random.choice([found for found in places if found]))
    choice = random.randrange(8)
    if choice == 0:
        del inside[key]
    elif choice == 1 and isinstance(inside[key], (int, float)):
        now = inside[key]
        factor = random.choice((-1, 0, 0.5, 1.001, 2, 100, 1e6, 1e300))
        inside[key] = random.choice((now * factor, now + 1, now - 1))
    elif choice == 2:
        inside[key] = random.choice(([inside[key]], {"a": inside[key]}, str(inside[key])))
    elif choice == 3 and isinstance(inside, dict):
        other = random.choice(["", "x" * 1000, "\n", key + " ", key.upper(), *inside])
        inside[other] = inside[key] if random.random() < 0.5 else inside.pop(key)
    elif choice == 4 and isinstance(inside, list):
        inside[key:key] = [inside[key]] * random.choice((1, 2, 1000))
    elif choice == 5:  # from somewhere else
        where, name = random.choice(random.choice([found for found in places if found]))
        inside[key] = json.loads(_json(where[name]))
    else:
        inside[key] = random.choice(_VALUES)
    return value


def _keys(inside: dict | list) -> Any:
    return inside if isinstance(inside, dict) else range(len(inside))


def _gather(value: Any, depth: int, places: list[list]) -> None:
    if isinstance(value, (dict, list)) and depth < len(places):
        for key in _keys(value):
            places[depth].append((value, key))
            _gather(value[key], depth + 1, places)


# --- Weights --------------------------------------------------------------------------------------


def _header(files: Files, random: Random) -> Files:
    """Names, types, shapes and places of the tensors, with a length that is right."""
    header, body = _split(files[WEIGHTS])
    for _ in range(random.choice((1, 1, 2, 4))):
        name = random.choice([name for name in header if name != "__metadata__"] or [""])
        entry = header.get(name)
        choice = random.randrange(9)
        if not isinstance(entry, dict) or choice == 0:
            header = _change(header, random)
        elif choice == 1:
            entry["dtype"] = random.choice(_DTYPES)
        elif choice == 2:
            entry["shape"] = random.choice(
                ([], [0], [1] * 100, [-1], [2**40], [2**32, 2**32], [*entry["shape"], 1], [1.5],
                 entry["shape"][::-1], [2**63 - 1, 2])
            )  # fmt: skip
        elif choice == 3:
            first, last = entry["data_offsets"]
            entry["data_offsets"] = random.choice(
                ([last, first], [first, last + 4], [first - 4, last], [0, len(body)], [-4, 0],
                 [first, 2**63], [first], [0, 0], [first, last - 1])
            )  # fmt: skip
        elif choice == 4:
            del header[name]
        elif choice == 5:
            header[random.choice((name + "x", "", "\n", "x" * 10_000, "fc"))] = header.pop(name)
        elif choice == 6:
            other = random.choice(list(header))
            header[name], header[other] = header[other], header[name]
        elif choice == 7:
            count = random.choice((10, 30_000))
            empty = {"dtype": "F32", "shape": [0], "data_offsets": [len(body), len(body)]}
            header |= {f"more.{n}": empty for n in range(count)}
        else:
            header["__metadata__"] = random.choice((None, 7, {"format": 7}, {"x": "y" * 10**6}))
    return _with_weights(files, _joined(header, body), random)


def _numbers(files: Files, random: Random) -> Files:
    """Other numbers in a tensor."""
    header, body = _split(files[WEIGHTS])
    changed = bytearray(body)
    for _ in range(random.choice((1, 1, 2, 8))):
        names = [n for n, entry in header.items() if "F32" in str(entry) and n != "__metadata__"]
        first, last = header[random.choice(names)]["data_offsets"]
        numbers = np.frombuffer(body[first:last], "<f4").copy()
        extreme = random.choice((0, -1, 1e-30, 1e20, 3e38, np.nan, np.inf, -np.inf))
        part = slice(None) if random.random() < 0.5 else random.randrange(max(1, len(numbers)))
        numbers[part] = extreme
        changed[first:last] = numbers.tobytes()
    return _with_weights(files, _joined(header, bytes(changed)), random)


def _bytes(files: Files, random: Random) -> Files:
    """Bytes of the header, its length, or the end of the file."""
    weights = bytearray(files[WEIGHTS])
    size = struct.unpack("<Q", weights[:8])[0]
    choice = random.randrange(4)
    if choice == 0:
        weights[:8] = struct.pack(
            "<Q",
            random.choice((0, 1, 2, size - 1, size + 1, len(weights), 10**8, 2**63, 2**64 - 1)),
        )
    elif choice == 1:
        del weights[random.randrange(len(weights)) :]
    elif choice == 2:
        weights += bytes(random.choice((1, 4, 10**6)))
    else:
        for _ in range(random.choice((1, 2, 8))):
            weights[8 + random.randrange(size)] ^= 1 << random.randrange(8)
    return _with_weights(files, bytes(weights), random)


def _split(weights: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", weights[:8])[0]
    return json.loads(weights[8 : 8 + size]), weights[8 + size :]


def _joined(header: Any, body: bytes) -> bytes:
    text = _json(header)
    return struct.pack("<Q", len(text)) + text + body


def _with_weights(files: Files, weights: bytes, random: Random) -> Files:
    """Mostly with the right hash in the configuration, or nothing would look further."""
    config = json.loads(files[CONFIG])
    if random.random() < 0.9:
        config["cft"]["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    return files | {CONFIG: _json(config), WEIGHTS: weights}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


# --- Files ----------------------------------------------------------------------------------------


def _files(files: Files, random: Random) -> Files:
    """A file that is missing, empty, or another's."""
    name = random.choice((CONFIG, WEIGHTS, CARD))
    choice = random.randrange(4)
    if choice == 0:
        del files[name]
    elif choice == 1:
        files[name] = b""
    elif choice == 2:
        files[name] = files[random.choice((CONFIG, WEIGHTS, CARD))]
    else:
        files[name] = random.randbytes(random.choice((1, 8, 1000, 5 * 2**20)))
    return files


#: Name of a kind of damage -> the function that does it.
KINDS: dict[str, Callable[[Files, Random], Files]] = {
    "configuration": _config,
    "configuration's text": _text,
    "weights' header": _header,
    "weights' numbers": _numbers,
    "weights' bytes": _bytes,
    "files": _files,
}


def read(folder: Path) -> Files:
    """The files of a folder that are damaged."""
    return {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS, CARD)}


def write(files: Files, folder: Path) -> None:
    """The files, and none of those that were there before."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, WEIGHTS, CARD):
        (folder / name).unlink(missing_ok=True)
        if name in files:
            (folder / name).write_bytes(files[name])

"""Contents that changed and advice that is out of date are found."""

from __future__ import annotations

import json

import numpy as np
from helpers.caches import QUIET, refused, verify

from coadvise.training.train import train


def test_verify_finds_a_flipped_byte_and_names_the_shard(complete, tmp_path):
    verify(complete, display=QUIET)
    shard = tmp_path / "cache" / "inv" / "00002.bin"
    raw = bytearray(shard.read_bytes())
    raw[137] ^= 1
    shard.write_bytes(raw)
    refused(complete, r"inv/00002\.bin: the contents are not what was written", verify)


def test_other_library_versions_make_it_check_and_not_refuse(complete, tmp_path):
    header = tmp_path / "cache" / "header.json"
    facts = json.loads(header.read_text())
    facts["versions"]["pillow"] = "1.0"
    header.write_text(json.dumps(facts))
    train(complete, display=QUIET)


def test_stale_advice_is_found_at_the_start(complete, tmp_path):
    for shard in (tmp_path / "cache" / "conv").glob("*.bin"):
        raw = np.frombuffer(shard.read_bytes(), dtype=np.uint8).reshape(-1, 20)
        shard.write_bytes(np.roll(raw, 1, axis=0).tobytes())  # each image has its neighbour's advice
    refused(complete, "is stale: teacher 'conv' now says something else of the same views")

"""Where records lie: sizes, and blocks that cover every record once."""

from __future__ import annotations

from coadvise.advice import layout as advice_layout
from coadvise.advice.layout import Layout
from coadvise.advice.record import RecordFormat


def test_a_record_of_imagenet():
    """Ten of 1000 classes take 42 bytes; 50 views of two teachers at most 5.5 GB."""
    record = RecordFormat(1000, 10)
    assert record.bytes == 42
    layout = Layout(1_281_167, 50, record)
    assert 2 * layout.bytes <= 5.5e9 and record.profile_bytes == 2_000_000
    assert layout.bytes == sum(map(layout.shard_bytes, range(layout.shards))) + record.profile_bytes


def test_blocks_cover_every_record_once(monkeypatch):
    monkeypatch.setattr(advice_layout, "BATCH", 7)
    monkeypatch.setattr(advice_layout, "BLOCK_BATCHES", 3)
    layout = Layout(50, 3, RecordFormat(10, 10))
    seen = [view * 50 + p for view, start, stop in map(layout.block, range(layout.blocks)) for p in range(start, stop)]
    assert seen == list(range(150))

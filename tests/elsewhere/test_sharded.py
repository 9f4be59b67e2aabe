"""Our blocks on meshes of both kinds, Auto and Explicit, of 8 virtual devices (sharded.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from quickly import FLAGS

pytestmark = pytest.mark.optimized

HERE = Path(__file__).parent


def found(check: str) -> Any:
    own = filter(None, [os.environ.get("PYTHONPATH")])
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent, *own)))
    flags = f"--xla_force_host_platform_device_count=8 {FLAGS}"
    done = subprocess.run(
        [sys.executable, str(HERE / "sharded.py"), check], capture_output=True, text=True,
        timeout=550, env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_sharded_init_works_as_in_the_guides_of_flax():
    for case, result in found("guide").items():
        assert result["as the guide says"], case
        kernels = {"P('fsdp', 'tensor')", "P('tensor', 'fsdp')"}
        stacked = {"P(None, 'fsdp', 'tensor')", "P(None, 'tensor', 'fsdp')"}
        assert (stacked if "Qwen3" in case else kernels) <= set(result["sharded"]), case


@pytest.mark.slow
def test_blocks_compute_the_same_and_send_the_same():
    for case, by_kind in found("blocks").items():
        assert by_kind["Auto"][0], case
        assert by_kind["Explicit"][0], case
        if not case.startswith("chunked"):  # of which Auto sends more
            assert by_kind["Explicit"][1] == by_kind["Auto"][1], case


@pytest.mark.slow
def test_a_transformer_sends_the_same_where_its_batch_has_a_place():
    """But for the scales of norms, which XLA gathers once more to differentiate under Auto."""
    by_case = found("transformer")
    assert all(same for same, _ in by_case.values()), by_case
    (forward, backward), (auto, auto_backward) = (
        by_case["with Explicit"][1],
        by_case["with Auto"][1],
    )
    assert forward == auto
    assert set(backward) == set(auto_backward) == {"all-gather", "all-reduce"}
    assert backward["all-reduce"] == auto_backward["all-reduce"]
    assert 0 <= auto_backward["all-gather"] - backward["all-gather"] <= 3  # three norms
    assert by_case["without Explicit"][1][0] == forward


@pytest.mark.slow
def test_models_compute_the_same():
    assert set(found("models").values()) == {True}


@pytest.mark.slow
def test_cached_decoding_and_the_sharding_of_a_result():
    expected = {"Auto": True, "Explicit": True, "out_sharding": "P('fsdp', None, 'tensor')"}
    assert found("decoding") == expected

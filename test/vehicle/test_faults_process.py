# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The node's process: signals, orphans, memory. `test/benchmarks/reliability.py` in full."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import fault_runs
import live_node
import soak
from live_node import NodeProcess

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures('private_ros')]


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_inference_ends_the_process_well(
    sent: signal.Signals, tiny_bundle: Path, tmp_path: Path
) -> None:
    """Three times: code 0 within 2 s, no traceback, nothing left behind."""
    with live_node.peer() as peer:
        ends = [fault_runs.signalled(tmp_path, tiny_bundle, sent, peer) for _ in range(3)]
    assert all(end.well for end in ends), ends


def test_lifecycle_cycles_leave_no_memory_behind(tiny_bundle: Path, tmp_path: Path) -> None:
    """15 cycles after 5 to warm up, by the bound of 10 MB in 50 and the noise of one reading."""
    with (
        NodeProcess(tmp_path, model=tiny_bundle, engine='onnxruntime', build='true') as node,
        live_node.peer() as peer,
    ):
        rss_mb = fault_runs.lifecycle_cycles(node, peer, 20)
    noise_mb = 2.0
    assert rss_mb[-1] - rss_mb[4] <= 10 * 15 / 50 + noise_mb, rss_mb


def test_a_short_soak_keeps_memory_books_and_rate(tiny_bundle: Path, tmp_path: Path) -> None:
    found = soak.soak(tmp_path, 6.0, 20, 160, 120, tiny_bundle)
    assert found['rss_mb']['last'] - found['rss_mb']['first'] < 4
    camera = found['camera']
    # A busy machine loses best-effort images on the way in, and answers on the way to a listener
    # that is not served for a while; what the node counts is exact all the same.
    assert 0 < int(camera['received']) <= found['sent']
    assert int(camera['failed']) == int(camera['rejected']) == 0
    ended = ('processed', 'replaced', 'unwanted', 'pending')
    assert int(camera['received']) == sum(int(camera[name]) for name in ended)
    assert all(0 < count <= int(camera['processed']) for count in found['answers'].values())
    assert (found['exit']['code'], found['tracebacks']) == (0, 0)


def test_the_slope_is_megabytes_an_hour() -> None:
    assert fault_runs.slope_mb_per_h([0, 1800, 3600], [100, 101, 102]) == pytest.approx(2)
    assert fault_runs.slope_mb_per_h([0, 10], [5, 5]) == pytest.approx(0)
    with pytest.raises(ValueError, match='two samples'):
        fault_runs.slope_mb_per_h([0], [5])


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('later_s', [0.0, 0.4, 1.2])
def test_a_signal_during_start_up_ends_the_process_in_order(
    sent: signal.Signals, later_s: float, tmp_path: Path
) -> None:
    """Whatever is being imported or made; before Python runs our code the signal is Python's."""
    with NodeProcess(tmp_path) as node:
        status = Path(f'/proc/{node.process.pid}/status')
        deadline = time.monotonic() + live_node.PATIENCE_S
        while not is_ours(status.read_text()) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(later_s)
        node.process.send_signal(sent)

        assert node.process.wait(live_node.PATIENCE_S) == 0, node.output
        assert 'Traceback' not in node.output


def is_ours(status: str) -> bool:
    """Whether a process blocks or handles SIGTERM, which Python itself leaves alone."""
    masks = dict(line.split(':', 1) for line in status.splitlines())
    return any(int(masks[name], 16) >> (signal.SIGTERM - 1) & 1 for name in ('SigBlk', 'SigCgt'))

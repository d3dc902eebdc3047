"""The node's process: signals, orphans, memory. `test/benchmarks/reliability.py` in full."""

from __future__ import annotations

import signal
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
    assert int(camera['received']) > 0.9 * found['sent']
    assert int(camera['failed']) == int(camera['rejected']) == 0
    assert set(found['answers'].values()) == {int(camera['processed'])}
    assert (found['exit']['code'], found['tracebacks']) == (0, 0)


def test_the_slope_is_megabytes_an_hour() -> None:
    assert fault_runs.slope_mb_per_h([0, 1800, 3600], [100, 101, 102]) == pytest.approx(2)
    assert fault_runs.slope_mb_per_h([0, 10], [5, 5]) == pytest.approx(0)
    with pytest.raises(ValueError, match='two samples'):
        fault_runs.slope_mb_per_h([0], [5])

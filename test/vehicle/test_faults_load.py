# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""More images than the engine can take: what is published is fresh, the rest is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import live_node
from fault_runs import Load, batching_engine, loaded, slow_engine
from live_node import NodeProcess

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures('private_ros')]


CAMERAS = ['front', 'rear', 'left', 'right']


def run(
    folder: Path, bundle: Path, engine: str, cameras: list[str], rate_hz: float, seconds: float
) -> Load:
    names = str(cameras).replace("'", '"')
    with (
        NodeProcess(
            folder, engine, model=bundle, engine='fake', autostart='true', cameras=names,
            diagnostics_period_s=0.2,
        ) as node,
        live_node.peer() as peer,
    ):  # fmt: skip
        node.wait_for_output('active: listening')
        return loaded(peer, cameras, rate_hz, seconds)


def test_a_burst_of_ten_times_the_rate_is_answered_fresh_and_counted(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    rate_hz, slack_s = 100, 0.15
    load = run(tmp_path, tiny_bundle, slow_engine(0.1), [''], rate_hz, 1.5)

    found = load.camera['']
    stages = ('image', 'letterbox', 'engine', 'decode', 'publish')
    p99_s = sum(float(found[f'{stage}_ms_p99']) for stage in stages) / 1e3
    oldest_s = max(load.ages_s[''])
    # A queue of any length would be older by 0.1 s a place; slack is for a machine that is busy.
    assert oldest_s <= 1 / rate_hz + p99_s + slack_s
    counted = ('processed', 'replaced', 'rejected', 'failed', 'unwanted', 'pending')
    assert int(found['received']) == sum(int(found[name]) for name in counted)
    assert int(found['processed']) == len(load.ages_s[''])
    assert int(found['received']) > 0.8 * load.sent['']
    assert int(found['replaced']) > 0.7 * load.sent['']


def test_four_cameras_at_twice_what_the_engine_can_each_get_their_share(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    load = run(tmp_path, tiny_bundle, slow_engine(0.02), CAMERAS, 25, 3)

    assert min(load.shares.values()) >= 0.9
    assert load.mixed == 0
    received = sum(int(found['received']) for found in load.camera.values())
    assert load.answers < 0.6 * received


def test_where_a_batch_is_faster_four_cameras_are_run_together(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """A run of the engine takes 40 ms for one frame or four: 25 answers a second one by one."""
    seconds, run_s = 3, 0.04
    load = run(tmp_path, tiny_bundle, batching_engine(run_s), CAMERAS, 25, seconds)

    assert min(load.shares.values()) >= 0.9
    assert load.mixed == 0
    assert load.answers > 1.5 * seconds / run_s

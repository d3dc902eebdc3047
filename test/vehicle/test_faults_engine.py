# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""An engine that is beyond repair ends the process; what can be mended is in `test_node.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 (make test installs the Jazzy wheels)')
pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs (make test builds it)')

import fault_runs
import live_node
from diagnostic_msgs.msg import DiagnosticArray

from mtl_perception.node.perception_node import EXIT_ENGINE_LOST

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures('private_ros')]


def test_an_engine_that_fails_on_everything_ends_the_process_for_a_respawn(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    with live_node.peer() as peer:
        diagnostics = peer.listen('/diagnostics', DiagnosticArray)
        code, seconds = fault_runs.until_lost(tmp_path, tiny_bundle, peer)
        peer.spin(0.2)
    assert code == EXIT_ENGINE_LOST
    assert seconds < 2
    engine = diagnostics[-1].status[0]
    assert engine.level == b'\x02'
    assert 'out of memory' in engine.message

# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""rclpy's lifecycle node with a gap closed, so that no request ends the process.

rclpy 7.1 raises RCLError out of the service callback, and so out of `spin`, when a transition is
asked for that is not possible in the present state (`activate` while unconfigured).
"""

from __future__ import annotations

from lifecycle_msgs.srv import ChangeState
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from mtl_perception.text import one_line

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR
RCLError = rclpy_implementation.RCLError


class ManagedNode(LifecycleNode):
    """A lifecycle node that refuses impossible transitions instead of ending."""

    def __init__(self, name: str) -> None:
        """Create the node and guard its `change_state` service."""
        super().__init__(name)
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._answer_change_state

    @property
    def state(self) -> str:
        """Label of the present lifecycle state, `unconfigured`, `active` and so on."""
        return str(self._state_machine.current_state[1])

    def _answer_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        try:
            return self._change_state(request, response)
        except RCLError:
            wish = one_line(request.transition.label) or f'transition {request.transition.id}'
            self.get_logger().warning(
                f'{wish} refused: not possible while {self.state}; possible ones: '
                f'`ros2 lifecycle list {self.get_fully_qualified_name()}`'
            )
            response.success = False
            return response

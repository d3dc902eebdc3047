# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The ROS 2 node, and all of this package that needs ROS.

`perception_node.py` is the managed node: transitions, parameters, `/diagnostics`. A frame's way is
`worker.py`, its messages `bridge.py` (in) and `messages.py` (out), its topics `topics.py`.
`__main__.py` is the process. Nothing is imported here: `parameters.py` is read without ROS.
"""

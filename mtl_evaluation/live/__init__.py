# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The real node, fed from a bag over DDS, and how fast and how late it answers."""

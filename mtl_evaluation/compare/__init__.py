# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Two runs beside each other: differences, how sure they are, and the verdict of a gate."""

# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What is known about a frame: label files of every form, joined to frames."""

# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Networks: trunk, neck and the HydraNet that joins them to the task heads."""

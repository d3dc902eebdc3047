#!/usr/bin/env bash
# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0
# Creates the virtual environment that everything else is installed into.
#   requirements/bootstrap.sh FOLDER ROS [PYTHON]
# ROS: `wheels`, or the name of a sourced ROS 2, whose Python and packages the environment then uses.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1 ros=$2 wanted=${3:-}

fail() {
    echo "set-up: $*" >&2
    exit 1
}

usable() { # a Python that we support, with what its packages would come from
    local import=venv
    [[ $ros == wheels ]] || import='rclpy'
    "$1" -c "import sys; assert (3, 10) <= sys.version_info[:2] <= (3, 12); import $import" 2>/dev/null
}

for other in "$venv"/.setup/venv-*; do
    [[ ! -e $other ]] ||
        fail "$venv was made for ROS 2 from '${other##*/venv-}', now it is '$ros'; run 'make clean' first."
done
if [[ $ros == wheels && $(uname -m) != x86_64 ]]; then
    fail "the ROS 2 wheels are for x86-64 only; on $(uname -m) install ROS 2 from apt (https://docs.ros.org), source its setup.bash and run this again."
fi

python=
for candidate in ${wanted:-python3.12 python3.11 python3.10 python3}; do
    usable "$candidate" || continue
    python=${python:-$candidate}
    "$candidate" -c 'import ensurepip' 2>/dev/null && python=$candidate && break
done
if [[ -z $python && $ros != wheels ]]; then
    fail "no Python 3.10-3.12 that can import rclpy${wanted:+ (tried $wanted)}; source the setup.bash of ROS 2 $ros again, or 'unset ROS_DISTRO' to use the ROS 2 wheels."
elif [[ -z $python ]]; then
    fail "no Python 3.10, 3.11 or 3.12${wanted:+ (tried $wanted)}; sudo apt install python3 python3-venv python3-dev, or name one: make PYTHON=/path/to/python3.11"
fi

# Everything that is missing, at once and before the first download.
missing=
"$python" -c 'import ensurepip' 2>/dev/null ||
    missing=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
if [[ $ros == wheels ]]; then
    missing+=" $("$python" requirements/ros/build_interfaces.py --check)"
elif ! "$python" -c 'import vision_msgs' 2>/dev/null; then
    missing+=" ros-$ros-vision-msgs"
fi
[[ -z ${missing// /} ]] || fail "missing on this machine: sudo apt install ${missing# }"

echo "==> $venv with $("$python" --version), ROS 2 from $ros"
if [[ -x $venv/bin/pip ]]; then
    echo "    (taking over the one that is there)"
elif [[ $ros == wheels ]]; then
    "$python" -m venv "$venv"
else
    "$python" -m venv --system-site-packages "$venv"
fi

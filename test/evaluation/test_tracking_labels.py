# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Where identities come from: bags, MOTChallenge and Scalabel files, generated drives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from drive_bags import START, picture

from mtl_evaluation.bags.bag_writer import DriveWriter, EncodedImage
from mtl_evaluation.bags.generated import GeneratedDrive
from mtl_evaluation.bags.guarded import GuardedBag
from mtl_evaluation.runs.tracks import CameraTrackers
from mtl_evaluation.truth.label_files import LabelError, scalabel_frames
from mtl_evaluation.truth.labels import FolderLabels
from mtl_evaluation.truth.truth import Truth, TruthBoxes
from mtl_evaluation.truth.truth_files import TruthFiles
from mtl_perception.frame import Detections, Result
from mtl_perception.tasks import DETECTION

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data'


def boxes(*ids: str, ignore: tuple[bool, ...] = ()) -> TruthBoxes:
    corners = np.array([[10 * i, 0, 10 * i + 5, 5] for i in range(len(ids))], np.float32)
    ignored = np.array(ignore or (False,) * len(ids), bool)
    return TruthBoxes(corners.reshape(-1, 4), ('car',) * len(ids), ignored, ids)


def test_identities_are_known_when_every_scored_object_has_one():
    assert boxes('a', 'b').has_identities
    assert boxes('a', '', ignore=(False, True)).has_identities
    assert TruthBoxes.none().has_identities
    assert not boxes('a', '').has_identities
    assert not TruthBoxes(boxes('a').boxes, ('car',), np.zeros(1, bool)).has_identities


def test_a_frame_of_ignored_boxes_without_identities_is_compared():
    """Nobody there has to be named, so the frame counts as one whose identities are known."""
    ignored = TruthBoxes(boxes('a').boxes, ('car',), np.ones(1, bool))
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    result = Result({'detection': none})
    frame = CameraTrackers([DETECTION]).update(START, result, Truth(ignored), (320, 192))

    assert frame['detection'].compared is not None
    assert len(frame['detection'].compared.truth_ids) == 0


def test_a_bag_keeps_identities(tmp_path):
    written = boxes('17', 'x', ignore=(False, True))
    with DriveWriter(tmp_path / 'bag') as writer:
        writer.write_frame(START, EncodedImage(picture()), Truth(written))
        plain = TruthBoxes(written.boxes, written.classes, written.ignore)
        writer.write_frame(START + 10**8, EncodedImage(picture()), Truth(plain))

    with GuardedBag(tmp_path / 'bag') as bag:
        found = [frame.truth().boxes for frame in bag.frames()]

    assert [truth.ids for truth in found] == [('17', ''), ()]
    assert [truth.has_identities for truth in found] == [True, False]


def mot(folder: Path, lines: str, info: str = '[Sequence]\nname=S\nseqLength=4\nimExt=.png\n'):
    (folder / 'S' / 'gt').mkdir(parents=True)
    (folder / 'S' / 'gt' / 'gt.txt').write_text(lines)
    if info:
        (folder / 'S' / 'seqinfo.ini').write_text(info)
    return folder / 'S'


MOT = """1,7,1,1,10,20,1,1,1
1,8,50,1,10,20,0,3,1
3,7,2,1,10,20,1,1,0.5
3,9,5,5,10,10,1,10,1
3,4,30,5,10,10,1,7,1
"""


def test_mot_challenge(tmp_path):
    sequence = mot(tmp_path, MOT)

    for path in (sequence, sequence / 'gt' / 'gt.txt'):
        entries = TruthFiles([path]).entries
        assert [entry.name for entry in entries] == ['000001', '000002', '000003', '000004']
        truths = [entry.truth().boxes for entry in entries]
        assert truths[0].ids == ('S/7', 'S/8') and truths[0].classes == ('pedestrian', 'car')
        assert truths[0].boxes.tolist() == [[0, 0, 10, 20], [49, 0, 59, 20]]
        assert truths[0].ignore.tolist() == [False, True]
        assert truths[1].ids == () and truths[1].has_identities
        assert truths[2].ids == ('S/7', 'S/4') and truths[2].ignore.tolist() == [False, True]

    (sequence / 'img1').mkdir()
    labels = FolderLabels([sequence / 'img1' / '000003.png'])
    assert labels.truth('000003.png').boxes.ids == ('S/7', 'S/4')


@pytest.mark.parametrize(
    ('lines', 'info', 'says'),
    [
        ('1,7,1,1\n', '', 'line 1: 4 values'),
        ('\n1,a,1,1,1,1,1\n', '', 'line 2: could not convert'),
        ('0,7,1,1,9,9,1\n', '', 'line 1: frame 0'),
        ('1,7,1,nan,9,9,1\n', '', 'line 1: 7 values'),
        (MOT, 'seqLength=3\n', 'is not a seqinfo.ini'),
        ('99999999,7,1,1,9,9,1\n', '', 'expected at most'),
    ],
)
def test_a_malformed_mot_file_is_one_sentence(tmp_path, lines, info, says):
    with pytest.raises(LabelError, match=says):
        scalabel_frames(mot(tmp_path, lines, info) / 'gt' / 'gt.txt')


def test_scalabel_ids_are_identities_in_clips_only(tmp_path):
    label = {
        'id': '0042', 'category': 'car', 'box2d': {'x1': 0, 'y1': 0, 'x2': 5, 'y2': 5},
    }  # fmt: skip
    for name, more in (('clip', {'videoName': 'b1c66a42', 'frameIndex': 0}), ('image', {})):
        (tmp_path / f'{name}.json').write_text(
            json.dumps([{'name': 'a-0000001.jpg', 'labels': [label], **more}])
        )
    found = {
        name: TruthFiles([tmp_path / f'{name}.json']).entries[0].truth().boxes
        for name in ('clip', 'image')
    }

    assert found['clip'].ids == ('b1c66a42/0042',)
    assert not found['image'].has_identities


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason='the data folder beside the repository is missing')
def test_a_real_clip_of_bdd100k():
    clips = DATA / 'bdd_samples' / 'labels' / 'seg_track_20'
    files = TruthFiles(clips.rglob('*.json'))
    truths = [entry.truth().boxes for entry in files.entries]

    assert len(truths) == 6 and all(truth.has_identities for truth in truths)
    assert len(set(truths[0].ids) & set(truths[1].ids)) >= 5


def test_generated_drives_know_who_is_who():
    drive = GeneratedDrive(width=320, height=180, seconds=1.2, rate_hz=10)

    truths = [frame.truth.boxes for frame in drive.frames_from(0)]

    assert all(truth.has_identities for truth in truths)
    first, second = (set(truth.ids) for truth in truths[:2])
    assert len(first & second) > len(first) / 2
    assert not first & set(truths[-1].ids), 'another stretch is another world'

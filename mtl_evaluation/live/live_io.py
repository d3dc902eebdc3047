# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What a live run needs beside ROS: its environment, frames ahead of time, what was heard."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mtl_evaluation.bags.bag_writer import MessageWriter
from mtl_perception import shared_memory

T = TypeVar('T')


class Recorder:
    """Writes messages from a thread of its own, so that compressing delays no callback."""

    def __init__(self, writer: MessageWriter) -> None:
        self._writer = writer
        self._queue: queue.SimpleQueue[tuple[str, str, int, bytes, bool] | None]
        self._queue = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._write, name='recorder', daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def put(self, topic: str, msgtype: str, now_ns: int, cdr: bytes, latched: bool) -> None:
        """Queue one message."""
        self._queue.put((topic, msgtype, now_ns, cdr, latched))

    def set_custom(self, key: str, value: str) -> None:
        """Note something in the bag's metadata."""
        self._writer.set_custom(key, value)

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._writer.write(*item)
                except Exception as error:
                    self._error = error  # raised again by whoever leaves the block


def prefetched(items: Iterable[T], depth: int = 8) -> Iterator[T]:
    """The same items, taken ahead by a thread."""
    waiting: queue.Queue[T | Exception | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: T | Exception | None) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(None)
        except Exception as error:
            put(error)  # raised again by whoever reads

    thread = threading.Thread(target=read, name='bag', daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


@contextmanager
def environment(own_node: bool, domain: int | None) -> Iterator[None]:
    """DDS settings of this run, for us and for the node; put back afterwards."""
    before = dict(os.environ)
    if own_node:
        given = os.environ.get('ROS_DOMAIN_ID') if domain is None else domain
        os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100 if given is None else given)
        os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ['PYTHONUNBUFFERED'] = '1'
    os.environ.setdefault('RCUTILS_COLORIZED_OUTPUT', '0')
    shared_memory.use_profile()
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)

"""The channel between loop and link: whole messages, in order, whatever the sizes, the splits and the peer's pace."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utilctl_agent import channel as channel_module
from utilctl_agent.channel import Channel, ChannelClosedError, Message

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=4), max_size=8)


@contextlib.contextmanager
def pair() -> Iterator[tuple[Channel, Channel]]:
    """Two connected ends."""
    ours, theirs = socket.socketpair()
    one, two = Channel(ours), Channel(theirs)
    try:
        yield one, two
    finally:
        one.close()
        two.close()


@contextlib.contextmanager
def raw_pair() -> Iterator[tuple[socket.socket, Channel]]:
    """A bare socket, to write what no Channel would, and the channel at its other end."""
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    with ours:
        yield ours, channel
    channel.close()


@given(messages=MESSAGES)
@settings(max_examples=60, deadline=None)
def test_messages_arrive_whole_and_in_order(messages: list[Message]) -> None:
    with pair() as (sender, receiver):
        for message in messages:
            sender.send(message)
        assert receiver.receive() == messages
        assert receiver.receive() == []


@given(messages=MESSAGES, cuts=st.lists(st.integers(0, 400), max_size=12))
@settings(max_examples=60, deadline=None)
def test_lines_torn_anywhere_are_put_together_again(messages: list[Message], cuts: list[int]) -> None:
    data = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    received: list[Message] = []
    with raw_pair() as (wire, channel):
        start = 0
        for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
            wire.sendall(data[start:cut])
            start = cut
            received += channel.receive()
    assert received == messages


def test_half_a_message_is_never_delivered() -> None:
    with raw_pair() as (wire, channel):
        wire.sendall(b'{"op":"whole"}\n{"op":"ha')
        assert channel.receive() == [{"op": "whole"}]
        assert channel.receive() == []
        wire.close()
        with pytest.raises(ChannelClosedError):
            channel.receive()


def test_what_was_sent_before_the_end_is_delivered_before_the_end_is_told() -> None:
    with pair() as (sender, receiver):
        sender.send({"op": "final"})
        sender.close()
        assert receiver.receive() == [{"op": "final"}]
        for _ in range(2):
            with pytest.raises(ChannelClosedError):
                receiver.receive()


def test_sending_to_a_peer_that_is_gone_says_so() -> None:
    with pair() as (sender, receiver):
        receiver.close()
        with pytest.raises(ChannelClosedError):
            sender.send({"op": "report"})
        receiver.close()  # idempotent


def test_a_message_larger_than_any_socket_buffer_arrives() -> None:
    text = "x" * 3_000_000
    with pair() as (sender, receiver):
        sender.send({"text": text})
        received: list[Message] = []
        while not received:
            sender.flush()
            received = receiver.receive()
        assert received == [{"text": text}]
        assert sender.flush()


def drain(sender: Channel, receiver: Channel) -> list[Message]:
    """Read until nothing is left."""
    received: list[Message] = []
    while True:
        done = sender.flush()
        received += receiver.receive()
        if done:
            return received + receiver.receive()


@given(sizes=st.lists(st.integers(1, 49_000), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_a_peer_that_does_not_read_loses_whole_old_messages_and_gets_the_newest(sizes: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch, pair() as (sender, receiver):
        patch.setattr(channel_module, "MAX_BACKLOG_BYTES", 100_000)
        for number, size in enumerate(sizes):
            sender.send({"number": number, "body": "x" * size})
        received = drain(sender, receiver)
    numbers = [message["number"] for message in received]
    assert all(len(message["body"]) == sizes[message["number"]] for message in received)
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == len(sizes) - 1
    assert len(numbers) + sender.dropped == len(sizes)


def test_a_backlog_is_bounded_and_the_line_half_sent_is_not_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "MAX_BACKLOG_BYTES", 1_000_000)
    with pair() as (sender, receiver):
        sender.send({"number": 0, "body": "x" * 900_000})  # larger than any socket buffer: stays half sent
        assert not sender.flush()
        for number in range(1, 51):
            sender.send({"number": number, "body": "y" * 30_000})
        received = drain(sender, receiver)
    numbers = [message["number"] for message in received]
    assert numbers == [0, 48, 49, 50], "the torn one first, and of the others the newest that fit beside it"
    assert len(received[0]["body"]) == 900_000
    assert sender.dropped == 47


def test_sending_never_blocks() -> None:
    with pair() as (sender, _):
        for number in range(2_000):
            sender.send({"number": number, "body": "x" * 10_000})
        assert not sender.flush()
        assert sender.dropped > 0

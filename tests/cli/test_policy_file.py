"""Policy files: what they say, what is wrong with them and on which line, and that an export says the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utilctl_common.errors import UsageError
from utilctl_common.matchers import Matcher, matcher_from_mapping
from utilctl_common.policy import MODES, SeePolicy
from utilctl_common.policy_file import MAX_POLICY_FILE_BYTES, PolicyFile, dump_policies, load_policies
from utilctl_common.quantities import MAX_CORES, MAX_SHARE, MIN_SHARE
from utilctl_common.yaml_input import parse_yaml

WHOLE = """\
services:
  - name: svc=web
    share: 3
    floor: 0.5
    cap: 8
    mode: freezer
    match: [{user: www-data}, {cgroup: "/x*", command: nginx}, {pid: 17}]
    children:
      - {name: class=gold, share: 2}
      - name: svc=web/class=iron
        share: 1
        children: [{name: tenant=a, share: 1}]
  - name: svc=batch
    children: [{name: job=etl, share: 1}]
"""


def read(text: str) -> dict[str, SeePolicy]:
    """Policies by name."""
    content = parse_yaml(text, PolicyFile, source="policy.yaml").content()
    return {policy.name: policy for policy in content.policies}


def test_every_field_children_and_groups_are_read() -> None:
    policies = read(WHOLE)
    matchers = tuple(
        matcher_from_mapping(entry)
        for entry in ({"user": "www-data"}, {"cgroup": "/x*", "command": "nginx"}, {"pid": "17"})
    )
    assert policies == {
        "svc=web": SeePolicy("svc=web", 3, 0.5, 8, "freezer", matchers),
        "svc=web/class=gold": SeePolicy("svc=web/class=gold", 2),
        "svc=web/class=iron": SeePolicy("svc=web/class=iron", 1),
        "svc=web/class=iron/tenant=a": SeePolicy("svc=web/class=iron/tenant=a", 1),
        "svc=batch/job=etl": SeePolicy("svc=batch/job=etl", 1),
    }
    assert parse_yaml(WHOLE, PolicyFile, source="x").content().groups == ("svc=batch",)


def test_children_may_stand_beside_their_parents_in_any_order() -> None:
    flat = "services:\n- {name: svc=a/b=c, share: 2}\n- {name: svc=a, share: 1}\n"
    nested = "services:\n- {name: svc=a, share: 1, children: [{name: b=c, share: 2}]}\n"
    assert read(flat) == read(nested)


def test_json_is_a_policy_file_too() -> None:
    assert read('{"services": [{"name": "svc=web", "share": 3}]}') == {"svc=web": SeePolicy("svc=web", 3)}


ONE = "services:\n- name: svc=web\n  share: 1\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (ONE + "  shre: 3\n", 4, "services.0.shre: unknown key"),
        (ONE + "service: []\n", 4, "service: unknown key"),
        (ONE + "  share: 2\n", 4, "key 'share' stands twice"),
        (ONE.replace("1", "lots"), 3, "services.0.share: Input should be a valid number"),
        (ONE.replace("1", "true"), 3, "services.0.share: Input should be a valid number"),
        (ONE.replace("1", "-1"), 3, "services.0.share: share -1 is not positive"),
        (ONE.replace("1", ".nan"), 3, "services.0.share: share nan is not a finite number"),
        (ONE.replace("1", ".inf"), 3, "services.0.share: share inf is not a finite number"),
        (ONE + "  floor: -2\n", 4, "services.0.floor: floor -2 is not a number of cores"),
        (ONE + "  cap: -2\n", 4, "services.0.cap: cap -2 is not a number of cores"),
        (ONE + "  cap: 0\n", 4, "services.0.cap: cap of svc=web is 0"),
        (ONE + "  floor: 3\n  cap: 2\n", 5, "services.0.cap: floor 3 of svc=web is above its cap 2"),
        (ONE + "  mode: sleep\n", 4, "services.0.mode: unknown mode 'sleep'"),
        (ONE + "  match: {user: x}\n", 4, "services.0.match: this must be a list"),
        (ONE + "  match:\n  - user: x\n  - usr: x\n", 6, "services.0.match.1: unknown matcher key 'usr'"),
        (ONE + "  match: [{}]\n", 4, "services.0.match.0: a matcher with no condition"),
        (ONE + "  match: [{user: [x]}]\n", 4, "services.0.match.0.user"),
        (ONE + "- name: svc=web\n  share: 2\n", 4, "services.1.name: svc=web is listed twice"),
        (ONE + "  children:\n  - name: svc=web\n    share: 1\n", 5, "svc=web stands below itself"),
        (ONE + "  children: &c\n  - {name: x=y, share: 1, children: *c}\n", 4, "an alias stands for what it is"),
        (ONE + "- name: svc=db/role=main\n  share: 1\n", 4, "the parent of svc=db/role=main is not in the file"),
        (ONE + "- name: svc=db\n", 4, "services.1.name: svc=db has no share"),
        (ONE + "- name: svc=db\n  cap: 1\n  children: [{name: a=b, share: 1}]\n", 5, "svc=db has no share; it has cap"),
        (ONE + "- share: 1\n", 4, "services.1.name: this key is missing"),
        (ONE + "- name: web\n  share: 1\n", 4, "services.1.name: 'web' is not a service name"),
        (ONE + '- name: "svc=x\\x07"\n  share: 1\n', 4, "services.1.name: 'svc=x\\x07' is not a service name"),
        (ONE + "- name: svc=x\x07\n  share: 1\n", 4, "it holds the control character '\\x07'"),
        (ONE + "- name: svc=" + "x" * 300 + "\n  share: 1\n", 4, "is too long"),
        (ONE + "- just text\n", 4, "services.1: this must be keys and values"),
        ("services: 3\n", 1, "services: this must be a list"),
        ("[]\n", 1, "the file: this must be keys and values"),
        (ONE + "  match: [{user: x}\n", 5, "malformed YAML"),
        (ONE + "  [a]: 1\n", 4, "a key must be plain text"),
        (ONE + "  match: !!python/object:os.system {}\n", 4, "malformed YAML: could not determine a constructor"),
        ("services: " + "[" * 100_000, 1, "nested too deeply"),
        ("services: " + '{"a":' * 100_000, 1, "nested too deeply"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text: str, line: int, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        read(text)
    message = str(refused.value)
    assert message.startswith(f"policy.yaml:{line}: "), message
    assert words in message
    assert "\n" not in message
    assert "\x07" not in message


@pytest.mark.parametrize("value", ["2026-13-45", "9" * 5_000, "1" + "0" * 400])
def test_a_value_that_is_no_value_is_one_line(value: str) -> None:
    with pytest.raises(UsageError) as refused:
        read(ONE.replace("1", value))
    assert str(refused.value).startswith("policy.yaml:3: ")
    assert "\n" not in str(refused.value)


def test_a_few_lines_that_come_to_more_than_any_memory_holds_are_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    start = time.monotonic()
    with pytest.raises(UsageError, match="aliases written out"):
        read("\n".join(lines))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("size", [MAX_POLICY_FILE_BYTES + 1, 10_000_000])
def test_a_file_that_is_too_large_is_not_even_parsed(tmp_path: Path, size: int) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(b"[" * size)
    with pytest.raises(UsageError, match=f"larger than {MAX_POLICY_FILE_BYTES} bytes"):
        load_policies(path)


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "the file is empty"), (b"\xff", "not UTF-8 text"), (None, "cannot be read")]
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "policy.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        load_policies(path)


# What is written is what is read.

SEGMENTS = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,6}=[A-Za-z0-9][A-Za-z0-9._-]{0,6}", fullmatch=True)
NAMES = st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="".join(map(chr, range(0x20)))), min_size=1)


def as_matcher(conditions: dict[Any, str]) -> Matcher:
    """A matcher of these conditions."""
    return matcher_from_mapping(conditions)


KEYS = st.sampled_from(("user", "command", "cgroup", "unit"))
MATCHERS = st.dictionaries(KEYS, TEXTS, min_size=1, max_size=3).map(as_matcher)


@st.composite
def policies(draw: st.DrawFn, name: str) -> SeePolicy:
    """Any policy of this name."""
    floor = draw(st.just(0.0) | st.floats(0, MAX_CORES))
    cap = draw(st.none() | st.floats(max(floor, 1e-9), MAX_CORES))
    matchers: tuple[Matcher, ...] = tuple(dict.fromkeys(draw(st.lists(MATCHERS, max_size=3))))
    share = draw(st.floats(MIN_SHARE, MAX_SHARE))
    return SeePolicy(name, share, floor, cap, draw(st.sampled_from(MODES)), matchers)


@given(st.lists(NAMES, unique=True, max_size=6).flatmap(lambda names: st.tuples(*(policies(name) for name in names))))
def test_whatever_is_exported_is_read_back_unchanged(exported: tuple[SeePolicy, ...]) -> None:
    text = dump_policies(exported)
    content = parse_yaml(text, PolicyFile, source="export").content()
    assert content.policies == tuple(sorted(exported, key=lambda policy: policy.name))
    assert dump_policies(content.policies) == text

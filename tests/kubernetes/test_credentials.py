"""How the API is reached: what kubeconfig files say, and those that agents cannot go by."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from utilctl_agent.kubernetes.credentials import Access, from_kubeconfig
from utilctl_common.errors import UsageError


def kubeconfig(folder: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    path = folder / "config"
    document = {
        "current-context": "here",
        "contexts": [{"name": "there", "context": {}}, {"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_files_are_beside_the_kubeconfig_and_data_stand_in_it(tmp_path: Path) -> None:
    cluster = {
        "server": "https://[fd00::1]:6443/prefix/",
        "certificate-authority-data": base64.b64encode(b"pem").decode(),
    }
    found = from_kubeconfig(
        kubeconfig(tmp_path, cluster, {"tokenFile": "t", "client-certificate": "c", "client-key": "k"})
    )
    assert found.ca == b"pem"
    assert found.token_file == tmp_path / "t"
    assert found.client == (tmp_path / "c", tmp_path / "k")
    assert Access(found).base_path == "/prefix"


def test_an_address_of_version_6_is_written_in_brackets(tmp_path: Path) -> None:
    found = from_kubeconfig(kubeconfig(tmp_path, {"server": "http://[fd00::1]:8080"}, {"token": "secret"}))
    access = Access(found)
    assert access.origin().authority == "[fd00::1]:8080"
    assert access.headers() == {"Authorization": "Bearer secret"}


@pytest.mark.parametrize("server", ["", "ftp://x", "https://", "https://x:seventy", "x:6443"])
def test_what_is_no_address_is_refused(tmp_path: Path, server: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        Access(from_kubeconfig(kubeconfig(tmp_path, {"server": server}, {"token": "secret"})))


@pytest.mark.parametrize(
    ("cluster", "user", "named"),
    [
        ({}, {"exec": {"command": "aws"}}, "exec"),
        ({}, {"auth-provider": {"name": "gcp"}}, "auth-provider"),
        ({"proxy-url": "socks5://x"}, {"token": "secret"}, "proxy-url"),
    ],
)
def test_ways_in_that_agents_do_not_know_are_refused_with_what_to_do(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=rf"needs {named}.*give them a token"):
        from_kubeconfig(kubeconfig(tmp_path, {"server": "https://x", **cluster}, user))


@pytest.mark.parametrize("text", ["", "{", "[]", "a: [", "current-context: x", "current-context: x\ncontexts: 7"])
def test_what_is_no_kubeconfig_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no kubeconfig") as refused:
        from_kubeconfig(path)
    assert "\n" not in str(refused.value)

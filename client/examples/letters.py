"""An app in thirty lines: it reads pictures of letters, and learns from being told what they are.

fedhw client --release RELEASE &
python client/examples/letters.py letter.png another.png
"""

import sys
from pathlib import Path

from fedhw.handwriting.pictures import load_picture
from fedhw.v1 import device_pb2
from fedhw_client import AgentMissingError, connect


def main() -> None:
    """Read pictures, ask, learn."""
    try:
        with connect() as device:
            for path in map(Path, sys.argv[1:]):
                glyph = load_picture(path)
                answer = device.recognize(glyph)
                mine = answer.decided_by == device_pb2.DECIDER_LOCAL_EXPERT
                who = "you write" if mine else "everybody writes"
                print(f"{path.name}: {answer.label} ({answer.confidence:.0%}, as {who} it)")
                truth = input("Enter if that is right, or the character it is: ")
                device.learn(glyph, truth or answer.label)
    except (AgentMissingError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

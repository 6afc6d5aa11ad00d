"""The device as a Flower ClientApp: it answers offers of releases, and nothing else."""

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedhw.release.offer import Answer
from fedhw.v1 import release_pb2 as pb
from fedhw_client.adoption import Adoption

app = ClientApp()
"""What the thin app bundle names; a device makes its own with `client_app`."""


def client_app(adoption: Adoption) -> ClientApp:
    """Return a ClientApp that answers for this device."""
    device = ClientApp()

    @device.query("release")
    def release(message: Message, context: Context) -> Message:
        """Answer an offer; one that cannot be read raises google.protobuf's DecodeError."""
        content = message.content["fedhw"]["offer"]
        offer = pb.Offer.FromString(content if isinstance(content, bytes) else b"")
        answer = adoption.consider(offer.manifest, offer.signature, dict(offer.files))
        record = ConfigRecord({"answer": _message(answer).SerializeToString()})
        return Message(RecordDict({"fedhw": record}), reply_to=message)

    return device


def _message(answer: Answer) -> pb.Answer:
    refusal = "UNSPECIFIED" if answer.refusal is None else answer.refusal.name
    return pb.Answer(
        adoption=f"ADOPTION_{answer.state.name}",
        running=answer.running,
        refusal=f"REFUSAL_{refusal}",
    )

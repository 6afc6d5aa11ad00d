"""The device as a Flower ClientApp: adopts releases, evaluates candidates, takes part in sums.

A request that cannot be parsed raises google.protobuf's DecodeError.
"""

from dataclasses import fields

import structlog
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedhw.errors import InputError
from fedhw.improvement.contribution import Task
from fedhw.privacy.secure_sum import Keys
from fedhw.release.offer import Answer
from fedhw.v1 import improvement_pb2 as sums
from fedhw.v1 import release_pb2 as pb
from fedhw_client.agent.adoption import Adoption
from fedhw_client.fleet.contributor import Contributor, DeclinedError, Reason
from fedhw_client.fleet.shadow_evaluation import Shadow

app = ClientApp()
"""The app that the bundle names; a device makes its own with `client_app`."""

log = structlog.get_logger()


def client_app(
    adoption: Adoption, contributor: Contributor | None = None, shadow: Shadow | None = None
) -> ClientApp:
    """Return this device's ClientApp; without contributor or shadow it has no part in those."""
    device = ClientApp()

    @device.query("release")
    def release(message: Message, context: Context) -> Message:
        """Answer an offer."""
        offer = pb.Offer.FromString(_content(message, "offer"))
        answer = adoption.consider(offer.manifest, offer.signature, dict(offer.files))
        return _reply(message, _answer_message(answer).SerializeToString())

    if contributor is not None:

        @device.train("sum")
        def take_part(message: Message, context: Context) -> Message:
            """Take a step of a sum."""
            request = sums.SumRequest.FromString(_content(message, "request"))
            try:
                answer = _step(contributor, request)
            except InputError as error:
                declined = error.reason if isinstance(error, DeclinedError) else Reason.TASK
                log.info("declined", reason=declined.value)
                answer = sums.SumAnswer(declined=f"DECLINE_{declined.name}")
            return _reply(message, answer.SerializeToString())

    if shadow is not None:

        @device.query("shadow")
        def try_out(message: Message, context: Context) -> Message:
            """Answer an offer of a candidate."""
            offer = pb.Offer.FromString(_content(message, "offer"))
            state = shadow.consider(offer.manifest, offer.signature, dict(offer.files))
            answer = pb.ShadowAnswer(shadow=f"SHADOW_{state.name}")
            return _reply(message, answer.SerializeToString())

    return device


def _content(message: Message, entry: str) -> bytes:
    content = message.content["fedhw"][entry]
    return content if isinstance(content, bytes) else b""


def _reply(message: Message, answer: bytes) -> Message:
    return Message(RecordDict({"fedhw": ConfigRecord({"answer": answer})}), reply_to=message)


def _answer_message(answer: Answer) -> pb.Answer:
    refusal = "UNSPECIFIED" if answer.refusal is None else answer.refusal.name
    return pb.Answer(
        adoption=f"ADOPTION_{answer.state.name}",
        running=answer.running,
        refusal=f"REFUSAL_{refusal}",
    )


def _step(contributor: Contributor, request: sums.SumRequest) -> sums.SumAnswer:
    """Take a step of a sum; raises InputError where the device declines."""
    name, answer = request.sum, sums.SumAnswer()
    match request.WhichOneof("step"):
        case "advertise":
            task = Task(**{f.name: getattr(request.advertise, f.name) for f in fields(Task)})
            keys = contributor.advertise(name, task)
            answer.keys.mask_key, answer.keys.share_key = keys.mask_key, keys.share_key
            answer.keys.signature = keys.signature
        case "share":
            neighbours = [
                Keys(*(getattr(shown, name) for name in Keys._fields))
                for shown in request.share.keys
            ]
            answer.envelopes.by_device.update(contributor.share(name, neighbours))
        case "mask":
            vector = contributor.mask(name, dict(request.mask.by_device))
            if vector is None:
                answer.training = True
            else:
                answer.vector = vector
        case "reveal":
            for device, share in contributor.reveal(name, request.reveal.devices).items():
                answer.shares.by_device[device].point = share.point
                answer.shares.by_device[device].value = share.value
        case _:
            raise DeclinedError(Reason.STEP, "step: this device does not know it; update fedhw")
    return answer

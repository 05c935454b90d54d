"""Edits a picture on a flexit server: shows progress, saves the result; Ctrl-C cancels the edit on the server.

The protocol is proto/flexit/v1/editor.proto; see README.md for how to run this.
"""

import argparse
import queue
import signal
import sys
import uuid

import grpc
from flexit.v1 import editor_pb2


def open_channel(args: argparse.Namespace) -> grpc.Channel:
    if not args.tls and args.tls_ca is None:
        return grpc.insecure_channel(args.server)
    authority = None
    if args.tls_ca is not None:
        with open(args.tls_ca, "rb") as file:
            authority = file.read()
    return grpc.secure_channel(args.server, grpc.ssl_channel_credentials(authority))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("source", help="what is in the picture")
    parser.add_argument("target", help="what it should become")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--token", help="of the server, if it asks for one")
    parser.add_argument("--tls", action="store_true", help="speak TLS; the authority is of this machine, or of --tls-ca")
    parser.add_argument("--tls-ca", help="PEM file of the authority to trust; means --tls")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--cancel-at", type=int, help="cancel after this step")
    parser.add_argument("--out", default="edited.png")
    args = parser.parse_args()

    with open(args.image, "rb") as file:
        start = editor_pb2.StartEdit(image=file.read(), source_text=args.source, target_text=args.target)
    if args.steps is not None:
        start.parameters.steps = args.steps
    # Commands go out while events come in; None ends the stream.
    commands: queue.Queue = queue.Queue()
    name = str(uuid.uuid4())
    commands.put(editor_pb2.EditRequest(edit_id=name, start=start))
    cancel = editor_pb2.EditRequest(edit_id=name, cancel=editor_pb2.CancelCommand())
    signal.signal(signal.SIGINT, lambda *_: commands.put(cancel))

    metadata = [("authorization", f"Bearer {args.token}")] if args.token else []
    with open_channel(args) as channel:
        edit = channel.stream_stream(
            "/flexit.v1.Editor/Edit",
            request_serializer=editor_pb2.EditRequest.SerializeToString,
            response_deserializer=editor_pb2.EditEvent.FromString,
        )
        for event in edit(iter(commands.get, None), metadata=metadata):
            kind = event.WhichOneof("event")
            if kind == "step":
                step = event.step
                print(f"step {step.step}: loss {step.losses.total:.3f}, likeness {step.similarity_target:.3f}")
                if step.step == args.cancel_at:
                    commands.put(cancel)
            elif kind == "completed":
                with open(args.out, "wb") as file:
                    file.write(event.completed.picture.data)
                print(f"{args.out}, after {event.completed.statistics.steps} steps")
            elif kind in ("failed", "rejected"):
                print(getattr(event, kind).status.message, file=sys.stderr)
            else:
                print(kind)
            if kind in ("completed", "cancelled", "failed", "rejected", "handed_back"):
                commands.put(None)
                return 0 if kind == "completed" else 1
            # What was read is acknowledged, so that more may come.
            acknowledge = editor_pb2.AcknowledgeCommand(sequence=event.sequence)
            commands.put(editor_pb2.EditRequest(edit_id=name, acknowledge=acknowledge))
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")

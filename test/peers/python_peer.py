"""A gRPC client that shares no code with the server: runs edits, and asks the standard services.

Usage: python_peer.py ADDRESS STOPPING_ADDRESS IMAGE, with the generated modules on PYTHONPATH. The second server stops
after some steps, until the edit is cancelled. Prints one line for each answer.
"""

import queue
import sys

import grpc
import reflection_pb2
from flexit.v1 import editor_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from health.v1 import health_pb2

address, stopping_address, image = sys.argv[1:]
with open(image, "rb") as file:
    picture = file.read()


def run_edit(channel, cancel_at):
    """The kinds of events of one edit, which is cancelled after a step where that is given."""
    start = editor_pb2.StartEdit(image=picture, source_text="red apple", target_text="tangerine")
    start.parameters.steps = 5
    start.stream.previews.SetInParent()
    commands = queue.Queue()
    commands.put(editor_pb2.EditRequest(edit_id="py", start=start))
    call = channel.stream_stream(
        "/flexit.v1.Editor/Edit",
        request_serializer=editor_pb2.EditRequest.SerializeToString,
        response_deserializer=editor_pb2.EditEvent.FromString,
    )
    kinds = []
    for event in call(iter(commands.get, None)):
        kinds.append(event.WhichOneof("event"))
        if kinds[-1] == "step" and event.step.step == cancel_at:
            commands.put(editor_pb2.EditRequest(edit_id="py", cancel=editor_pb2.CancelCommand()))
        if kinds[-1] in ("completed", "cancelled", "failed"):
            commands.put(None)
    return " ".join(kinds)


with grpc.insecure_channel(address) as channel:
    print("edit:", run_edit(channel, None))
    with grpc.insecure_channel(stopping_address) as stopping:
        print("cancelled:", run_edit(stopping, 1))

    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    for service in ("", "flexit.v1.Editor"):
        status = check(health_pb2.HealthCheckRequest(service=service)).status
        print(f"health of {service!r}:", health_pb2.HealthCheckResponse.ServingStatus.Name(status))

    reflect = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="flexit.v1.Editor"),
    ]
    listed, described = reflect(iter(asked))
    print("services:", " ".join(sorted(s.name for s in listed.list_services_response.service)))
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in described.file_descriptor_response.file_descriptor_proto
    ]
    pool = descriptor_pool.DescriptorPool()
    while files:
        ready = next(file for file in files if not {other.name for other in files} & set(file.dependency))
        pool.Add(ready)
        files.remove(ready)
    edit = pool.FindServiceByName("flexit.v1.Editor").FindMethodByName("Edit")
    print("described:", " ".join(field.name for field in edit.input_type.fields))
    print("imported:", pool.FindMessageTypeByName("flexit.v1.Failed").fields_by_name["status"].message_type.full_name)

"""Writes `events`, what tensorboard's own protobuf and record writer make of three events.

python tests/golden/tensorboard/make.py     (tensorboard 2.21)
"""
import pathlib

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

HERE = pathlib.Path(__file__).parent


def value(tag, **kw):
    return summary_pb2.Summary.Value(tag=tag, **kw)


def event(wall_time, **kw):
    return event_pb2.Event(wall_time=wall_time, **kw)


scalars = summary_pb2.Summary(
    value=[value("loss", simple_value=2.5), value("lr", simple_value=1e-3), value("valid/a/loss", simple_value=float("nan"))]
)
text = summary_pb2.Summary(
    value=[
        value(
            "config",
            metadata=summary_pb2.SummaryMetadata(plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="text")),
            tensor=tensor_pb2.TensorProto(
                dtype=types_pb2.DT_STRING,
                tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)]),
                string_val=["grün: " .encode() + b"x" * 300],
            ),
        )
    ]
)
with open(HERE / "events", "wb") as f:
    writer = RecordWriter(f)
    for e in (
        event(1700000000.25, file_version="brain.Event:2"),
        event(1700000001.5, step=123456789012, summary=scalars),
        event(1700000002.0, step=300, summary=text),
    ):
        writer.write(e.SerializeToString())
    writer.flush()

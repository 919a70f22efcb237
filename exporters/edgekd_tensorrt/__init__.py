"""TensorRT: engines from ONNX, and a lint that needs neither TensorRT nor a GPU."""

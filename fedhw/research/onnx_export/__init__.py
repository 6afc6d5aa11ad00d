"""For apps without fedhw: the three networks as one ONNX file."""

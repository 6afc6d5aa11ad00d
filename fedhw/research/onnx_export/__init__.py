"""Export the three networks as one ONNX file, for apps without fedhw."""

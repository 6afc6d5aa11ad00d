"""Research: training, baselines, simulations, reports, ONNX export."""

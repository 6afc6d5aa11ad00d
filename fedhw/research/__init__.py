"""What a researcher runs: training, baselines, simulations, reports, ONNX export."""

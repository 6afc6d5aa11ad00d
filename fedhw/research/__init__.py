"""What a researcher runs: training, baselines, simulations, reports, audits, ONNX export."""

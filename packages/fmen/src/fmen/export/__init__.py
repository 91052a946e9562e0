"""Weights in other formats: ONNX, TorchScript, safetensors, published .pth layouts."""

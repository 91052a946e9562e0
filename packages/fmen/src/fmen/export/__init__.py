"""Export weights to other formats: ONNX, TorchScript, safetensors, published .pth layouts."""

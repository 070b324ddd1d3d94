"""A trained model as a file or folder that leaves the machine: ONNX, a torch archive, a folder for a hub."""

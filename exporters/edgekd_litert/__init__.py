"""LiteRT (``.tflite``)."""

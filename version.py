"""The version of MetScope, written into every SEG, result and answer."""

VERSION = "0.1.0"

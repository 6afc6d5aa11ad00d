"""Handwritten characters: loaders, encoders, synthetic writers, augmentation."""

"""Shared and private information between modalities: derived, proven, trained, measured."""
__version__ = "0.1.0"

from importlib import import_module

_HOME = {
    "covariance": ("kappa", "coral"),
    "alignment": ("ModalAlignment", "AlignmentTerms"),
    "labels": ("LabelGenerator",),
    "posterior": ("Prior", "posterior_labels"),
    "synthetic": ("Simulation", "SyntheticConfig"),
    "clips": ("Clips", "DataError", "synthetic_clips"),
    "pickles": ("load_clips", "save_clips"),
    "corpora": ("load_mosi", "open_clips"),
    "tables": ("clips_from_table",),
    "model": ("ModelConfig", "MultimodalModel"),
    "objective": ("multitask_loss",),
    "metrics": ("sentiment_metrics",),
    "checkpoints": ("load_model",),
    "presets": ("Preset", "TrainConfig", "preset"),
    "prediction": ("evaluate", "predict"),
    "training": ("Run", "fit"),
    "report": ("information_report",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = ["__version__", *_MODULE]


def __getattr__(name: str):
    "A name is looked up in its module when it is first asked for, so that `import dmsil` stays light."
    if name not in _MODULE:
        raise AttributeError(f"module 'dmsil' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"dmsil.{_MODULE[name]}"), name)
    return value


def __dir__():
    return sorted(__all__)

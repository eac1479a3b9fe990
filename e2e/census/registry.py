"""The models of the census by name: functions that return a module and example inputs, and "fixed"
where the batch is not to be symbolic.
"""

import torch

MODELS = {}


def model(f):
    MODELS[f.__name__] = f
    return f


def ids(vocab, *shape):
    return torch.randint(3, vocab, shape)

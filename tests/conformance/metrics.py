"""Task metrics of the models: (outputs of all calls, labels) -> {name: value}. outputs[i] has the call on axis 0."""

import numpy as np


def flat(outputs):
    return outputs[0].reshape(len(outputs[0]), -1)


def true_class(labels):
    return labels["label" if "label" in labels else "target"].reshape(-1)


def top1(outputs, labels):
    return {"top1": float(np.mean(flat(outputs).argmax(1) == true_class(labels)))}


def vad(outputs, labels):
    """Area under the ROC curve (by ranks, ties in the middle) and accuracy at 0.5 of a yes/no detector."""
    score, truth = flat(outputs)[:, 0], labels["target"].reshape(-1) > 0
    values, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    yes, no = truth.sum(), (~truth).sum()
    auc = (ranks[truth].sum() - yes * (yes + 1) / 2) / (yes * no)
    return {"auc": float(auc), "acc@0.5": float(np.mean((score > 0.5) == truth))}


def pitch(outputs, labels):
    """Share of notes within 50 (10) cents: 360 bins of 20 cents from 1997.379 up, the mean around the highest bin."""
    activation, truth = flat(outputs).astype(np.float64), labels["target_cents"].reshape(-1)
    bins = np.arange(activation.shape[1])
    near = np.abs(bins - activation.argmax(1)[:, None]) <= 4
    weight = np.where(near, activation, 0)
    cents = (weight * (20 * bins + 1997.3794084376191)).sum(1) / weight.sum(1)
    error = np.abs(cents - truth)
    octave = np.abs((cents - truth + 600) % 1200 - 600)
    return {"rpa50": float((error < 50).mean()), "rca50": float((octave < 50).mean()), "rpa10": float((error < 10).mean())}


METRICS = {"top1": top1, "vad": vad, "pitch": pitch}

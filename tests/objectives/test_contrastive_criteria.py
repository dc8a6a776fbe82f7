"""The criterion of each contrastive loss, against its function, a loop, or the library's own."""

import sys

import pytest
import torch
from torch.nn import functional as F

from gaze_torchrl.modules import FovealGaze, GazeModule
from gaze_torchrl.objectives import (
    InfoNCEContrastiveLoss,
    MetricLearningContrastiveLoss,
    SoftMarginContrastiveLoss,
    TripletContrastiveLoss,
)

VALID = torch.tensor([True, False, True, True, False])


def gaze():
    return GazeModule(FovealGaze(4, (8, 8)))


def members():
    return torch.randn(3, 5, 6), torch.randn(3, 5).round()


def library_loss(**options):
    pytest.importorskip("pytorch_metric_learning")
    return MetricLearningContrastiveLoss(gaze(), **options)


def test_triplet():
    embeddings, labels = members()
    expected = F.relu(F.cosine_similarity(*embeddings[[0, 2]]) - F.cosine_similarity(*embeddings[[0, 1]]) + 0.7)
    found = TripletContrastiveLoss(gaze(), margin=0.7).criterion(embeddings, labels, VALID)
    torch.testing.assert_close(found, expected)
    assert (found > 0).any()


def test_soft_margin():
    embeddings, labels = members()
    gap = F.cosine_similarity(*embeddings[[0, 2]]) - F.cosine_similarity(*embeddings[[0, 1]])
    found = SoftMarginContrastiveLoss(gaze(), temperature=0.5).criterion(embeddings, labels, VALID)
    torch.testing.assert_close(found, torch.log(1 + torch.exp(gap / 0.5)))


def test_info_nce_contrasts_every_member_with_every_other():
    embeddings, labels = members()
    places = [(role, row) for role in range(3) for row in range(5) if VALID[row]]
    expected = torch.zeros(5)
    for i in places:
        others = [k for k in places if k != i]
        weight = {k: torch.exp(F.cosine_similarity(embeddings[i], embeddings[k], 0) / 0.5) for k in others}
        for j in others:
            farther = [k for k in others if abs(labels[i] - labels[k]) >= abs(labels[i] - labels[j])]
            expected[i[1]] -= torch.log(weight[j] / sum(weight[k] for k in farther)) / len(others) / 3
    found = InfoNCEContrastiveLoss(gaze(), temperature=0.5).criterion(embeddings, labels, VALID)
    torch.testing.assert_close(found[VALID], expected[VALID])


def test_info_nce_does_not_care_about_roles():
    embeddings, labels = members()
    loss = InfoNCEContrastiveLoss(gaze())
    order = [2, 0, 1]
    torch.testing.assert_close(
        loss.criterion(embeddings[order], labels[order], VALID), loss.criterion(embeddings, labels, VALID)
    )


def test_the_librarys_triplet_loss_on_cosines_is_ours():
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.reducers import MeanReducer

    embeddings, labels = members()
    loss = library_loss(options={"margin": 0.3, "distance": CosineSimilarity(), "reducer": MeanReducer()})
    ours = TripletContrastiveLoss(gaze(), margin=0.3).criterion(embeddings, labels, VALID)
    found = loss.criterion(embeddings, labels, VALID)
    torch.testing.assert_close(found, ours[VALID].mean().expand(5))


@pytest.mark.parametrize(
    "name",
    [
        *("TripletMarginLoss", "NTXentLoss", "ContrastiveLoss", "MultiSimilarityLoss", "MarginLoss", "CircleLoss"),
        *("SupConLoss", "AngularLoss"),
    ],
)
def test_library_losses_learn_from_the_valid_triplets_alone(name):
    loss = library_loss(loss=name)
    embeddings = torch.randn(3, 5, 6, requires_grad=True)
    found = loss.criterion(embeddings, torch.zeros(3, 5), VALID)
    (gradient,) = torch.autograd.grad(found[0], embeddings)
    assert (gradient[:, ~VALID] == 0).all()
    assert (gradient[:, VALID].flatten(2).abs().sum((0, 2)) > 0).any()
    none = loss.criterion(embeddings, torch.zeros(3, 5), torch.zeros(5, dtype=torch.bool))
    assert (none == 0).all()
    assert none.requires_grad


def test_library_loss_and_options_by_name():
    from_name = library_loss(loss="TripletMarginLoss", options={"margin": 0.2, "smooth_loss": True}).metric_loss
    assert (type(from_name).__name__, from_name.margin, from_name.smooth_loss) == ("TripletMarginLoss", 0.2, True)
    for name in ("Triplet", "arcface_loss", "__file__"):
        with pytest.raises(ValueError, match=rf"contrast\.loss must be a class in .*losses, got '{name}'"):
            library_loss(loss=name)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("ArcFaceLoss", {}, "missing 2 required positional arguments"),
        ("ArcFaceLoss", {"num_classes": 1000, "embedding_size": 8}, "IndexError"),
        ("ProxyAnchorLoss", {"num_classes": 1000, "embedding_size": 8}, "Class values must be non-negative"),
        ("ProxyNCALoss", {"num_classes": 1000, "embedding_size": 8}, "learns nothing"),
        ("NCALoss", {}, "learns nothing from index triples, with a loss of nan"),
        ("FastAPLoss", {}, "learns nothing from index triples, with a loss of 0"),
        ("VICRegLoss", {}, "indices_tuple is not supported"),
        ("TripletMarginLoss", {"margn": 0.1}, "unexpected keyword argument 'margn'"),
    ],
)
def test_library_losses_that_need_more_than_triples_are_refused(name, options, match):
    with pytest.raises(ValueError, match=rf"contrast\.loss={name} with contrast\.options=.*{match}.*pairs or triplets"):
        library_loss(loss=name, options=options)


def test_the_trial_leaves_no_trace_in_the_loss():
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.losses import DynamicSoftMarginLoss  # keeps a histogram

    found = library_loss(loss="DynamicSoftMarginLoss").metric_loss
    torch.testing.assert_close(found.hist_, DynamicSoftMarginLoss().hist_)


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(ImportError, match=r'pip install "gaze_torchrl\[metric_learning\]"'):
        MetricLearningContrastiveLoss(gaze())


@pytest.mark.parametrize(
    ("loss_class", "options", "match"),
    [
        (TripletContrastiveLoss, {"margin": 2.5}, r"contrast\.margin must lie in \[0, 2\]"),
        (SoftMarginContrastiveLoss, {"temperature": 0.0}, r"contrast\.temperature must be positive"),
        (InfoNCEContrastiveLoss, {"temperature": -1.0}, r"contrast\.temperature must be positive"),
    ],
)
def test_bad_options(loss_class, options, match):
    with pytest.raises(ValueError, match=match):
        loss_class(gaze(), **options)

"""The stages of training; a recipe lists them in order."""

from __future__ import annotations

from edgeage.train.recipes import schema
from edgeage.train.stages.amortised import AmortisedStage
from edgeage.train.stages.base import Context, Stage
from edgeage.train.stages.cgan import CganStage
from edgeage.train.stages.encoder import EncoderStage
from edgeage.train.stages.identity import IdentityStage
from edgeage.train.stages.joint import JointStage
from edgeage.train.stages.perceptual import PerceptualStage
from edgeage.train.stages.recogniser import RecogniserStage

__all__ = ["Context", "Stage", "build_stage"]


def build_stage(context: Context, options: schema.AnyStage) -> Stage:
    match options:
        case schema.Cgan():
            return CganStage(context, options)
        case schema.InitialLatent():
            return EncoderStage(context, options)
        case schema.Identity():
            return IdentityStage(context, options)
        case schema.Perceptual():
            return PerceptualStage(context, options)
        case schema.Recogniser():
            return RecogniserStage(context, options)
        case schema.Amortised():
            return AmortisedStage(context, options)
        case schema.Joint():
            return JointStage(context, options)

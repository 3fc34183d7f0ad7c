"""The supported challenges by name. The module of a challenge is imported on first use."""

from cxrlt.challenges.registry import CHALLENGES, challenge, challenge_names, get_challenge

__all__ = ["CHALLENGES", "challenge", "challenge_names", "get_challenge"]

"""The competitions this project knows, by name; their modules are imported when one of them is asked for."""

from cxrlt.challenges.registry import CHALLENGES, challenge, challenge_names, get_challenge

__all__ = ["CHALLENGES", "challenge", "challenge_names", "get_challenge"]

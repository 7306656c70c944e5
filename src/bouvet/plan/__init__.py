"""How an image is made: pure steps with digests and reasons."""

from bouvet.plan.image_plan import ARCHITECTURES, host_architecture, plan_layers
from bouvet.plan.steps import Step, digest_of

__all__ = ["ARCHITECTURES", "Step", "digest_of", "host_architecture", "plan_layers"]

"""The co-advising loss: Eq. 1 of the paper for any number of teachers, and what later work puts in the place of its KL.

L = λ0 · CE(σ(z_class), y) + Σ_t λ_t · τ_t² · KL(σ(z_teacher_t / τ_t) ‖ σ(z_token_t / τ_t)), each term the mean over
the batch. Eq. 1 prints the student first inside KL; the official code computes KL(teacher ‖ student), the usual
direction of distillation, and so does this package. Everything here is a pure function of tensors: the teachers
run elsewhere.
"""

from .gates import Gate
from .objective import Kept, LossTerms, Objective, co_advise_loss
from .one import decoupled_advice, dist_advice, hard_advice, label_loss, soft_advice, standardised_advice
from .several import several_hard_advice, several_label_loss, several_soft_advice

__all__ = [
    "Gate", "Kept", "LossTerms", "Objective", "co_advise_loss", "decoupled_advice", "dist_advice", "hard_advice",
    "label_loss", "several_hard_advice", "several_label_loss", "several_soft_advice", "soft_advice",
    "standardised_advice",
]  # fmt: skip

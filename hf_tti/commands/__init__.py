"""The subcommands of `hf-tti`, each a few lines around the library, which is imported when one runs."""

from hf_tti.commands import cost, evaluation, hub, recipes, sweeping, training
from hf_tti.commands.base import INTERRUPTED, Command, recipe_arguments

__all__ = ["COMMANDS", "INTERRUPTED", "Command"]

COMMANDS = {
    "train": Command("train one run of a recipe", training.train_arguments, training.train),
    "resume": Command(
        "go on with a run from its newest checkpoint that is whole", training.resume_arguments, training.resume
    ),
    "import-checkpoint": Command(
        "begin a run from a checkpoint of transformers' own Trainer",
        training.import_arguments,
        training.import_checkpoint,
    ),
    "verify": Command(
        "say which checkpoints of a run are whole, and what resuming would do", training.run_argument, training.verify
    ),
    "sweep": Command("train every run of recipes, each in its own process", sweeping.sweep_arguments, sweeping.sweep),
    "evaluate": Command(
        "measure a trained model and write its report", evaluation.evaluate_arguments, evaluation.evaluate
    ),
    "push": Command(
        "push a run to the HuggingFace Hub: its final model, and its checkpoints as branches",
        hub.push_arguments,
        hub.push,
    ),
    "recipes": Command("list, show and check recipes", recipes.recipes_arguments, recipes.recipes),
    "data": Command("prepare a recipe's data and say what it is", recipe_arguments, recipes.data),
    "cost": Command("say what a recipe needs: FLOPs, memory, hours, dollars", cost.cost_arguments, cost.cost),
    "doctor": Command("say what works on this machine", recipes.doctor_arguments, recipes.doctor),
}

"""A few texts of the trained model, in `stories.txt` and on the terminal, when training ends.

Sampled with a seed of its own; the global random generators are left as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainerCallback

from hf_tti.callbacks._observe import isolated_rng
from hf_tti.console import say
from hf_tti.run_folder import write_text

STORIES_FILE = "stories.txt"


@dataclass(kw_only=True, eq=False)
class GenerateStories(TrainerCallback):
    """Generates when training ends, from the best model where the run loads it. On in every run; 0
    stories is off.
    """

    num_stories: int = field(default=3, metadata={"min": 0, "help": "Texts to generate; 0 is none."})
    max_new_tokens: int = field(default=100, metadata={"min": 1, "help": "Tokens in each, at most."})
    prompt: str = field(default="Once upon a time", metadata={"help": "What each begins with; empty: nothing."})
    temperature: float = field(
        default=0.8,
        metadata={"exclusive_min": 0.0, "help": "Below 1 sharpens the model's distribution."},
    )

    def on_train_end(self, args, state, control, model=None, processing_class=None, **kwargs):
        if not self.num_stories or processing_class is None or not state.is_world_process_zero:
            return
        stories = self.stories(model, processing_class, seed=args.seed)
        text = "\n\n".join(f"--- {number}\n{story}" for number, story in enumerate(stories, start=1))
        write_text(Path(args.output_dir) / STORIES_FILE, text + "\n")
        say(f"\n{text}\n")

    def stories(self, model, tokenizer, *, seed: int) -> list[str]:
        """`num_stories` sampled texts with their prompt. Leaves the model's mode and the global
        generators alone.
        """
        start = tokenizer(self.prompt)["input_ids"] if self.prompt else []
        start = start or [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id]
        room = _context_length(model) - len(start)
        if room < 1:
            return [tokenizer.decode(start)] * self.num_stories
        ids = torch.tensor([start], device=model.device).repeat(self.num_stories, 1)
        was_training = model.training
        model.eval()
        try:
            with isolated_rng(seed), torch.no_grad():
                generated = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=self.temperature,
                    top_k=0,
                    max_new_tokens=min(self.max_new_tokens, room),
                    pad_token_id=tokenizer.pad_token_id
                    if tokenizer.pad_token_id is not None
                    else tokenizer.eos_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                )
        finally:
            model.train(was_training)
        return tokenizer.batch_decode(generated, skip_special_tokens=True)


def _context_length(model) -> int:
    length = getattr(model.config, "max_position_embeddings", None)
    return length if isinstance(length, int) else 2**31

"""Jobs on Modal, `modal run modal_jobs/<job>.py`: each launches `hf-tti` in a container, and none is a trainer."""

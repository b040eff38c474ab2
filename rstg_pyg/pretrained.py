"""Networks with their weights: from this package, a folder, or the Hugging Face Hub, and back."""

import os
from typing import Any, Callable, Dict, List, Optional, Union


class Pretrained:
    """Reads and writes a network together with what it was built from.

    Attributes:
        config (dict, optional): The config from which the network was built.
        classes (list of str, optional): The names of the classes.
        multi_label (bool): Whether videos have several classes, each with a probability of its own.
        results (dict, optional): What was measured on it; a subset of ``results.json``.
    """

    config: Optional[Dict[str, Any]] = None
    classes: Optional[List[str]] = None
    multi_label: bool = False
    results: Optional[Dict[str, Any]] = None

    @classmethod
    def from_pretrained(cls, name: Union[str, "os.PathLike[str]"], **hub_options: Any) -> Any:
        """A trained network, in evaluation mode on the CPU. Needs the extra ``train``.

        Args:
            name (str): A name of ``rstg_pyg.models.list()``; a folder of :meth:`save_pretrained`, a
                run folder or a checkpoint; or ``USER/NAME`` on the Hugging Face Hub, which needs the
                extra ``hub``.
            **hub_options (optional): Arguments of ``huggingface_hub.hf_hub_download``, such as
                ``revision`` and ``token``.

        Raises:
            UserError: If there is no such network, or it cannot be read.
        """
        from rstg_pyg.train.pretrained import find_weights, from_hub, load_network

        return load_network(from_hub(name, hub_options) or find_weights(name))

    def save_pretrained(self, folder: Union[str, "os.PathLike[str]"], **ignored: Any) -> None:
        """Writes ``model.safetensors``, whose header holds config and class names, and a model card.

        Args:
            folder (str): The folder; it is made if it does not exist.
            **ignored (optional): What the hub's mixin passes.

        Raises:
            ValueError: If the network does not know its config, or has names for another number of
                classes.
        """
        from rstg_pyg.train.pretrained import save_network

        save_network(self, folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads what :meth:`save_pretrained` writes to the Hugging Face Hub. Needs the extra ``hub``.

        Args:
            repo_id (str): ``USER/NAME``.
            **options (optional): Arguments of ``huggingface_hub.PyTorchModelHubMixin.push_to_hub``,
                such as ``private``, ``token`` and ``commit_message``.

        Returns:
            str: The address of the commit.
        """
        from huggingface_hub import PyTorchModelHubMixin  # as a base class it would be a dependency

        push: Callable[..., str] = PyTorchModelHubMixin.push_to_hub
        return push(self, repo_id, **options)

"""Where the training data come from: acknowledgements, licences, citations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# --- Model card ---------------------------------------------------------------------------------

ACKNOWLEDGEMENTS = {
    "nih": (
        "The NIH Clinical Center provided the radiographs (Wang et al., CVPR 2017, "
        "https://nihcc.app.box.com/v/ChestXray-NIHCC); they may be used without restriction if "
        "that is said. Their labels were mined from reports by a program, so some are wrong."
    ),
    "nih-experts": (
        "The radiologists' labels of NIH films are those of Nabulsi et al., Scientific Reports "
        "2021 (arXiv 2010.11375)."
    ),
    "chexpert": (
        "The Stanford ML Group provided CheXpert (Irvin et al., AAAI 2019) under its research use "
        "agreement, which allows no commercial use; it holds for this model as well."
    ),
    "ranzcr": (
        "The labels are those of RANZCR CLiP (Tang et al., Scientific Data 2021) on radiographs "
        "provided by the NIH Clinical Center (Wang et al., CVPR 2017)."
    ),
    "phantoms": (
        "The phantoms are drawn by this project's code, so there is no patient in them, and what "
        "a model learnt from them means nothing for real films."
    ),
}

# Data that put no condition on the use of a model; any other data have the last word.
_FREE = ("nih", "nih-experts", "phantoms")

CITED = """\
```bibtex
@inproceedings{chong2024cft,
  author    = {Chong, Chak Fong and Yang, Xu and Wang, Tenglong and Ke, Wei and Wang, Yapeng},
  title     = {Category-Wise Fine-Tuning for Image Multi-label Classification with Partial Labels},
  booktitle = {Neural Information Processing (ICONIP 2023)},
  publisher = {Springer},
  year      = {2024},
  doi       = {10.1007/978-981-99-8145-8_26}
}

@article{chong2024resisting,
  author  = {Chong, Chak Fong and Fang, Xinyi and Guo, Jielong and Wang, Yapeng and Ke, Wei and
             Lam, Chan-Tong and Im, Sio-Kei},
  title   = {Category-wise Fine-Tuning: Resisting Incorrect Pseudo-Labels in Multi-Label Image
             Classification with Partial Labels},
  journal = {arXiv:2401.16991},
  year    = {2024}
}
```"""

CITED_DATA = {
    "nih": """\
```bibtex
@inproceedings{wang2017chestxray8,
  author    = {Wang, Xiaosong and Peng, Yifan and Lu, Le and Lu, Zhiyong and
               Bagheri, Mohammadhadi and Summers, Ronald M.},
  title     = {{ChestX-ray8}: Hospital-Scale Chest X-Ray Database and Benchmarks on
               Weakly-Supervised Classification and Localization of Common Thorax Diseases},
  booktitle = {Computer Vision and Pattern Recognition (CVPR)},
  year      = {2017}
}
```""",
    "chexpert": """\
```bibtex
@inproceedings{irvin2019chexpert,
  author    = {Irvin, Jeremy and Rajpurkar, Pranav and Ko, Michael and Yu, Yifan and others},
  title     = {{CheXpert}: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert
               Comparison},
  booktitle = {AAAI Conference on Artificial Intelligence},
  year      = {2019}
}
```""",
}


def licence_of(provenance: Mapping[str, Any]) -> str:
    """The model's licence as the Hub names it: this project's, unless the data may forbid that."""
    return "apache-2.0" if provenance.get("dataset") in _FREE else "other"

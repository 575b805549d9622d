"""The label sets of the public chest X-ray collections, and what each finding means.

The order of each tuple is the order of its data set's own files; code never relies on it and
always joins by name.
"""

from __future__ import annotations

#: CheXpert's 14 categories (Irvin et al., AAAI 2019), in the order of its ``train.csv``.
CHEXPERT_14 = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)

#: The five categories that the CheXpert competition scored.
CHEXPERT_5 = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")

#: NIH ChestX-ray14's categories (Wang et al., CVPR 2017).
NIH_14 = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)

#: RANZCR CLiP's categories: positions of tubes and catheters (Tang et al., Sci. Data 2021).
RANZCR_CLIP_11 = (
    "ETT - Abnormal",
    "ETT - Borderline",
    "ETT - Normal",
    "NGT - Abnormal",
    "NGT - Borderline",
    "NGT - Incompletely Imaged",
    "NGT - Normal",
    "CVC - Abnormal",
    "CVC - Borderline",
    "CVC - Normal",
    "Swan Ganz Catheter Present",
)

#: One plain sentence for every label above.
DESCRIPTIONS = {
    "No Finding": "None of the other findings is present.",
    "Enlarged Cardiomediastinum": "The outline of heart and great vessels is wider than normal.",
    "Cardiomegaly": "The heart is enlarged.",
    "Lung Opacity": "An area of the lung is whiter than it should be, whatever the cause.",
    "Lung Lesion": "A nodule, a mass or another circumscribed lesion of the lung.",
    "Edema": "Fluid in the lung tissue, often from heart failure.",
    "Consolidation": "Air spaces of the lung are filled with fluid, pus, blood or cells.",
    "Pneumonia": "Infection of the lung.",
    "Atelectasis": "Part of the lung has lost air and collapsed.",
    "Pneumothorax": "Air between the lung and the chest wall.",
    "Pleural Effusion": "Fluid between the lung and the chest wall.",
    "Effusion": "Fluid between the lung and the chest wall (pleural effusion).",
    "Pleural Other": "A disease of the pleura other than effusion, such as thickening.",
    "Fracture": "A broken bone, most often a rib.",
    "Support Devices": "A tube, line, pacemaker or other device is in place.",
    "Infiltration": "A hazy density in the lung, named less precisely than consolidation.",
    "Mass": "A circumscribed lesion larger than 3 cm.",
    "Nodule": "A circumscribed lesion of at most 3 cm.",
    "Emphysema": "Destroyed air spaces: the lungs are over-inflated and dark.",
    "Fibrosis": "Scarring of the lung tissue.",
    "Pleural_Thickening": "The lining of the lung is thickened.",
    "Hernia": "Abdominal contents have moved into the chest, often at the hiatus.",
    "ETT - Abnormal": "An endotracheal tube ends where it should not.",
    "ETT - Borderline": "An endotracheal tube ends near the edge of the acceptable range.",
    "ETT - Normal": "An endotracheal tube is well placed.",
    "NGT - Abnormal": "A nasogastric tube ends where it should not.",
    "NGT - Borderline": "A nasogastric tube ends near the edge of the acceptable range.",
    "NGT - Incompletely Imaged": "The end of a nasogastric tube lies outside the film.",
    "NGT - Normal": "A nasogastric tube is well placed.",
    "CVC - Abnormal": "A central venous catheter ends where it should not.",
    "CVC - Borderline": "A central venous catheter ends near the edge of the acceptable range.",
    "CVC - Normal": "A central venous catheter is well placed.",
    "Swan Ganz Catheter Present": "A pulmonary artery catheter is in place.",
}

#: What data sets are called outside this project, by the names that model folders give them.
DATASETS = {
    "nih": "NIH ChestX-ray14",
    "nih-experts": "NIH ChestX-ray14, radiologists' labels",
    "chexpert": "CheXpert",
    "ranzcr": "RANZCR CLiP",
}

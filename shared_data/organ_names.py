"""What clinics call the structures they contour: one identity for many spellings."""
import re

# {pydicom's name of an organ's SNOMED code: its spellings, letters only, without side, TG-263's first}
SPELLINGS = {
    "BrainStem": "brainstem brainstm bstem hirnstamm",
    "Brain": "brain cerebrum",
    "OpticChiasm": "opticchiasm chiasm chiasma opticchiasma optchiasm optchiasma",
    "OpticNerve": "opticnrv opticnerve optnerve optnrv opticn nopticus nervusopticus",
    "Eye": "eye eyeball globe bulbus",
    "CrystallineLens": "lens eyelens lensofeye",
    "Mandible": "bonemandible mandible mand jaw lowerjaw",
    "ParotidGland": "parotid glndparotid parotidgland parotidgl parotis",
    "SubmandibularGland": "glndsubmand submandibular submandibulargland submandgland submand glndsubmandibular "
                          "submandibulargl smg",
    "LacrimalGland": "glndlacrimal lacrimal lacrimalgland",
    "TemporalLobe": "lobetemporal temporallobe templobe",
    "Pituitary": "pituitary pituitarygland glndpituitary hypophysis",
    "InnerEar": "earinternal innerear internalear",
    "MiddleEar": "earmiddle middleear",
    "TemporomandibularJoint": "jointtm tmjoint tmj jointtemporomandibular temporomandibularjoint",
    "SpinalCord": "spinalcord cord myelon medulla",
    "Esophagus": "esophagus oesophagus esoph",
    "Larynx": "larynx",
    "LymphNode": "lymphnode",
    "Nodule": "nodule",
}
CODES = {spelling: code for code, spellings in SPELLINGS.items() for spelling in spellings.split()}
SIDES = {"left": "L", "right": "R", "lt": "L", "rt": "R", "l": "L", "r": "R"}
SIDE = "|".join(SIDES)


def identity(name: str) -> tuple[str, str]:
    """(organ, side) of the name of a ROI or an organ: the same for "Glnd_Submand_L", "left submandibular",
    "SUBMANDIBULAR LT" and "LSubmandibular". The organ is a key of SPELLINGS, else the letters and digits of the name;
    the side is "L", "R" or ""."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = re.findall(r"[^\W_]+", apart.lower())
    what = "".join(word for word in words if word not in SIDES)
    side = "".join(SIDES[word] for word in words if word in SIDES)
    if not side and what not in CODES:  # "lparotid", "parotidright"
        for pattern in (rf"(?P<side>{SIDE})(?P<what>.+)", rf"(?P<what>.+?)(?P<side>{SIDE})"):
            glued = re.fullmatch(pattern, what)
            if glued and glued["what"] in CODES:
                what, side = glued["what"], SIDES[glued["side"]]
                break
    return CODES.get(what, what), side

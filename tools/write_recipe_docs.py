"""Write docs/recipes.md: every recipe field, the options of the heads and the named recipes.

python tools/write_recipe_docs.py docs/recipes.md
"""

import argparse
import ast
import inspect
import itertools
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cxrlt.heads import HEADS, head_names
from cxrlt.recipe import (
    POLICIES,
    RECIPES_DIR,
    RENAMED_FIELDS,
    AugmentConfig,
    HeadConfig,
    Recipe,
    load_recipe,
    recipe_names,
)
from cxrlt.recipe.fields import MAX_COUNT
from cxrlt.system.atomic_files import write_text

REPEAT = {"weights": "train", "logits": "predict", "scores": "evaluate", "nothing": "nothing"}
"""What a field affects -> the first stage that must run again."""
HEAD_NAME = "Name of the head."
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}

SOURCES = {
    "model.backbone": "backbone of the CXR-LT 2023 winner (CheXFusion)",
    "model.pretrained": "timm; see [pretrained weights](pretrained.md)",
    "model.weights": "see [the table](pretrained.md#the-table)",
    "model.options": "timm (`create_model`)",
    "model.mean": "timm, or the row of `model.weights`",
    "model.std": "timm, or the row of `model.weights`",
    "model.pretrained_on": "see [leakage](pretrained.md#images-that-the-weights-have-seen)",
    "model.pretrained_images": "RAD-DINO publishes such a list",
    "model.init_from": "CXR-LT 2026 winner, first trained on MIMIC-CXR",
    "model.new_head": "classifier re-training: Kang et al., ICLR 2020",
    "model.frozen": "linear probing; [measured](experiments.md) as `crt`",
    "model.drop_rate": "choice",
    "model.drop_path": "Huang et al., ECCV 2016; 0.1 was worth .005 mAP in CXR-LT 2026 (third place)",
    "model.pool": "`gem`: Radenovic et al., TPAMI 2019; [measured](experiments.md)",
    "model.head.name": "see [heads](#options-of-the-heads); [measured](experiments.md)",
    "model.head.OPTION": "see [heads](#options-of-the-heads)",
    "model.grid": "choice: less disk space and time for frozen backbones",
    "model.fusion.max_images": "CheXFusion (CXR-LT 2023 winner) fuses up to 4; [measured](experiments.md)",
    "model.fusion.depth": "CheXFusion: 2",
    "model.fusion.n_heads": "CheXFusion: 8",
    "model.fusion.dim": "choice; CheXFusion: 768",
    "model.fusion.drop_rate": "choice",
    "model.normalise": "timm; false as in the code of the LMF paper (arXiv 2212.12741)",
    "data.size": "choice; 512 to 768 was worth .017 mAP in CXR-LT 2026 (third place)",
    "data.crop_pct": "timm",
    "data.n_workers": "choice; [measured](speed.md)",
    "data.augment.policy": "estimates, see [policies](#augmentation-policies); [measured](experiments.md)",
    "data.augment.flip": "choice",
    "data.augment.vertical_flip": "choice; usual for skin and fundus images",
    "data.augment.crop_scale": "estimate",
    "data.augment.rotate": "estimate",
    "data.augment.brightness": "estimate",
    "data.augment.contrast": "estimate",
    "data.augment.gamma": "estimate",
    "data.augment.blur": "estimate",
    "data.augment.noise": "estimate",
    "data.augment.erase": "random erasing: Zhong et al., AAAI 2020; estimate",
    "data.mix.kinds": "mixup: Zhang et al., ICLR 2018; CutMix: Yun et al., ICCV 2019; mosaic: YOLOv4, 2020; "
    "[measured](experiments.md)",
    "data.mix.probability": "choice",
    "data.mix.alpha": "choice; the mixup paper uses 0.1 to 0.4 for ImageNet",
    "data.mix.labels": "choice",
    "data.sampling.kind": "repeat factor: Gupta et al., CVPR 2019 (LVIS); [measured](experiments.md)",
    "data.sampling.threshold": "CXR-LT 2026 winner",
    "data.sampling.cap": "CXR-LT 2026 winner",
    "data.holdout_share": "choice",
    "data.long_tail": "Cui et al., CVPR 2019, as in ISIC2019-LT",
    "loss.name": "RAL: Park et al., ICCVW 2023; [measured](experiments.md)",
    "loss.options": "see [losses](losses.md)",
    "loss.bias_init": "generalises the prior of Lin et al., ICCV 2017, to every loss",
    "optim.optimizer": "AdamW: Loshchilov and Hutter, ICLR 2019; Adam: Kingma and Ba, ICLR 2015",
    "optim.lr": "choice",
    "optim.weight_decay": "choice",
    "optim.backbone_lr_share": "choice; CXR-LT 2026 winner: 0.1",
    "optim.layer_decay": "timm (`layer_decay`)",
    "optim.batch_size": "choice",
    "optim.max_batch_per_device": "choice",
    "optim.clip_grad": "choice",
    "optim.ema_share": "choice; an EMA was worth .001 to .006 mAP in CXR-LT 2024",
    "schedule.epochs": "choice",
    "schedule.kind": "cosine: Loshchilov and Hutter, ICLR 2017; step: as in the code of the LMF paper",
    "schedule.warmup_share": "choice",
    "schedule.min_lr_share": "choice",
    "schedule.step_epochs": "code of the LMF paper: 30",
    "schedule.step_factor": "code of the LMF paper: 0.1",
    "schedule.stages": "CXR-LT 2026 winner: head warm-up; [measured](experiments.md) as `rising`",
    "schedule.stages[].epochs": "CXR-LT 2026 winner: 10",
    "schedule.stages[].size": "choice",
    "schedule.stages[].lr": "CXR-LT 2026 winner: 1e-3",
    "schedule.stages[].frozen": "CXR-LT 2026 winner",
    "soup.kind": "Wortsman et al., ICML 2022, but over epochs of one run; [measured](experiments.md)",
    "soup.snapshots": "choice",
    "predict.tta.flip": "[measured](experiments.md): +.006 mAP on the demo",
    "predict.tta.scales": "[measured](experiments.md): +.005 mAP on the demo",
    "predict.tta.crop": "[measured](experiments.md): +.010 mAP on the demo",
    "predict.tta.merge": "choice",
    "predict.study_mean": "+.011 to +.016 mAP in CXR-LT 2023; [measured](experiments.md): +.016 on the demo",
    "predict.gate": "off: -.010 to -.046 mAP in CXR-LT 2026; [measured](experiments.md): -.008 on the demo",
    "predict.weights": "last: choice; best_holdout: as in the code of the LMF paper",
    "precision": "choice",
    "compile": "choice",
    "checkpoint_minutes": "choice",
}
"""Dotted name of a field -> where the field or its default comes from."""

INTRO = """# Recipes

<!-- Written by tools/write_recipe_docs.py: edit that tool or src/cxrlt/recipe/fields.py, and run it. -->

A recipe is every setting of a training run except the challenge, the fold and the seed. It is a short YAML
file with only the fields that differ from the defaults, or from the recipe that `base` names.

```yaml
# mine.yaml
base: ral_convnext_small
data: {size: 768}
optim: {lr: 5.0e-5, batch_size: 16}
loss: {name: ral, options: {form: released}}
```

```bash
cxrlt train mine.yaml --challenge cxrlt2023
cxrlt train ral_convnext_small --optim.lr 5e-5 --name lower_lr --challenge cxrlt2023
cxrlt train --config folds/cxrlt2023/mine/fold0/config.yaml --name mine_again --challenge cxrlt2023
```

The first command takes the name of the run from the file: `mine`. The second shows that every field is also
a flag. Later settings win: defaults, then `base`, then the file, then flags. An unknown field, a wrong type
and a value out of range are errors before training starts. Every run saves its complete recipe in
config.yaml, which `--config` reads. The [cookbook](cookbook.md) shows the fields in use.

- [Named recipes](#named-recipes)
- [Fields](#fields)
- [Options of the heads](#options-of-the-heads)
- [Augmentation policies](#augmentation-policies)
- [Renamed fields](#renamed-fields)
"""

RECIPES_INTRO = """## Named recipes

These are the files in `src/cxrlt/recipes/`. Their comments say what was measured where. Sizes are in pixels.
The large recipes follow published solutions. Tests train them for single steps only; nobody has trained them
to the end on challenge data with this package yet.
"""

FIELDS_INTRO = """## Fields

*null* in YAML is `None` as a flag. **Repeat** is the first stage that must run again after the field changes:

- `train`: the weights depend on the field. A finished run refuses another value: use `--name` or `--force`.
- `predict`: the weights stay; `cxrlt predict` computes new logits.
- `evaluate`: the logits stay; scores, calibration and submissions use the new value.
- `nothing`: no result depends on the field.

**Source** says where the field or its default comes from. *choice*: a common value or our judgement, not
tuned. *estimate*: our estimate of how much radiographs of one chest differ. Figures of challenges ("CXR-LT
2026, third place") are those that the teams published; we did not repeat them.
"""

HEADS_INTRO = """## Options of the heads

Write the options next to the name: `model: {head: {name: csra, weight: 0.2}}`, or as a flag:
`--model.head.weight 0.2`. A head that uses `model.pool` gets one feature vector per image; the others read
the feature map. Sources: CSRA is Zhu and Wu, ICCV 2021; ML-Decoder is Ridnik et al., WACV 2023; the cosine
head is that of LDAM, Cao et al., NeurIPS 2019.
"""

POLICIES_INTRO = """## Augmentation policies

`data.augment.policy` sets all fields of `data.augment` except `flip`. Fields that you set yourself win. The
values are estimates, not measurements; [experiments](experiments.md) compares the first three on small
networks. `dermoscopy` and `fundus` are for photographs of skin and of the retina: any rotation, both flips.
"""

RENAMED_INTRO = """## Renamed fields

An old name in a YAML file is an error that gives the new name.
"""


class Field(NamedTuple):
    """One recipe field as the page shows it."""

    name: str
    type: str
    default: str
    meaning: str
    repeat: str


@dataclass(frozen=True)
class Section:
    """The fields of one recipe section, without those of the sections inside it."""

    name: str
    about: str
    fields: tuple[Field, ...]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", type=Path, help="the Markdown file to write")
    return parser.parse_args(argv)


def main() -> None:
    """Write the page to the path of the command line."""
    write_text(parse().path, page())


def page() -> str:
    """Return the page as Markdown."""
    parts = [INTRO, _recipes(), FIELDS_INTRO, *map(_section, sections()), _heads(), _policies(), _renamed()]
    return "\n".join(parts)


def sections(kind: type[BaseModel] = Recipe, prefix: str = "", affects: str = "weights") -> Iterator[Section]:
    """Yield the sections of a recipe, depth first; `kind` is the class of the section with this prefix."""
    texts = _field_docstrings(kind) | ({"name": HEAD_NAME} if kind is HeadConfig else {})
    fields, inside = [], []
    for name, info in kind.model_fields.items():
        effect = info.json_schema_extra["affects"] if isinstance(info.json_schema_extra, dict) else affects
        dotted = prefix + ("OPTION" if (kind, name) == (HeadConfig, "options") else name)
        section = _section_class(info)
        if section is not info.annotation:
            fields.append(Field(dotted, _type(info), _default(info), texts.get(name, ""), REPEAT[effect]))
        if section is not None:
            inside.append((section, f"{dotted}." if section is info.annotation else f"{dotted}[].", effect))
    if fields:
        yield Section(prefix.rstrip("."), inspect.getdoc(kind) or "", tuple(fields))
    for section, dotted, effect in inside:
        yield from sections(section, dotted, effect)


def _field_docstrings(kind: type[BaseModel]) -> dict[str, str]:
    """Return field name -> the string below the field in the source of its class."""
    body = ast.parse(inspect.getsource(kind)).body[0].body
    return {
        field.target.id: " ".join(inspect.cleandoc(text.value.value).split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def _section_class(info: FieldInfo) -> type[BaseModel] | None:
    """Return the class of a field that is a section, or a tuple of sections."""
    candidates = [info.annotation, *typing.get_args(info.annotation)]
    return next((each for each in candidates if _is_model(each)), None)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _type(info: FieldInfo) -> str:
    """Return the type of a field with its limits, except the limit on very large counts."""
    limits = [
        f"{argv} {getattr(limit, name)}"
        for limit in info.metadata
        for name, argv in LIMITS.items()
        if getattr(limit, name, MAX_COUNT) != MAX_COUNT
    ]
    return ", ".join([_annotation(info.annotation), *limits])


def _annotation(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_annotation, inner))
    if origin is tuple:
        return (
            f"list of {_annotation(inner[0])}"
            if inner[-1] is ...
            else f"{len(inner)} x {_annotation(inner[0])}"
        )
    if origin is dict:
        return f"name: {_annotation(inner[1])}"
    if _is_model(annotation):
        return "stages"
    return {str: "text", Path: "path", bool: "true or false"}.get(annotation, annotation.__name__)


def _default(info: FieldInfo) -> str:
    return "required" if info.is_required() else _value(info.default)


def _value(value: Any) -> str:
    """Return a value as it is written in a YAML file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)


def _section(section: Section) -> str:
    title = f"### {section.name}" if section.name else "### Top level"
    rows = [
        (f"`{each.name}`", each.type, each.default, each.meaning, each.repeat, SOURCES[each.name])
        for each in section.fields
    ]
    table = _table(("field", "type", "default", "meaning", "repeat", "source"), rows)
    return f"{title}\n\n{section.about}\n\n{table}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([each.replace("|", "\\|") for each in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _recipes() -> str:
    rows = []
    for name in recipe_names():
        recipe = load_recipe(name)
        epochs = " + ".join(str(each.epochs) for each in (*recipe.schedule.stages, recipe.schedule))
        size = str(recipe.data.size)
        rows.append(
            (f"`{name}`", f"`{recipe.model.backbone}`", size, recipe.loss.name, epochs, _comment(name))
        )
    return RECIPES_INTRO + "\n" + _table(("recipe", "backbone", "size", "loss", "epochs", "note"), rows)


def _comment(name: str) -> str:
    """Return the comment at the top of a recipe file, up to its list of reasons."""
    lines = (RECIPES_DIR / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#") and not line.startswith("# -"), lines)
    return " ".join(line.removeprefix("#").strip() for line in comment)


def _heads() -> str:
    rows = []
    for name in head_names():
        head = HEADS[name]
        options = ", ".join(f"`{option}` {_value(default)}" for option, default in head.options.items())
        rows.append((f"`{name}`", options or "none", "no" if head.reads_map else "yes", head.about))
    return HEADS_INTRO + "\n" + _table(("head", "options and defaults", "uses `model.pool`", "meaning"), rows)


def _policies() -> str:
    off = {name: info.default for name, info in AugmentConfig.model_fields.items()}
    names = [name for name in off if any(name in values for values in POLICIES.values())]
    rows = [(f"`{name}`", *(_value({**off, **each}[name]) for each in POLICIES.values())) for name in names]
    return POLICIES_INTRO + "\n" + _table(("field", *(f"`{name}`" for name in POLICIES)), rows)


def _renamed() -> str:
    rows = [(f"`{old}`", f"`{new}`") for old, new in RENAMED_FIELDS.items()]
    return RENAMED_INTRO + "\n" + _table(("until 0.1.0", "since 0.2.0"), rows)


if __name__ == "__main__":
    main()

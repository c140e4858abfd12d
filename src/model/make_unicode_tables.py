#!/usr/bin/env python3
"""Writes unicode_tables.inc: properties of characters as Hugging Face's tokenizers matches them.

    apt-get install perl                                # which knows the versions of characters
    pip install tokenizers==0.23.3 fonttools==4.60.1    # the latter for the names of scripts
    python3 src/model/make_unicode_tables.py

Each property is found by matching it against every character, so that the tables follow the version
of Unicode that tokenizers has (16.0) whatever is installed elsewhere.
"""

import pathlib
import subprocess

import fontTools.unicodedata
from table_text import CHARACTERS, block, range_block, write
from tokenizers import Regex, pre_tokenizers

OUTPUT = pathlib.Path(__file__).with_name("unicode_tables.inc")
TEXT = "".join(map(chr, CHARACTERS))
CATEGORIES = (
    "Cn Cc Cf Co Cs Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So Zl Zp Zs"
).split()
EMOJI = (
    "Emoji Emoji_Presentation Emoji_Modifier Emoji_Modifier_Base Emoji_Component "
    "Extended_Pictographic"
).split()


def matched(pattern, characters=None):
    """The characters that a pattern of one character matches."""
    characters = CHARACTERS if characters is None else characters
    text = TEXT if characters is CHARACTERS else "".join(map(chr, characters))
    found = set(characters)
    split = pre_tokenizers.Split(Regex(f"(?:{pattern})+"), "removed")
    for _, (begin, end) in split.pre_tokenize_str(text):
        found.difference_update(characters[begin:end])
    return found


def is_known(name):
    try:
        Regex(rf"\p{{{name}}}")
        return True
    except Exception:
        return False


def runs(value_of):
    """(length, value) of the runs of equal values over all code points."""
    found = []
    for code in range(0x110000):
        value = value_of(code)
        if found and found[-1][1] == value:
            found[-1][0] += 1
        else:
            found.append([1, value])
    return found


def category_tables():
    category = dict.fromkeys(range(0xD800, 0xE000), CATEGORIES.index("Cs"))
    sets = {"Cs": set()}
    for name in CATEGORIES:
        if name != "Cs":
            sets[name] = matched(rf"\p{{{name}}}")
            category.update(dict.fromkeys(sets[name], CATEGORIES.index(name)))
    items = (str(length << 5 | value) for length, value in runs(category.__getitem__))
    names = block("std::string_view", "category_names", (f'"{x.lower()}"' for x in CATEGORIES))
    return sets, names + block("std::uint32_t", "category_runs", items)


def script_tables():
    names = [
        (code, name)
        for code, name in sorted(fontTools.unicodedata.Scripts.NAMES.items())
        if is_known(name) and code != "Zzzz"
    ]
    script = {}
    for number, (code, name) in enumerate(names, 1):
        characters = matched(rf"\p{{{name}}}")
        assert is_known(code) and matched(rf"\p{{{code}}}", sorted(characters)) == characters
        script.update(dict.fromkeys(characters, number))
    items = (str(length << 8 | value) for length, value in runs(lambda c: script.get(c, 0)))
    pairs = [("zzzz", "unknown")] + [(c.lower(), n.lower().replace("_", "")) for c, n in names]
    return block(
        "ScriptName", "script_names", (f'{{"{code}", "{name}"}}' for code, name in pairs)
    ) + block("std::uint32_t", "script_runs", items)


def check_formulas(sets, other):
    """unicode_properties.cpp makes these properties from the categories by the same formulas."""

    def union(letters):
        return set().union(*(s for name, s in sets.items() if name[0] in letters.split()))

    alphabetic = union("L") | sets["Nl"] | other["alphabetic"]
    space = union("Z") | set(range(9, 14)) | {0x85}
    no_graph = space | sets["Cc"] | sets["Cn"]
    formulas = {
        "Alphabetic": alphabetic,
        "Alpha": alphabetic,
        "Uppercase": sets["Lu"] | other["uppercase"],
        "Upper": sets["Lu"] | other["uppercase"],
        "Lowercase": sets["Ll"] | other["lowercase"],
        "Lower": sets["Ll"] | other["lowercase"],
        "Digit": sets["Nd"],
        "Alnum": alphabetic | sets["Nd"],
        "Space": space,
        "White_Space": space,
        "Blank": sets["Zs"] | {9},
        "Cntrl": sets["Cc"],
        "Graph": set(CHARACTERS) - no_graph,
        "Print": (set(CHARACTERS) - no_graph) | sets["Zs"],
        "Punct": union("P"),
        "XDigit": set(map(ord, "0123456789abcdefABCDEF")),
        "Word": alphabetic | union("M") | sets["Nd"] | sets["Pc"],
        "ASCII": set(range(128)),
        "Any": set(CHARACTERS),
        "Assigned": set(CHARACTERS) - sets["Cn"],
        "LC": sets["Lu"] | sets["Ll"] | sets["Lt"],
    }
    for letter in "CLMNPSZ":
        formulas[letter] = union(letter)
    for name, expected in formulas.items():
        difference = matched(rf"[\p{{{name}}}]") ^ expected
        assert not difference, (name, sorted(map(hex, difference))[:20])
    posix = set("Alpha Upper Lower Digit Alnum Space Blank Cntrl Graph Print".split())
    formulas["Punct"] |= union("S")  # the bracket has symbols, the property has not
    for name in posix | {"Punct", "XDigit", "Word", "ASCII"}:
        difference = matched(f"[[:{name.lower()}:]]") ^ formulas[name]
        assert not difference, (name, sorted(map(hex, difference))[:20])
    for escape, name in (("d", "Digit"), ("s", "Space"), ("w", "Word"), ("h", "XDigit")):
        expected = formulas[name] | (other["word"] if escape == "w" else set())
        difference = matched(rf"\{escape}") ^ expected
        assert not difference, (escape, sorted(map(hex, difference))[:20])


def numeric_additions(sets):
    """pre_tokenizers.Digits follows a later version of Unicode than patterns do."""
    numbers = sets["Nd"] | sets["Nl"] | sets["No"]
    codes = [c for c in CHARACTERS if c not in numbers and c != ord("a")]
    text = "".join("a" + chr(c) for c in codes)
    found = set()
    for piece, (begin, _) in pre_tokenizers.Digits().pre_tokenize_str(text):
        if len(piece) == 1 and piece != "a" and begin % 2:
            found.add(codes[begin // 2])
    return found


def later_than_unicode_9(sets):
    """The normalizer NFC follows Unicode 9.0."""
    characters = "(0..0xd7ff, 0xe000..0x10ffff)"
    program = rf"for {characters} {{ print qq($_\n) if chr() =~ /\p{{Present_In=9.0}}/ }}"
    printed = subprocess.run(["perl", "-e", program], check=True, capture_output=True, text=True)
    return set(CHARACTERS) - sets["Cn"] - set(map(int, printed.stdout.split()))


def case_tables():
    """Characters that match each other under (?i), as runs of (first, count, step, distance): each
    of the run's characters matches the one at that distance. The least one stands for all."""
    cased = [c for c in CHARACTERS if chr(c).lower() != chr(c) or chr(c).upper() != chr(c)]
    cased = sorted(
        set(cased)
        | set(range(0x1C80, 0x1C90))
        | set(range(0xA640, 0xA7FF))
        | set(range(0x10D40, 0x10D90))
        | set(range(0x13A0, 0x1400))
    )
    pairs = []
    for code in cased:
        # A character with a longer folding, such as the ligature of s and t, also matches two others
        # side by side.
        folded = chr(code).casefold()
        same = (
            [c for c in cased if chr(c).casefold() == folded]
            if len(folded) > 1
            else matched(rf"(?i)\x{{{code:X}}}", cased)
        )
        if min(same) != code:
            pairs.append((code, min(same) - code))
    found = []
    for code, distance in pairs:
        last = found[-1] if found else None
        if last and last[3] == distance and (last[1] == 1 or last[0] + last[1] * last[2] == code):
            if last[1] == 1 and code - last[0] <= 2:
                last[2] = code - last[0]
                last[1] = 2
                continue
            if last[1] > 1:
                last[1] += 1
                continue
        found.append([code, 1, 1, distance])
    least = {code: code + distance for code, distance in pairs}
    folds = []
    for code in cased:
        folded = chr(code).casefold()
        if len(folded) > 1:
            folds.append((code, [least.get(ord(c), ord(c)) for c in folded][:2]))
    text = block("CaseRun", "case_runs", ("{%d, %d, %d, %d}" % tuple(run) for run in found))
    return text + block(
        "LongFold", "long_folds", (f"{{{code}, {two[0]}, {two[1]}}}" for code, two in folds)
    )


def main():
    sets, text = category_tables()
    union = {x: set().union(*(s for name, s in sets.items() if name[0] == x)) for x in "LMP"}
    alphabetic = matched(r"\p{Alphabetic}")
    other = {
        "alphabetic": alphabetic - union["L"] - sets["Nl"],
        "uppercase": matched(r"\p{Uppercase}") - sets["Lu"],
        "lowercase": matched(r"\p{Lowercase}") - sets["Ll"],
        "word": matched(r"\w") - alphabetic - union["M"] - sets["Nd"] - sets["Pc"],
    }
    check_formulas(sets, other)
    text += script_tables()
    for name, characters in other.items():
        text += range_block("other_" + name, characters)
    text += range_block("other_numeric", numeric_additions(sets))
    text += range_block("later_than_9", later_than_unicode_9(sets))
    for name in EMOJI:
        text += range_block(name.lower(), matched(rf"\p{{{name}}}"))
    text += case_tables()
    write(OUTPUT, "make_unicode_tables.py", text)


if __name__ == "__main__":
    main()

"""The text of tables of characters in C++, for the scripts that make them."""

CHARACTERS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def ranges(characters):
    found = []
    for code in sorted(characters):
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return found


def block(kind, name, items):
    lines, line = [], ""
    for item in items:
        if len(line) + len(item) + 2 > 98:
            lines.append(line)
            line = ""
        line += (" " if line else "") + item + ","
    lines.append(line)
    return f"constexpr {kind} {name}[] = {{\n" + "".join(f"    {x}\n" for x in lines) + "};\n"


def range_block(name, characters):
    return block("CodeRange", name, (f"{{{a}, {b}}}" for a, b in ranges(characters)))


def write(output, script, text):
    output.write_text(f"// Made by {script}.\n// clang-format off\n{text}// clang-format on\n")

"""Commands that end with an error."""


def fails(capsys, main, *arguments):
    """The one line with which a command ends, after exit code 2."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, printed.err
    return lines[0]

"""Commands that end with an error."""


def fails(capsys, main, *arguments):
    """The message with which a command ends, after exit code 2: one line, or two."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert f"\n{printed.err}".count("\nerror: ") == 1, printed.err
    message = printed.err[printed.err.index("error: ") :].strip()
    assert message.count("\n") <= 1, message
    return message
